//! Tokens that were found good, so that a token which comes with every request is verified once. Bounded.

use std::{
    collections::hash_map::Entry as Place,
    sync::{Arc, Mutex, PoisonError},
};

use rustc_hash::FxHashMap;

use super::Verified;

/// Two requests wait for each other only if their tokens fall into the same one of these.
const SHARDS: usize = 16;
/// Of one shard. A token with its claims takes a kilobyte or two.
const MAX_TOKENS: usize = 128;

/// By SHA-256 of the token: whoever knows the digest of a token knows nothing of the token.
type Shard = FxHashMap<[u8; 32], Entry>;

#[derive(Debug)]
struct Entry {
    verified: Arc<Verified>,
    /// Of the keys that it was verified with.
    keys: u64,
}

/// Good tokens of all issuers.
#[derive(Debug, Default)]
pub(super) struct Cache([Mutex<Shard>; SHARDS]);

impl Cache {
    /// The token with this digest, if it was verified with the keys whose version `is_current` knows, and is still
    /// good at `now`. Locks for one look-up.
    pub(super) fn find(
        &self,
        digest: &[u8; 32],
        now: u64,
        is_current: impl FnOnce(&Verified, u64) -> bool,
    ) -> Option<Arc<Verified>> {
        let mut shard = self.shard(digest).lock().unwrap_or_else(PoisonError::into_inner);
        let Place::Occupied(entry) = shard.entry(*digest) else { return None };
        let known = entry.get();
        if known.verified.is_good_at(now) && is_current(&known.verified, known.keys) {
            return Some(Arc::clone(&known.verified));
        }
        entry.remove();
        None
    }

    /// Remembers a token. Where there is no room, one that is not good any more makes it, or else any.
    pub(super) fn insert(&self, digest: [u8; 32], verified: &Arc<Verified>, keys: u64, now: u64) {
        let mut shard = self.shard(&digest).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= MAX_TOKENS {
            shard.retain(|_, entry| entry.verified.is_good_at(now));
        }
        if shard.len() >= MAX_TOKENS
            && let Some(any) = shard.keys().next().copied()
        {
            shard.remove(&any);
        }
        shard.insert(digest, Entry { verified: Arc::clone(verified), keys });
    }

    fn shard(&self, digest: &[u8; 32]) -> &Mutex<Shard> {
        &self.0[usize::from(digest[31]) % SHARDS]
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }
}
