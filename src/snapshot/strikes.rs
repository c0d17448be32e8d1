//! Failures in a row at one endpoint, by kind, for the outlier detection. Counted where they happen, because good
//! answers between two looks would hide them; what follows from them is decided by who looks.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

use crate::{
    policy::{classify::Outcome, outlier::ConsecutiveParams},
    types::EjectionCause,
};

/// Counts of one endpoint, shared by all threads.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    any_5xx: AtomicU32,
    gateway: AtomicU32,
    local_origin: AtomicU32,
    /// The cause, plus one, once a threshold was reached; 0 before.
    accused: AtomicU8,
}

impl Strikes {
    /// Takes up one outcome. What is of local origin and what the endpoint answered are counted apart: neither ends
    /// a row of the other, but any answer shows that the endpoint can be reached.
    pub(super) fn count(&self, outcome: Outcome, params: &ConsecutiveParams) {
        if outcome == Outcome::LocalOrigin {
            self.strike(
                &self.local_origin,
                params.local_origin_failure,
                EjectionCause::ConsecutiveLocalOriginFailure,
            );
            return;
        }
        self.local_origin.store(0, Relaxed);
        match outcome {
            Outcome::GatewayError => {
                self.strike(&self.gateway, params.gateway_failure, EjectionCause::ConsecutiveGatewayFailure);
                self.strike(&self.any_5xx, params.any_5xx, EjectionCause::Consecutive5xx);
            }
            Outcome::ServerError => {
                self.gateway.store(0, Relaxed);
                self.strike(&self.any_5xx, params.any_5xx, EjectionCause::Consecutive5xx);
            }
            Outcome::Success => {
                self.gateway.store(0, Relaxed);
                self.any_5xx.store(0, Relaxed);
            }
            // Neither good nor bad.
            Outcome::Throttled | Outcome::LocalOrigin => {}
        }
    }

    fn strike(&self, row: &AtomicU32, threshold: u32, cause: EjectionCause) {
        if threshold > 0 && row.fetch_add(1, Relaxed).saturating_add(1) >= threshold {
            row.store(0, Relaxed);
            self.accused.store(cause as u8 + 1, Relaxed);
        }
    }

    /// The threshold that was reached since the last call.
    pub(super) fn take_accusation(&self) -> Option<EjectionCause> {
        // Mostly there is none, and a load is cheaper than an exchange.
        if self.accused.load(Relaxed) == 0 {
            return None;
        }
        let index = usize::from(self.accused.swap(0, Relaxed)).checked_sub(1)?;
        EjectionCause::ALL.get(index).copied()
    }

    /// Forgets everything: who comes back begins anew.
    pub(super) fn forgive(&self) {
        for row in [&self.any_5xx, &self.gateway, &self.local_origin] {
            row.store(0, Relaxed);
        }
        self.accused.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_a_row_of_its_own() {
        use EjectionCause as Cause;
        let all = ConsecutiveParams { any_5xx: 3, gateway_failure: 2, local_origin_failure: 2 };
        let only_5xx = ConsecutiveParams { gateway_failure: 0, ..all };
        // g: good, s: 500, w: 502, t: throttled, l: no answer.
        let cases = [
            (&all, "sss", Some(Cause::Consecutive5xx)),
            (&all, "ss", None),
            (&all, "ssgs", None),
            (&all, "sstls", Some(Cause::Consecutive5xx)),
            (&all, "ww", Some(Cause::ConsecutiveGatewayFailure)),
            (&all, "wsw", Some(Cause::Consecutive5xx)),
            (&only_5xx, "www", Some(Cause::Consecutive5xx)),
            (&all, "ll", Some(Cause::ConsecutiveLocalOriginFailure)),
            (&all, "lsl", None),
            (&all, "tttttt", None),
            (&ConsecutiveParams::default(), "ssssswwwwwlllll", None),
        ];
        for (params, outcomes, expected) in cases {
            let strikes = Strikes::default();
            for letter in outcomes.chars() {
                let outcome = match letter {
                    'g' => Outcome::Success,
                    's' => Outcome::ServerError,
                    'w' => Outcome::GatewayError,
                    't' => Outcome::Throttled,
                    _ => Outcome::LocalOrigin,
                };
                strikes.count(outcome, params);
            }
            assert_eq!(strikes.take_accusation(), expected, "{outcomes}");
            assert_eq!(strikes.take_accusation(), None, "{outcomes}: only once");
        }
    }
}
