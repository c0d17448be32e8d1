//! The state of the strong tier as this node has it, for readers and for those who wait for it.

use std::sync::{PoisonError, RwLock};

use openraft::EntryPayload;
use tokio::sync::watch;

use super::types::{Entry, LogId, Outcomes, Proposal, SnapshotMeta, StoredMembership};
use crate::store::core::{key::Revision, kv::Kv};

/// The state of the strong tier. Only the state machine of the same node changes it.
#[derive(Debug, Default)]
pub struct State {
    held: RwLock<Held>,
    applied: watch::Sender<Applied>,
}

/// How far a state has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// How often it has changed.
    pub revision: Revision,
    /// The last entry of the log that it has; `None` before the first.
    pub log: Option<LogId>,
}

/// What belongs together: a snapshot of one has all three.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) kv: Kv,
    pub(super) meta: SnapshotMeta,
}

impl State {
    pub(super) fn new(held: Held) -> Self {
        let applied = Applied { revision: held.kv.revision(), log: held.meta.last_log_id };
        Self { held: RwLock::new(held), applied: watch::Sender::new(applied) }
    }

    /// What `read` finds in the state. Nothing is applied meanwhile, so it should be short.
    pub fn read<T>(&self, read: impl FnOnce(&Kv) -> T) -> T {
        read(&self.held.read().unwrap_or_else(PoisonError::into_inner).kv)
    }

    /// How far the state has got.
    #[must_use]
    pub fn applied(&self) -> Applied {
        *self.applied.borrow()
    }

    /// Tells how far the state has got, each time that it gets further: not before a reader sees it, and not after whoever
    /// proposed it hears of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// Who takes part, as of the last applied entry.
    #[must_use]
    pub fn membership(&self) -> StoredMembership {
        self.held.read().unwrap_or_else(PoisonError::into_inner).meta.last_membership.clone()
    }

    pub(super) fn copy(&self) -> Held {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn meta(&self) -> SnapshotMeta {
        self.held.read().unwrap_or_else(PoisonError::into_inner).meta.clone()
    }

    pub(super) fn replace(&self, held: Held) {
        let applied = Applied { revision: held.kv.revision(), log: held.meta.last_log_id };
        let before = std::mem::replace(&mut *self.held.write().unwrap_or_else(PoisonError::into_inner), held);
        self.applied.send_replace(applied);
        // Freeing a large state takes a while; no reader waits for it.
        drop(before);
    }

    /// Applies an entry of the log.
    pub(super) fn apply_entry(&self, entry: Entry) -> Outcomes {
        let (proposal, membership) = match entry.payload {
            EntryPayload::Blank => (None, None),
            EntryPayload::Normal(proposal) => (Some(proposal), None),
            EntryPayload::Membership(membership) => {
                (None, Some(StoredMembership::new(Some(entry.log_id), membership)))
            }
        };
        self.apply(entry.log_id, proposal.as_ref(), membership)
    }

    /// Applies the entry at `log`: `proposal`, or `membership`, or nothing.
    fn apply(
        &self,
        log: LogId,
        proposal: Option<&Proposal>,
        membership: Option<StoredMembership>,
    ) -> Outcomes {
        let (outcomes, revision) = {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            let commands = proposal.map(|proposal| proposal.0.as_slice()).unwrap_or_default();
            let outcomes = commands.iter().map(|command| held.kv.apply(command)).collect();
            held.meta.last_log_id = Some(log);
            if let Some(membership) = membership {
                held.meta.last_membership = membership;
            }
            (Outcomes(outcomes), held.kv.revision())
        };
        self.applied.send_replace(Applied { revision, log: Some(log) });
        outcomes
    }
}
