//! What the store answers, and what it tells those who watch.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::key::{Key, LeaseId, Revision};

/// What a key has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned {
    /// Its value.
    pub value: Bytes,
    /// The revision that made it.
    pub created: Revision,
    /// The revision of its last change.
    pub modified: Revision,
    /// How often it was written since it was made: 1 for the first time.
    pub version: u64,
    /// With which lease it goes.
    pub lease: Option<LeaseId>,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The revision after it.
    pub revision: Revision,
    /// What it brought.
    pub result: CommandResult,
}

/// What a command brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandResult {
    /// A transaction was carried out.
    Transacted {
        /// Whether the comparisons held, so that `then` was done and not `otherwise`.
        held: bool,
        /// One for each operation that was done.
        results: Vec<OperationResult>,
    },
    /// A lease is there, for this long after the time of the command.
    Leased {
        /// Which.
        lease: LeaseId,
        /// How long, in milliseconds.
        ttl_ms: u64,
    },
    /// Leases have ended, and this many keys went with them.
    Ended {
        /// How many keys.
        keys: u64,
    },
    /// There is no such lease (any more). Nothing has changed.
    NoLease(LeaseId),
    /// The store is full. Nothing has changed.
    Full,
    /// It would remove more keys by their beginnings than one transaction may. Nothing has changed.
    TooMany,
}

/// What an operation brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationResult {
    /// What the key has.
    Got(Option<Versioned>),
    /// It is set.
    Put,
    /// This many keys were removed.
    Deleted(u64),
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The revision that it made; several changes of one command have the same.
    pub revision: Revision,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// By whom.
    pub author: Arc<str>,
    /// Which key.
    pub key: Key,
    /// What it had before.
    pub before: Option<Versioned>,
    /// What it has now.
    pub after: Option<Versioned>,
}

/// Some of the keys, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The state that they are of.
    pub revision: Revision,
    /// The keys and what they have.
    pub entries: Vec<(Key, Versioned)>,
    /// The next page begins after this key; `None` if this is the last.
    pub next: Option<Key>,
}
