//! Lower-case hexadecimal, as trace headers and request ids are written.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Value of each digit; what is no digit has a bit of [`NO_DIGIT`].
static VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < DIGITS.len() {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

const NO_DIGIT: u8 = 0x80;

/// Reads two lower-case digits per byte of `N`; `None` if there are more or fewer, or anything else.
pub(super) fn parse<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    let mut seen = 0;
    // Looks for mistakes once at the end: a branch per digit costs more than reading all of them.
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (VALUES[usize::from(*high)], VALUES[usize::from(*low)]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    (seen & NO_DIGIT == 0).then_some(bytes)
}

/// Writes two digits per byte. `out` is twice as long as `bytes`; of two lengths that do not fit, the shorter
/// decides.
pub(super) fn write(bytes: &[u8], out: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(out.as_chunks_mut::<2>().0) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_back_as_they_were_written() {
        let bytes: [u8; 256] = std::array::from_fn(|at| at as u8);
        let mut text = [0; 512];
        write(&bytes, &mut text);
        assert_eq!(parse::<256>(&text), Some(bytes));
    }

    #[test]
    fn only_lower_case_digits_are_digits() {
        for byte in 0..=255_u8 {
            let good = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            assert_eq!(parse::<1>(&[b'0', byte]).is_some(), good, "{byte}");
            assert_eq!(parse::<1>(&[byte, b'0']).is_some(), good, "{byte}");
        }
        assert_eq!((parse::<1>(b"a"), parse::<1>(b"aaa"), parse::<2>(b"aa")), (None, None, None));
    }
}
