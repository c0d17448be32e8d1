//! Each endpoint in turn, by a cursor that all threads share.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Candidate, Choice};

/// A position that every call moves on by one.
#[derive(Debug)]
pub(super) struct Cursor(AtomicUsize);

impl Cursor {
    /// Starts at a place among `slots` that `seed` decides.
    pub(super) fn new(seed: u64, slots: usize) -> Self {
        let slots = u64::try_from(slots).unwrap_or(u64::MAX).max(1);
        // Mixed first: seeds that differ by one would otherwise start side by side.
        let start = fastrand::Rng::with_seed(seed).u64(0..slots);
        Self(AtomicUsize::new(usize::try_from(start).unwrap_or(0)))
    }

    /// The next slot below `slots`, which is above zero. No two calls get the same turn.
    pub(super) fn next(&self, slots: usize) -> usize {
        // Relaxed: only the number itself is shared, nothing is published by it.
        self.0.fetch_add(1, Ordering::Relaxed) % slots
    }
}

pub(super) fn pick<C: Candidate>(cursor: &Cursor, choice: &Choice<'_, C>) -> Option<usize> {
    let slots = choice.len();
    // A closed endpoint gives its turn to the next draw of the cursor, not to its neighbour, which would
    // otherwise get twice its share.
    let drawn = (0..slots).map(|_| cursor.next(slots)).find(|&index| choice.open(index));
    // Other threads may have drawn the only open ones in between.
    drawn.or_else(|| choice.all_open().next())
}
