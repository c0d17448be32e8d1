//! What servers say to each other about records.

use serde::{Deserialize, Serialize};

use super::{clock::Stamp, record::Record};
use crate::store::core::key::{Key, OpId};

/// What travels: some messages, and who the sender takes for the servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// The ring of the sender. Whoever sees another one heeds both for a while.
    pub members: Vec<u64>,
    /// Rings that it heeds besides, and for how many milliseconds: who has just come has not seen them.
    pub before: Vec<(Vec<u64>, u32)>,
    /// Whether what the sender has may be believed.
    pub standing: Standing,
    /// In order.
    pub messages: Vec<Message>,
}

/// Whether what a node has may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It was with the others all the time.
    Serving,
    /// It was away for so long that what others removed may still be there: it answers nothing before that is settled.
    Returning,
}

/// A question or its answer. Answers have the number of their question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Who is there?
    Ping,
    /// I am.
    Pong,
    /// Since when is `key` as it is, and has `op` been carried out?
    Ask {
        /// Of the question.
        id: u64,
        /// Which key.
        key: Key,
        /// Which write.
        op: OpId,
    },
    /// See [`Message::Ask`].
    Told {
        /// Of the question.
        id: u64,
        /// The stamp of what is there.
        stamp: Option<Stamp>,
        /// Whether that has a value.
        is_live: bool,
        /// With which stamp `op` was carried out.
        known: Option<Stamp>,
    },
    /// Keep this.
    Store {
        /// Of the question.
        id: u64,
        /// Which key.
        key: Key,
        /// What it has.
        record: Record,
    },
    /// It, or something later, is on the disk.
    Stored {
        /// Of the question.
        id: u64,
    },
    /// It was not kept.
    Refused {
        /// Of the question.
        id: u64,
        /// Why.
        why: Refusal,
    },
    /// What has `key`?
    Fetch {
        /// Of the question.
        id: u64,
        /// Which key.
        key: Key,
        /// Whether the record itself is wanted, or only its stamp.
        whole: bool,
    },
    /// See [`Message::Fetch`].
    Found {
        /// Of the question.
        id: u64,
        /// The stamp of what is there, also if that was removed.
        stamp: Option<Stamp>,
        /// The record, if it was wanted.
        record: Option<Record>,
    },
    /// Which keys begin so?
    List {
        /// Of the question.
        id: u64,
        /// How they begin.
        prefix: String,
        /// Those after this one.
        after: Option<Key>,
        /// At most so many.
        limit: u32,
    },
    /// See [`Message::List`].
    Listed {
        /// Of the question.
        id: u64,
        /// In order, with those that were removed.
        entries: Vec<(Key, Record)>,
        /// Whether there are more after the last one.
        more: bool,
    },
    /// Have we the same?
    Compare {
        /// The root of the tree of what both keep.
        root: u64,
        /// How far the sender is.
        at: u64,
    },
    /// Yes.
    Same {
        /// See [`Message::Compare`].
        at: u64,
    },
    /// No: these are the parts.
    Leaves(Vec<u64>),
    /// What I have of one part.
    Range {
        /// Which.
        leaf: u32,
        /// The keys after this one.
        after: Option<Key>,
        /// Up to this one; without, to the end.
        last: Option<Key>,
        /// What there is.
        entries: Vec<(Key, Stamp)>,
    },
    /// Send me these.
    Want(Vec<Key>),
    /// Here they are.
    Records(Vec<(Key, Record)>),
    /// Forget these removals: everybody knows of them.
    Collect {
        /// Of the question.
        id: u64,
        /// The ring in which everybody does.
        epoch: u64,
        /// Which.
        tombstones: Vec<(Key, Stamp)>,
    },
    /// These are forgotten.
    Collected {
        /// Of the question.
        id: u64,
        /// Which.
        tombstones: Vec<(Key, Stamp)>,
    },
}

/// Why a record was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Its stamp is too far ahead: one of the two clocks is wrong.
    Clock,
    /// There is no room.
    Full,
}

impl Message {
    /// About how many bytes it is.
    #[must_use]
    pub fn size(&self) -> usize {
        let record = |(key, record): &(Key, Record)| key.as_str().len() + record.size();
        64 + match self {
            Self::Ask { key, .. } | Self::Fetch { key, .. } => key.as_str().len(),
            Self::Store { key, record, .. } => key.as_str().len() + record.size(),
            Self::Found { record, .. } => record.as_ref().map_or(0, Record::size),
            Self::List { prefix, .. } => prefix.len(),
            Self::Listed { entries, .. } | Self::Records(entries) => entries.iter().map(record).sum(),
            Self::Leaves(leaves) => 8 * leaves.len(),
            Self::Range { entries, .. } => entries.iter().map(|(key, _)| key.as_str().len() + 24).sum(),
            Self::Want(keys) => keys.iter().map(|key| key.as_str().len() + 2).sum(),
            Self::Collect { tombstones, .. } | Self::Collected { tombstones, .. } => {
                tombstones.iter().map(|(key, _)| key.as_str().len() + 24).sum()
            }
            Self::Ping
            | Self::Pong
            | Self::Told { .. }
            | Self::Stored { .. }
            | Self::Refused { .. }
            | Self::Compare { .. }
            | Self::Same { .. } => 0,
        }
    }
}
