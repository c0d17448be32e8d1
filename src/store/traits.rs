//! What may be asked of a store, whichever it is. Each trait is one right: who only reads need not be able to write.

use std::{future::Future, time::Duration};

use super::{
    StoreError,
    core::{
        command::{Stay, Transaction},
        key::{Key, LeaseId, OpId, Revision},
        outcome::{Change, Outcome, Page, Versioned},
    },
};

/// How much a read asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// What was last written before the read began, by whomever: the leader asks its followers whether it still leads
    /// (ReadIndex, Raft dissertation §6.4).
    #[default]
    Strong,
    /// The same as long as no clock runs more than a tenth too fast or slow: the leader trusts its lease (§6.4.1).
    Lease,
    /// What this node has, however old, if it has got as far as this revision; it waits for that.
    AtLeast(Revision),
    /// What this node has, however old.
    Eventual,
    /// What this node has, if it is sure to have all that was decided so long ago; otherwise as [`Level::Strong`].
    Within(Duration),
}

/// Which keys are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Those that begin so; all if it is empty.
    pub prefix: String,
    /// Those after this one: the `next` of the page before.
    pub after: Option<Key>,
    /// At most so many; a page never has more than 1000, nor more than 1 MiB and one entry.
    pub limit: usize,
}

/// Reads. Cancel-safe.
pub trait Readable: Send + Sync {
    /// What `key` has.
    fn get(
        &self,
        key: &Key,
        level: Level,
    ) -> impl Future<Output = Result<Option<Versioned>, StoreError>> + Send;

    /// Keys in order.
    fn scan(&self, scan: &Scan, level: Level) -> impl Future<Output = Result<Page, StoreError>> + Send;
}

/// Writes single keys. A write that is cancelled may happen all the same.
pub trait Writable: Send + Sync {
    /// Sets `key`; the revision that did so.
    fn put(
        &self,
        op: OpId,
        key: Key,
        value: bytes::Bytes,
        stay: Stay,
    ) -> impl Future<Output = Result<Revision, StoreError>> + Send;

    /// Removes `key`; whether it was there.
    fn delete(&self, op: OpId, key: Key) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

/// Reads and writes several keys at one moment. One that is cancelled may happen all the same.
pub trait Transactional: Send + Sync {
    /// Carries out `transaction`.
    fn transact(
        &self,
        op: OpId,
        transaction: Transaction,
    ) -> impl Future<Output = Result<Outcome, StoreError>> + Send;
}

/// Looks back, as far as changes are remembered. Cancel-safe.
///
/// All of it fails with [`StoreError::Compacted`] where they are not.
pub trait Historical: Send + Sync {
    /// Keys in order as they were at `revision`, which the state must have reached: it is waited for.
    fn scan_at(
        &self,
        revision: Revision,
        scan: &Scan,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Some of the changes after `after` of the keys that begin with `prefix`, and up to which revision they are: where
    /// to go on. Waits for none, but until the state has reached `after`.
    fn changes(
        &self,
        prefix: &str,
        after: Revision,
    ) -> impl Future<Output = Result<(Vec<Change>, Revision), StoreError>> + Send;

    /// The last revision that was made by a time of the log, in milliseconds since 1970; 0 is before the first.
    fn revision_at(&self, at_ms: u64) -> impl Future<Output = Result<Revision, StoreError>> + Send;
}

/// Tells of changes.
pub trait Watchable: Send + Sync {
    /// What one watch tells.
    type Watch: Watch;

    /// Tells each change after revision `after` of the keys that begin with `prefix`.
    fn watch(&self, prefix: &str, after: Revision) -> Self::Watch;
}

/// Changes as they come, each once and in order.
pub trait Watch: Send {
    /// Waits for the next changes: all those of one or several revisions. Cancel-safe.
    ///
    /// After [`StoreError::Compacted`] the watch is over: read the state, and watch from its revision.
    fn next(&mut self) -> impl Future<Output = Result<Vec<Change>, StoreError>> + Send;

    /// Every change up to this revision has been told, or was of other keys: another watch may begin after it. 0 if that
    /// is not known.
    ///
    /// With it, who watches keys that seldom change does not fall behind what is remembered.
    fn seen(&self) -> Revision {
        Revision::default()
    }
}

/// Grants leases: keys that are bound to one go when its holder is no longer heard of.
pub trait Leasable: Send + Sync {
    /// A new lease.
    fn grant(&self, op: OpId, ttl: Duration) -> impl Future<Output = Result<LeaseId, StoreError>> + Send;

    /// Its holder is still there.
    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = Result<Duration, StoreError>> + Send;

    /// Ends it; how many keys went with it.
    fn revoke(&self, op: OpId, lease: LeaseId) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

/// Knows how far it is.
pub trait Replicated: Send + Sync {
    /// What this node is to the store.
    fn role(&self) -> Role;

    /// How far it has got.
    fn progress(&self) -> Progress;
}

/// What a node is to the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It decides what comes next.
    Leader,
    /// It votes.
    Follower,
    /// It asks to lead.
    Candidate,
    /// It has the log and does not vote.
    Standby,
    /// It has the state, and reads it from a voter.
    Watcher,
    /// It has not found the store yet.
    #[default]
    Searching,
}

/// How far a node has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The revision of the state that it has.
    pub revision: Revision,
    /// When it last heard from a leader that has a quorum; `None` if never.
    pub heard: Option<Duration>,
}
