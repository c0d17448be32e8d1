//! Where the replicated store keeps bytes: three ordered tables that change together. What the bytes mean is known to
//! those who write them, not here.

mod disk;
mod memory;
mod seal;
#[cfg(test)]
pub(super) mod tests;

use std::{fmt, io, sync::Arc};

pub use self::{
    disk::Disk,
    memory::Memory,
    seal::{KEY_LENGTH, Keys, Plain, Resealed, SealKey, Sealed, digest},
};

/// Keys and values as bytes, in the order of the keys.
pub type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// An ordered store of bytes. All calls block, for as long as the disk takes.
///
/// A record that is damaged is never given: the call fails with [`io::ErrorKind::InvalidData`], and the error says which
/// record of which file.
pub trait StorageBackend: fmt::Debug + Send + Sync + 'static {
    /// What `key` has.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// The first `limit` records of `span` in order, all as they were at one moment.
    ///
    /// # Errors
    /// If one of them cannot be read, or is damaged.
    fn range(&self, table: Table, span: Span<'_>, limit: usize) -> io::Result<Records>;

    /// The greatest key.
    ///
    /// # Errors
    /// If it cannot be read.
    fn last_key(&self, table: Table) -> io::Result<Option<Vec<u8>>>;

    /// Carries out all of `batch`, or nothing of it. When it returns, others see it; with [`Durability::Durable`] it and
    /// all batches before it outlive a loss of power.
    ///
    /// # Errors
    /// If it could not be written. Whether it is there after the next start is then unknown, unless the error came before
    /// anything was written.
    fn apply(&self, batch: Batch, durability: Durability) -> io::Result<()>;
}

/// The tables that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The entries of the replicated log.
    Log,
    /// What is known about the log and the snapshot, and the vote.
    Meta,
    /// The pieces of snapshots.
    Snapshot,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Log, Self::Meta, Self::Snapshot];

    /// What it is called on disk and in errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Meta => "meta",
            Self::Snapshot => "snapshot",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Keys from `from` on and before `before`; without `before`, to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<'a> {
    /// The first key.
    pub from: &'a [u8],
    /// The first key after it.
    pub before: Option<&'a [u8]>,
}

impl Span<'_> {
    /// All keys.
    pub const ALL: Span<'static> = Span { from: &[], before: None };

    /// Whether no key can be in it. Some maps refuse to be asked for such a range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.before.is_some_and(|before| before <= self.from)
    }

    /// Whether `key` is in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.from <= key && self.before.is_none_or(|before| key < before)
    }
}

/// What outlives a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The batch, once the call returns.
    Durable,
    /// The batch, once a later durable one returns.
    Relaxed,
}

/// Changes that happen together, in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    changes: Vec<Change>,
    bytes: usize,
}

/// A change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a key.
    Put {
        /// Where.
        table: Table,
        /// Which.
        key: Vec<u8>,
        /// To what.
        value: Vec<u8>,
    },
    /// Removes a key, if it is there.
    Delete {
        /// Where.
        table: Table,
        /// Which.
        key: Vec<u8>,
    },
    /// Removes all keys of a [`Span`].
    DeleteSpan {
        /// Where.
        table: Table,
        /// The first key.
        from: Vec<u8>,
        /// The first key that stays.
        before: Option<Vec<u8>>,
    },
}

impl Batch {
    /// Sets `key`.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.changes.push(Change::Put { table, key, value });
        self
    }

    /// Removes `key` if it is there.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) -> &mut Self {
        self.changes.push(Change::Delete { table, key: key.into() });
        self
    }

    /// Removes all keys of `span`.
    pub fn delete_span(&mut self, table: Table, span: Span<'_>) -> &mut Self {
        let (from, before) = (span.from.to_vec(), span.before.map(<[u8]>::to_vec));
        self.changes.push(Change::DeleteSpan { table, from, before });
        self
    }

    /// Adds what `later` changes.
    pub fn append(&mut self, mut later: Self) {
        self.bytes += later.bytes;
        self.changes.append(&mut later.changes);
    }

    /// The bytes of the keys and values that it sets.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// What it changes, in order.
    #[must_use]
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// The same with every value that is set replaced by what `change` makes of it.
    fn try_map(mut self, change: impl Fn(Table, &[u8], Vec<u8>) -> io::Result<Vec<u8>>) -> io::Result<Self> {
        for one in &mut self.changes {
            match one {
                Change::Put { table, key, value } => *value = change(*table, key, std::mem::take(value))?,
                Change::Delete { .. } | Change::DeleteSpan { .. } => {}
            }
        }
        Ok(self)
    }
}

impl<Inner: StorageBackend + ?Sized> StorageBackend for Arc<Inner> {
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.as_ref().get(table, key)
    }

    fn range(&self, table: Table, span: Span<'_>, limit: usize) -> io::Result<Records> {
        self.as_ref().range(table, span, limit)
    }

    fn last_key(&self, table: Table) -> io::Result<Option<Vec<u8>>> {
        self.as_ref().last_key(table)
    }

    fn apply(&self, batch: Batch, durability: Durability) -> io::Result<()> {
        self.as_ref().apply(batch, durability)
    }
}
