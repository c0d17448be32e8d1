//! The two values of a WebSocket handshake (RFC 6455 §4): the key that a client sends, and what a server must make of
//! it. Pure. The hash in it proves that the other side speaks WebSocket and did not merely repeat what it got; it
//! keeps nothing secret.

use http::HeaderValue;

/// What is appended to the key before it is hashed.
const SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a key before it is encoded.
const KEY: usize = 16;
/// Bytes of a SHA-1 hash.
const HASH: usize = 20;
/// Bytes that SHA-1 takes at a time.
const BLOCK: usize = 64;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A key for a handshake of our own.
pub(super) fn key(rng: &mut fastrand::Rng) -> HeaderValue {
    let mut random = [0; KEY];
    rng.fill(&mut random);
    encoded(&random)
}

/// What the answer to a handshake with this key must carry.
pub(super) fn accept(key: &HeaderValue) -> HeaderValue {
    encoded(&sha1(&[key.as_bytes(), SALT].concat()))
}

fn encoded(bytes: &[u8]) -> HeaderValue {
    // What base64 is made of may stand in a field.
    HeaderValue::try_from(base64(bytes)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let [first, second, third] = [0, 1, 2].map(|at| group.get(at).copied().unwrap_or_default());
        let bits = u32::from_be_bytes([0, first, second, third]);
        for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let symbol = BASE64[(bits >> shift & 0x3f) as usize];
            text.push(if at <= group.len() { char::from(symbol) } else { '=' });
        }
    }
    text
}

/// SHA-1 (FIPS 180-4 §6.1). Broken where somebody gains by a collision, which here nobody does.
fn sha1(message: &[u8]) -> [u8; HASH] {
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((message.len() + 9).next_multiple_of(BLOCK) - 8, 0);
    padded.extend_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    let mut state: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in padded.chunks_exact(BLOCK) {
        compress(&mut state, block);
    }
    let mut hash = [0; HASH];
    for (bytes, word) in hash.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    hash
}

fn compress(state: &mut [u32; 5], block: &[u8]) {
    let mut schedule = [0_u32; 80];
    for (word, bytes) in schedule.iter_mut().zip(block.chunks_exact(4)) {
        *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    for at in 16..80 {
        let mixed = schedule[at - 3] ^ schedule[at - 8] ^ schedule[at - 14] ^ schedule[at - 16];
        schedule[at] = mixed.rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (round, word) in schedule.into_iter().enumerate() {
        let (chosen, constant) = match round / 20 {
            0 => ((b & c) | (!b & d), 0x5a82_7999),
            1 => (b ^ c ^ d, 0x6ed9_eba1),
            2 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
            _ => (b ^ c ^ d, 0xca62_c1d6_u32),
        };
        let next =
            a.rotate_left(5).wrapping_add(chosen).wrapping_add(e).wrapping_add(constant).wrapping_add(word);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
    }
    for (word, added) in state.iter_mut().zip([a, b, c, d, e]) {
        *word = word.wrapping_add(added);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }

    #[test]
    fn sha1_gives_the_values_of_its_standard() {
        let million = vec![b'a'; 1_000_000];
        let cases: [(&[u8], &str); 4] = [
            (b"", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            (b"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
            ),
            (&million, "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
        ];
        for (message, hash) in cases {
            assert_eq!(hex(&sha1(message)), hash);
        }
    }

    #[test]
    fn base64_gives_the_values_of_its_standard() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (bytes, text) in cases {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn the_accept_value_of_the_rfc_is_found() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn keys_are_sixteen_bytes_and_differ() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (one, other) = (key(&mut rng), key(&mut rng));
        assert_eq!((one.len(), one.as_bytes().ends_with(b"==")), (24, true));
        assert_ne!(one, other);
    }
}
