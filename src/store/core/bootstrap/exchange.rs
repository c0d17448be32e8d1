//! What a node is told when it helps to found a store, and what it asks for. Decides nothing.

use std::time::Duration;

use super::message::{Message, Promise, Proposal, SeedList, StoreId};
use crate::types::Mono;

/// How many nodes found a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// One, for development: it is its own majority.
    One,
    /// Three, one of which may fail.
    Three,
    /// Five, two of which may fail.
    Five,
}

/// How stores are founded here.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// By how many.
    pub expect: Expect,
    /// How long nodes must be known before they are counted on; 2 s is usual.
    pub settle: Duration,
    /// The configured seeds. Without any only [`Expect::One`] founds.
    pub seeds: SeedList,
}

/// This node.
#[derive(Clone, Copy, Debug)]
pub struct Me {
    /// Its id, which no other node ever has.
    pub node: u64,
    /// Whether it may be a member of a store.
    pub eligible: bool,
    /// Whether it is one of the configured seeds.
    pub is_seed: bool,
}

/// Another node that gossip has for alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub node: u64,
    /// Whether it may be a member of a store.
    pub eligible: bool,
    /// The store it belongs to.
    pub founded: Option<StoreId>,
    /// Since when it has been known and alive without a break.
    pub since: Mono,
    /// Whether it is one of the configured seeds. At most one living node per configured seed.
    pub is_seed: bool,
}

/// What the disk of this node has.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The promise that was written last.
    pub promise: Promise,
    /// The store it belongs to.
    pub store: Option<StoreId>,
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// All other nodes that are alive, as gossip has them now. Said at each change.
    Known(Vec<Known>),
    /// A message has come, of this sender for certain.
    Received {
        /// The node that sent it.
        from: u64,
        /// What it says.
        message: Message,
    },
    /// What [`Output::Persist`] of this number asked for survives a crash now.
    Persisted(u64),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write this in place of the promise that is there, then say [`Input::Persisted`]. If it cannot be written say
    /// nothing: this node then takes no part.
    Persist {
        /// Names this writing.
        number: u64,
        /// What to write.
        promise: Promise,
    },
    /// Send this to another node. It may be lost, repeated, late: what matters is said again.
    Send {
        /// To whom.
        to: u64,
        /// What.
        message: Message,
    },
    /// There is a store: belong to it. Said once; after it [`Output::Found`] is not said.
    Join(StoreId),
    /// Start the store with these members, of which this node is one, unless that is done already. Said once; other
    /// members may be told the same, and nobody is ever told other members or another store.
    Found(Proposal),
    /// The store that this node belongs to has gone on in this later epoch: what this node has of its log counts no more.
    Superseded(StoreId),
    /// Nodes of two stores are in this mesh. Nothing is done by itself here. Said once.
    Conflict(Vec<StoreId>),
}

impl Expect {
    /// That of a configuration: 1, 3 or 5.
    #[must_use]
    pub fn from_count(count: usize) -> Option<Self> {
        match count {
            1 => Some(Self::One),
            3 => Some(Self::Three),
            5 => Some(Self::Five),
            _ => None,
        }
    }

    /// How many it is.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Three => 3,
            Self::Five => 5,
        }
    }
}
