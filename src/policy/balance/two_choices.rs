//! Power of two choices: the cheaper of two endpoints drawn at random (Mitzenmacher, 2001). Close to the best
//! choice, without the herd that rushes to whichever endpoint looks best to everybody at once.

use super::{Candidate, Choice};

/// Draws of closed endpoints before a scan takes over.
const DRAWS: usize = 4;

/// `prefer(a, b)`: whether `b` is to be preferred to `a`, by its cost or by chance.
pub(super) fn pick<C: Candidate>(
    choice: &Choice<'_, C>,
    rng: &mut fastrand::Rng,
    prefer: impl Fn(usize, usize, &mut fastrand::Rng) -> bool,
) -> Option<usize> {
    let (first, second) = match draw_two(choice, rng) {
        Some(drawn) => drawn,
        None => match sample(choice, rng) {
            [Some(first), Some(second)] => (first, second),
            [one, other] => return one.or(other),
        },
    };
    Some(if prefer(first, second, rng) { second } else { first })
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
fn sample<C: Candidate>(choice: &Choice<'_, C>, rng: &mut fastrand::Rng) -> [Option<usize>; 2] {
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
    sample
}

/// The cheapest of all open endpoints; of equals, a random one.
pub(super) fn best<C: Candidate>(
    choice: &Choice<'_, C>,
    rng: &mut fastrand::Rng,
    cheaper: impl Fn(usize, usize) -> bool,
) -> Option<usize> {
    // Beginning anywhere, and keeping the first of equals, spreads ties without counting them.
    let count = choice.len();
    let start = if count == 0 { 0 } else { rng.usize(0..count) };
    let open = (start..count).chain(0..start).filter(|&index| choice.open(index));
    open.reduce(|best, other| if cheaper(best, other) { other } else { best })
}
