//! The store in an etcd that somebody else runs. Nothing is kept here: reads and writes are etcd's own, its revisions are
//! the store's, and its leases, too. ADR 0030.

mod layout;
mod link;
mod note_lease;
mod plan;
mod read;
mod service;
#[cfg(test)]
mod tests;
mod watch;
mod write;

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use etcd_client::{LeaseGrantOptions, LeaseTimeToLiveOptions};
use tokio::time::timeout;
use xxhash_rust::xxh64::Xxh64;

use self::{
    layout::Layout,
    link::{Failure, Link, Purpose},
    note_lease::NoteLease,
};
pub use self::{service::EtcdService, watch::EtcdWatch};
use super::{
    EtcdParams, Leasable, Level, Progress, Readable, Replicated, Role, Scan, StoreError, Transactional,
    Watchable, Writable,
    core::{
        command::{Command, Request, Stay, Transaction, author},
        key::{Key, LeaseId, OpId, Revision},
        outcome::{CommandResult, OperationResult, Outcome, Page, Versioned},
    },
};
use crate::rt::clock;

/// The store in etcd as this sidecar reaches it, and on whose behalf; clones are cheap.
#[derive(Clone)]
pub struct EtcdStore(Arc<Inner>, Arc<str>);

struct Inner {
    layout: Layout,
    link: Link,
    /// Who writes if nobody else is named.
    author: Arc<str>,
    notes: NoteLease,
    unsettled: Unsettled,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EtcdStore").field(&self.0.layout).finish()
    }
}

/// Something that is asked of etcd. On the heap: what the client keeps for one call has many kilobytes.
type Work<'w, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'w>>;

/// Most writes that are remembered as ones of which nobody knows what became of them.
const MAX_UNSETTLED: usize = 4096;

/// Writes of this process of which nobody knows what became of them.
#[derive(Default)]
struct Unsettled(Mutex<(HashSet<OpId>, VecDeque<OpId>)>);

impl Unsettled {
    fn has(&self, op: OpId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.contains(&op)
    }

    fn add(&self, op: OpId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (set, order) = &mut *known;
        if set.insert(op) {
            order.push_back(op);
        }
        if order.len() > MAX_UNSETTLED
            && let Some(oldest) = order.pop_front()
        {
            set.remove(&oldest);
        }
    }
}

impl EtcdStore {
    /// The store at `params`, which need not be there yet. What it writes is told to be `author`'s.
    #[must_use]
    pub fn new(author: &str, params: EtcdParams) -> Self {
        let author: Arc<str> = author.into();
        let inner = Inner {
            layout: Layout::new(&params.prefix),
            link: Link::new(params),
            author: Arc::clone(&author),
            notes: NoteLease::default(),
            unsettled: Unsettled::default(),
        };
        Self(Arc::new(inner), author)
    }

    /// The same store, whose changes are told to be `who`'s, through this node.
    pub(super) fn on_behalf_of(&self, who: &str) -> Self {
        Self(Arc::clone(&self.0), author(&format!("{who} via {}", self.0.author)))
    }

    /// Whose its changes are told to be.
    pub(super) fn author(&self) -> &str {
        &self.1
    }

    fn check(&self, op: OpId, request: Request) -> Result<Request, StoreError> {
        let command = Command { op, at_ms: 0, author: Arc::clone(&self.1), request };
        command.check()?;
        Ok(command.request)
    }

    /// Has `work` end in time, whatever it is made of.
    async fn in_time<T>(&self, late: StoreError, work: Work<'_, T>) -> Result<T, StoreError> {
        timeout(self.0.link.timeout(), work).await.unwrap_or(Err(late))
    }

    /// A lease of this length. Asked for twice with the same number, it is the same one.
    async fn lease(&self, id: i64, ttl_ms: u64) -> Result<LeaseId, Failure> {
        // etcd counts in seconds. A key must not go too early.
        let seconds = layout::number(ttl_ms.div_ceil(1000));
        let granted = self
            .0
            .link
            .call(Purpose::Write, |client| async move {
                client.lease_client().grant(seconds, Some(LeaseGrantOptions::new().with_id(id))).await
            })
            .await;
        match granted {
            Ok(_) | Err(Failure::LeaseExists) => Ok(LeaseId(id.cast_unsigned())),
            Err(failure) => Err(failure),
        }
    }

    /// The number of the lease that `op` asks for: always the same for one write, so that repeating it grants one.
    fn lease_number(&self, op: OpId, nth: usize) -> i64 {
        let mut hash = Xxh64::new(0);
        hash.update(&self.0.layout.note(op));
        hash.update(&nth.to_be_bytes());
        // Positive: 0 is no lease to etcd.
        layout::number(hash.digest() >> 1).max(1)
    }

    async fn ended(&self, op: OpId, lease: LeaseId) -> Result<u64, StoreError> {
        let id = lease.0.cast_signed();
        let keys = match self.noted(op).await? {
            Some(outcome) => match outcome.result {
                CommandResult::Ended { keys } => keys,
                _ => return Err(mismatch()),
            },
            None => {
                let found = self.0.link.call(Purpose::Read, |client| async move {
                    let options = LeaseTimeToLiveOptions::new().with_keys();
                    client.lease_client().time_to_live(id, Some(options)).await
                });
                let found = found.await?;
                if found.ttl() <= 0 {
                    return Err(StoreError::NoLease(lease));
                }
                let bound = found.keys().iter().filter(|key| self.0.layout.is_kv(key)).count();
                let keys = u64::try_from(bound).unwrap_or(u64::MAX);
                self.note_alone(op, &CommandResult::Ended { keys }).await?;
                keys
            }
        };
        let ended =
            self.0.link.call(Purpose::Write, |client| async move { client.lease_client().revoke(id).await });
        match ended.await {
            Ok(ended) => drop(self.0.link.learn(ended.header())),
            // It has ended meanwhile, or had when this was asked before.
            Err(Failure::NoLease) => {}
            Err(failure) => return Err(failure.into()),
        }
        Ok(keys)
    }
}

impl Readable for EtcdStore {
    async fn get(&self, key: &Key, level: Level) -> Result<Option<Versioned>, StoreError> {
        self.in_time(late_read(level), Box::pin(self.read_key(key, level))).await
    }

    async fn scan(&self, scan: &Scan, level: Level) -> Result<Page, StoreError> {
        self.in_time(late_read(level), Box::pin(self.read_page(scan, level))).await
    }
}

impl Writable for EtcdStore {
    async fn put(&self, op: OpId, key: Key, value: Bytes, stay: Stay) -> Result<Revision, StoreError> {
        Ok(self.transact(op, Transaction::put(key, value, stay)).await?.revision)
    }

    async fn delete(&self, op: OpId, key: Key) -> Result<bool, StoreError> {
        match self.transact(op, Transaction::delete(key)).await?.result {
            CommandResult::Transacted { results, .. } => {
                Ok(matches!(results.first(), Some(OperationResult::Deleted(1..))))
            }
            _ => Err(mismatch()),
        }
    }
}

impl Transactional for EtcdStore {
    async fn transact(&self, op: OpId, transaction: Transaction) -> Result<Outcome, StoreError> {
        let Request::Transact(transaction) = self.check(op, Request::Transact(transaction))? else {
            return Err(mismatch());
        };
        let outcome = self.in_time(StoreError::TimedOut, Box::pin(self.carry_out(op, &transaction))).await;
        if matches!(outcome, Err(StoreError::TimedOut)) {
            self.0.unsettled.add(op);
        }
        match outcome? {
            outcome @ Outcome { result: CommandResult::Transacted { .. }, .. } => Ok(outcome),
            _ => Err(mismatch()),
        }
    }
}

impl Leasable for EtcdStore {
    async fn grant(&self, op: OpId, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.check(op, Request::Grant { ttl_ms })?;
        let work = async {
            match self.noted(op).await? {
                Some(_) => Err(mismatch()),
                None => Ok(self.lease(self.lease_number(op, 0), ttl_ms).await?),
            }
        };
        self.in_time(StoreError::TimedOut, Box::pin(work)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        let id = lease.0.cast_signed();
        let work = async {
            let kept = self.0.link.call(Purpose::Write, |client| async move {
                let (mut keeper, mut answers) = client.lease_client().keep_alive(id).await?;
                // The first answer only says that there is one.
                keeper.keep_alive().await?;
                answers.message().await
            });
            match kept.await {
                Ok(Some(kept)) if kept.ttl() > 0 => Ok(Duration::from_secs(kept.ttl().unsigned_abs())),
                Ok(_) | Err(Failure::NoLease) => Err(StoreError::NoLease(lease)),
                Err(failure) => Err(failure.into()),
            }
        };
        self.in_time(StoreError::TimedOut, Box::pin(work)).await
    }

    async fn revoke(&self, op: OpId, lease: LeaseId) -> Result<u64, StoreError> {
        self.in_time(StoreError::TimedOut, Box::pin(self.ended(op, lease))).await
    }
}

impl Watchable for EtcdStore {
    type Watch = EtcdWatch;

    fn watch(&self, prefix: &str, after: Revision) -> EtcdWatch {
        EtcdWatch::new(self.clone(), prefix, after)
    }
}

impl Replicated for EtcdStore {
    fn role(&self) -> Role {
        Role::Watcher
    }

    fn progress(&self) -> Progress {
        Progress { revision: self.0.link.revision(), heard: self.0.link.heard() }
    }
}

/// A read that came to no end in time: etcd does not answer those that need a quorum while it has none.
fn late_read(level: Level) -> StoreError {
    match level {
        Level::Strong | Level::Lease | Level::Within(_) => StoreError::NoQuorum,
        Level::AtLeast(_) | Level::Eventual => StoreError::TimedOut,
    }
}

/// The operation id of another write was used again, and this is what became of that one.
fn mismatch() -> StoreError {
    StoreError::Failed("the operation id names a write of another kind".to_owned())
}

fn wall_ms() -> u64 {
    let since = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
