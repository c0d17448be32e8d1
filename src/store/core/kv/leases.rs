//! Leases: when each runs out and which keys are bound to it. The keys themselves are not here; whoever ends a lease
//! removes them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::super::key::{Key, LeaseId};

/// A lease as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseState {
    /// Which.
    pub lease: LeaseId,
    /// How long it lasts after the last word of its holder, in milliseconds.
    pub ttl_ms: u64,
    /// When it runs out, in milliseconds since 1970.
    pub ends_ms: u64,
    /// How many keys are bound to it.
    pub keys: u64,
}

/// All leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
    by_end: BTreeSet<(u64, LeaseId)>,
}

/// What is kept of a lease; its keys know it, and need not be kept with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Terms {
    ttl_ms: u64,
    ends_ms: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// Someone holds it, with or without keys.
    Held,
    /// It was made by setting keys, and goes with the last of them: no one knows its name who would miss it.
    Own,
    /// It has run out, and not all of its keys are gone yet. It is no lease any more.
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Lease {
    terms: Terms,
    keys: BTreeSet<Key>,
}

impl Leases {
    /// How many there are, those included whose keys still go.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn contains(&self, lease: LeaseId) -> bool {
        self.by_id.get(&lease).is_some_and(|lease| lease.terms.stage != Stage::Ended)
    }

    pub(super) fn next_end(&self) -> Option<u64> {
        self.by_end.first().map(|(ends_ms, _)| *ends_ms)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = LeaseState> {
        self.by_id.iter().filter(|(_, lease)| lease.terms.stage != Stage::Ended).map(|(id, lease)| {
            let Terms { ttl_ms, ends_ms, .. } = lease.terms;
            LeaseState { lease: *id, ttl_ms, ends_ms, keys: lease.keys.len() as u64 }
        })
    }

    /// A lease that stays until it ends.
    pub(super) fn grant(&mut self, lease: LeaseId, ttl_ms: u64, at_ms: u64) {
        self.restore(lease, Terms { ttl_ms, ends_ms: at_ms.saturating_add(ttl_ms), stage: Stage::Held });
    }

    /// A lease for keys that are about to be bound to it, if it is not there yet.
    pub(super) fn make(&mut self, lease: LeaseId, ttl_ms: u64, at_ms: u64) {
        if !self.by_id.contains_key(&lease) {
            self.restore(lease, Terms { ttl_ms, ends_ms: at_ms.saturating_add(ttl_ms), stage: Stage::Own });
        }
    }

    /// Puts back what [`Leases::terms`] told. Its keys are bound again one by one.
    pub(super) fn restore(&mut self, lease: LeaseId, terms: Terms) {
        self.by_end.insert((terms.ends_ms, lease));
        self.by_id.insert(lease, Lease { terms, keys: BTreeSet::new() });
    }

    pub(super) fn terms(&self) -> BTreeMap<LeaseId, &Terms> {
        self.by_id.iter().map(|(id, lease)| (*id, &lease.terms)).collect()
    }

    /// Its length, if it is there.
    pub(super) fn keep_alive(&mut self, id: LeaseId, at_ms: u64) -> Option<u64> {
        let lease = self.by_id.get_mut(&id).filter(|lease| lease.terms.stage != Stage::Ended)?;
        self.by_end.remove(&(lease.terms.ends_ms, id));
        lease.terms.ends_ms = at_ms.saturating_add(lease.terms.ttl_ms);
        self.by_end.insert((lease.terms.ends_ms, id));
        Some(lease.terms.ttl_ms)
    }

    /// Whether the lease is there, and so the key bound to it.
    pub(super) fn bind(&mut self, lease: LeaseId, key: Key) -> bool {
        self.by_id.get_mut(&lease).map(|lease| lease.keys.insert(key)).is_some()
    }

    /// [`Leases::release`] the lease once it is certain that no key is bound to it in the same breath.
    pub(super) fn unbind(&mut self, lease: LeaseId, key: &Key) {
        if let Some(lease) = self.by_id.get_mut(&lease) {
            lease.keys.remove(key);
        }
    }

    /// Ends the lease if it has no key left and nobody holds it.
    pub(super) fn release(&mut self, id: LeaseId) {
        let is_idle = |lease: &Lease| lease.keys.is_empty() && lease.terms.stage != Stage::Held;
        if self.by_id.get(&id).is_some_and(is_idle) {
            self.end(id);
        }
    }

    /// Ends a lease; the keys that were bound to it, in order.
    pub(super) fn end(&mut self, id: LeaseId) -> Vec<Key> {
        let Some(lease) = self.by_id.remove(&id) else { return Vec::new() };
        self.by_end.remove(&(lease.terms.ends_ms, id));
        lease.keys.into_iter().collect()
    }

    /// Ends a lease that is there: at most `limit` of its keys, which it unbinds and tells, and how many are left. Those
    /// are as those of a lease that has run out at `at_ms`. `None` if there is no such lease.
    pub(super) fn revoke(&mut self, id: LeaseId, at_ms: u64, limit: usize) -> Option<(Vec<Key>, u64)> {
        let lease = self.by_id.get_mut(&id).filter(|lease| lease.terms.stage != Stage::Ended)?;
        if lease.keys.len() <= limit {
            return Some((self.end(id), 0));
        }
        self.by_end.remove(&(lease.terms.ends_ms, id));
        lease.terms.stage = Stage::Ended;
        lease.terms.ends_ms = lease.terms.ends_ms.min(at_ms);
        self.by_end.insert((lease.terms.ends_ms, id));
        let mut gone = Vec::with_capacity(limit);
        while gone.len() < limit
            && let Some(key) = lease.keys.pop_first()
        {
            gone.push(key);
        }
        Some((gone, lease.keys.len() as u64))
    }

    /// Ends leases that have run out by `at_ms`, the earliest first: at most `limit`, and as many of their keys, which it
    /// unbinds and tells. A lease that is left with keys has ended all the same: it can no longer be kept alive.
    /// `None` if none has run out.
    pub(super) fn expire(&mut self, at_ms: u64, limit: usize) -> Option<Vec<Key>> {
        let mut gone = Vec::new();
        let mut ended = 0;
        while let Some((ends_ms, id)) = self.by_end.first().copied()
            && ends_ms <= at_ms
            && ended < limit
        {
            ended += 1;
            let Some(lease) = self.by_id.get_mut(&id) else { break };
            while gone.len() < limit
                && let Some(key) = lease.keys.pop_first()
            {
                gone.push(key);
            }
            if !lease.keys.is_empty() {
                lease.terms.stage = Stage::Ended;
                break;
            }
            self.end(id);
        }
        (ended > 0).then_some(gone)
    }
}
