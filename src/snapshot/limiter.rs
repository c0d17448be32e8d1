//! A rate limit with its state: buckets behind short locks, shared by all workers, with a hard bound on their
//! number. The decisions are in policy/limit.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::HeaderMap;

use crate::{
    policy::limit::{FullAt, KeyHasher, KeyTable, LimitKey, RateLimitParams, Verdict},
    telemetry::metrics::{LimitDecision, RateLimitMetrics},
    types::Mono,
};

/// Two requests wait for each other only if their keys fall into the same one of these.
const SHARDS: usize = 64;

/// A full store is swept by requests at most this often: sweeping is linear, and whoever comes with ever new keys
/// would otherwise have it done for each.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// The buckets of one rate limit. Outlives snapshots, so that a reload is no refill.
#[derive(Debug)]
pub struct KeyStore {
    shards: [Mutex<KeyTable>; SHARDS],
    /// Keys in all shards; never above the limit's bound.
    keys: AtomicUsize,
    /// When a request last made room, as nanoseconds of [`Mono`].
    swept: AtomicU64,
    /// What keys share for which there is no room.
    overflow: Mutex<Option<FullAt>>,
}

impl Default for KeyStore {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            keys: AtomicUsize::new(0),
            swept: AtomicU64::new(0),
            overflow: Mutex::default(),
        }
    }
}

/// A request that a rate limit does not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// When the next one would be.
    pub wait: Duration,
}

/// One rate limit of a route.
#[derive(Debug)]
pub struct RateLimiter {
    /// As configured.
    pub params: RateLimitParams,
    store: Arc<KeyStore>,
    hasher: KeyHasher,
    metrics: Arc<RateLimitMetrics>,
}

impl RateLimiter {
    /// The limit `params` on the buckets of `store`.
    #[must_use]
    pub fn new(
        params: RateLimitParams,
        store: Arc<KeyStore>,
        hasher: KeyHasher,
        metrics: Arc<RateLimitMetrics>,
    ) -> Self {
        Self { params, store, hasher, metrics }
    }

    /// Takes a token for a request and counts what came of it. In shadow mode nothing is ever limited.
    ///
    /// # Errors
    /// If the request comes too early.
    pub fn check(&self, headers: &HeaderMap, source: IpAddr, now: Mono) -> Result<(), Limited> {
        let key = self.hasher.key(&self.params.key, headers, source);
        self.check_key(key, now)
    }

    /// [`RateLimiter::check`] for a key that is known.
    ///
    /// # Errors
    /// The same.
    pub fn check_key(&self, key: u64, now: Mono) -> Result<(), Limited> {
        let (verdict, own) = self.verdict(key, now);
        let Verdict::Denied { wait } = verdict else {
            self.metrics.decided(LimitDecision::Allow);
            return Ok(());
        };
        if self.params.shadow {
            self.metrics.decided(LimitDecision::WouldDeny);
            return Ok(());
        }
        self.metrics.decided(if own { LimitDecision::Deny } else { LimitDecision::Overflow });
        Err(Limited { wait })
    }

    /// The verdict, and whether it is of the key's own bucket.
    fn verdict(&self, key: u64, now: Mono) -> (Verdict, bool) {
        if self.params.key == LimitKey::Route {
            // One bucket needs no table.
            return (self.params.check(&mut lock(&self.store.overflow), now), true);
        }
        let own = self.own_bucket(key, now).or_else(|| {
            self.make_room(now);
            self.own_bucket(key, now)
        });
        match own {
            Some(verdict) => (verdict, true),
            // Neither open, which a flood of keys would buy, nor closed, which it would do to everybody new.
            None => (self.params.check(&mut lock(&self.store.overflow), now), false),
        }
    }

    /// The verdict of the key's own bucket, which is made if there is room for it.
    fn own_bucket(&self, key: u64, now: Mono) -> Option<Verdict> {
        let mut shard = lock(&self.store.shards[(key >> 32) as usize % SHARDS]);
        if let Some(verdict) = shard.check(key, &self.params, now) {
            return Some(verdict);
        }
        if !self.reserve() {
            return None;
        }
        let verdict = shard.insert(key, &self.params, now);
        drop(shard);
        self.metrics.set_keys(self.keys());
        Some(verdict)
    }

    /// Sweeps, unless somebody just did.
    fn make_room(&self, now: Mono) {
        let last = self.store.swept.load(Relaxed);
        let due = now.since(Mono::from_nanos(last)) >= SWEEP_EVERY;
        if due && self.store.swept.compare_exchange(last, now.as_nanos(), Relaxed, Relaxed).is_ok() {
            self.sweep(now);
        }
    }

    /// Counts one more key, if there may be one more.
    fn reserve(&self) -> bool {
        let most = self.params.max_keys as usize;
        let one_more = |keys: usize| (keys < most).then_some(keys + 1);
        self.store.keys.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    /// Keys that are remembered.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.store.keys.load(Relaxed)
    }

    /// Forgets all keys whose bucket is full again. Linear in the number of keys: not for the data plane.
    pub fn sweep(&self, now: Mono) {
        for shard in &self.store.shards {
            let freed = lock(shard).sweep(now);
            self.store.keys.fetch_sub(freed, Relaxed);
        }
        self.metrics.set_keys(self.keys());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A table is whole after every statement: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use super::*;
    use crate::{
        policy::limit::{Period, Rate},
        telemetry::metrics::Registry,
    };

    fn limiter(store: &Arc<KeyStore>, rate: u32, max_keys: u32) -> RateLimiter {
        let params = RateLimitParams {
            name: "l".into(),
            rate: Rate { count: NonZeroU32::new(rate).unwrap(), per: Period::Second },
            burst: NonZeroU32::new(2).unwrap(),
            key: LimitKey::SourceAddress,
            shadow: false,
            max_keys,
        };
        let registry = Registry::new(100, 1);
        let metrics = RateLimitMetrics::resolve(&registry, "l");
        RateLimiter::new(params, Arc::clone(store), KeyHasher::new(1), metrics)
    }

    /// Keys as a hash makes them.
    fn key(number: u64) -> u64 {
        number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn ten_million_keys_stay_within_the_bound_and_live_ones_keep_their_own_bucket() {
        // 10 million at 100 000 is benches/policy/limit.rs; the bound is the same code at every size.
        const MOST: u64 = 1_000;
        let limiter = limiter(&Arc::default(), 1, 1_000);
        let now = Mono::from_nanos(1_000_000_000);
        for number in 0..MOST {
            assert!(limiter.check_key(key(number), now).is_ok());
        }
        let mut let_in = 0;
        for number in MOST..MOST * 100 {
            let_in += u32::from(limiter.check_key(key(number), now).is_ok());
        }
        assert_eq!(limiter.keys(), 1_000);
        assert_eq!(let_in, 2, "what the shared bucket allows");
        for number in 0..MOST {
            assert!(limiter.check_key(key(number), now).is_ok(), "the second of its burst of two");
            assert!(limiter.check_key(key(number), now).is_err(), "the third");
        }
    }

    #[test]
    fn room_is_made_of_keys_whose_bucket_is_full_again() {
        let limiter = limiter(&Arc::default(), 1, 100);
        for number in 0..100 {
            assert!(limiter.check_key(key(number), Mono::ZERO).is_ok());
        }
        let later = Mono::ZERO.after(Duration::from_secs(2));
        assert!((100..200).all(|number| limiter.check_key(key(number), later).is_ok()));
        assert!(limiter.keys() <= 100);
        limiter.sweep(later.after(Duration::from_secs(2)));
        assert_eq!(limiter.keys(), 0);
    }

    #[test]
    fn a_new_limiter_on_the_same_store_goes_on_where_the_old_one_was() {
        let store = Arc::default();
        let old = limiter(&store, 1, 100);
        assert!(old.check_key(7, Mono::ZERO).is_ok());
        assert!(old.check_key(7, Mono::ZERO).is_ok());
        assert!(limiter(&store, 2, 100).check_key(7, Mono::ZERO).is_err());
    }
}
