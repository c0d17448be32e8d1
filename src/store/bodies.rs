//! What nodes send each other, read as it is read here: for tests of the decoders, which are given any bytes. Calls
//! themselves are read where they are answered.

use serde::{Serialize, de::DeserializeOwned};

use super::{
    core::{bootstrap::Message, command::Command, outcome::Outcome},
    protocol::{self, Answer, Found, Query, WireLevel},
    pulse::Pulse,
    quorum::{
        self,
        core::{
            message::Packet,
            rules::{Answer as Answered, Level, Want},
        },
    },
    raft,
};

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command.
    Command,
    /// What became of one.
    Decided,
    /// A read.
    Query,
    /// What was found.
    Found,
    /// A word about founding a store.
    Founding,
    /// How fresh a replica is.
    Pulse,
    /// Entries of the log.
    Append,
    /// Somebody asks to lead.
    Vote,
    /// A part of a snapshot.
    Snapshot,
    /// Somebody else shall lead.
    Transfer,
    /// What servers of the leaderless tier say to each other.
    Packet,
    /// What such a server is asked.
    Want,
    /// What it answers.
    Answered,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Command,
        Self::Decided,
        Self::Query,
        Self::Found,
        Self::Founding,
        Self::Pulse,
        Self::Append,
        Self::Vote,
        Self::Snapshot,
        Self::Transfer,
        Self::Packet,
        Self::Want,
        Self::Answered,
    ];
}

/// What `body` says, written anew; `None` if it is not of this kind.
#[must_use]
pub fn reread(kind: Kind, body: &[u8]) -> Option<Vec<u8>> {
    match kind {
        Kind::Command => again::<Command>(body),
        Kind::Decided => again::<Answer<Outcome>>(body),
        Kind::Query => again::<(Query, WireLevel)>(body),
        Kind::Found => again::<Answer<Found>>(body),
        Kind::Founding => again::<Message>(body),
        Kind::Pulse => again::<Answer<Pulse>>(body),
        Kind::Append => raft::read_append(body).as_ref().map(write),
        Kind::Vote => again::<raft::Ballot>(body),
        Kind::Snapshot => again::<raft::Part>(body),
        Kind::Transfer => again::<raft::Handover>(body),
        Kind::Packet => again::<Packet>(body),
        Kind::Want => again::<(Want, Level)>(body),
        Kind::Answered => again::<Answered>(body),
    }
}

fn again<T: Serialize + DeserializeOwned>(body: &[u8]) -> Option<Vec<u8>> {
    protocol::read::<T>(body).as_ref().map(write)
}

fn write<T: Serialize>(what: &T) -> Vec<u8> {
    protocol::write(what).to_vec()
}

/// The first command of `bytes`, and what follows it.
#[must_use]
pub fn take_command(bytes: &[u8]) -> Option<(Command, &[u8])> {
    postcard::take_from_bytes(bytes).ok()
}

/// A word about founding a store.
#[must_use]
pub fn founding(body: &[u8]) -> Option<Message> {
    protocol::read(body)
}

/// What a server of the leaderless tier says.
#[must_use]
pub fn packet(body: &[u8]) -> Option<Packet> {
    protocol::read(body)
}

/// A record on the disk of such a server, written anew; `None` if it is none.
#[must_use]
pub fn reread_record(name: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    quorum::reread(name, value)
}
