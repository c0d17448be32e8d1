//! Counts what the store does: looks at the replica once a second, and measures what its disk and its leader take.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    Role, StoreError,
    backend::{Batch, Durability, Records, Span, StorageBackend, Table},
    core::command::Request,
    protocol::Query,
    quorum::core::rules::Failure,
    raft::Node,
};
use crate::{
    rt::clock,
    telemetry::metrics::{
        Registry, ReplicaMetrics, ReplicaState, StoreMetrics, StoreOperation, StoreOutcome,
    },
    types::Mono,
};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);
/// Silence after which a quorum counts as lost: some elections long.
const LOST: Duration = Duration::from_secs(5);

/// Where the store of this node counts. Until it is told where, nowhere.
#[derive(Debug, Default)]
pub(super) struct Meters {
    asked: OnceLock<StoreMetrics>,
    replica: OnceLock<ReplicaMetrics>,
    watchers: AtomicUsize,
    older_keys: AtomicU8,
}

/// Whether records may be there that the newest encryption key does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OlderKeys {
    /// They may.
    Needed = 1,
    /// There are none any more.
    Done = 2,
}

/// A watch that waits, as long as this lives.
pub(super) struct Waiting<'a>(&'a Meters);

impl Meters {
    pub(super) fn count_into(&self, registry: &Arc<Registry>, has_replica: bool) {
        let _ = self.asked.set(StoreMetrics::resolve(registry));
        if has_replica {
            let _ = self.replica.set(ReplicaMetrics::resolve(registry));
        }
    }

    pub(super) fn asked<T>(&self, operation: StoreOperation, result: &Result<T, StoreError>) {
        if let Some(metrics) = self.asked.get() {
            metrics.asked(operation, result.as_ref().err().map_or(StoreOutcome::Ok, outcome));
        }
    }

    pub(super) fn decided(&self, took: Duration) {
        if let Some(metrics) = self.replica.get() {
            metrics.decided(took);
        }
    }

    pub(super) fn tell_older_keys(&self, are: OlderKeys) {
        self.older_keys.store(are as u8, Relaxed);
    }

    /// `None` if there are no older keys.
    pub(super) fn older_keys(&self) -> Option<OlderKeys> {
        match self.older_keys.load(Relaxed) {
            1 => Some(OlderKeys::Needed),
            2 => Some(OlderKeys::Done),
            _ => None,
        }
    }

    pub(super) fn waits(&self) -> Waiting<'_> {
        self.watchers.fetch_add(1, Relaxed);
        Waiting(self)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Relaxed);
    }
}

fn outcome(error: &StoreError) -> StoreOutcome {
    match error {
        StoreError::NoQuorum
        | StoreError::Leaving
        | StoreError::Quorum(Failure::NoQuorum | Failure::Behind | Failure::Returning | Failure::Busy) => {
            StoreOutcome::NoQuorum
        }
        StoreError::TimedOut | StoreError::Quorum(Failure::TimedOut | Failure::Clock) => {
            StoreOutcome::TimedOut
        }
        StoreError::Denied(_) => StoreOutcome::Denied,
        StoreError::Request(_)
        | StoreError::NoLease(_)
        | StoreError::Full
        | StoreError::Quorum(Failure::Full)
        | StoreError::Keyspace { .. }
        | StoreError::Compacted { .. }
        | StoreError::Level(_) => StoreOutcome::Refused,
        StoreError::Failed(_) | StoreError::Unreachable(_) => StoreOutcome::Failed,
    }
}

impl Request {
    /// As what it is counted.
    pub(super) fn operation(&self) -> StoreOperation {
        match self {
            Self::Transact(_) => StoreOperation::Transact,
            Self::Grant { .. } | Self::KeepAlive(_) | Self::Revoke(_) | Self::Expire => StoreOperation::Lease,
        }
    }
}

impl Query {
    /// As what it is counted.
    pub(super) fn operation(&self) -> StoreOperation {
        match self {
            Self::Get(_) | Self::Past { .. } | Self::RevisionAt { .. } => StoreOperation::Get,
            Self::Scan { .. } => StoreOperation::Scan,
            Self::Changes { .. } => StoreOperation::Watch,
        }
    }
}

/// Looks at `node` once a second. Never returns.
pub(super) async fn look(node: Node, file: Option<PathBuf>) {
    let meters = Arc::clone(node.meters());
    let Some(metrics) = meters.replica.get() else { return };
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut term, mut leader) = (None, None);
    let mut snapshot: (u64, Mono) = (0, clock::now());
    loop {
        ticks.tick().await;
        let (now, status) = (clock::now(), node.status());
        // What was there at the start is nobody's election.
        metrics.elected(status.term.saturating_sub(term.unwrap_or(status.term)));
        term = Some(status.term);
        if status.leader.is_some() && status.leader != leader {
            if leader.is_some() {
                metrics.leader_changed();
            }
            leader = status.leader;
        }
        if status.snapshot != snapshot.0 {
            snapshot = (status.snapshot, now);
        }
        // A look at the folder, not at the file: no disk is waited for in the common case.
        let disk = file.as_ref().and_then(|file| std::fs::metadata(file).ok()).map(|about| about.len());
        let (keys, bytes, revision) = node.state().read(|kv| (kv.len(), kv.bytes(), kv.revision().0));
        let is_member =
            matches!(status.role, Role::Leader | Role::Follower | Role::Candidate | Role::Standby);
        metrics.show(&ReplicaState {
            term: status.term,
            committed: status.committed,
            applied: status.applied,
            last_log: status.last_log,
            entries: status.last_log.saturating_sub(status.purged),
            is_leader: status.role == Role::Leader,
            peers: (status.voters.len() + status.learners.len()).saturating_sub(usize::from(is_member)),
            is_quorum_lost: is_member && node.age().is_none_or(|age| age > LOST),
            keys,
            bytes,
            revision,
            watchers: meters.watchers.load(Relaxed),
            snapshot_age: now.since(snapshot.1),
            disk,
            needs_older_keys: meters.older_keys().map(|keys| keys == OlderKeys::Needed),
        });
    }
}

/// `Inner`, with the time that durable writes take.
#[derive(Debug)]
pub(super) struct Measured<Inner> {
    inner: Inner,
    meters: Arc<Meters>,
}

impl<Inner: StorageBackend> Measured<Inner> {
    pub(super) fn new(inner: Inner, meters: &Arc<Meters>) -> Self {
        Self { inner, meters: Arc::clone(meters) }
    }
}

impl<Inner: StorageBackend> StorageBackend for Measured<Inner> {
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.inner.get(table, key)
    }

    fn range(&self, table: Table, span: Span<'_>, limit: usize) -> io::Result<Records> {
        self.inner.range(table, span, limit)
    }

    fn last_key(&self, table: Table) -> io::Result<Option<Vec<u8>>> {
        self.inner.last_key(table)
    }

    fn apply(&self, batch: Batch, durability: Durability) -> io::Result<()> {
        let began = clock::now();
        let written = self.inner.apply(batch, durability);
        if let (Durability::Durable, Ok(()), Some(metrics)) =
            (durability, &written, self.meters.replica.get())
        {
            metrics.written(clock::now().since(began));
        }
        written
    }
}
