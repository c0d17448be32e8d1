//! Counters, gauges and histograms for the request path: relaxed atomics, spread over shards so that workers do
//! not fight for one cache line. Summed up only when somebody scrapes.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

/// Most shards of one number. More threads than this share.
const MAX_SHARDS: usize = 16;

/// Most finite buckets of one histogram.
const MAX_BOUNDS: usize = 15;

thread_local! {
    static THREAD_INDEX: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// A small number that is this thread's own as long as there are few threads.
fn thread_index() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    THREAD_INDEX.with(|cell| {
        if cell.get() == usize::MAX {
            cell.set(NEXT.fetch_add(1, Ordering::Relaxed) & (MAX_SHARDS - 1));
        }
        cell.get()
    })
}

/// As many shards as threads will write, rounded up so that choosing one is a mask.
fn shards<T: Default>(writers: usize) -> Box<[T]> {
    (0..writers.clamp(1, MAX_SHARDS).next_power_of_two()).map(|_| T::default()).collect()
}

fn own<T>(shards: &[T]) -> &T {
    &shards[thread_index() & (shards.len() - 1)]
}

/// One number on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded(AtomicU64);

/// A counter that many threads may add to at the same time without waiting for each other.
#[derive(Debug)]
pub struct HotCounter {
    shards: Box<[Padded]>,
    published: metrics::Counter,
}

impl HotCounter {
    pub(super) fn new(writers: usize, published: metrics::Counter) -> Self {
        Self { shards: shards(writers), published }
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        own(&self.shards).0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The sum of all that was added so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.shards.iter().fold(0, |sum, shard| sum.wrapping_add(shard.0.load(Ordering::Relaxed)))
    }

    pub(super) fn publish(&self) {
        self.published.absolute(self.value());
    }
}

/// A number of things that exist now. Adding and subtracting may happen on different threads.
#[derive(Debug)]
pub struct HotGauge {
    shards: Box<[Padded]>,
    published: metrics::Gauge,
}

impl HotGauge {
    pub(super) fn new(writers: usize, published: metrics::Gauge) -> Self {
        Self { shards: shards(writers), published }
    }

    /// One more.
    pub fn increment(&self) {
        own(&self.shards).0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn decrement(&self) {
        own(&self.shards).0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are. While threads are at work it may be off by those that change right now.
    #[must_use]
    pub fn value(&self) -> i64 {
        // A shard that only saw decrements has wrapped; so does the sum, back to the right number.
        self.shards.iter().fold(0, |sum: u64, shard| sum.wrapping_add(shard.0.load(Ordering::Relaxed))) as i64
    }

    pub(super) fn publish(&self) {
        self.published.set(self.value() as f64);
    }
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct HistogramShard {
    counts: [AtomicU64; MAX_BOUNDS + 1],
    sum_nanos: AtomicU64,
}

/// A histogram of durations with fixed buckets: two relaxed additions per observation, no sample is kept.
#[derive(Debug)]
pub struct HotHistogram {
    bounds: &'static [u64],
    shards: Box<[HistogramShard]>,
}

/// What a histogram held at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSnapshot {
    /// Upper bound in nanoseconds (`None` is infinity) and how many observations did not exceed it.
    pub cumulative: Vec<(Option<u64>, u64)>,
    /// Sum of all observations in seconds.
    pub sum_seconds: f64,
    /// Number of observations; equal to the last cumulative count.
    pub count: u64,
}

impl HotHistogram {
    /// `bounds` are ascending nanoseconds; bounds after the fifteenth are ignored.
    pub(super) fn new(writers: usize, bounds: &'static [u64]) -> Self {
        debug_assert!(bounds.len() <= MAX_BOUNDS && bounds.is_sorted());
        Self { bounds: &bounds[..bounds.len().min(MAX_BOUNDS)], shards: shards(writers) }
    }

    /// Counts one duration. A duration equal to a bound belongs to that bound's bucket.
    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds.partition_point(|bound| *bound < nanos);
        let shard = own(&self.shards);
        shard.counts[bucket].fetch_add(1, Ordering::Relaxed);
        shard.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// The sums over all shards.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut running = 0;
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        let cumulative = bounds
            .enumerate()
            .map(|(bucket, bound)| {
                running += self.shards.iter().map(|s| s.counts[bucket].load(Ordering::Relaxed)).sum::<u64>();
                (bound, running)
            })
            .collect();
        let nanos: u64 =
            self.shards.iter().fold(0, |sum, s| sum.wrapping_add(s.sum_nanos.load(Ordering::Relaxed)));
        HistogramSnapshot { cumulative, sum_seconds: nanos as f64 / 1e9, count: running }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: &[u64] = &[1_000, 2_000, 5_000];

    #[test]
    fn buckets_are_cumulative_and_a_bound_belongs_to_its_own_bucket() {
        let histogram = HotHistogram::new(4, BOUNDS);
        for nanos in [0, 1_000, 1_001, 5_000, 5_001, 90_000] {
            histogram.observe(Duration::from_nanos(nanos));
        }
        let seen = histogram.snapshot();
        assert_eq!(seen.cumulative, [(Some(1_000), 2), (Some(2_000), 3), (Some(5_000), 4), (None, 6)]);
        assert_eq!(seen.count, 6);
        assert!((seen.sum_seconds - 102_002e-9).abs() < 1e-12);
    }

    #[test]
    fn nothing_is_lost_when_threads_write_at_the_same_time() {
        let histogram = HotHistogram::new(2, BOUNDS);
        let counter = HotCounter::new(2, metrics::Counter::noop());
        let gauge = HotGauge::new(2, metrics::Gauge::noop());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        histogram.observe(Duration::from_nanos(1));
                        counter.add(2);
                        gauge.increment();
                    }
                });
            }
        });
        assert_eq!((histogram.snapshot().count, counter.value(), gauge.value()), (4_000, 8_000, 4_000));
    }

    #[test]
    fn a_gauge_that_one_thread_raised_can_be_lowered_by_another() {
        let gauge = HotGauge::new(16, metrics::Gauge::noop());
        gauge.increment();
        gauge.increment();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..3).for_each(|_| gauge.decrement()));
        });
        assert_eq!(gauge.value(), -1);
    }
}
