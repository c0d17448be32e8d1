//! Smooth weighted round robin: the order of turns is worked out once, so that a pick is one step of a cursor.

use super::{Candidate, Choice, random, round_robin::Cursor, weight};

/// Most slots of a schedule, unless there are more endpoints. Weights up to 1000 of a few endpoints fit as they
/// are; beyond, they are scaled down, which is off by less than 1/4096 of the traffic for each endpoint.
const MAX_SLOTS: u64 = 4096;

/// Draws of closed endpoints before chance takes over. A heavy endpoint that is down owns most slots, and
/// walking past all of them would cost more than smoothness is worth.
const DRAWS: usize = 64;

/// The endpoints in the order of their turns.
#[derive(Debug)]
pub(super) struct Schedule {
    slots: Box<[u32]>,
    cursor: Cursor,
}

impl Schedule {
    pub(super) fn new<C: Candidate>(candidates: &[C], seed: u64) -> Self {
        let weights: Vec<u64> = candidates.iter().map(weight).collect();
        let slots = interleave(&scale(&weights));
        Self { cursor: Cursor::new(seed, slots.len()), slots }
    }

    /// A closed endpoint passes its turn on to the next slot, which leaves the others their proportions.
    pub(super) fn pick<C: Candidate>(
        &self,
        choice: &Choice<'_, C>,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let drawn = (0..DRAWS.min(self.slots.len()))
            .map(|_| self.slots[self.cursor.next(self.slots.len())] as usize)
            .find(|&index| choice.open(index));
        drawn.or_else(|| random::scan(choice, rng))
    }
}

/// The weights divided by their greatest common divisor, and scaled down if they need too many slots.
/// Nobody is scaled down to nothing.
fn scale(weights: &[u64]) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let reduced: Vec<u64> = weights.iter().map(|weight| weight / divisor).collect();
    let total: u64 = reduced.iter().sum();
    if total <= MAX_SLOTS {
        return reduced;
    }
    let scaled = reduced.iter().map(|weight| ((weight * MAX_SLOTS + total / 2) / total).max(1));
    scaled.collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// One round of nginx's smooth weighted round robin: every endpoint earns its weight each turn, the richest is
/// served and pays the sum of all. Over one round each is served exactly as often as its weight says.
fn interleave(weights: &[u64]) -> Box<[u32]> {
    let total: u64 = weights.iter().sum();
    let mut credit = vec![0_i64; weights.len()];
    let serve = |_| {
        for (credit, weight) in credit.iter_mut().zip(weights) {
            *credit += *weight as i64;
        }
        // The last of equals would be `max_by_key`'s choice; the first is the order of the file.
        let richest = (0..credit.len()).rev().max_by_key(|&index| credit[index]).unwrap_or(0);
        credit[richest] -= total as i64;
        u32::try_from(richest).unwrap_or(u32::MAX)
    };
    (0..total).map(serve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_interleave_as_nginx_does_it() {
        assert_eq!(*interleave(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(*interleave(&[1, 1, 1]), [0, 1, 2]);
        assert!(interleave(&[]).is_empty());
    }

    #[test]
    fn weights_are_reduced_first_and_scaled_only_beyond_the_cap() {
        assert_eq!(scale(&[100, 200, 300]), [1, 2, 3]);
        assert_eq!(scale(&[1000, 999]), [1000, 999]);
        let scaled = scale(&[1000, 1000, 1000, 1000, 1000, 1]);
        assert_eq!(scaled, [819, 819, 819, 819, 819, 1]);
    }

    #[test]
    fn no_endpoint_waits_longer_or_comes_more_often_than_its_weight_explains() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let weights: Vec<u64> = (0..rng.usize(2..8)).map(|_| rng.u64(1..20)).collect();
            let total: u64 = weights.iter().sum();
            let turns = interleave(&weights);
            let mut served = vec![0_u64; weights.len()];
            for (turn, &index) in turns.iter().enumerate() {
                served[index as usize] += 1;
                for (endpoint, weight) in weights.iter().enumerate() {
                    let due = (turn as f64 + 1.0) * *weight as f64 / total as f64;
                    let ahead = served[endpoint] as f64 - due;
                    assert!(ahead.abs() < 2.0, "seed {seed}: {weights:?} is {ahead} ahead at turn {turn}");
                }
            }
            assert_eq!(served, weights, "seed {seed}");
        }
    }
}
