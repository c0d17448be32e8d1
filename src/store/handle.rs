//! One store, whichever it is. Cheap to clone; whoever has a clone may ask everything that the traits have.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;

use super::{
    EmbeddedStore, EmbeddedWatch, MemoryStore, Quorum, StoreError, StoreStatus,
    core::{
        command::{Stay, Transaction},
        key::{Key, LeaseId, OpId, Revision},
        outcome::{Change, Outcome, Page, Versioned},
    },
    memory::MemoryWatch,
    traits::{
        Historical, Leasable, Level, Progress, Readable, Replicated, Role, Scan, Transactional, Watch,
        Watchable, Writable,
    },
};
#[cfg(feature = "etcd")]
use super::{EtcdStore, EtcdWatch};
use crate::identity;

/// A store of one of the kinds that there are.
#[derive(Clone, Debug)]
pub enum Store {
    /// In the memory of this process, gone with it.
    Memory(MemoryStore),
    /// Kept by the sidecars of the mesh among themselves.
    Embedded(EmbeddedStore),
    /// In an etcd that somebody else runs.
    #[cfg(feature = "etcd")]
    Etcd(EtcdStore),
}

/// What a [`Store`] tells of its changes.
#[derive(Debug)]
pub enum StoreWatch {
    /// Of a [`Store::Memory`].
    Memory(MemoryWatch),
    /// Of a [`Store::Embedded`].
    Embedded(EmbeddedWatch),
    /// Of a [`Store::Etcd`]. On the heap: it is much larger than the others.
    #[cfg(feature = "etcd")]
    Etcd(Box<EtcdWatch>),
}

impl Store {
    /// A name for a write that no other write has. Whoever repeats a write, because nobody knows what became of it, uses
    /// the same name again.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the machine gives no random numbers.
    pub fn next_op() -> Result<OpId, StoreError> {
        static CLIENT: OnceLock<u64> = OnceLock::new();
        static SEQUENCE: AtomicU64 = AtomicU64::new(1);
        let client = match CLIENT.get() {
            Some(client) => *client,
            None => {
                // Not of `rt::random`, which can be seeded: two nodes with one seed would be taken for one writer, and
                // the writes of one of them for repeats.
                let drawn =
                    identity::unforeseeable().map_err(|error| StoreError::Failed(error.to_string()))?;
                *CLIENT.get_or_init(|| u64::from_be_bytes(drawn))
            }
        };
        Ok(OpId { client, sequence: SEQUENCE.fetch_add(1, Relaxed) })
    }

    /// The same store, whose changes are told to be made by `who` through this node. What could not be the name of an
    /// author is left out of it, and so is what would be too much.
    #[must_use]
    pub fn on_behalf_of(&self, who: &str) -> Self {
        match self {
            Self::Memory(store) => Self::Memory(store.on_behalf_of(who)),
            Self::Embedded(store) => Self::Embedded(store.on_behalf_of(who)),
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => Self::Etcd(store.on_behalf_of(who)),
        }
    }

    /// Whose its changes are told to be.
    #[must_use]
    pub fn author(&self) -> &str {
        match self {
            Self::Memory(store) => store.author(),
            Self::Embedded(store) => store.author(),
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.author(),
        }
    }

    /// The leaderless tier, if this store has one.
    #[must_use]
    pub fn quorum(&self) -> Option<&Quorum> {
        match self {
            Self::Memory(_) => None,
            Self::Embedded(store) => Some(store.quorum()),
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => None,
        }
    }

    /// The store that the sidecars keep among themselves, if it is that.
    #[must_use]
    pub fn embedded(&self) -> Option<&EmbeddedStore> {
        match self {
            Self::Embedded(store) => Some(store),
            Self::Memory(_) => None,
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => None,
        }
    }

    /// How it is, as this node sees it; `None` if it is of a kind that has nothing to tell.
    #[must_use]
    pub fn status(&self) -> Option<StoreStatus> {
        match self {
            Self::Memory(_) => None,
            Self::Embedded(store) => Some(store.status()),
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => None,
        }
    }
}

impl Readable for Store {
    async fn get(&self, key: &Key, level: Level) -> Result<Option<Versioned>, StoreError> {
        match self {
            Self::Memory(store) => store.get(key, level).await,
            Self::Embedded(store) => store.get(key, level).await,
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.get(key, level).await,
        }
    }

    async fn scan(&self, scan: &Scan, level: Level) -> Result<Page, StoreError> {
        match self {
            Self::Memory(store) => store.scan(scan, level).await,
            Self::Embedded(store) => store.scan(scan, level).await,
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.scan(scan, level).await,
        }
    }
}

impl Writable for Store {
    async fn put(&self, op: OpId, key: Key, value: Bytes, stay: Stay) -> Result<Revision, StoreError> {
        match self {
            Self::Memory(store) => store.put(op, key, value, stay).await,
            Self::Embedded(store) => store.put(op, key, value, stay).await,
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.put(op, key, value, stay).await,
        }
    }

    async fn delete(&self, op: OpId, key: Key) -> Result<bool, StoreError> {
        match self {
            Self::Memory(store) => store.delete(op, key).await,
            Self::Embedded(store) => store.delete(op, key).await,
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.delete(op, key).await,
        }
    }
}

impl Transactional for Store {
    async fn transact(&self, op: OpId, transaction: Transaction) -> Result<Outcome, StoreError> {
        match self {
            Self::Memory(store) => store.transact(op, transaction).await,
            Self::Embedded(store) => store.transact(op, transaction).await,
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.transact(op, transaction).await,
        }
    }
}

impl Historical for Store {
    async fn scan_at(&self, revision: Revision, scan: &Scan) -> Result<Page, StoreError> {
        match self {
            Self::Memory(store) => store.scan_at(revision, scan).await,
            Self::Embedded(store) => store.scan_at(revision, scan).await,
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => Err(StoreError::Level("looking back")),
        }
    }

    async fn changes(&self, prefix: &str, after: Revision) -> Result<(Vec<Change>, Revision), StoreError> {
        match self {
            Self::Memory(store) => store.changes(prefix, after).await,
            Self::Embedded(store) => store.changes(prefix, after).await,
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => Err(StoreError::Level("looking back")),
        }
    }

    async fn revision_at(&self, at_ms: u64) -> Result<Revision, StoreError> {
        match self {
            Self::Memory(store) => store.revision_at(at_ms).await,
            Self::Embedded(store) => store.revision_at(at_ms).await,
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => Err(StoreError::Level("looking back")),
        }
    }
}

impl Watchable for Store {
    type Watch = StoreWatch;

    fn watch(&self, prefix: &str, after: Revision) -> StoreWatch {
        match self {
            Self::Memory(store) => StoreWatch::Memory(store.watch(prefix, after)),
            Self::Embedded(store) => StoreWatch::Embedded(store.watch(prefix, after)),
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => StoreWatch::Etcd(Box::new(store.watch(prefix, after))),
        }
    }
}

impl Watch for StoreWatch {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        match self {
            Self::Memory(watch) => watch.next().await,
            Self::Embedded(watch) => watch.next().await,
            #[cfg(feature = "etcd")]
            Self::Etcd(watch) => watch.next().await,
        }
    }

    fn seen(&self) -> Revision {
        match self {
            Self::Memory(watch) => watch.seen(),
            Self::Embedded(watch) => watch.seen(),
            #[cfg(feature = "etcd")]
            Self::Etcd(watch) => watch.seen(),
        }
    }
}

impl Leasable for Store {
    async fn grant(&self, op: OpId, ttl: Duration) -> Result<LeaseId, StoreError> {
        match self {
            Self::Memory(store) => store.grant(op, ttl).await,
            Self::Embedded(store) => store.grant(op, ttl).await,
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.grant(op, ttl).await,
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        match self {
            Self::Memory(store) => store.keep_alive(lease).await,
            Self::Embedded(store) => store.keep_alive(lease).await,
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.keep_alive(lease).await,
        }
    }

    async fn revoke(&self, op: OpId, lease: LeaseId) -> Result<u64, StoreError> {
        match self {
            Self::Memory(store) => store.revoke(op, lease).await,
            Self::Embedded(store) => store.revoke(op, lease).await,
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.revoke(op, lease).await,
        }
    }
}

impl Replicated for Store {
    fn role(&self) -> Role {
        match self {
            Self::Memory(store) => store.role(),
            Self::Embedded(store) => store.role(),
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.role(),
        }
    }

    fn progress(&self) -> Progress {
        match self {
            Self::Memory(store) => store.progress(),
            Self::Embedded(store) => store.progress(),
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.progress(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_write_of_a_process_has_a_name_of_its_own() {
        let (first, second) = (Store::next_op().unwrap(), Store::next_op().unwrap());
        assert_eq!(first.client, second.client);
        assert!(second.sequence > first.sequence, "{first:?} {second:?}");
    }
}
