//! What a key has, by whom and since when. The later of two records wins, whoever compares them, in whatever order.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::Xxh64;

use super::clock::Stamp;
use crate::store::core::key::{Key, OpId};

/// What a key has, or that it was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was written.
    pub stamp: Stamp,
    /// Which write that was.
    pub op: OpId,
    /// Nothing: it was removed (a tombstone).
    pub value: Option<Bytes>,
}

impl Record {
    /// Whichever of the two is later. Those of one stamp, which nobody writes, are told apart all the same, so that all
    /// replicas end with the same one.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        if other.is_after(&self) { other } else { self }
    }

    /// Whether it takes the place of `other`.
    #[must_use]
    pub fn is_after(&self, other: &Self) -> bool {
        (self.stamp, self.op, &self.value) > (other.stamp, other.op, &other.value)
    }

    /// What it takes in memory, beside its key.
    #[must_use]
    pub fn size(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len) + OVERHEAD
    }

    /// What trees know it by.
    #[must_use]
    pub fn digest(&self, key: &Key) -> u64 {
        let mut hash = Xxh64::new(u64::from(self.value.is_some()));
        for number in [
            self.stamp.ms,
            u64::from(self.stamp.count),
            self.stamp.writer,
            self.op.client,
            self.op.sequence,
            key.as_str().len() as u64,
        ] {
            hash.update(&number.to_le_bytes());
        }
        hash.update(key.as_str().as_bytes());
        hash.update(self.value.as_deref().unwrap_or_default());
        hash.digest()
    }
}

/// The part of a key that says how it is kept: all before its first slash, or all of it.
#[must_use]
pub fn keyspace(key: &str) -> &str {
    key.split_once('/').map_or(key, |(space, _)| space)
}

/// The record, its entry in maps, its place in a tree.
const OVERHEAD: usize = 128;
