//! Transactions: what is compared, what is done, and how it is taken back if the store would be too full. Leases are
//! touched last, when nothing can fail any more.

use std::collections::btree_map::Entry;

use bytes::Bytes;

use super::{
    super::{
        command::{Command, Compare, Operand, Operation, Relation, Stay, Transaction},
        key::{Key, LeaseId, Revision},
        outcome::{Change, CommandResult, OperationResult, Versioned},
    },
    Kv, MAX_KEYS, MAX_LEASES, MAX_REMOVED, MAX_STORE, pages, size,
};

/// What a transaction has done so far.
struct Draft<'a> {
    command: &'a Command,
    revision: Revision,
    changes: Vec<Change>,
    /// How many keys may still be removed by their beginnings; `None` after one that was too many.
    room: Option<usize>,
    /// The leases that it makes, by how long they last.
    own: Vec<(u64, LeaseId)>,
}

impl Draft<'_> {
    /// The lease of all keys that this transaction sets for `ttl_ms`. The first one is named by the revision, as if it had
    /// been granted. Those of other lengths have their number, below 128, in the bits from 56 on, and so are told from
    /// each other and from what any revision names: no store lives to see revision 2⁵⁶.
    fn own_lease(&mut self, ttl_ms: u64) -> LeaseId {
        if let Some((_, lease)) = self.own.iter().find(|(ttl, _)| *ttl == ttl_ms) {
            return *lease;
        }
        let lease = LeaseId(self.revision.0 | ((self.own.len() as u64) << REVISION_BITS));
        self.own.push((ttl_ms, lease));
        lease
    }
}

impl Kv {
    /// All comparisons are on the state before; operations are in order, and each sees those before it. If a key is to
    /// be bound to a lease that was not there before, or the store would be more than full and more so than before,
    /// nothing is done. Only what is left at the end counts, so a transaction may make the room that it needs.
    pub(super) fn transact(&mut self, transaction: &Transaction, command: &Command) -> CommandResult {
        let held = transaction.compare.iter().all(|compare| compare.holds(self.keys.get(&compare.key)));
        let operations = if held { &transaction.then } else { &transaction.otherwise };
        if let Some(lease) = self.unknown_lease(operations) {
            return CommandResult::NoLease(lease);
        }
        let (bytes, length) = (self.bytes, self.keys.len());
        let mut draft = Draft {
            command,
            revision: self.next_revision(),
            changes: Vec::new(),
            room: Some(MAX_REMOVED),
            own: Vec::new(),
        };
        let results = operations.iter().map(|operation| self.operate(operation, &mut draft)).collect();
        let too_large = self.bytes > MAX_STORE.max(bytes) || self.keys.len() > MAX_KEYS.max(length);
        // Deleting makes no leases, and so always works.
        let too_many_leases = !draft.own.is_empty() && self.leases.len() + draft.own.len() > MAX_LEASES;
        if draft.room.is_none() {
            self.take_back(draft.changes);
            return CommandResult::TooMany;
        }
        if too_large || too_many_leases {
            self.take_back(draft.changes);
            debug_assert_eq!(self.bytes, bytes);
            return CommandResult::Full;
        }
        if !draft.changes.is_empty() {
            self.commit(draft);
        }
        CommandResult::Transacted { held, results }
    }

    fn unknown_lease(&self, operations: &[Operation]) -> Option<LeaseId> {
        operations.iter().find_map(|operation| match operation {
            Operation::Put { stay: Stay::Lease(lease), .. } if !self.leases.contains(*lease) => Some(*lease),
            Operation::Put { .. } | Operation::Get(_) | Operation::Delete(_) | Operation::DeletePrefix(_) => {
                None
            }
        })
    }

    fn operate(&mut self, operation: &Operation, draft: &mut Draft<'_>) -> OperationResult {
        match operation {
            Operation::Get(key) => OperationResult::Got(self.keys.get(key).cloned()),
            Operation::Put { key, value, stay } => {
                let lease = match stay {
                    Stay::Forever => None,
                    Stay::Lease(lease) => Some(*lease),
                    Stay::Ttl(ttl_ms) => Some(draft.own_lease(*ttl_ms)),
                };
                self.put(key, value, lease, draft);
                OperationResult::Put
            }
            Operation::Delete(key) => OperationResult::Deleted(u64::from(self.delete(key, draft))),
            Operation::DeletePrefix(prefix) => {
                let keys = self.keys.range::<str, _>(pages::starting(prefix)).map(|(key, _)| key);
                let begin_so = keys.take_while(|key| key.as_str().starts_with(prefix));
                let room = draft.room.unwrap_or_default();
                let keys: Vec<Key> = begin_so.take(room + 1).cloned().collect();
                draft.room = draft.room.and_then(|room| room.checked_sub(keys.len()));
                if draft.room.is_none() {
                    // What was done before is taken back.
                    return OperationResult::Deleted(0);
                }
                let deleted = keys.iter().filter(|key| self.delete(key, draft)).count();
                OperationResult::Deleted(deleted as u64)
            }
        }
    }

    fn put(&mut self, key: &Key, value: &Bytes, lease: Option<LeaseId>, draft: &mut Draft<'_>) {
        let mut after = Versioned {
            value: value.clone(),
            created: draft.revision,
            modified: draft.revision,
            version: 1,
            lease,
        };
        self.bytes += size(key, &after);
        // The map's own key is told on, so that the history holds the same text and not one more.
        let (key, before) = match self.keys.entry(key.clone()) {
            Entry::Vacant(vacant) => {
                let key = vacant.key().clone();
                vacant.insert(after.clone());
                (key, None)
            }
            Entry::Occupied(mut occupied) => {
                after.created = occupied.get().created;
                after.version = occupied.get().version.saturating_add(1);
                let before = occupied.insert(after.clone());
                self.bytes -= size(occupied.key(), &before);
                (occupied.key().clone(), Some(before))
            }
        };
        draft.changes.push(self.change(draft.revision, draft.command, key, before, Some(after)));
    }

    fn delete(&mut self, key: &Key, draft: &mut Draft<'_>) -> bool {
        let Some((key, before)) = self.keys.remove_entry(key) else { return false };
        self.bytes -= size(&key, &before);
        draft.changes.push(self.change(draft.revision, draft.command, key, Some(before), None));
        true
    }

    fn take_back(&mut self, changes: Vec<Change>) {
        for Change { key, before, after, .. } in changes.into_iter().rev() {
            self.bytes -= after.map_or(0, |after| size(&key, &after));
            self.bytes += before.as_ref().map_or(0, |before| size(&key, before));
            match before {
                Some(before) => self.keys.insert(key, before),
                None => self.keys.remove(&key),
            };
        }
    }

    fn commit(&mut self, draft: Draft<'_>) {
        self.revision = draft.revision;
        let lease_of = |has: &Option<Versioned>| has.as_ref().and_then(|has| has.lease);
        for Change { key, before, after, .. } in &draft.changes {
            if let Some(lease) = lease_of(before) {
                self.leases.unbind(lease, key);
            }
            if let Some(lease) = lease_of(after) {
                if let Some((ttl_ms, _)) = draft.own.iter().find(|(_, own)| *own == lease) {
                    self.leases.make(lease, *ttl_ms, self.at_ms);
                }
                self.leases.bind(lease, key.clone());
            }
        }
        // Not before all is bound: a lease may lose its last key and get another one in the same transaction.
        for lease in draft.changes.iter().filter_map(|change| lease_of(&change.before)) {
            self.leases.release(lease);
        }
        self.history.push(draft.revision, draft.changes);
    }
}

impl Compare {
    fn holds(&self, has: Option<&Versioned>) -> bool {
        let order = match &self.with {
            Operand::Modified(with) => has.map_or(Revision(0), |has| has.modified).cmp(with),
            Operand::Created(with) => has.map_or(Revision(0), |has| has.created).cmp(with),
            Operand::Version(with) => has.map_or(0, |has| has.version).cmp(with),
            Operand::Value(with) => has.map_or(&[][..], |has| &has.value[..]).cmp(&with[..]),
        };
        match self.relation {
            Relation::Equal => order.is_eq(),
            Relation::NotEqual => order.is_ne(),
            Relation::Less => order.is_lt(),
            Relation::Greater => order.is_gt(),
        }
    }
}

/// Revisions stay below 2 to the power of this.
pub(super) const REVISION_BITS: u32 = 56;
