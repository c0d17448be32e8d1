//! What one reader and writer has seen, so that it never sees less: read-your-writes and monotonic reads (Terry et al.
//! 1994) through whichever node it asks next. It travels with the caller as a token; nodes remember nothing of it.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

use super::clock::Stamp;
use crate::store::core::key::Key;

/// Keys that a session remembers one by one. All others are read by quorum once there are so many: what was read so is
/// never read older so.
pub const MOST_KEYS: usize = 64;

/// What was seen of each key, by a digest of its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session(Vec<(u64, Stamp)>);

/// What a session asks of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// Nothing older than this may be answered.
    pub least: Option<Stamp>,
    /// One replica is not enough, whatever it has.
    pub by_quorum: bool,
}

impl Session {
    /// What a read of `key` has to bring.
    #[must_use]
    pub fn floor(&self, key: &Key) -> Floor {
        let least = self.find(key).map(|at| self.0[at].1);
        Floor { least, by_quorum: least.is_none() && self.0.len() >= MOST_KEYS }
    }

    /// `stamp` of `key` was read or written.
    pub fn saw(&mut self, key: &Key, stamp: Stamp) {
        match self.find(key) {
            Some(at) => self.0[at].1 = self.0[at].1.max(stamp),
            None if self.0.len() < MOST_KEYS => self.0.push((digest(key), stamp)),
            None => {}
        }
    }

    fn find(&self, key: &Key) -> Option<usize> {
        let digest = digest(key);
        self.0.iter().position(|(known, _)| *known == digest)
    }

    /// Whether it is one that this file makes: others are not believed.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.0.len() <= MOST_KEYS
    }
}

fn digest(key: &Key) -> u64 {
    xxh64(key.as_str().as_bytes(), 0x5e55)
}
