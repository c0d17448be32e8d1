//! A bounded table of buckets: keys that are full again are forgotten, and it is the caller who says whether there
//! is room for another.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use super::{FullAt, RateLimitParams, Verdict};
use crate::types::Mono;

/// Buckets by hashed key.
#[derive(Debug, Default)]
pub struct KeyTable {
    buckets: HashMap<u64, FullAt, BuildHasherDefault<AlreadyHashed>>,
}

impl KeyTable {
    /// Takes a token of a key that is known.
    pub fn check(&mut self, key: u64, params: &RateLimitParams, now: Mono) -> Option<Verdict> {
        let full_at = self.buckets.get_mut(&key)?;
        let mut state = Some(*full_at);
        let verdict = params.check(&mut state, now);
        *full_at = state.unwrap_or_default();
        Some(verdict)
    }

    /// Takes the first token of a new key. The caller has made sure that there is room.
    pub fn insert(&mut self, key: u64, params: &RateLimitParams, now: Mono) -> Verdict {
        let mut state = None;
        let verdict = params.check(&mut state, now);
        self.buckets.insert(key, state.unwrap_or_default());
        verdict
    }

    /// Forgets keys whose bucket is full again; returns how many. Memory goes back after a large drop.
    pub fn sweep(&mut self, now: Mono) -> usize {
        let before = self.buckets.len();
        self.buckets.retain(|_, full_at| *full_at > now.as_nanos());
        if self.buckets.len() < self.buckets.capacity() / 4 {
            self.buckets.shrink_to(self.buckets.len() * 2);
        }
        before - self.buckets.len()
    }

    /// Keys that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }
}

/// Keys are hashes already; hashing them again would only cost time.
#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}
