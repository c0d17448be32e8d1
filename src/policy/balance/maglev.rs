//! Maglev hashing (Eisenbud et al., NSDI 2016): a table of prime size in which each endpoint owns a share of the
//! slots. A look-up is one division; a change of the set moves few keys that are not concerned.

use xxhash_rust::xxh64::xxh64;

use super::{Candidate, Choice, least_request, weight};

/// Envoy's size: a prime well above a hundred times the endpoints that most services have.
const SLOTS: u64 = 65_537;
/// Slots looked at for an open endpoint before the load decides.
const PROBES: usize = 64;

/// The slots, each with the index of its endpoint.
#[derive(Debug)]
pub(super) struct Table(Box<[u32]>);

impl Table {
    /// Fills the table by Envoy's weighted form: in round i an endpoint takes its next free slot if i × weight has
    /// reached its target, which then grows by the highest weight.
    pub(super) fn new<C: Candidate>(candidates: &[C]) -> Self {
        if candidates.is_empty() {
            return Self(Box::default());
        }
        let mut turns: Vec<Turn> = candidates.iter().enumerate().map(Turn::new).collect();
        // The order of the list must not decide who wins a slot: processes may list endpoints differently.
        turns.sort_by_key(|turn| candidates[turn.index as usize].hash_identity().to_owned());
        let heaviest = turns.iter().map(|turn| turn.weight).max().unwrap_or(1);
        let mut slots = vec![u32::MAX; SLOTS as usize];
        let mut left = SLOTS;
        let mut round = 1;
        while left > 0 {
            for turn in &mut turns {
                if round * turn.weight < turn.target || left == 0 {
                    continue;
                }
                turn.target += heaviest;
                let free = turn.next_free(&slots);
                slots[free] = turn.index;
                left -= 1;
            }
            round += 1;
        }
        Self(slots.into())
    }

    /// The owner of the key, or, if it is closed, that of a slot that the key leads to next: with a new hash for
    /// each step, so that the keys of one endpoint spread over all others.
    pub(super) fn pick<C: Candidate>(
        &self,
        choice: &Choice<'_, C>,
        key: u64,
        full: impl Fn(usize) -> bool,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        if self.0.is_empty() {
            return None;
        }
        let mut hash = key;
        for step in 0..PROBES as u64 {
            let index = self.0[(hash % SLOTS) as usize] as usize;
            if choice.open(index) && !full(index) {
                return Some(index);
            }
            hash = mix(key, step + 1);
        }
        least_request::pick(choice, false, rng)
    }
}

/// The key for one more step.
fn mix(key: u64, step: u64) -> u64 {
    xxh64(&step.to_le_bytes(), key)
}

/// How one endpoint goes through the slots.
struct Turn {
    index: u32,
    weight: u64,
    target: u64,
    next: u64,
    skip: u64,
}

impl Turn {
    fn new<C: Candidate>((index, candidate): (usize, &C)) -> Self {
        let name = candidate.hash_identity().as_bytes();
        Self {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            weight: weight(candidate),
            target: 0,
            next: xxh64(name, 0) % SLOTS,
            skip: xxh64(name, 1) % (SLOTS - 1) + 1,
        }
    }

    /// A prime number of slots and a skip below it: every slot comes once.
    fn next_free(&mut self, slots: &[u32]) -> usize {
        loop {
            let slot = self.next as usize;
            self.next = (self.next + self.skip) % SLOTS;
            if slots[slot] == u32::MAX {
                return slot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::endpoints, *};
    use crate::types::Mono;

    fn owners(table: &Table, count: usize) -> Vec<usize> {
        let mut owned = vec![0; count];
        for slot in &table.0 {
            owned[*slot as usize] += 1;
        }
        owned
    }

    #[test]
    fn slots_are_shared_out_by_weight() {
        let owned = owners(&Table::new(&endpoints(&[1; 7])), 7);
        assert!(owned.iter().max().unwrap() - owned.iter().min().unwrap() <= 1, "{owned:?}");
        let owned = owners(&Table::new(&endpoints(&[1, 2, 4])), 3);
        let share = |index: usize| owned[index] as f64 / SLOTS as f64;
        assert!((share(0) - 1.0 / 7.0).abs() < 0.01 && (share(2) - 4.0 / 7.0).abs() < 0.01, "{owned:?}");
        assert!(Table::new(&endpoints(&[])).0.is_empty());
    }

    #[test]
    fn the_order_of_the_list_decides_nothing() {
        let candidates = endpoints(&[1, 2, 1, 3]);
        let mut turned = candidates.clone();
        turned.reverse();
        let (one, other) = (Table::new(&candidates), Table::new(&turned));
        assert!(
            one.0
                .iter()
                .zip(&other.0)
                .all(|(a, b)| { candidates[*a as usize].name == turned[*b as usize].name })
        );
    }

    #[test]
    fn a_removal_moves_few_keys_that_are_not_concerned() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let count = rng.usize(5..30);
            let all = endpoints(&vec![1; count]);
            let gone = rng.usize(0..count);
            let mut rest = all.clone();
            rest.remove(gone);
            let (before, after) = (Table::new(&all), Table::new(&rest));
            let moved =
                before.0.iter().zip(&after.0).filter(|(a, b)| {
                    **a as usize != gone && all[**a as usize].name != rest[**b as usize].name
                });
            let share = moved.count() as f64 / SLOTS as f64;
            assert!(share < 2.0 / count as f64, "seed {seed}: {share} of the keys moved, {count} endpoints");
        }
    }

    #[test]
    fn the_keys_of_a_closed_endpoint_spread_over_the_others_and_come_back() {
        let mut candidates = endpoints(&[1; 5]);
        let table = Table::new(&candidates);
        let pick = |candidates: &[_], key: u64| {
            let choice = Choice { candidates, tried: &[], now: Mono::ZERO };
            table.pick(&choice, key, |_| false, &mut fastrand::Rng::with_seed(0)).unwrap()
        };
        let before: Vec<usize> = (0..2000).map(|key| pick(&candidates, key * 77)).collect();
        candidates[2].eligible = false;
        let mut heirs = [0; 5];
        for (key, old) in before.iter().enumerate() {
            let new = pick(&candidates, key as u64 * 77);
            assert!(if *old == 2 { new != 2 } else { new == *old });
            heirs[new] += usize::from(*old == 2);
        }
        assert!(heirs.iter().filter(|count| **count > 40).count() == 4, "{heirs:?}");
        candidates[2].eligible = true;
        assert!(before.iter().enumerate().all(|(key, old)| pick(&candidates, key as u64 * 77) == *old));
    }
}
