//! What the store is configured with.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::Backend;
use super::core::autopilot::Patience;
use super::quorum::Keyspaces;
use super::writers::Writer;
use crate::types::Secret;

/// How a node takes part in the store of its mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// Who keeps it. What is said below of voting, listening and encrypting is for a store of the sidecars.
    pub backend: Backend,
    /// What it may become.
    pub mode: Mode,
    /// Where it listens for other nodes.
    pub bind: SocketAddr,
    /// Where others reach it; `None` takes the IP that the membership advertises and the port of `bind`.
    pub advertise: Option<SocketAddr>,
    /// Where a server keeps its log, and a sidecar of an etcd what it served last; `None` keeps nothing, so that each start
    /// is another server.
    pub data_dir: Option<PathBuf>,
    /// How many servers must be there before they begin a store: 1, 3 or 5.
    pub bootstrap_expect: usize,
    /// How patient its voters are.
    pub timing: Timing,
    /// How long a leader waits before it changes who votes.
    pub patience: Patience,
    /// What its files are encrypted with.
    pub keys: StoreKeys,
    /// Who may write beside the servers; empty: every member of the mesh.
    pub allow: Vec<Writer>,
    /// What is kept by quorum.
    pub keyspaces: Keyspaces,
}

/// What a node may become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A voter, or one that stands by to become one.
    Server,
    /// Never a voter: it asks those who are.
    #[default]
    Client,
}

/// How patient voters are with their leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader says that it is there.
    pub heartbeat: Duration,
    /// The shortest silence after which a voter asks to lead; the longest is twice that. At least three heartbeats.
    pub election_timeout: Duration,
}

/// What the files of a store are encrypted with (AES-256-GCM).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreKeys {
    /// The first one encrypts; what older ones encrypted is read. Empty: nothing is encrypted.
    pub keys: Vec<StoreKey>,
    /// Whether what was written without encryption is read, so that it can be switched on.
    pub reads_plain: bool,
}

/// A key of 32 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreKey(Secret);

impl StoreKey {
    /// Reads 64 hexadecimal digits; white space around them is left out. `None` if it is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_key = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_key.then(|| Self(Secret::new(&text.to_ascii_lowercase())))
    }

    /// The key as bytes: to encrypt with, never to be shown.
    #[must_use]
    pub fn bytes(&self) -> [u8; 32] {
        let digits = self.0.expose();
        std::array::from_fn(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap_or_default())
    }

    /// The key as text: to be compared, never to be shown.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// What records call it: never 0. Two keys that have the same cannot be used together.
    #[must_use]
    pub fn id(&self) -> u8 {
        let sum = self.bytes().iter().fold(0x9e_u8, |sum, byte| sum.rotate_left(3) ^ byte);
        sum.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_hexadecimal_digits_and_is_not_shown() {
        let text = "00ff".repeat(16);
        let key = StoreKey::parse(&format!(" {}\n", text.to_uppercase())).unwrap();
        assert_eq!(key.bytes()[..4], [0, 255, 0, 255]);
        assert!(key.id() != 0 && !format!("{key:?}").contains("00ff"));
        for wrong in ["", &text[1..], &format!("{text}0"), &text.replace('f', "g")] {
            assert_eq!(StoreKey::parse(wrong), None);
        }
    }
}
