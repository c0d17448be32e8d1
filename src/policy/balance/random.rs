//! Each endpoint with a probability in proportion to its weight.

use super::{Candidate, Choice, weight};

/// Draws before a scan takes over. With half of the endpoints closed, a scan is needed once in 256 picks.
const DRAWS: usize = 8;

/// Running sums of the weights, for a draw in logarithmic time.
#[derive(Debug)]
pub(super) struct Weights {
    /// `sums[i]` is the weight of all endpoints up to and including `i`.
    sums: Box<[u64]>,
}

impl Weights {
    pub(super) fn new<C: Candidate>(candidates: &[C]) -> Self {
        let sums = candidates.iter().scan(0, |sum, candidate| {
            *sum += weight(candidate);
            Some(*sum)
        });
        Self { sums: sums.collect() }
    }

    /// A closed endpoint is drawn again, which leaves the others their proportions.
    pub(super) fn pick<C: Candidate>(
        &self,
        choice: &Choice<'_, C>,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let total = *self.sums.last()?;
        let draw = |rng: &mut fastrand::Rng| {
            let roll = rng.u64(0..total);
            self.sums.partition_point(|&sum| sum <= roll)
        };
        let drawn = (0..DRAWS).map(|_| draw(rng)).find(|&index| choice.open(index));
        drawn.or_else(|| scan(choice, rng))
    }
}

/// One of the open endpoints by weight, in one pass: each takes the lead with the share it has of all so far.
pub(super) fn scan<C: Candidate>(choice: &Choice<'_, C>, rng: &mut fastrand::Rng) -> Option<usize> {
    let mut lead = None;
    let mut sum = 0;
    for index in choice.all_open() {
        let weight = choice.weight(index);
        sum += weight;
        if rng.u64(0..sum) < weight {
            lead = Some(index);
        }
    }
    lead
}
