//! What is counted of the replicated store: how far its log is, what is in it, what is asked of it, how long that takes.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Gauge};

use super::{
    HotHistogram, Registry,
    family::{Family, Kind},
};

const MS: u64 = 1_000_000;
/// A tenth of a millisecond, within which no disk has written anything, to a second, after which others lead.
const DECISION: &[u64] = &[
    MS / 10,
    MS / 4,
    MS / 2,
    MS,
    5 * MS / 2,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    1000 * MS,
];

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, help }
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, help }
}

static TERM: Family = gauge("outrigger_raft_term", "Term of the log, as this replica knows it.");
static COMMIT: Family = gauge("outrigger_raft_commit_index", "Last entry of the log that is decided.");
static APPLIED: Family = gauge("outrigger_raft_applied_index", "Last entry of the log that is in the state.");
static LAST_LOG: Family = gauge("outrigger_raft_last_log_index", "Last entry of the log of this replica.");
static ENTRIES: Family =
    gauge("outrigger_raft_log_entries", "Entries that the log has beside what is in the snapshot alone.");
static IS_LEADER: Family = gauge("outrigger_raft_is_leader", "1 as long as this replica leads.");
static PEERS: Family = gauge("outrigger_raft_peers", "Other replicas, those that stand by included.");
static QUORUM_LOST: Family = gauge(
    "outrigger_raft_quorum_lost",
    "1 if this replica has not heard for five seconds that most voters follow one leader: nothing can be written.",
);
static LEADER_CHANGES: Family =
    counter("outrigger_raft_leader_changes_total", "Times that this replica saw another lead than before.");
static ELECTIONS: Family =
    counter("outrigger_raft_elections_total", "Elections that this replica knows of: rises of the term.");
static COMMITS: Family = Family {
    name: "outrigger_raft_commit_duration_seconds",
    kind: Kind::Histogram(DECISION),
    help: "Time from a command's coming to the leader to its being decided and in the state.",
};
static FSYNCS: Family = Family {
    name: "outrigger_raft_fsync_duration_seconds",
    kind: Kind::Histogram(DECISION),
    help: "Time that a durable write of the log or the snapshot takes.",
};
static KEYS: Family = gauge("outrigger_store_keys", "Keys in the state of this replica.");
static BYTES: Family =
    gauge("outrigger_store_bytes", "Bytes of all keys and values in the state of this replica.");
static REVISION: Family =
    gauge("outrigger_store_revision", "How often the state of this replica has changed.");
static WATCHERS: Family =
    gauge("outrigger_store_watchers", "Watches that wait for changes at this replica, its own included.");
static SNAPSHOT_AGE: Family =
    gauge("outrigger_store_snapshot_age_seconds", "Time since the snapshot changed, or since the start.");
static DISK: Family = gauge("outrigger_store_disk_bytes", "Size of the file of the log and the snapshot.");
static OLDER_KEYS: Family = gauge(
    "outrigger_store_older_keys_needed",
    "1 as long as records on the disk may need an older encryption key; nothing if there is none.",
);
static REQUESTS: Family =
    counter("outrigger_store_requests_total", "What this sidecar asked of the store, by how it ended.");

/// Families that the recorder renders.
pub(super) static RECORDED: [&Family; 18] = [
    &TERM,
    &COMMIT,
    &APPLIED,
    &LAST_LOG,
    &ENTRIES,
    &IS_LEADER,
    &PEERS,
    &QUORUM_LOST,
    &LEADER_CHANGES,
    &ELECTIONS,
    &KEYS,
    &BYTES,
    &REVISION,
    &WATCHERS,
    &SNAPSHOT_AGE,
    &DISK,
    &OLDER_KEYS,
    &REQUESTS,
];

/// What is asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOperation {
    /// What a key has.
    Get,
    /// Keys in order.
    Scan,
    /// Changes.
    Watch,
    /// Reads and writes at one moment.
    Transact,
    /// Anything about leases.
    Lease,
}

impl StoreOperation {
    const ALL: [Self; 5] = [Self::Get, Self::Scan, Self::Watch, Self::Transact, Self::Lease];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Scan => "scan",
            Self::Watch => "watch",
            Self::Transact => "transact",
            Self::Lease => "lease",
        }
    }
}

/// How that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// It was done.
    Ok,
    /// Too few voters can be reached.
    NoQuorum,
    /// Nobody knows in time what became of it.
    TimedOut,
    /// Whoever asked may not.
    Denied,
    /// It is beyond a limit, or about what is not there.
    Refused,
    /// Something broke.
    Failed,
}

impl StoreOutcome {
    const ALL: [Self; 6] =
        [Self::Ok, Self::NoQuorum, Self::TimedOut, Self::Denied, Self::Refused, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoQuorum => "no_quorum",
            Self::TimedOut => "timed_out",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// What is asked of the store, counted. A few atomic operations.
#[derive(Clone, Debug)]
pub struct StoreMetrics([[Counter; StoreOutcome::ALL.len()]; StoreOperation::ALL.len()]);

impl StoreMetrics {
    /// The handle; any number of them count into the same series, all of which exist from now on.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>) -> Self {
        Self(StoreOperation::ALL.map(|operation| {
            StoreOutcome::ALL.map(|outcome| {
                let labels = [("operation", operation.as_str()), ("outcome", outcome.as_str())];
                registry.counter(&REQUESTS, &labels)
            })
        }))
    }

    /// Counts what was asked.
    pub fn asked(&self, operation: StoreOperation, outcome: StoreOutcome) {
        self.0[operation as usize][outcome as usize].increment(1);
    }
}

/// How a replica is, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReplicaState {
    /// The term.
    pub term: u64,
    /// The last entry that is decided.
    pub committed: u64,
    /// The last entry that is in the state.
    pub applied: u64,
    /// The last entry of the log.
    pub last_log: u64,
    /// Entries of the log.
    pub entries: u64,
    /// Whether it leads.
    pub is_leader: bool,
    /// Other replicas.
    pub peers: usize,
    /// Whether nothing can be written.
    pub is_quorum_lost: bool,
    /// Keys in the state.
    pub keys: usize,
    /// Bytes of keys and values.
    pub bytes: usize,
    /// How often the state has changed.
    pub revision: u64,
    /// Watches that wait.
    pub watchers: usize,
    /// Since the snapshot changed.
    pub snapshot_age: Duration,
    /// Size of the file; `None` if there is none.
    pub disk: Option<u64>,
    /// Whether records may need an older encryption key; `None` if there is none.
    pub needs_older_keys: Option<bool>,
}

/// The numbers of a replica; a sidecar without one has no such series.
#[derive(Clone, Debug)]
pub struct ReplicaMetrics {
    gauges: [Gauge; 13],
    registry: Arc<Registry>,
    leader_changes: Counter,
    elections: Counter,
    commits: Arc<HotHistogram>,
    fsyncs: Arc<HotHistogram>,
}

impl ReplicaMetrics {
    /// The handle; any number of them show the same numbers, all of which exist from now on.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>) -> Self {
        let gauges = [
            &TERM,
            &COMMIT,
            &APPLIED,
            &LAST_LOG,
            &ENTRIES,
            &IS_LEADER,
            &PEERS,
            &QUORUM_LOST,
            &KEYS,
            &BYTES,
            &REVISION,
            &WATCHERS,
            &SNAPSHOT_AGE,
        ];
        Self {
            gauges: gauges.map(|family| registry.gauge(family, &[])),
            registry: Arc::clone(registry),
            leader_changes: registry.counter(&LEADER_CHANGES, &[]),
            elections: registry.counter(&ELECTIONS, &[]),
            commits: registry.histogram(&COMMITS, &[]),
            fsyncs: registry.histogram(&FSYNCS, &[]),
        }
    }

    /// Shows how it is.
    pub fn show(&self, state: &ReplicaState) {
        let flag = |is_so| f64::from(u8::from(is_so));
        let values = [
            state.term as f64,
            state.committed as f64,
            state.applied as f64,
            state.last_log as f64,
            state.entries as f64,
            flag(state.is_leader),
            state.peers as f64,
            flag(state.is_quorum_lost),
            state.keys as f64,
            state.bytes as f64,
            state.revision as f64,
            state.watchers as f64,
            state.snapshot_age.as_secs_f64(),
        ];
        for (gauge, value) in self.gauges.iter().zip(values) {
            gauge.set(value);
        }
        let needs = state.needs_older_keys.map(u64::from);
        for (family, value) in [(&DISK, state.disk), (&OLDER_KEYS, needs)] {
            if let Some(value) = value {
                self.registry.gauge(family, &[]).set(value as f64);
            }
        }
    }

    /// Counts that another leads than before.
    pub fn leader_changed(&self) {
        self.leader_changes.increment(1);
    }

    /// Counts rises of the term.
    pub fn elected(&self, rises: u64) {
        self.elections.increment(rises);
    }

    /// Observes how long a command took to be decided.
    pub fn decided(&self, took: Duration) {
        self.commits.observe(took);
    }

    /// Observes how long a durable write took.
    pub fn written(&self, took: Duration) {
        self.fsyncs.observe(took);
    }
}
