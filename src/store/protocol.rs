//! What nodes ask each other beside Raft's own messages: one path each, postcard in the bodies.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Done, Level, Scan, Seated, StoreError,
    core::{
        key::{Key, LeaseId, Revision},
        order::Order,
        outcome::{Change, Page, Versioned},
    },
    status::shown,
};

/// A command: answered with `Answer<Outcome>`.
pub(super) const COMMAND: &str = "store/command";
/// A query: answered with `Answer<Found>`.
pub(super) const QUERY: &str = "store/query";

/// Where a replica is, whichever epoch its log is of: answered with [`Whereabouts`].
pub const POSITION: &str = "store/position";

/// How far a replica that runs is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Whereabouts {
    /// The store, with its epoch, that its log is of.
    pub store: Option<u64>,
    /// Its term.
    pub term: u64,
    /// Its last entry.
    pub last_log: u64,
    /// The revision of its state.
    pub revision: Revision,
}

impl Whereabouts {
    /// As it was sent, if it is that.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        read(body)
    }

    /// Whether it is a replica of `store`, in its epoch, as [`StoreStatus`](super::StoreStatus) shows it. Of one of a
    /// version that did not say, all are.
    #[must_use]
    pub fn is_of(&self, store: Option<&str>) -> bool {
        store.is_none_or(|store| self.store.is_some_and(|own| shown(own) == store))
    }
}

/// What operators want of the leader, an [`Asked`]: answered with `Answer<Result<Told, OrderError>>`.
pub(super) const ORDER: &str = "store/order";

/// What an operator asks the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Asked {
    /// Who has the log, and who may.
    Members,
    /// To change that.
    Order(Order),
}

/// What it tells.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Members(Vec<Seated>),
    Done(Done),
}

/// What is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Query {
    Get(Key),
    Scan {
        prefix: String,
        after: Option<Key>,
        limit: u32,
    },
    /// Waits up to `wait_ms` for changes.
    Changes {
        prefix: String,
        after: Revision,
        wait_ms: u32,
    },
    /// The keys as they were at `revision`.
    Past {
        revision: Revision,
        prefix: String,
        after: Option<Key>,
        limit: u32,
    },
    /// The last revision by this time.
    RevisionAt {
        at_ms: u64,
    },
}

/// What was found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Found {
    Got(Option<Versioned>),
    Page(Page),
    /// Changes up to a revision.
    Changes(Vec<Change>, Revision),
    Revision(Revision),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum WireLevel {
    Strong,
    Lease,
    AtLeast(Revision),
    Eventual,
    /// Milliseconds.
    Within(u64),
}

/// Done, or why not.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer<T> {
    Done(T),
    /// Another leads, if anybody does. Nothing has happened.
    Elsewhere(Option<u64>),
    NoQuorum,
    /// What was asked may happen, or have happened.
    TimedOut,
    NoLease(LeaseId),
    Full,
    Compacted(Revision),
    /// It is of another store, or beyond a limit.
    Refused(String),
    Failed(String),
    /// Whoever asked may not.
    Denied(String),
}

impl<T> Answer<T> {
    /// Whether it is done; otherwise the same for somebody who wanted something else.
    pub(super) fn done<U>(self) -> Result<T, Answer<U>> {
        Err(match self {
            Self::Done(done) => return Ok(done),
            Self::Elsewhere(leader) => Answer::Elsewhere(leader),
            Self::NoQuorum => Answer::NoQuorum,
            Self::TimedOut => Answer::TimedOut,
            Self::NoLease(lease) => Answer::NoLease(lease),
            Self::Full => Answer::Full,
            Self::Compacted(oldest) => Answer::Compacted(oldest),
            Self::Refused(why) => Answer::Refused(why),
            Self::Failed(why) => Answer::Failed(why),
            Self::Denied(why) => Answer::Denied(why),
        })
    }

    /// As whoever asked sees it. `Elsewhere` means that nobody leads by then.
    pub(super) fn result(self) -> Result<T, StoreError> {
        Err(match self {
            Self::Done(done) => return Ok(done),
            Self::Elsewhere(_) | Self::NoQuorum => StoreError::NoQuorum,
            Self::TimedOut => StoreError::TimedOut,
            Self::NoLease(lease) => StoreError::NoLease(lease),
            Self::Full => StoreError::Full,
            Self::Compacted(oldest) => StoreError::Compacted { oldest },
            Self::Refused(why) | Self::Failed(why) => StoreError::Failed(why),
            Self::Denied(why) => StoreError::Denied(why),
        })
    }
}

impl From<Level> for WireLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Strong => Self::Strong,
            Level::Lease => Self::Lease,
            Level::AtLeast(revision) => Self::AtLeast(revision),
            Level::Eventual => Self::Eventual,
            Level::Within(age) => Self::Within(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

impl From<&Scan> for Query {
    fn from(scan: &Scan) -> Self {
        Self::Scan {
            prefix: scan.prefix.clone(),
            after: scan.after.clone(),
            limit: u32::try_from(scan.limit).unwrap_or(u32::MAX),
        }
    }
}

/// As it is sent. What this process made can always be written.
pub(super) fn write<T: Serialize>(what: &T) -> bytes::Bytes {
    postcard::to_allocvec(what).unwrap_or_default().into()
}

/// As it was sent, if it is that and nothing else.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(body) {
        Ok((what, [])) => Some(what),
        Ok(_) | Err(_) => None,
    }
}
