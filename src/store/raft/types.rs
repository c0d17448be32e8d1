//! The types with which openraft is told what this store is about.

use std::{fmt, net::SocketAddr};

use openraft::type_config::alias;
use serde::{Deserialize, Deserializer, Serialize};

use crate::store::core::{
    command::{Command, bounded},
    outcome::Outcome,
};

openraft::declare_raft_types!(
    /// What the strong tier is made of.
    pub TypeConfig:
        D = Proposal,
        R = Outcomes,
        NodeId = u64,
        Node = Voter,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

/// An entry of the log that asks for something: commands that were waiting at the same time, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proposal(#[serde(deserialize_with = "commands")] pub Vec<Command>);

/// Commands that one entry has at most.
pub(super) const MAX_COMMANDS: usize = 4096;

fn commands<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Command>, D::Error> {
    bounded(from, MAX_COMMANDS)
}

impl fmt::Display for Proposal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} commands", self.0.len())
    }
}

/// What became of the commands of a [`Proposal`], in the same order; nothing for entries of openraft's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Outcomes(pub Vec<Outcome>);

impl fmt::Display for Outcomes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} outcomes", self.0.len())
    }
}

/// A member of the strong tier, whether it votes or stands by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voter {
    /// Where its peers reach it.
    pub address: SocketAddr,
    /// What it is called in the mesh.
    pub name: String,
    /// Where it stands; empty if nobody said so.
    pub zone: String,
}

impl Default for Voter {
    /// Nobody, nowhere.
    fn default() -> Self {
        Self { address: SocketAddr::from(([0, 0, 0, 0], 0)), name: String::new(), zone: String::new() }
    }
}

impl fmt::Display for Voter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at {}", self.name, self.address)
    }
}

/// A place in the log, and the leader who filled it.
pub type LogId = alias::LogIdOf<TypeConfig>;
/// For whom a node has voted last, and whether a majority has.
pub type Vote = alias::VoteOf<TypeConfig>;
/// What is at a place of the log.
pub type Entry = alias::EntryOf<TypeConfig>;
/// Who takes part.
pub type Membership = openraft::Membership<u64, Voter>;
/// Who takes part, and which entry of the log said so.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
/// How far a snapshot goes, and who takes part there.
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot: the bytes of [`Kv::to_bytes`](crate::store::core::kv::Kv::to_bytes), which carry a checksum.
pub type SnapshotData = Vec<u8>;
