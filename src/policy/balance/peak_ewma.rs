//! Peak EWMA: of two endpoints drawn at random, rather the one where one more request costs less. The cost is the
//! latency that the endpoint showed lately times the requests that wait there already (policy/ewma.rs).
//!
//! Rather, not always: with little traffic nobody waits anywhere, and whoever happens to be a tenth of a millisecond
//! slower would get nothing for as long as its average takes to fall. So chance decides in proportion to the squares of
//! the costs: equals share evenly, twice the cost gets a fifth, ten times the cost a hundredth.

use super::{Candidate, Choice, two_choices};

pub(super) fn pick<C: Candidate>(choice: &Choice<'_, C>, rng: &mut fastrand::Rng) -> Option<usize> {
    let cost = |index: usize| {
        let candidate = &choice.candidates[index];
        candidate.cost(choice.now) / (choice.weight(index) as f32 * candidate.ramp(choice.now))
    };
    two_choices::pick(choice, rng, |first, second, rng| {
        let (first, second) = (cost(first).powi(2), cost(second).powi(2));
        // An endpoint nobody has heard of costs nothing and is always asked; of two of them, the first.
        rng.f32() * (first + second) < first
    })
}
