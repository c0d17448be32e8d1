//! Percentiles of how long a service takes to answer, for decisions: whether what is left of a request's time is
//! enough for another attempt, and when an attempt counts as slow.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::types::Mono;

/// Four buckets per doubling from 1 µs on: at most 19 % off.
const BUCKETS: usize = 112;
/// A half is filled for this long, then it is the other's turn: the answer covers 10 to 20 seconds.
const TURN: Duration = Duration::from_secs(10);
/// Below this many answers there is no percentile worth acting upon.
const FEWEST: u32 = 20;

/// A histogram of the latest answers. Lock-free; an answer costs one atomic addition.
#[derive(Debug)]
pub struct Latencies {
    halves: [[AtomicU32; BUCKETS]; 2],
    /// Number of the present turn.
    turn: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        let half = || std::array::from_fn(|_| AtomicU32::new(0));
        Self { halves: [half(), half()], turn: AtomicU64::new(0) }
    }
}

impl Latencies {
    /// Takes up an answer that took `latency`.
    pub fn observe(&self, latency: Duration, now: Mono) {
        let turn = turn(now);
        let seen = self.turn.load(Relaxed);
        if seen < turn && self.turn.compare_exchange(seen, turn, Relaxed, Relaxed).is_ok() {
            // After a pause both halves are old.
            let old = if turn - seen > 1 { &self.halves[..] } else { &self.halves[half(turn)..=half(turn)] };
            old.iter().flatten().for_each(|bucket| bucket.store(0, Relaxed));
        }
        self.halves[half(turn)][bucket(latency)].fetch_add(1, Relaxed);
    }

    /// The latency that `percent` of the latest answers did not exceed, rounded up by at most 19 %; `None` while
    /// too few are known.
    #[must_use]
    pub fn percentile(&self, percent: u8, now: Mono) -> Option<Duration> {
        if turn(now) > self.turn.load(Relaxed) + 1 {
            return None;
        }
        let count = |index: usize| -> u32 { self.halves.iter().map(|half| half[index].load(Relaxed)).sum() };
        let total: u32 = (0..BUCKETS).map(count).sum();
        if total < FEWEST {
            return None;
        }
        let wanted = (u64::from(total) * u64::from(percent.min(100))).div_ceil(100);
        let mut seen = 0;
        let index = (0..BUCKETS).find(|&index| {
            seen += u64::from(count(index));
            seen >= wanted
        })?;
        Some(upper_bound(index))
    }
}

fn turn(now: Mono) -> u64 {
    now.since(Mono::ZERO).as_secs() / TURN.as_secs()
}

fn half(turn: u64) -> usize {
    usize::from(!turn.is_multiple_of(2))
}

/// Quarter of an octave that the microseconds fall into: the position of the highest bit, and the two below it.
fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
    let octave = micros.ilog2() as usize;
    let quarter = ((micros << 2) >> octave) as usize & 3;
    (octave * 4 + quarter).min(BUCKETS - 1)
}

fn upper_bound(index: usize) -> Duration {
    let (octave, quarter) = (index / 4, index as u64 % 4);
    Duration::from_micros((((5 + quarter) << octave) >> 2).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn percentiles_are_at_most_a_quarter_too_high_and_never_too_low() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let latencies = Latencies::default();
            let mut samples: Vec<u64> = (0..500)
                .map(|_| {
                    let octave = rng.u32(2..24);
                    1 + rng.u64(1..1 << octave)
                })
                .collect();
            for micros in &samples {
                latencies.observe(Duration::from_micros(*micros), at(1));
            }
            samples.sort_unstable();
            for percent in [50_u8, 90, 99] {
                let exact = samples[(500 * usize::from(percent)).div_ceil(100) - 1];
                let shown = latencies.percentile(percent, at(1)).unwrap().as_micros() as u64;
                assert!(shown >= exact && shown <= exact * 5 / 4 + 2, "seed {seed}: {shown} for {exact}");
            }
        }
    }

    #[test]
    fn little_or_old_knowledge_is_none() {
        let latencies = Latencies::default();
        (0..19).for_each(|_| latencies.observe(Duration::from_millis(5), at(0)));
        assert_eq!(latencies.percentile(50, at(0)), None);
        latencies.observe(Duration::from_millis(5), at(9));
        assert!(latencies.percentile(50, at(15)).is_some());
        assert_eq!(latencies.percentile(50, at(25)), None);
    }

    #[test]
    fn old_answers_make_room_for_new_ones() {
        let latencies = Latencies::default();
        for second in 0..40 {
            let latency = Duration::from_millis(if second < 20 { 100 } else { 1 });
            (0..50).for_each(|_| latencies.observe(latency, at(second)));
        }
        assert!(latencies.percentile(99, at(40)).unwrap() < Duration::from_millis(2));
    }
}
