//! The latency of one endpoint as its callers feel it: rises with the worst answer at once, falls slowly. The
//! average of Finagle's and linkerd2-proxy's "peak EWMA" load balancer, with failures as a latency.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::classify::Sample;
use crate::types::Mono;

/// Time after which the past weighs 1/e (Finagle, linkerd2-proxy and Envoy agree).
const DECAY: f32 = 10.0;
/// The same for what a failure added. An endpoint that answers again must not wait for a minute until it is asked.
const PENALTY_DECAY: f32 = 1.0;
/// An endpoint nobody has heard of counts as this slow while it has a request (linkerd2-proxy's estimate).
const UNKNOWN_SECONDS: f32 = 0.030;
/// A failure counts as an answer that took so many times as long as usual ...
const PENALTY_FACTOR: f32 = 10.0;
/// ... at least this long, or a fast failure of a fast endpoint would hardly show, ...
const SHORTEST_PENALTY: f32 = 0.030;
/// ... and at most this long, unless it did take longer (linkerd2-proxy's penalty).
const LONGEST_PENALTY: f32 = 5.0;
/// Nobody is put off for longer, whatever it asks for.
const LONGEST: f32 = 300.0;

/// Time is kept in ticks of 2^22 ns, about 4 ms: 31 bits of them are 104 days.
const TICK_BITS: u32 = 22;
const SECONDS_PER_TICK: f32 = (1_u64 << TICK_BITS) as f32 / 1e9;
const TICKS: u32 = (1 << 31) - 1;
const PENALISED: u64 = 1 << 31;

/// A moving average of the latency, in one atomic word: seconds as `f32` in the upper half, below them a bit that
/// tells that the latest attempt failed, and the tick of the latest sample. Zero: nothing is known yet.
#[derive(Debug, Default)]
pub struct PeakEwma(AtomicU64);

impl PeakEwma {
    /// Learns from a settled attempt.
    ///
    /// A failure, or an answer that says the endpoint has too much to do, counts as a slow answer: what fails fast
    /// would otherwise look like the best of all and draw all the traffic. The first success after it wipes it out.
    pub fn observe(&self, sample: &Sample, now: Mono) {
        let latency = sample.latency.as_secs_f32();
        let bad = sample.outcome != super::classify::Outcome::Success;
        let asked = sample.retry_after.unwrap_or_default().as_secs_f32();
        let tick = tick(now);
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let state = State::of(word);
            let known = state.decayed(tick);
            let next = if bad {
                let penalty = (known * PENALTY_FACTOR).clamp(SHORTEST_PENALTY, LONGEST_PENALTY);
                known.max(latency).max(penalty).max(asked)
            } else if state.penalised || latency > known || !state.is_known() {
                latency
            } else {
                let old = weight_of_old(tick, state.tick, DECAY);
                state.seconds * old + latency * (1.0 - old)
            };
            Some(State { seconds: next.clamp(f32::MIN_POSITIVE, LONGEST), penalised: bad, tick }.word())
        });
    }

    /// Learns from an attempt that nobody waits for any longer, after it took `waited`: it would have taken more, so a
    /// longer latency than is known is believed, and a shorter one says nothing.
    pub fn abandoned(&self, waited: Duration, now: Mono) {
        let (waited, tick) = (waited.as_secs_f32().min(LONGEST), tick(now));
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let state = State::of(word);
            let slower = waited > state.decayed(tick);
            slower.then(|| State { seconds: waited, penalised: state.penalised, tick }.word())
        });
    }

    /// What one more request costs, in seconds: the latency times the requests that are there with it. Without a
    /// new sample the latency falls, so that an endpoint that was slow is asked again some day.
    #[must_use]
    pub fn cost(&self, pending: u32, now: Mono) -> f32 {
        let state = State::of(self.0.load(Relaxed));
        if !state.is_known() {
            // One request finds out; until it is back, others count on an average endpoint.
            return if pending == 0 { 0.0 } else { UNKNOWN_SECONDS * (pending as f32 + 1.0) };
        }
        state.decayed(tick(now)) * (pending as f32 + 1.0)
    }

    /// The average as it is now; `None` before the first sample.
    #[must_use]
    pub fn latency(&self, now: Mono) -> Option<Duration> {
        let state = State::of(self.0.load(Relaxed));
        state.is_known().then(|| Duration::from_secs_f32(state.decayed(tick(now))))
    }
}

#[derive(Clone, Copy)]
struct State {
    seconds: f32,
    penalised: bool,
    tick: u32,
}

impl State {
    fn of(word: u64) -> Self {
        Self {
            seconds: f32::from_bits((word >> 32) as u32),
            penalised: word & PENALISED != 0,
            tick: word as u32 & TICKS,
        }
    }

    fn word(self) -> u64 {
        let penalised = if self.penalised { PENALISED } else { 0 };
        (u64::from(self.seconds.to_bits()) << 32) | penalised | u64::from(self.tick)
    }

    fn is_known(self) -> bool {
        self.seconds > 0.0
    }

    /// As if nothing but instant answers had come since.
    fn decayed(self, now: u32) -> f32 {
        let decay = if self.penalised { PENALTY_DECAY } else { DECAY };
        self.seconds * weight_of_old(now, self.tick, decay)
    }
}

fn tick(now: Mono) -> u32 {
    (now.as_nanos() >> TICK_BITS) as u32 & TICKS
}

/// Another thread's sample may be a tick ahead of our clock: that is no time at all, not 104 days.
fn weight_of_old(now: u32, then: u32, decay: f32) -> f32 {
    let ticks = now.wrapping_sub(then) & TICKS;
    if ticks == 0 || ticks > TICKS / 2 {
        return 1.0;
    }
    (-(ticks as f32) * SECONDS_PER_TICK / decay).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::classify::Outcome;

    fn at(millis: u64) -> Mono {
        Mono::from_nanos(millis * 1_000_000)
    }

    fn sample(outcome: Outcome, millis: u64) -> Sample {
        Sample { outcome, latency: Duration::from_millis(millis), retry_after: None }
    }

    fn millis(ewma: &PeakEwma, now: Mono) -> f32 {
        ewma.latency(now).unwrap().as_secs_f32() * 1e3
    }

    #[test]
    fn a_peak_is_taken_at_once_and_forgotten_slowly() {
        let ewma = PeakEwma::default();
        ewma.observe(&sample(Outcome::Success, 10), at(0));
        ewma.observe(&sample(Outcome::Success, 100), at(5));
        assert!((millis(&ewma, at(5)) - 100.0).abs() < 0.1);
        // After one decay time of quick answers about 1/e of the peak is left.
        for second in 0..10_u64 {
            for tenth in 0..10 {
                ewma.observe(&sample(Outcome::Success, 1), at(second * 1000 + tenth * 100 + 105));
            }
        }
        let left = millis(&ewma, at(10_005));
        assert!((30.0..45.0).contains(&left), "{left}");
    }

    #[test]
    fn an_attempt_that_was_given_up_can_only_make_it_slower() {
        let ewma = PeakEwma::default();
        ewma.observe(&sample(Outcome::Success, 20), at(0));
        ewma.abandoned(Duration::from_millis(5), at(1));
        assert!((millis(&ewma, at(1)) - 20.0).abs() < 0.1);
        ewma.abandoned(Duration::from_millis(80), at(2));
        assert!((millis(&ewma, at(2)) - 80.0).abs() < 0.1);
    }

    #[test]
    fn without_samples_the_average_falls() {
        let ewma = PeakEwma::default();
        ewma.observe(&sample(Outcome::Success, 100), at(1_000));
        assert!((millis(&ewma, at(11_000)) - 36.8).abs() < 1.0);
        assert!(ewma.cost(0, at(61_000)) < 0.001);
    }

    #[test]
    fn a_fast_failure_is_no_bargain_and_one_success_wipes_it_out() {
        for outcome in [Outcome::LocalOrigin, Outcome::GatewayError, Outcome::ServerError, Outcome::Throttled]
        {
            let ewma = PeakEwma::default();
            ewma.observe(&sample(Outcome::Success, 20), at(0));
            ewma.observe(&sample(outcome, 0), at(10));
            assert!(millis(&ewma, at(10)) > 150.0, "{outcome:?}");
            for _ in 0..5 {
                ewma.observe(&sample(outcome, 0), at(20));
            }
            assert!((millis(&ewma, at(20)) - 5_000.0).abs() < 50.0, "{outcome:?}");
            ewma.observe(&sample(Outcome::Success, 2), at(30));
            assert!((millis(&ewma, at(30)) - 2.0).abs() < 0.1, "{outcome:?}");
        }
    }

    #[test]
    fn the_penalty_is_gone_within_seconds_so_that_the_endpoint_is_asked_again() {
        let ewma = PeakEwma::default();
        ewma.observe(&sample(Outcome::Success, 1), at(0));
        ewma.observe(&sample(Outcome::LocalOrigin, 0), at(10));
        assert!(millis(&ewma, at(10)) >= 30.0);
        assert!(millis(&ewma, at(4_010)) < 1.0);
    }

    #[test]
    fn what_the_endpoint_asks_for_counts_up_to_five_minutes() {
        let ewma = PeakEwma::default();
        let asking = Sample { retry_after: Some(Duration::from_secs(3600)), ..sample(Outcome::Throttled, 1) };
        ewma.observe(&asking, at(0));
        assert!((millis(&ewma, at(0)) - 300_000.0).abs() < 100.0);
    }

    #[test]
    fn an_endpoint_nobody_has_heard_of_gets_one_request_first() {
        let ewma = PeakEwma::default();
        assert!(ewma.cost(0, at(0)) == 0.0);
        assert!(ewma.cost(1, at(0)) > 0.05);
        assert_eq!(ewma.latency(at(0)), None);
    }

    #[test]
    fn a_sample_from_another_thread_a_moment_ahead_is_no_age() {
        let ewma = PeakEwma::default();
        ewma.observe(&sample(Outcome::Success, 100), at(1_000));
        assert!((millis(&ewma, at(990)) - 100.0).abs() < 0.1);
    }
}
