//! The state of a circuit as one word of 64 bits. Knows which states follow each other, not when.

use std::time::Duration;

use crate::types::{Circuit, Mono};

/// Bits of an instant, in milliseconds: enough for eight years.
const MILLIS: u32 = 38;
/// Bits of a period's number. It comes round after 4096 transitions; each takes an open time, so that an attempt
/// would have to last for an hour to be taken for one of the present period.
const PERIOD: u32 = 12;
/// Bits of a count of probes.
const PROBES: u32 = 6;

/// What a circuit is at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) circuit: Circuit,
    /// Probes of this half-open period that were let through and not cancelled.
    pub(super) taken: u32,
    /// Those of them that went well.
    pub(super) passed: u32,
    /// Counts the times between opening, closing and opening again.
    pub(super) period: u16,
    /// Open: when it may become half-open. Half-open: when its probes must have ended. Closed: since when.
    pub(super) until: Mono,
}

impl Word {
    /// A circuit that nothing has happened to.
    pub(super) const CLOSED: Self =
        Self { circuit: Circuit::Closed, taken: 0, passed: 0, period: 0, until: Mono::ZERO };

    /// Probes that have not ended.
    pub(super) fn outstanding(self) -> u32 {
        self.taken.saturating_sub(self.passed)
    }

    /// Opens until `until`, rounded up to a millisecond.
    pub(super) fn open(self, until: Mono) -> Self {
        let until = round_up(until);
        Self { circuit: Circuit::Open, taken: 0, passed: 0, period: self.next_period(), until }
    }

    /// Open, but for the next attempt: nothing was learned from the probes.
    pub(super) fn waiting(self) -> Self {
        Self { circuit: Circuit::Open, taken: 0, passed: 0, period: self.next_period(), until: Mono::ZERO }
    }

    /// The first probe is under way until `until`.
    pub(super) fn half_open(self, until: Mono) -> Self {
        let until = round_up(until);
        Self { circuit: Circuit::HalfOpen, taken: 1, passed: 0, period: self.next_period(), until }
    }

    /// One more probe is under way. Only the time of those that nothing is left of begins anew.
    pub(super) fn one_more(self, until: Mono) -> Self {
        let until = if self.outstanding() == 0 { round_up(until) } else { self.until };
        Self { taken: self.taken + 1, until, ..self }
    }

    /// One probe less is under way.
    pub(super) fn one_less(self) -> Self {
        Self { taken: self.taken.saturating_sub(1), ..self }
    }

    /// One probe went well.
    pub(super) fn one_passed(self) -> Self {
        Self { passed: self.passed + 1, ..self }
    }

    /// Closes at `now`.
    pub(super) fn closed(self, now: Mono) -> Self {
        Self {
            circuit: Circuit::Closed,
            taken: 0,
            passed: 0,
            period: self.next_period(),
            until: round_down(now),
        }
    }

    fn next_period(self) -> u16 {
        (self.period + 1) & ((1 << PERIOD) - 1)
    }

    /// Whether packed bits are those of a closed circuit, without taking them apart.
    pub(super) const fn is_closed(bits: u64) -> bool {
        bits >> (MILLIS + PERIOD + 2 * PROBES) == Circuit::Closed as u64
    }

    pub(super) fn pack(self) -> u64 {
        let probes = |count: u32| u64::from(count) & mask(PROBES);
        let mut bits = self.circuit as u64;
        bits = (bits << PROBES) | probes(self.taken);
        bits = (bits << PROBES) | probes(self.passed);
        bits = (bits << PERIOD) | (u64::from(self.period) & mask(PERIOD));
        (bits << MILLIS) | ((self.until.as_nanos() / NANOS) & mask(MILLIS))
    }

    pub(super) fn unpack(bits: u64) -> Self {
        let rest = bits >> MILLIS;
        let probes = rest >> PERIOD;
        Self {
            circuit: match probes >> (2 * PROBES) {
                0 => Circuit::Closed,
                1 => Circuit::Open,
                _ => Circuit::HalfOpen,
            },
            taken: ((probes >> PROBES) & mask(PROBES)) as u32,
            passed: (probes & mask(PROBES)) as u32,
            period: (rest & mask(PERIOD)) as u16,
            until: Mono::from_nanos((bits & mask(MILLIS)) * NANOS),
        }
    }
}

const NANOS: u64 = 1_000_000;

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

fn round_down(at: Mono) -> Mono {
    Mono::from_nanos(at.as_nanos() / NANOS * NANOS)
}

fn round_up(at: Mono) -> Mono {
    round_down(at.after(Duration::from_nanos(NANOS - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_packing() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let word = Word {
                circuit: Circuit::ALL[rng.usize(0..3)],
                taken: rng.u32(0..=32),
                passed: rng.u32(0..=32),
                period: rng.u16(0..4096),
                until: Mono::from_nanos(rng.u64(0..1 << MILLIS) * NANOS),
            };
            assert_eq!(Word::unpack(word.pack()), word, "seed {seed}");
            assert_eq!(Word::is_closed(word.pack()), word.circuit == Circuit::Closed, "seed {seed}");
        }
    }

    #[test]
    fn periods_come_round_without_touching_what_stands_beside_them() {
        let last = Word { period: 4095, ..Word::CLOSED };
        assert_eq!(last.open(Mono::from_nanos(5)).period, 0);
        assert_eq!(Word::unpack(last.open(Mono::from_nanos(5)).pack()).until, Mono::from_nanos(NANOS));
    }
}
