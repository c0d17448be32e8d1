//! Least request: the less loaded of two endpoints drawn at random, or of all of them.

use super::{Candidate, Choice, two_choices};

pub(super) fn pick<C: Candidate>(
    choice: &Choice<'_, C>,
    full_scan: bool,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    let cheaper = |first, second| is_less_loaded(choice, second, first);
    if full_scan {
        two_choices::best(choice, rng, cheaper)
    } else {
        two_choices::pick(choice, rng, |first, second, _| cheaper(first, second))
    }
}

/// Compares (in flight + 1) ÷ (weight × ramp); the +1 lets weights count among the idle.
fn is_less_loaded<C: Candidate>(choice: &Choice<'_, C>, one: usize, other: usize) -> bool {
    let load = |index: usize| f64::from(choice.candidates[index].in_flight()) + 1.0;
    let share =
        |index: usize| choice.weight(index) as f64 * f64::from(choice.candidates[index].ramp(choice.now));
    // Multiplied crosswise instead of divided: exact for counts and weights, which are small.
    load(one) * share(other) < load(other) * share(one)
}
