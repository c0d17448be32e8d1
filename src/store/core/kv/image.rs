//! The state as bytes: a format, the state, and a checksum of both. What is kept of it elsewhere, and where, is not here.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

use super::{
    super::{
        key::{Key, LeaseId, OpId, Revision},
        outcome::{Change, Versioned},
    },
    Kv,
    answers::{Answer, Answers},
    history::History,
    leases::{Leases, Terms},
    size,
    transact::REVISION_BITS,
};

/// Bytes are no image of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// They are too few.
    #[error("the image of the store is cut short")]
    Short,
    /// Another version of this program has written them.
    #[error("the image of the store has format {0}; this version reads {FORMAT}")]
    Format(u8),
    /// They are not as they were written.
    #[error("the checksum of the image of the store does not match")]
    Checksum,
    /// They were written so, but no state is like that.
    #[error("the image of the store contradicts itself")]
    Contradiction,
}

/// What is written, in this order. What follows from it is not. To write it is to borrow it, to read it is to own it.
#[derive(Serialize, Deserialize)]
struct Image<Keys, Leases, Answers, Changes> {
    revision: Revision,
    at_ms: u64,
    keys: Keys,
    leases: Leases,
    answers: Answers,
    forgotten: Revision,
    changes: Changes,
}

type Read =
    Image<BTreeMap<Key, Versioned>, BTreeMap<LeaseId, Terms>, Vec<(u64, OpId, Answer)>, VecDeque<Change>>;

impl Kv {
    /// The whole state as bytes. The same state has the same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let image = Image {
            revision: self.revision,
            at_ms: self.at_ms,
            keys: &self.keys,
            leases: self.leases.terms(),
            answers: self.answers.iter().collect::<Vec<_>>(),
            forgotten: self.history.forgotten(),
            changes: self.history.changes(),
        };
        let mut bytes = vec![FORMAT];
        // Writing to memory does not fail; if it did, the bytes would be read as damaged.
        bytes = postcard::to_extend(&image, bytes).unwrap_or_default();
        let checksum = xxh64(&bytes, 0);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The state that `bytes` are the image of. Values are copied out of them.
    ///
    /// # Errors
    /// If they are not what [`Kv::to_bytes`] made. No bytes make it panic, or allocate much more than they are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Damaged> {
        let (whole, checksum) = bytes.split_last_chunk().ok_or(Damaged::Short)?;
        let (format, body) = whole.split_first().ok_or(Damaged::Short)?;
        if *format != FORMAT {
            return Err(Damaged::Format(*format));
        }
        if xxh64(whole, 0) != u64::from_le_bytes(*checksum) {
            return Err(Damaged::Checksum);
        }
        match postcard::take_from_bytes::<Read>(body) {
            Ok((image, [])) => image.state().ok_or(Damaged::Contradiction),
            Ok(_) | Err(_) => Err(Damaged::Contradiction),
        }
    }
}

impl Read {
    /// What is written, and what follows from it; `None` if it contradicts itself.
    fn state(self) -> Option<Kv> {
        let revision = self.revision;
        let mut leases = Leases::default();
        for (lease, terms) in self.leases {
            leases.restore(lease, terms);
        }
        let mut bytes = 0;
        for (key, has) in &self.keys {
            bytes += size(key, has);
            let is_bound = has.lease.is_none_or(|lease| leases.bind(lease, key.clone()));
            if !is_bound || has.created > has.modified || has.modified > revision {
                return None;
            }
        }
        let mut answers = Answers::default();
        for (at_ms, op, answer) in self.answers {
            if !answer.is_readable() || at_ms > self.at_ms || !answers.restore(op, at_ms, answer) {
                return None;
            }
        }
        let is_in_order = self.changes.iter().is_sorted_by_key(|change| change.revision)
            && self.changes.front().is_none_or(|change| change.revision > self.forgotten)
            && self.changes.back().is_none_or(|change| change.revision <= revision);
        if !is_in_order || self.forgotten > revision || revision.0 >> REVISION_BITS != 0 {
            return None;
        }
        let history = History::restore(self.forgotten, self.changes);
        Some(Kv { revision, at_ms: self.at_ms, keys: self.keys, bytes, leases, answers, history })
    }
}

/// The first byte. Another one for each change of what follows.
const FORMAT: u8 = 1;
