//! Bounded loads: how much an endpoint may carry before keys that hash to it go elsewhere.

use super::{Candidate, Choice};

/// The bound at the moment of one pick: the average of all endpoints, this request included, times a factor.
pub(super) struct Bound {
    /// Requests for one unit of weight.
    per_weight: f64,
}

impl Bound {
    pub(super) fn new<C: Candidate>(choice: &Choice<'_, C>, max_load_percent: u32) -> Self {
        let (mut load, mut weights) = (1_u64, 0_u64);
        for index in choice.all_open() {
            load += u64::from(choice.candidates[index].in_flight());
            weights += choice.weight(index);
        }
        let factor = f64::from(max_load_percent.max(100)) / 100.0;
        Self { per_weight: factor * load as f64 / weights.max(1) as f64 }
    }

    /// Whether the endpoint carries as much as it may. There is always one that does not: the bound is at least
    /// the average.
    pub(super) fn is_full<C: Candidate>(&self, choice: &Choice<'_, C>, index: usize) -> bool {
        let capacity = (self.per_weight * choice.weight(index) as f64).ceil();
        f64::from(choice.candidates[index].in_flight()) >= capacity
    }
}
