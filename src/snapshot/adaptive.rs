//! The learned limit of the application, with the counts it is learned from: atomics that all workers share. The
//! learning is in policy/concurrency.

use std::{
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    policy::concurrency::{ConcurrencyMode, ConcurrencyParams, Gradient2, Window, fits},
    telemetry::metrics::ConcurrencyMetrics,
    types::{Mono, Priority},
};

/// How long is counted before anything is learned.
const WINDOW: Duration = Duration::from_secs(1);
/// Fewer answers are no measure; the window goes on.
const LEAST_SAMPLES: u32 = 10;

/// What outlives snapshots of a learned limit.
#[derive(Debug, Default)]
pub struct AdaptiveLive {
    in_flight: AtomicU32,
    /// Zero as long as nothing was learned.
    limit: AtomicU32,
    /// Of the present window: when it began, the sum of its latencies in nanoseconds, how many there are, and the
    /// most requests in flight.
    began: AtomicU64,
    sum: AtomicU64,
    samples: AtomicU32,
    peak: AtomicU32,
    learned: Mutex<Option<Gradient2>>,
}

/// The learned limit as configured.
#[derive(Debug)]
pub struct AdaptiveLimiter {
    params: ConcurrencyParams,
    live: Arc<AdaptiveLive>,
    metrics: Arc<ConcurrencyMetrics>,
}

/// A request inside the limit; dropping it ends the count.
#[derive(Debug)]
pub struct ConcurrencySlot(Arc<AdaptiveLimiter>);

impl AdaptiveLimiter {
    /// The limit `params`, learned in `live`.
    #[must_use]
    pub fn new(
        params: ConcurrencyParams,
        live: Arc<AdaptiveLive>,
        metrics: Arc<ConcurrencyMetrics>,
    ) -> Arc<Self> {
        let limiter = Arc::new(Self { params, live, metrics });
        limiter.metrics.set_limit(limiter.limit());
        limiter
    }

    /// The limit at this moment.
    #[must_use]
    pub fn limit(&self) -> u32 {
        match self.live.limit.load(Relaxed) {
            0 => self.params.initial(),
            learned => learned,
        }
    }

    /// Counts a request as in flight until the slot is dropped; `None`, and it is not, if it is beyond the limit and
    /// that is enforced.
    #[must_use]
    pub fn enter(self: &Arc<Self>, priority: Priority) -> Option<ConcurrencySlot> {
        // Counted first and looked at then: of two that see the last place, one must not get it.
        let before = self.live.in_flight.fetch_add(1, Relaxed);
        self.metrics.in_flight().increment();
        let slot = ConcurrencySlot(Arc::clone(self));
        if fits(self.limit(), before, priority) {
            self.live.peak.fetch_max(before + 1, Relaxed);
            return Some(slot);
        }
        let enforced = self.params.mode == ConcurrencyMode::Enforce;
        self.metrics.beyond(priority, enforced);
        (!enforced).then_some(slot)
    }
}

impl ConcurrencySlot {
    /// The application answered after `latency`.
    pub fn observe(&self, latency: Duration, now: Mono) {
        let limiter = &self.0;
        let live = &limiter.live;
        live.sum.fetch_add(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        let samples = live.samples.fetch_add(1, Relaxed) + 1;
        let began = Mono::from_nanos(live.began.load(Relaxed));
        if samples < LEAST_SAMPLES || now.since(began) < WINDOW {
            return;
        }
        let mut learned = match live.learned.try_lock() {
            Ok(learned) => learned,
            // Somebody else is closing the window.
            Err(TryLockError::WouldBlock) => return,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        live.began.store(now.as_nanos(), Relaxed);
        let (sum, samples) = (live.sum.swap(0, Relaxed), live.samples.swap(0, Relaxed));
        let peak = live.peak.swap(live.in_flight.load(Relaxed), Relaxed);
        // A sample that comes between the two swaps makes one window wrong by a hair.
        let mean = Duration::from_nanos(sum / u64::from(samples.max(1)));
        let core = learned.get_or_insert_with(|| Gradient2::new(&limiter.params));
        core.update(&limiter.params, Window { latency: mean, in_flight: peak });
        live.limit.store(core.limit(), Relaxed);
        limiter.metrics.set_limit(core.limit());
    }
}

impl Drop for ConcurrencySlot {
    fn drop(&mut self) {
        self.0.live.in_flight.fetch_sub(1, Relaxed);
        self.0.metrics.in_flight().decrement();
    }
}
