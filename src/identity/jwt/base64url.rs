//! Base64 for URLs without padding (RFC 4648 §5), as strict as tokens need it: one text for each value.

/// The bytes of `text`; `None` if another character stands in it, or bits that no byte has.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for character in group {
            bits = bits << 6 | value(*character)?;
        }
        // Four characters are three bytes; a rest of two or three is one or two, and the bits left over are zero.
        let missing = 4 - group.len();
        if missing == 3 || bits & ((1 << (2 * missing)) - 1) != 0 {
            return None;
        }
        let whole = (bits << (6 * missing)).to_be_bytes();
        bytes.extend_from_slice(&whole[1..4 - missing]);
    }
    Some(bytes)
}

fn value(character: u8) -> Option<u32> {
    let value = match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_read_back() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg", b"f"),
            ("Zm8", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9vYmFy", b"foobar"),
            ("-_-_", &[0xfb, 0xff, 0xbf]),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_has_a_second_spelling_is_refused() {
        // Padding, the other alphabet, spaces, a single character, bits that are lost.
        for text in ["Zg==", "+/+/", "Zm9v ", "Z", "Zm9vY", "Zh", "Zm9"] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }
}
