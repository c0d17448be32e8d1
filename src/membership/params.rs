//! What membership is configured with.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use crate::types::Secret;

/// How a node takes part in the gossip of its mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// Name of this node; nobody else in the mesh may have it. `[a-zA-Z0-9._-]{1,64}`.
    pub node: Arc<str>,
    /// Name of the mesh: two meshes with different names never mix, even with the same key. `[a-zA-Z0-9._-]{1,64}`.
    pub cluster: Arc<str>,
    /// Where it listens: UDP for gossip, TCP for what is too large for that.
    pub bind: SocketAddr,
    /// Where others reach it; `None` takes the address that leads to the first seed, or the first of a network interface.
    pub advertise: Option<SocketAddr>,
    /// Where others reach the inbound listener; `None` takes the IP of the advertised address and the port of the listener.
    pub advertise_endpoint: Option<SocketAddr>,
    /// Whom it asks to get in; asked again for ever as long as nobody is known. Empty for the first node.
    pub join: Vec<Seed>,
    /// What packets are sealed with, until the keyring says otherwise.
    pub key: GossipKey,
    /// How patient it is.
    pub profile: Profile,
    /// Where it keeps who it is, and its keyring; `None` keeps nothing: each start is another member.
    pub data_dir: Option<PathBuf>,
    /// Its share beside other endpoints of the service, 1 to 1000.
    pub weight: u16,
}

/// Somebody who may be in the mesh already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seed {
    /// At this address.
    Address(SocketAddr),
    /// At all addresses of a DNS name.
    Name {
        /// The name.
        name: Arc<str>,
        /// Its port.
        port: u16,
    },
    /// At all targets of SRV records.
    Service {
        /// The full name, `_service._proto.name`.
        name: Arc<str>,
    },
}

/// How fast the network is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// One machine: quick to suspect.
    Local,
    /// One data centre.
    #[default]
    Lan,
    /// Far apart, over the internet.
    Wan,
}

impl Profile {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Lan => "lan",
            Self::Wan => "wan",
        }
    }
}

/// A key of 32 bytes that all members of a mesh have. Whoever has it can say anything in the gossip, so it is a hint
/// there and no proof: who may be sent requests is decided by mTLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipKey(Secret);

/// A text is no gossip key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a gossip key is 32 bytes as 64 hexadecimal digits: `outrigger keyring generate` makes one")]
pub struct GossipKeyError;

impl GossipKey {
    /// Reads 64 hexadecimal digits; white space around them is left out.
    ///
    /// # Errors
    /// If it is anything else. The error does not show the text.
    pub fn parse(text: &str) -> Result<Self, GossipKeyError> {
        let text = text.trim();
        let is_key = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_key { Ok(Self(Secret::new(&text.to_ascii_lowercase()))) } else { Err(GossipKeyError) }
    }

    /// The key as bytes: to seal with, never to be shown.
    #[must_use]
    pub fn bytes(&self) -> [u8; 32] {
        let digits = self.0.expose().as_bytes();
        std::array::from_fn(|at| {
            let digit = |digit: u8| char::from(digit).to_digit(16).unwrap_or_default() as u8;
            digit(digits[2 * at]) << 4 | digit(digits[2 * at + 1])
        })
    }

    /// The key as text: to be kept in a file or sent within a sealed message, never to be shown.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_hexadecimal_digits_and_is_not_shown() {
        let text = "00ff".repeat(16);
        let key = GossipKey::parse(&format!(" {}\n", text.to_uppercase())).unwrap();
        assert_eq!((key.bytes()[0], key.bytes()[1]), (0, 255));
        assert!(!format!("{key:?}").contains("00ff"));
        for wrong in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64)] {
            assert_eq!(GossipKey::parse(wrong), Err(GossipKeyError), "{wrong}");
        }
    }
}
