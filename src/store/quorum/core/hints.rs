//! Records kept for servers that could not be reached when they were written. A hint is a courtesy: it counts for no
//! quorum, and may be dropped.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::record::Record;
use crate::store::core::key::Key;

/// A record for a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// Whom it is for.
    pub to: u64,
    /// Which key.
    pub key: Key,
    /// What it has.
    pub record: Record,
    /// When it was kept, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Hint {
    fn size(&self) -> usize {
        self.key.as_str().len() + self.record.size()
    }
}

/// All hints of a node, by the number they were given: the oldest first.
#[derive(Debug, Default)]
pub struct Hints {
    kept: BTreeMap<u64, Hint>,
    by_target: BTreeMap<u64, BTreeSet<u64>>,
    bytes: usize,
    next: u64,
}

impl Hints {
    /// Those that were on the disk.
    pub fn load(&mut self, number: u64, hint: Hint) {
        self.next = self.next.max(number + 1);
        self.insert(number, hint);
    }

    fn insert(&mut self, number: u64, hint: Hint) {
        self.bytes += hint.size();
        self.by_target.entry(hint.to).or_default().insert(number);
        self.kept.insert(number, hint);
    }

    /// Keeps one; its number.
    pub fn add(&mut self, hint: Hint) -> u64 {
        let number = self.next;
        self.next += 1;
        self.insert(number, hint);
        number
    }

    /// It has got there, or is given up.
    pub fn remove(&mut self, number: u64) -> Option<Hint> {
        let hint = self.kept.remove(&number)?;
        self.bytes -= hint.size();
        if let Some(numbers) = self.by_target.get_mut(&hint.to) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_target.remove(&hint.to);
            }
        }
        Some(hint)
    }

    /// The oldest one that is beyond the time or the room that hints have.
    #[must_use]
    pub fn surplus(&self, wall_ms: u64, ttl_ms: u64, most: usize) -> Option<u64> {
        let (number, hint) = self.kept.first_key_value()?;
        let is_over = wall_ms.saturating_sub(hint.at_ms) > ttl_ms || self.bytes > most;
        is_over.then_some(*number)
    }

    /// The oldest ones for `target`.
    pub fn of(&self, target: u64, most: usize) -> impl Iterator<Item = (u64, &Hint)> {
        let numbers = self.by_target.get(&target).into_iter().flatten().take(most);
        numbers.filter_map(|number| self.kept.get(number).map(|hint| (*number, hint)))
    }

    /// For whom there are any.
    #[must_use]
    pub fn targets(&self) -> Vec<u64> {
        self.by_target.keys().copied().collect()
    }

    /// All numbers.
    #[must_use]
    pub fn numbers(&self) -> Vec<u64> {
        self.kept.keys().copied().collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}
