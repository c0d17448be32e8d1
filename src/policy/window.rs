//! Counts events of the latest time exactly, in a ring of buckets. What the count means is the caller's business.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::types::Mono;

/// The count forgets in steps of a tenth of its window.
const BUCKETS: usize = 10;

/// Which bucket of which window an instant falls into. Worked out once for all counters of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick(u32);

impl Tick {
    /// The bucket of `now` in windows of the length `window`.
    #[must_use]
    pub fn of(now: Mono, window: Duration) -> Self {
        let width = (window.as_nanos() as u64 / BUCKETS as u64).max(1);
        // From 1 on, so that an untouched bucket belongs to no instant. Buckets of a nanosecond would come round
        // after four seconds; those of a millisecond do after 49 days, and then an old count is cleared all the same.
        Self((now.as_nanos() / width) as u32 | FIRST)
    }

    fn slot(self) -> usize {
        (self.0 & !FIRST) as usize % BUCKETS
    }

    fn age(self, other: u32) -> u32 {
        self.0.wrapping_sub(other) & !FIRST
    }
}

/// Marks a bucket that was ever written.
const FIRST: u32 = 1 << 31;

/// A counter that forgets. Lock-free; counting costs one atomic addition. A bucket holds the tick that it belongs
/// to in its upper half, so that whoever is first in a new tick also clears the old count.
#[derive(Debug, Default)]
pub struct Window([AtomicU64; BUCKETS]);

impl Window {
    /// Counts one event.
    pub fn add(&self, tick: Tick) {
        let bucket = &self.0[tick.slot()];
        if bucket.load(Relaxed) >> 32 == u64::from(tick.0) {
            // 2^32 events within one bucket do not happen.
            bucket.fetch_add(1, Relaxed);
            return;
        }
        // Another thread may have been first, or even be a tick ahead after a whole round: then its bucket stays.
        let _ = bucket.fetch_update(Relaxed, Relaxed, |seen| {
            Some(if seen >> 32 == u64::from(tick.0) { seen + 1 } else { (u64::from(tick.0) << 32) | 1 })
        });
    }

    /// Events of the window that ends at `tick`.
    #[must_use]
    pub fn sum(&self, tick: Tick) -> u64 {
        let buckets = self.0.iter().map(|bucket| bucket.load(Relaxed));
        // One tick ahead is what another thread may be.
        let counts = |tagged: &u64| {
            let age = tick.age((tagged >> 32) as u32).wrapping_add(1) & !FIRST;
            *tagged != 0 && age as usize <= BUCKETS
        };
        buckets.filter(counts).map(|bucket| bucket & u64::from(u32::MAX)).sum()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.0.iter().for_each(|bucket| bucket.store(0, Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn at(millis: u64) -> Tick {
        Tick::of(Mono::from_nanos(millis * 1_000_000), WINDOW)
    }

    #[test]
    fn what_happened_counts_for_the_window_and_not_longer() {
        let window = Window::default();
        assert_eq!(window.sum(at(0)), 0);
        window.add(at(0));
        window.add(at(500));
        window.add(at(1_000));
        assert_eq!(window.sum(at(9_999)), 3);
        assert_eq!(window.sum(at(10_000)), 1);
        assert_eq!(window.sum(at(11_000)), 0);
        window.add(at(10_000));
        assert_eq!(window.sum(at(10_000)), 2);
    }

    #[test]
    fn after_clearing_nothing_counts() {
        let window = Window::default();
        (0..100).for_each(|millis| window.add(at(millis * 100)));
        window.clear();
        assert_eq!(window.sum(at(9_900)), 0);
    }

    #[test]
    fn the_count_is_that_of_a_list_of_events() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let window = Window::default();
            let (mut events, mut now) = (Vec::new(), rng.u64(0..100_000));
            for _ in 0..500 {
                now += rng.u64(0..400);
                window.add(at(now));
                events.push(now / 1000);
                let expected = events.iter().filter(|second| **second + 10 > now / 1000).count() as u64;
                assert_eq!(window.sum(at(now)), expected, "seed {seed} at {now} ms");
            }
        }
    }
}
