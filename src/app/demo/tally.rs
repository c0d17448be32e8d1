//! Counts what became of the requests. Pure; the requests themselves are sent by load.rs.

use std::time::Duration;

use crate::types::Mono;

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// Through which of the sidecars it was sent.
    pub(super) sender: usize,
    /// When.
    pub(super) began: Mono,
    /// From the first byte sent to the last received, or to the failure.
    pub(super) latency: Duration,
    /// Which instance answered, or why none did.
    pub(super) outcome: Result<String, String>,
}

/// Numbers of a stretch of time.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// All requests, failed ones included.
    pub(super) requests: u64,
    /// Those without a complete answer of status 200.
    pub(super) failures: u64,
    /// Answers by the sidecar that the request was sent through, and by instance, in the order of their names.
    answers: Vec<Vec<u64>>,
    /// Latencies of answered requests.
    pub(super) latencies: Latencies,
}

impl Tally {
    /// Nothing counted yet, for so many sidecars that send, and instances.
    pub(super) fn new(senders: usize, instances: usize) -> Self {
        let answers = vec![vec![0; instances]; senders];
        Self { requests: 0, failures: 0, answers, latencies: Latencies::default() }
    }

    /// Counts one request through that sidecar, answered by the instance with that index, or by none.
    pub(super) fn count(&mut self, sender: usize, instance: Option<usize>, latency: Duration) {
        self.requests += 1;
        let of_sender = self.answers.get_mut(sender);
        match instance.and_then(|index| of_sender?.get_mut(index)) {
            Some(answers) => {
                *answers += 1;
                self.latencies.record(latency);
            }
            None => self.failures += 1,
        }
    }

    /// Answers of one instance.
    pub(super) fn answers(&self, instance: usize) -> u64 {
        self.answers.iter().filter_map(|of_sender| of_sender.get(instance)).sum()
    }

    /// What one instance has of what was sent through one sidecar.
    pub(super) fn share(&self, sender: usize, instance: usize) -> Share {
        let of_sender = self.answers.get(sender).map(Vec::as_slice).unwrap_or_default();
        Share { part: of_sender.get(instance).copied().unwrap_or_default(), whole: of_sender.iter().sum() }
    }
}

/// A part of a number of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// This many ...
    pub(super) part: u64,
    /// ... of so many.
    pub(super) whole: u64,
}

impl Share {
    /// In thousandths, rounded; 0 of none.
    pub(super) fn per_mille(self) -> u64 {
        (self.part * 1000 + self.whole / 2) / self.whole.max(1)
    }
}

/// A histogram of latencies with a resolution of 4 %, in constant memory however long the show goes on.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    longest: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, longest: Duration::ZERO }
    }
}

impl Latencies {
    fn record(&mut self, latency: Duration) {
        self.buckets[bucket(latency)] += 1;
        self.count += 1;
        self.longest = self.longest.max(latency);
    }

    /// The latency that `percent` of all stay within, at most 4 % too high; `None` if there was none.
    pub(super) fn percentile(&self, percent: u8) -> Option<Duration> {
        let rank = (self.count * u64::from(percent)).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().position(|in_bucket| {
            seen += in_bucket;
            seen >= rank
        })?;
        Some(upper_edge(found).min(self.longest))
    }
}

/// Each bucket ends this much above the one below.
const GROWTH: f64 = 1.04;

/// Enough to reach a minute: 1.04 to the power of 460 microseconds.
const BUCKETS: usize = 461;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the logarithm of a number of at least 1 is small and not negative"
)]
fn bucket(latency: Duration) -> usize {
    let micros = (latency.as_secs_f64() * 1e6).max(1.0);
    (micros.log(GROWTH).ceil() as usize).min(BUCKETS - 1)
}

#[expect(clippy::cast_precision_loss, reason = "there are a few hundred buckets")]
fn upper_edge(bucket: usize) -> Duration {
    Duration::from_secs_f64(GROWTH.powf(bucket as f64) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(measured: Option<Duration>, millis: f64) -> bool {
        let measured = measured.unwrap().as_secs_f64() * 1e3;
        measured >= millis * 0.999 && measured <= millis * GROWTH
    }

    #[test]
    fn percentiles_are_within_four_percent() {
        let mut latencies = Latencies::default();
        for millis in 1..=100 {
            latencies.record(Duration::from_millis(millis));
        }
        assert!(close(latencies.percentile(50), 50.0));
        assert!(close(latencies.percentile(99), 99.0));
        assert_eq!(latencies.percentile(100), Some(Duration::from_millis(100)));
    }

    #[test]
    fn no_latency_has_no_percentile_and_extremes_have_a_bucket() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(50), None);
        latencies.record(Duration::ZERO);
        latencies.record(Duration::from_secs(3600));
        assert_eq!(latencies.percentile(1), Some(Duration::from_micros(1)));
        assert!(latencies.percentile(99) > Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_request_that_no_known_instance_answered_is_a_failure() {
        let mut tally = Tally::new(1, 3);
        tally.count(0, Some(1), Duration::from_millis(1));
        tally.count(0, None, Duration::from_millis(1));
        tally.count(0, Some(7), Duration::from_millis(1));
        assert_eq!((tally.requests, tally.failures), (3, 2));
        assert_eq!([0, 1, 2].map(|instance| tally.answers(instance)), [0, 1, 0]);
    }

    #[test]
    fn shares_are_of_what_went_through_one_sidecar() {
        let mut tally = Tally::new(2, 2);
        for (sender, instance) in [(0, 0), (0, 1), (0, 0), (1, 1)] {
            tally.count(sender, Some(instance), Duration::from_millis(1));
        }
        let thousandths = |sender| tally.share(sender, 1).per_mille();
        assert_eq!((thousandths(0), thousandths(1), thousandths(2)), (333, 1000, 0));
        assert_eq!(tally.answers(1), 2);
    }
}
