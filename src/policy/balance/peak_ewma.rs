//! Peak EWMA: of two endpoints drawn at random, the one where one more request costs less. The cost is the
//! latency that the endpoint showed lately times the requests that wait there already (policy/ewma.rs).

use super::{Candidate, Choice, two_choices};

pub(super) fn pick<C: Candidate>(choice: &Choice<'_, C>, rng: &mut fastrand::Rng) -> Option<usize> {
    let cost = |index: usize| {
        let candidate = &choice.candidates[index];
        candidate.cost(choice.now) / (choice.weight(index) as f32 * candidate.ramp(choice.now))
    };
    two_choices::pick(choice, rng, |first, second| cost(second) < cost(first))
}
