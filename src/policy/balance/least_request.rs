//! Power of two choices: the less loaded of two endpoints drawn at random. Close to the best choice, without
//! the herd that rushes to whichever endpoint looks emptiest to everybody at once.

use super::{Candidate, Choice};

/// Draws of closed endpoints before a scan takes over.
const DRAWS: usize = 4;

pub(super) fn pick<C: Candidate>(choice: &Choice<'_, C>, rng: &mut fastrand::Rng) -> Option<usize> {
    let Some((first, second)) = draw_two(choice, rng) else { return scan(choice, rng) };
    Some(less_loaded(choice, first, second))
}

/// Two different open endpoints, or `None` if chance did not find them.
fn draw_two<C: Candidate>(choice: &Choice<'_, C>, rng: &mut fastrand::Rng) -> Option<(usize, usize)> {
    let count = choice.len();
    if count < 2 {
        return None;
    }
    let first = (0..DRAWS).map(|_| rng.usize(0..count)).find(|&index| choice.open(index))?;
    // One of the others: those behind the first are one further.
    let other = |index: usize| index + usize::from(index >= first);
    let second = (0..DRAWS).map(|_| other(rng.usize(0..count - 1))).find(|&index| choice.open(index))?;
    Some((first, second))
}

/// The same among the open ones only, in one pass that keeps a fair sample of two.
fn scan<C: Candidate>(choice: &Choice<'_, C>, rng: &mut fastrand::Rng) -> Option<usize> {
    let mut sample = [None; 2];
    for (seen, index) in choice.all_open().enumerate() {
        let place = if seen < 2 { seen } else { rng.usize(0..=seen) };
        if let Some(slot) = sample.get_mut(place) {
            *slot = Some(index);
        }
    }
    // The sample is not in random order, and the first wins a tie.
    if rng.bool() {
        sample.reverse();
    }
    match sample {
        [Some(first), Some(second)] => Some(less_loaded(choice, first, second)),
        [one, other] => one.or(other),
    }
}

/// Compares (in flight + 1) ÷ weight; the +1 lets weights count among the idle. The first wins a tie.
fn less_loaded<C: Candidate>(choice: &Choice<'_, C>, first: usize, second: usize) -> usize {
    let load = |index: usize| u64::from(choice.candidates[index].in_flight()) + 1;
    // Multiplied crosswise instead of divided: exact, and weights are at most 1000.
    let second_is_less = load(second) * choice.weight(first) < load(first) * choice.weight(second);
    if second_is_less { second } else { first }
}
