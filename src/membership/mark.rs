//! How the mark of a gossip key is found.

use super::{GossipKey, KeyMark};
use crate::identity::{CertificateDer, fingerprint};

impl KeyMark {
    /// The mark of `key`.
    #[must_use]
    pub fn of(key: &GossipKey) -> Self {
        let digest = fingerprint(&CertificateDer::from(key.bytes().to_vec()));
        Self(digest.iter().take(4).fold(0, |mark, byte| mark << 8 | u32::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_the_beginning_of_the_sha_256_of_the_bytes() {
        let key = GossipKey::parse(&"00".repeat(32)).unwrap();
        assert_eq!(KeyMark::of(&key).to_string(), "66687aad");
    }
}
