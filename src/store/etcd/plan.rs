//! What a transaction comes to in a state that was read: its result, what is to be written, and what must not have changed
//! until then. etcd itself takes no transaction that writes a key twice or reads what it has written, and knows no
//! comparison with the value of a key that is not there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::layout::PENDING;
use crate::store::core::{
    command::{Compare, Operand, Operation, Relation, Stay, Transaction},
    key::{Key, LeaseId, Revision},
    outcome::{CommandResult, OperationResult, Versioned},
};

/// What has to be read before a transaction can be decided.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Which keys, and whether their values, too.
    pub(super) keys: BTreeMap<Key, Reading>,
    /// Of which beginnings the keys must be counted.
    pub(super) prefixes: BTreeSet<String>,
}

/// How much of a key is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reading {
    /// Not its value.
    Standing,
    /// All of it.
    Value,
}

impl Wanted {
    pub(super) fn of(transaction: &Transaction) -> Self {
        let mut wanted = Self::default();
        for compare in &transaction.compare {
            let reading = match compare.with {
                Operand::Value(_) => Reading::Value,
                Operand::Modified(_) | Operand::Created(_) | Operand::Version(_) => Reading::Standing,
            };
            wanted.key(&compare.key, reading);
        }
        for branch in [&transaction.then, &transaction.otherwise] {
            // What is put blindly need not be known, unless the transaction looks at what it has put.
            let looks = branch.iter().any(|one| !matches!(one, Operation::Put { .. }));
            for operation in branch {
                match operation {
                    Operation::Get(key) => wanted.key(key, Reading::Value),
                    Operation::Delete(key) => wanted.key(key, Reading::Standing),
                    Operation::Put { key, .. } if looks => wanted.key(key, Reading::Standing),
                    Operation::Put { .. } => {}
                    Operation::DeletePrefix(prefix) => drop(wanted.prefixes.insert(prefix.clone())),
                }
            }
        }
        wanted
    }

    fn key(&mut self, key: &Key, reading: Reading) {
        let known = self.keys.entry(key.clone()).or_insert(reading);
        *known = reading.max(*known);
    }
}

/// What was read, all at one revision.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) revision: Revision,
    /// The keys that are there. Those that only their standing was wanted of have no value.
    pub(super) keys: BTreeMap<Key, Versioned>,
    /// How many keys begin so.
    pub(super) counts: BTreeMap<String, u64>,
}

/// What a transaction comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// With [`PENDING`] for the revision that it makes.
    pub(super) result: CommandResult,
    /// The last changes that these keys must still have; 0 for one that must not be there.
    pub(super) unchanged: BTreeMap<Key, Revision>,
    /// No key that begins so may have been written since it was read.
    pub(super) quiet: BTreeSet<String>,
    pub(super) puts: BTreeMap<Key, (Bytes, Stay)>,
    pub(super) deletes: BTreeSet<Key>,
    /// All that begins so goes, but for what is put.
    pub(super) clears: BTreeSet<String>,
    /// Whether it changes anything at all.
    pub(super) has_effect: bool,
}

impl Plan {
    /// What `transaction` comes to if nothing has changed since `seen`.
    pub(super) fn new(transaction: &Transaction, seen: &Seen) -> Self {
        let failed = transaction.compare.iter().find(|compare| !holds(compare, seen.keys.get(&compare.key)));
        let branch = if failed.is_none() { &transaction.then } else { &transaction.otherwise };
        let mut run = Run { seen, written: BTreeMap::new(), cleared: Vec::new(), has_effect: false };
        let results = branch.iter().map(|operation| run.carry_out(operation)).collect();
        // One comparison that does not hold is enough.
        let compared = transaction.compare.iter().filter(|one| failed.is_none_or(|failed| *one == failed));
        let mut unchanged: BTreeMap<Key, Revision> = BTreeMap::new();
        let looked_at = branch.iter().filter_map(|operation| match operation {
            Operation::Get(key) | Operation::Delete(key) => Some(key),
            Operation::Put { .. } | Operation::DeletePrefix(_) => None,
        });
        for key in compared.map(|compare| &compare.key).chain(looked_at) {
            let modified = seen.keys.get(key).map_or(Revision(0), |found| found.modified);
            unchanged.insert(key.clone(), modified);
        }
        let Run { written, cleared, has_effect, .. } = run;
        let clears: BTreeSet<String> = cleared.iter().map(|one| (*one).to_owned()).collect();
        let (mut puts, mut deletes) = (BTreeMap::new(), BTreeSet::new());
        for (key, state) in written {
            match state {
                Written::Put { value, stay, .. } => drop(puts.insert(key, (value, stay))),
                Written::Gone if clears.iter().any(|prefix| key.as_str().starts_with(prefix)) => {}
                Written::Gone => drop(deletes.insert(key)),
            }
        }
        let result = CommandResult::Transacted { held: failed.is_none(), results };
        Self { result, unchanged, quiet: clears.clone(), puts, deletes, clears, has_effect }
    }

    /// The plan of a transaction that needs no reading: what it compares is taken for so, and etcd finds out. `None` if it
    /// needs some.
    pub(super) fn guessed(transaction: &Transaction) -> Option<Self> {
        // A lease for a key that is then not put would be there for nothing.
        let is_sure = transaction.compare.is_empty();
        let is_put = |one: &Operation| match one {
            Operation::Put { stay, .. } => is_sure || !matches!(stay, Stay::Ttl(_)),
            Operation::Get(_) | Operation::Delete(_) | Operation::DeletePrefix(_) => false,
        };
        if !transaction.then.iter().all(is_put) || transaction.then.is_empty() {
            return None;
        }
        let mut unchanged = BTreeMap::new();
        for compare in &transaction.compare {
            match (compare.relation, &compare.with) {
                (Relation::Equal, Operand::Modified(revision)) => {
                    if unchanged
                        .insert(compare.key.clone(), *revision)
                        .is_some_and(|other| other != *revision)
                    {
                        return None;
                    }
                }
                _ => return None,
            }
        }
        let certain = Transaction { compare: Vec::new(), ..transaction.clone() };
        Some(Self { unchanged, ..Self::new(&certain, &Seen::default()) })
    }

    /// Nothing but that it was done, with this result.
    pub(super) fn alone(result: CommandResult) -> Self {
        Self { result, ..Self::new(&Transaction::default(), &Seen::default()) }
    }

    /// The lease that one of the keys is to be bound to, if there is one.
    pub(super) fn lease(&self) -> Option<LeaseId> {
        self.puts.values().find_map(|(_, stay)| match stay {
            Stay::Lease(lease) => Some(*lease),
            Stay::Forever | Stay::Ttl(_) => None,
        })
    }
}

/// What a transaction has done so far.
struct Run<'t> {
    seen: &'t Seen,
    written: BTreeMap<Key, Written>,
    /// Beginnings of the keys that were removed; none of them begins like another.
    cleared: Vec<&'t str>,
    has_effect: bool,
}

#[derive(Clone)]
enum Written {
    Gone,
    Put { value: Bytes, stay: Stay, created: Revision, version: u64 },
}

impl<'t> Run<'t> {
    fn carry_out(&mut self, operation: &'t Operation) -> OperationResult {
        match operation {
            Operation::Get(key) => OperationResult::Got(self.find(key)),
            Operation::Put { key, value, stay } => {
                let (created, version) = match self.find(key) {
                    Some(found) => (found.created, found.version + 1),
                    None => (PENDING, 1),
                };
                let put = Written::Put { value: value.clone(), stay: *stay, created, version };
                self.written.insert(key.clone(), put);
                self.has_effect = true;
                OperationResult::Put
            }
            Operation::Delete(key) => {
                let was_there = self.find(key).is_some();
                if was_there {
                    self.written.insert(key.clone(), Written::Gone);
                    self.has_effect = true;
                }
                OperationResult::Deleted(u64::from(was_there))
            }
            Operation::DeletePrefix(prefix) => OperationResult::Deleted(self.clear(prefix)),
        }
    }

    /// What `key` has at this point of the transaction.
    fn find(&self, key: &Key) -> Option<Versioned> {
        match self.written.get(key) {
            Some(Written::Gone) => None,
            Some(Written::Put { value, stay, created, version }) => Some(Versioned {
                value: value.clone(),
                created: *created,
                modified: PENDING,
                version: *version,
                lease: match stay {
                    Stay::Lease(lease) => Some(*lease),
                    Stay::Forever | Stay::Ttl(_) => None,
                },
            }),
            None if self.cleared.iter().any(|prefix| key.as_str().starts_with(prefix)) => None,
            None => self.seen.keys.get(key).cloned(),
        }
    }

    /// Removes what begins so. How many keys that are: those that were there before, and have not gone since, and those
    /// that have come.
    fn clear(&mut self, prefix: &'t str) -> u64 {
        let of = |prefix: &str| self.seen.counts.get(prefix).copied().unwrap_or_default();
        let mut count = if self.cleared.iter().any(|outer| prefix.starts_with(outer)) {
            0
        } else {
            let inner = self.cleared.iter().filter(|inner| inner.starts_with(prefix));
            of(prefix).saturating_sub(inner.map(|inner| of(inner)).sum())
        };
        let is_cleared = |key: &Key| self.cleared.iter().any(|outer| key.as_str().starts_with(outer));
        for (key, state) in self.written.iter().filter(|(key, _)| key.as_str().starts_with(prefix)) {
            let was_counted = self.seen.keys.contains_key(key) && !is_cleared(key);
            match state {
                Written::Gone if was_counted => count = count.saturating_sub(1),
                Written::Put { .. } if !was_counted => count += 1,
                Written::Gone | Written::Put { .. } => {}
            }
        }
        // What was put under it and is not any more needs no word: the prefix says so.
        self.written.retain(|key, _| !key.as_str().starts_with(prefix));
        self.cleared.retain(|inner| !inner.starts_with(prefix));
        if !self.cleared.iter().any(|outer| prefix.starts_with(outer)) {
            self.cleared.push(prefix);
        }
        self.has_effect |= count > 0;
        count
    }
}

fn holds(compare: &Compare, found: Option<&Versioned>) -> bool {
    let order = match &compare.with {
        Operand::Modified(revision) => found.map_or(Revision(0), |found| found.modified).cmp(revision),
        Operand::Created(revision) => found.map_or(Revision(0), |found| found.created).cmp(revision),
        Operand::Version(version) => found.map_or(0, |found| found.version).cmp(version),
        Operand::Value(value) => found.map_or(&b""[..], |found| &found.value).cmp(value),
    };
    match compare.relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Less => order.is_lt(),
        Relation::Greater => order.is_gt(),
    }
}

/// The parts of what begins with `prefix` that lie between the keys that are `kept`: etcd takes no transaction that removes
/// a key and puts it. Each is from the first key to the one behind the last; `None` is the end of the prefix.
pub(super) fn gaps<'k>(prefix: &str, kept: impl Iterator<Item = &'k Key>) -> Vec<(String, Option<String>)> {
    let mut gaps = Vec::new();
    let mut from = prefix.to_owned();
    for key in kept.filter(|key| key.as_str().starts_with(prefix)) {
        if *from < *key.as_str() {
            gaps.push((from, Some(key.as_str().to_owned())));
        }
        // The next key in the order of bytes.
        from = format!("{key}\0");
    }
    gaps.push((from, None));
    gaps
}

#[cfg(test)]
mod tests;
