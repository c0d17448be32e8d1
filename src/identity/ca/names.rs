//! What certificates, keys, tokens and instances are called by: numbers drawn at random, hashes, and names from outside.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;

use super::{error::CaError, hex};
use crate::identity::unforeseeable;

/// The number of a certificate: positive and of 128 bits, 126 of them drawn at random, so that nobody can foresee one
/// and no two are equal (RFC 5280 §4.1.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; 16]);

impl Serial {
    pub(super) fn random() -> Result<Self, CaError> {
        let mut bytes: [u8; 16] = random()?;
        // Positive in DER, and of full length whatever was drawn: a serial with zeros in front has several spellings.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Ok(Self(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Why a text is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not {0}")]
pub struct NameError(&'static str);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

/// Digits of either case, with colons between the bytes or without, as other tools print them.
impl FromStr for Serial {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = NameError("a serial number of 32 hexadecimal digits");
        let digits = if text.contains(':') {
            let bytes: Vec<&str> = text.split(':').collect();
            if bytes.iter().any(|byte| byte.len() != 2) {
                return Err(wrong);
            }
            bytes.concat()
        } else {
            text.to_owned()
        };
        hex::decode(&digits).map(Self).ok_or(wrong)
    }
}

/// SHA-256 over a certificate in DER: what `openssl x509 -fingerprint -sha256` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(sha256(der))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// From a hash.
impl From<[u8; 32]> for Fingerprint {
    fn from(hash: [u8; 32]) -> Self {
        Self(hash)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        hex::decode(text).map(Self).ok_or(NameError("a fingerprint of 64 hexadecimal digits"))
    }
}

/// The name of a join token; no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 8]);

impl TokenId {
    pub(super) fn random() -> Result<Self, CaError> {
        random().map(Self)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl FromStr for TokenId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        hex::decode(text).map(Self).ok_or(NameError("the id of a token, 16 hexadecimal digits"))
    }
}

/// Which instance of a service a certificate is for: whatever tells the instances of one service apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(String);

impl Node {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Node {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        if text.is_empty() || text.len() > MAX_NODE || !text.bytes().all(allowed) {
            return Err(NameError("the name of a node, 1 to 253 letters, digits, `.`, `-`, `_` and `:`"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Bytes that nobody can foresee.
pub(super) fn random<const N: usize>() -> Result<[u8; N], CaError> {
    unforeseeable().map_err(|_| CaError::NoChance)
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// As long as a host name may be (RFC 1035).
const MAX_NODE: usize = 253;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn serials_are_positive_of_full_length_and_never_equal() {
        let serials: HashSet<Serial> = (0..1000).map(|_| Serial::random().unwrap()).collect();
        assert_eq!(serials.len(), 1000);
        assert!(serials.iter().all(|serial| (0x40..0x80).contains(&serial.0[0])));
    }

    #[test]
    fn a_serial_is_read_in_the_spellings_of_other_tools() {
        let serial: Serial = "4af0000000000000000000000000000f".parse().unwrap();
        assert_eq!(serial.to_string(), "4af0000000000000000000000000000f");
        let colons = "4A:F0:00:00:00:00:00:00:00:00:00:00:00:00:00:0F";
        assert_eq!(colons.parse::<Serial>().unwrap(), serial);
        assert_eq!("4AF0000000000000000000000000000F".parse::<Serial>().unwrap(), serial);
        for wrong in ["", "4af", ":4af0000000000000000000000000000f", &colons.replace("00:00", "0:000")] {
            assert!(wrong.parse::<Serial>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_name_of_a_node_is_one_word() {
        assert!("api-1.example:2".parse::<Node>().is_ok());
        for wrong in ["", "a b", "a/b", "a\n", "é", &"x".repeat(254)] {
            assert!(wrong.parse::<Node>().is_err(), "{wrong:?}");
        }
    }
}
