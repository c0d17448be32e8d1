//! Why the store did not do what it was asked.

use super::core::{
    command::RequestError,
    key::{LeaseId, Revision},
    kv::Compacted,
};

/// Why the store did not do what it was asked. Unless it says otherwise, nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The voters of the store that can be reached are too few to decide anything.
    #[error("the store has no quorum: fewer than half of its voters can be reached (outrigger raft status)")]
    NoQuorum,
    /// No part of it can be reached, and nothing has been done.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// It was not decided in time. A write may still happen: repeat it with the same operation id, which does it once.
    #[error("the store did not answer in time; a write may have happened, or may still")]
    TimedOut,
    /// It is beyond a limit.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// There is no such lease (any more).
    #[error("there is no lease {}: it has ended, or never was", .0.0)]
    NoLease(LeaseId),
    /// Whoever asked may not.
    #[error("{0}")]
    Denied(String),
    /// No room is left.
    #[error("the store is full: remove keys that are not needed")]
    Full,
    /// Changes that long ago are not remembered.
    #[error("changes are remembered from revision {oldest} on; read the whole state instead")]
    Compacted {
        /// The first revision that is.
        oldest: Revision,
    },
    /// This level is not to be had here.
    #[error("{0} is not to be had from this store")]
    Level(&'static str),
    /// A keyspace of the leaderless tier does not do this.
    #[error(
        "the keyspace `{keyspace}` is kept by quorum (`store.keyspaces`): {what} is to be had from the strong tier only, under keys of another keyspace"
    )]
    Keyspace {
        /// Which.
        keyspace: String,
        /// What was asked.
        what: &'static str,
    },
    /// The leaderless tier did not do it.
    #[error(transparent)]
    Quorum(#[from] super::quorum::core::rules::Failure),
    /// The store of another kind or another node failed.
    #[error("the store failed: {0}")]
    Failed(String),
    /// The store has ended, or is about to.
    #[error("this node is leaving its store")]
    Leaving,
}

impl From<Compacted> for StoreError {
    fn from(Compacted { oldest }: Compacted) -> Self {
        Self::Compacted { oldest }
    }
}
