//! Tells HTTP/2 with prior knowledge from HTTP/1 by the first bytes of a connection. Pure.

/// What a client with prior knowledge of HTTP/2 sends first (RFC 9113 §3.4).
pub const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// The preface is complete.
    Http2,
    /// Not the preface, whatever follows.
    Http1,
    /// So far the beginning of the preface, or nothing.
    Undecided,
}

/// Judges the bytes received so far.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Sniff {
    let compared = bytes.len().min(H2_PREFACE.len());
    if bytes[..compared] != H2_PREFACE[..compared] {
        Sniff::Http1
    } else if compared == H2_PREFACE.len() {
        Sniff::Http2
    } else {
        Sniff::Undecided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_preface_is_http2_and_the_first_other_byte_decides() {
        for cut in 0..H2_PREFACE.len() {
            assert_eq!(sniff(&H2_PREFACE[..cut]), Sniff::Undecided);
            let mut other = H2_PREFACE.to_vec();
            other[cut] ^= 1;
            assert_eq!(sniff(&other[..=cut]), Sniff::Http1);
        }
        assert_eq!(sniff(H2_PREFACE), Sniff::Http2);
        assert_eq!(sniff(&[H2_PREFACE.as_slice(), b"more"].concat()), Sniff::Http2);
        assert_eq!(sniff(b"PUT / HTTP/1.1"), Sniff::Http1);
    }
}
