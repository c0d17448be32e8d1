//! Bytes as hexadecimal digits and back. Everything of the certificate authority that is a number for people.

/// Lower-case digits.
pub(in crate::identity) fn encode(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// Exactly `N` bytes from digits of either case, and nothing else.
pub(super) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    decode_all(text)?.try_into().ok()
}

/// As many bytes as there are pairs of digits of either case, if there is nothing else.
pub(super) fn decode_all(text: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| Some(value(pair[0])? << 4 | value(pair[1])?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded_and_anything_else_is_not() {
        let bytes: [u8; 4] = [0, 0x7f, 0xa5, 0xff];
        assert_eq!(encode(&bytes), "007fa5ff");
        assert_eq!(decode("007FA5ff"), Some(bytes));
        for text in ["", "007fa5f", "007fa5fff", "007fa5fg", "+07fa5ff", "00 fa5ff", "éé7fa5"] {
            assert_eq!(decode::<4>(text), None, "{text:?}");
        }
    }
}
