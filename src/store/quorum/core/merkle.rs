//! Whether two nodes have the same records, by 8 bytes; and if not, in which of 256 parts they differ, by 2 KiB. A tree of
//! two levels: with more parts than that a comparison costs more than what it spares.

use xxhash_rust::xxh64::{Xxh64, xxh64};

use crate::store::core::key::Key;

/// How many parts there are.
pub const LEAVES: usize = 256;

/// Digests of the records that two nodes both keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree(Vec<u64>);

impl Default for Tree {
    fn default() -> Self {
        Self(vec![0; LEAVES])
    }
}

/// Which part `key` is in.
#[must_use]
pub fn leaf(key: &Key) -> usize {
    (xxh64(key.as_str().as_bytes(), 0) as usize) % LEAVES
}

impl Tree {
    /// Puts in what is not there, and takes out what is: the order does not matter.
    pub fn toggle(&mut self, key: &Key, digest: u64) {
        self.0[leaf(key)] ^= digest;
    }

    /// The same for all trees of the same records.
    #[must_use]
    pub fn root(&self) -> u64 {
        let mut hash = Xxh64::new(0);
        self.0.iter().for_each(|leaf| hash.update(&leaf.to_le_bytes()));
        hash.digest()
    }

    /// The digest of each part.
    #[must_use]
    pub fn leaves(&self) -> &[u64] {
        &self.0
    }

    /// The parts in which it differs from the tree of another, which may say anything.
    pub fn differing<'a>(&'a self, other: &'a [u64]) -> impl Iterator<Item = usize> + 'a {
        (0..LEAVES).filter(|at| other.get(*at) != self.0.get(*at))
    }
}
