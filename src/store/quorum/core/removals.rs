//! When a removal may be forgotten: late enough, and only if nobody who keeps the key has anything older any more.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    clock::Stamp,
    machine::{Doing, Machine},
    message::Message,
    rules::Now,
};
use crate::store::core::key::Key;

/// Removals that are forgotten at once.
const MOST_COLLECTED: usize = 256;

impl Machine {
    /// Whether removals may be forgotten, as far as the ring is concerned, and up to which age.
    fn horizon(&self, now: Now) -> Option<u64> {
        let is_stable = self.rings.unchanged(now.mono) >= self.rules.ring_stable;
        let age = u64::try_from(self.rules.tombstone_age.as_millis()).unwrap_or(u64::MAX);
        is_stable.then(|| now.wall_ms.saturating_sub(age))
    }

    /// Has removals forgotten that all who keep the key have on their disks. The first of them begins.
    pub(super) fn collect_tombstones(&mut self, now: Now) {
        let is_under_way = self.doing.values().any(|(doing, _)| matches!(doing, Doing::Collect(_)));
        let Some(before) = self.horizon(now).filter(|_| !is_under_way) else { return };
        let mut known: BTreeMap<Key, (Stamp, BTreeSet<u64>)> = BTreeMap::new();
        for (stamp, key) in self.table.tombstones(before) {
            let owners = self.owners(key);
            let batch = self.table.find(key).map_or(u64::MAX, |kept| kept.batch);
            let has = |node: &u64| self.peers.get(node).is_some_and(|peer| peer.same >= Some(batch));
            let is_known = batch <= self.synced() && owners.iter().all(|node| *node == self.own || has(node));
            if owners.first() == Some(&self.own) && is_known {
                let others = owners.into_iter().filter(|node| *node != self.own).collect();
                known.insert(key.clone(), (stamp, others));
            }
            if known.len() >= MOST_COLLECTED {
                break;
            }
        }
        let alone: Vec<Key> =
            known.iter().filter(|(_, (_, others))| others.is_empty()).map(|(key, _)| key.clone()).collect();
        for key in alone {
            known.remove(&key);
            self.forget(&key);
        }
        if known.is_empty() {
            return;
        }
        let (id, epoch) = (self.new_id(), self.rings.current().epoch());
        let mut by_node: BTreeMap<u64, Vec<(Key, Stamp)>> = BTreeMap::new();
        for (key, (stamp, others)) in &known {
            for node in others {
                by_node.entry(*node).or_default().push((key.clone(), *stamp));
            }
        }
        for (node, tombstones) in by_node {
            self.send(node, Message::Collect { id, epoch, tombstones });
        }
        self.doing.insert(id, (Doing::Collect(known), now.mono.after(self.rules.again * 5)));
    }

    fn forget(&mut self, key: &Key) {
        self.counts.tombstones_collected += 1;
        self.erase(key);
    }

    /// Another server says that all know of these removals. This one looks for itself.
    pub(super) fn collect(
        &mut self,
        from: u64,
        id: u64,
        epoch: u64,
        tombstones: Vec<(Key, Stamp)>,
        now: Now,
    ) {
        let Some(before) = self.horizon(now).filter(|_| self.rings.current().epoch() == epoch) else {
            return;
        };
        let mut forgotten = Vec::new();
        for (key, stamp) in tombstones {
            let is_that = self.table.find(&key).is_none_or(|kept| {
                kept.record.stamp == stamp && kept.record.value.is_none() && stamp.ms < before
            });
            if is_that && self.is_shared(&key, from) {
                if self.table.find(&key).is_some() {
                    self.forget(&key);
                }
                forgotten.push((key, stamp));
            }
        }
        let batch = self.last_change();
        self.send_after(batch, from, Message::Collected { id, tombstones: forgotten });
    }

    /// Another server has forgotten removals. Says whether there is more to come.
    pub(super) fn continue_collect(
        &mut self,
        known: &mut BTreeMap<Key, (Stamp, BTreeSet<u64>)>,
        from: u64,
        message: Message,
    ) -> bool {
        let Message::Collected { tombstones, .. } = message else { return true };
        for (key, _) in tombstones {
            let Some((stamp, left)) = known.get_mut(&key) else { continue };
            left.remove(&from);
            if !left.is_empty() {
                continue;
            }
            let is_that = self.table.find(&key).is_some_and(|kept| kept.record.stamp == *stamp);
            known.remove(&key);
            if is_that {
                self.forget(&key);
            }
        }
        !known.is_empty()
    }
}
