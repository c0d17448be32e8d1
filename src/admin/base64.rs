//! Base64 (RFC 4648 §4), with padding: how bytes that are no text travel in JSON.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `bytes` as text.
#[must_use]
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let [first, second, third] = [0, 1, 2].map(|at| group.get(at).copied().unwrap_or_default());
        let bits = u32::from_be_bytes([0, first, second, third]);
        for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let symbol = ALPHABET[(bits >> shift & 0x3f) as usize];
            text.push(if at <= group.len() { char::from(symbol) } else { '=' });
        }
    }
    text
}

/// The bytes that [`encode`] would have made `text` of; `None` if there are none.
#[must_use]
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take(2).take_while(|symbol| **symbol == b'=').count();
    let symbols = &text[..text.len() - padding];
    let mut bytes = Vec::with_capacity(symbols.len() * 3 / 4);
    for group in symbols.chunks(4) {
        let mut bits = 0_u32;
        for symbol in group {
            bits = bits << 6 | value(*symbol)?;
        }
        // Four symbols are three bytes; a rest of two or three is one or two, and the bits left over are zero.
        let missing = 4 - group.len();
        if bits & ((1 << (2 * missing)) - 1) != 0 {
            return None;
        }
        let whole = (bits << (6 * missing)).to_be_bytes();
        bytes.extend_from_slice(&whole[1..4 - missing]);
    }
    Some(bytes)
}

fn value(symbol: u8) -> Option<u32> {
    let value = match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_are_written_and_read() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9vYmFy", b"foobar"),
            ("+/+/", &[0xfb, 0xff, 0xbf]),
        ] {
            assert_eq!(encode(bytes), text);
            assert_eq!(decode(text).as_deref(), Some(bytes), "{text}");
        }
        let all: Vec<u8> = (0..=255).collect();
        for length in 0..=all.len() {
            assert_eq!(decode(&encode(&all[..length])).as_deref(), Some(&all[..length]));
        }
    }

    #[test]
    fn what_has_a_second_spelling_is_refused() {
        // No padding, padding alone or inside, the other alphabet, spaces, bits that are lost.
        for text in
            ["Zg", "Zm8", "====", "=", "Zg==Zg==", "Z===", "-_-_", "Zm9v\n", " Zm9", "Zh==", "Zm9=", "Zm9é"]
        {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
