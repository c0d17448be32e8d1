//! What members say to each other on connections, beside the gossip: who they are, all that they know, a change of keys.
//! Sealed, sent and received in call.rs.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::packet::{FactRecord, Knowledge, Seen, Unreadable};

/// Who a member is, by its own word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// How it stands.
    pub seen: Seen,
    /// What it says about itself.
    pub record: FactRecord,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Who are you? This is who I am.
    Hello(Card),
    /// Do we know the same?
    Compare {
        /// Who I am.
        card: Card,
        /// Of what I know.
        digest: u64,
        /// Whether I know nobody else yet.
        is_joining: bool,
    },
    /// This is all that I know; what do you?
    Everything(Card, Knowledge),
    /// Change your keyring.
    Keyring(KeyChange),
}

/// A change of the keyring, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyChange {
    /// The key, as text.
    Install(String),
    /// The mark of the key to seal with.
    Use(u32),
    /// The mark of the key to forget.
    Remove(u32),
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// This is who I am.
    Hello(Card),
    /// We know the same.
    Same(Card),
    /// We do not.
    Different(Card),
    /// This is what I know.
    Everything(Card, Knowledge),
    /// It is done.
    Done,
    /// No: another living member has this name.
    NameTaken {
        /// Where it gossips.
        address: SocketAddr,
    },
    /// No, for a reason that is told.
    Refused(String),
}

/// A message as it is sent.
#[must_use]
pub fn write<T: Serialize>(message: &T) -> Vec<u8> {
    // Into memory, of types that have a form: nothing can go wrong.
    postcard::to_allocvec(message).unwrap_or_default()
}

/// Reads a message. Takes no more memory than some times the length of `message`, whatever that says.
///
/// # Errors
/// It is none, or says of a member what cannot be.
pub fn read<T: DeserializeOwned>(message: &[u8]) -> Result<T, Unreadable> {
    postcard::from_bytes(message).map_err(|_| Unreadable)
}
