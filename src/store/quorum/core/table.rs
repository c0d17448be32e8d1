//! The records of one server, in order of their keys, with the trees by which it compares them with each other server,
//! and the writes of the last minutes that it has seen.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
};

use super::{clock::Stamp, merkle, merkle::Tree, record::Record};
use crate::store::core::key::{Key, OpId};

/// A record, and with which batch it goes to the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What the key has.
    pub record: Record,
    /// The batch.
    pub batch: u64,
}

/// The records of one server.
#[derive(Debug)]
pub struct Table {
    own: u64,
    kept: BTreeMap<Key, Kept>,
    tombstones: BTreeSet<(Stamp, Key)>,
    /// The keys of each part of the trees.
    parts: Vec<BTreeSet<Key>>,
    bytes: usize,
    trees: BTreeMap<u64, Tree>,
    ops: BTreeMap<OpId, Stamp>,
    /// When they were seen, oldest first.
    ops_seen: VecDeque<(u64, OpId)>,
}

/// Writes that are remembered at most.
const MOST_OPS: usize = 65_536;

impl Table {
    /// An empty one of `own`.
    #[must_use]
    pub fn new(own: u64) -> Self {
        Self {
            own,
            kept: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            parts: vec![BTreeSet::new(); merkle::LEAVES],
            bytes: 0,
            trees: BTreeMap::new(),
            ops: BTreeMap::new(),
            ops_seen: VecDeque::new(),
        }
    }

    /// What `key` has.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<&Kept> {
        self.kept.get(key)
    }

    /// Sets `key`, which `owners` keep.
    pub fn put(&mut self, key: &Key, kept: Kept, owners: &[u64]) {
        self.remove(key, owners);
        self.bytes += key.as_str().len() + kept.record.size();
        self.toggle(key, kept.record.digest(key), owners);
        if kept.record.value.is_none() {
            self.tombstones.insert((kept.record.stamp, key.clone()));
        }
        self.parts[merkle::leaf(key)].insert(key.clone());
        self.kept.insert(key.clone(), kept);
    }

    /// Forgets `key`.
    pub fn remove(&mut self, key: &Key, owners: &[u64]) -> Option<Record> {
        let Kept { record, .. } = self.kept.remove(key)?;
        self.bytes -= key.as_str().len() + record.size();
        self.parts[merkle::leaf(key)].remove(key);
        self.toggle(key, record.digest(key), owners);
        if record.value.is_none() {
            self.tombstones.remove(&(record.stamp, key.clone()));
        }
        Some(record)
    }

    fn toggle(&mut self, key: &Key, digest: u64, owners: &[u64]) {
        if !owners.contains(&self.own) {
            return;
        }
        for owner in owners.iter().filter(|owner| **owner != self.own) {
            self.trees.entry(*owner).or_default().toggle(key, digest);
        }
    }

    /// Makes the trees anew: another ring, other owners. Gives those keys that are no longer this server's to keep.
    pub fn rebuild(
        &mut self,
        owners: impl Fn(&Key) -> Vec<u64>,
        is_ours: impl Fn(&Key) -> bool,
    ) -> BTreeSet<Key> {
        self.trees.clear();
        let digests: Vec<(Key, u64)> =
            self.kept.iter().map(|(key, kept)| (key.clone(), kept.record.digest(key))).collect();
        let mut strays = BTreeSet::new();
        for (key, digest) in digests {
            self.toggle(&key, digest, &owners(&key));
            if !is_ours(&key) {
                strays.insert(key);
            }
        }
        strays
    }

    /// What this server and `other` both keep.
    #[must_use]
    pub fn tree(&self, other: u64) -> Tree {
        self.trees.get(&other).cloned().unwrap_or_default()
    }

    /// Records of a part of the trees, in order, after `after` and up to `last`.
    pub fn part<'a>(
        &'a self,
        part: usize,
        after: Option<&'a Key>,
        last: Option<&'a Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Kept)> + 'a {
        let keys = self.parts.get(part).into_iter().flatten();
        let of_part = keys
            .skip_while(move |key| after.is_some_and(|after| *key <= after))
            .take_while(move |key| last.is_none_or(|last| *key <= last));
        of_part.filter_map(|key| self.kept.get_key_value(key.as_str()))
    }

    /// Records that begin with `prefix`, after `after`, in order.
    pub fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Kept)> + 'a {
        let from = match after {
            Some(key) if key.as_str() >= prefix => Bound::Excluded(key.as_str()),
            _ => Bound::Included(prefix),
        };
        let all = self.kept.range::<str, _>((from, Bound::Unbounded));
        all.take_while(move |(key, _)| key.as_str().starts_with(prefix))
    }

    /// The removals before `ms`, the oldest first.
    pub fn tombstones(&self, before_ms: u64) -> impl Iterator<Item = (Stamp, &Key)> {
        let all = self.tombstones.iter().map(|(stamp, key)| (*stamp, key));
        all.take_while(move |(stamp, _)| stamp.ms < before_ms)
    }

    /// All of it is forgotten but the writes that were seen.
    pub fn clear(&mut self) -> Vec<Key> {
        let keys = std::mem::take(&mut self.kept).into_keys().collect();
        self.tombstones.clear();
        self.parts.iter_mut().for_each(BTreeSet::clear);
        self.trees.clear();
        self.bytes = 0;
        keys
    }

    /// Bytes of all records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many records there are, removals included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many of them are removals.
    #[must_use]
    pub fn removed(&self) -> usize {
        self.tombstones.len()
    }

    /// With which stamp `op` was carried out, if it was lately.
    #[must_use]
    pub fn known(&self, op: OpId) -> Option<Stamp> {
        self.ops.get(&op).copied()
    }

    /// `op` was carried out. Says whether that is news.
    pub fn remember(&mut self, op: OpId, stamp: Stamp, wall_ms: u64) -> bool {
        if self.ops.insert(op, stamp).is_some() {
            return false;
        }
        self.ops_seen.push_back((wall_ms, op));
        true
    }

    /// Forgets writes seen before `before_ms`, and those that are too many; which.
    pub fn forget(&mut self, before_ms: u64) -> Vec<OpId> {
        let mut forgotten = Vec::new();
        while let Some((seen, op)) = self.ops_seen.front().copied()
            && (seen < before_ms || self.ops_seen.len() > MOST_OPS)
        {
            self.ops_seen.pop_front();
            self.ops.remove(&op);
            forgotten.push(op);
        }
        forgotten
    }
}
