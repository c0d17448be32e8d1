//! `x-request-id`: kept if it came, made if not.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::hex;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is kept; a longer one would be copied into every log line on the way.
const MAX_LENGTH: usize = 128;

/// The id of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// It came with the request.
    Received(HeaderValue),
    /// It was made here: a UUID as text.
    Made([u8; 36]),
}

impl RequestId {
    /// Visible ASCII.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Received(value) => value.as_bytes(),
            Self::Made(text) => text,
        }
    }
}

/// Makes `headers` carry exactly one valid id, and returns it: the one that came if it is 1 to 128 visible ASCII
/// characters, else a new UUID of version 7 with the time `now`.
pub fn ensure(headers: &mut HeaderMap, now: SystemTime, rng: &mut fastrand::Rng) -> RequestId {
    let mut all = headers.get_all(REQUEST_ID).iter();
    let first = all.next().filter(|_| all.next().is_none());
    if let Some(value) = first.filter(|value| is_valid(value.as_bytes())) {
        return RequestId::Received(value.clone());
    }
    let text = uuid_v7(now, rng);
    match HeaderValue::from_bytes(&text) {
        Ok(value) => headers.insert(REQUEST_ID, value),
        // Cannot be: digits and dashes are visible ASCII.
        Err(_) => headers.remove(REQUEST_ID),
    };
    RequestId::Made(text)
}

fn is_valid(id: &[u8]) -> bool {
    (1..=MAX_LENGTH).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// RFC 9562, 5.7: 48 bits of Unix milliseconds, version, 12 random bits, variant, 62 random bits.
fn uuid_v7(now: SystemTime, rng: &mut fastrand::Rng) -> [u8; 36] {
    let unix = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = unix.as_millis() & 0xffff_ffff_ffff;
    let random = u128::from(rng.u64(..)) | u128::from(rng.u64(..)) << 64;
    let version_and_variant = 0x7 << 76 | 0b10 << 62;
    let random_bits = 0xfff << 64 | ((1 << 62) - 1);
    let uuid: u128 = millis << 80 | version_and_variant | (random & random_bits);

    let bytes = uuid.to_be_bytes();
    let mut text = [b'-'; 36];
    for (group, at) in [(0..4, 0), (4..6, 9), (6..8, 14), (8..10, 19), (10..16, 24)] {
        hex::write(&bytes[group], &mut text[at..]);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ensured(came: &[&[u8]]) -> (RequestId, HeaderMap) {
        let mut headers = HeaderMap::new();
        for value in came {
            headers.append(REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(0x0123_4567_89ab);
        (ensure(&mut headers, now, &mut fastrand::Rng::with_seed(3)), headers)
    }

    #[test]
    fn a_valid_id_is_kept() {
        for id in [&b"a"[..], b"5f1c-2/=+:;~!", &[b'x'; 128]] {
            let (kept, headers) = ensured(&[id]);
            assert_eq!(kept, RequestId::Received(HeaderValue::from_bytes(id).unwrap()));
            assert_eq!(headers[REQUEST_ID].as_bytes(), id);
        }
    }

    #[test]
    fn what_is_no_valid_id_is_replaced_by_one_of_our_own() {
        let too_long = [b'x'; 129];
        let cases: [&[&[u8]]; 7] =
            [&[], &[b""], &[&too_long], &[b"two words"], &[b"caf\xe9"], &[b"tab\t"], &[b"a", b"b"]];
        for came in cases {
            let (made, headers) = ensured(came);
            assert!(matches!(made, RequestId::Made(_)), "{came:?}");
            assert_eq!(headers.get_all(REQUEST_ID).iter().count(), 1);
            assert_eq!(headers[REQUEST_ID].as_bytes(), made.as_bytes());
        }
    }

    #[test]
    fn a_made_id_is_a_uuid_of_version_7_with_the_time_in_front() {
        let (made, _) = ensured(&[]);
        let text = std::str::from_utf8(made.as_bytes()).unwrap();
        let parts: Vec<_> = text.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!((parts[0], parts[1]), ("01234567", "89ab"));
        assert!(parts[2].starts_with('7') && parts[3].starts_with(['8', '9', 'a', 'b']), "{text}");
    }
}
