//! Certificates as text (RFC 7468), made from what was read rather than from the files: those may hold a key as well.

const LINE: usize = 64;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A certificate in PEM.
#[must_use]
pub fn certificate_pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut column = 0;
    for bytes in der.chunks(3) {
        let byte = |index: usize| u32::from(bytes.get(index).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * index) & 63) as usize];
            // Of the last group, what no byte went into is padding.
            text.push(if index > bytes.len() { '=' } else { char::from(digit) });
        }
        column += 4;
        if column == LINE {
            text.push('\n');
            column = 0;
        }
    }
    if column > 0 {
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};

    use super::*;

    #[test]
    fn bytes_of_every_length_read_back() {
        for length in 0..200_u8 {
            let bytes: Vec<u8> = (0..length).map(|index| index.wrapping_mul(151)).collect();
            let text = certificate_pem(&bytes);
            assert!(text.lines().all(|line| line.len() <= LINE), "{text}");
            let read = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
            assert_eq!(read.as_ref(), bytes, "{text}");
        }
    }
}
