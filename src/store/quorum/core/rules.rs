//! What goes into the machine of one server and what comes out of it, and the times and sizes that it keeps.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{clock::Stamp, hints::Hint, message::Packet, record::Record, session::Floor};
use crate::{
    store::core::key::{Key, OpId},
    types::Mono,
};

/// How a keyspace is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// On how many servers.
    pub replicas: usize,
    /// How many of them a quorum read asks.
    pub reads: usize,
    /// How many of them a quorum write waits for.
    pub writes: usize,
    /// How long a read takes at most.
    pub read_timeout: Duration,
    /// How long a write takes at most.
    pub write_timeout: Duration,
}

impl Default for Spec {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self { replicas: 3, reads: 2, writes: 2, read_timeout: second, write_timeout: second }
    }
}

/// How keyspaces are kept, by name.
pub type Specs = BTreeMap<String, Spec>;

/// Times and sizes of the protocol: the same on all servers.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How often a server looks after itself.
    pub tick: Duration,
    /// How often it compares its records with each other server.
    pub compare: Duration,
    /// How soon it compares again after it has found a difference, or sends a hint again.
    pub again: Duration,
    /// For so long a word of another server says that it is there.
    pub contact: Duration,
    /// For so long rings that differ count side by side.
    pub handover: Duration,
    /// How long a hint is kept.
    pub hint_ttl: Duration,
    /// Bytes of all hints.
    pub hint_room: usize,
    /// How old a removal is before it may be forgotten; a server that was away for longer forgets all. A server that is
    /// gone for so long has no part in the ring any more.
    pub tombstone_age: Duration,
    /// How long the ring must have been the same before removals are forgotten.
    pub ring_stable: Duration,
    /// How long writes are remembered.
    pub op_age: Duration,
    /// Bytes of all records.
    pub room: usize,
    /// An error that is planted, for tests and trials that must find it.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub planted: Option<Planted>,
}

/// An error that tests must find, and trials the first of them.
#[cfg(any(test, feature = "planted-bugs"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A hint counts as a replica that has the record.
    HintsCount,
    /// Removals are forgotten at once.
    ForgetsAtOnce,
    /// The token of a session is not looked at.
    IgnoresSession,
    /// A server that was away too long keeps what it had.
    KeepsOld,
}

impl Default for Rules {
    fn default() -> Self {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        Self {
            tick: second,
            compare: 10 * second,
            again: second,
            contact: 60 * second,
            handover: 60 * second,
            hint_ttl: 3 * hour,
            hint_room: 64 << 20,
            tombstone_age: 24 * hour,
            ring_stable: hour,
            op_age: 600 * second,
            room: 256 << 20,
            #[cfg(any(test, feature = "planted-bugs"))]
            planted: None,
        }
    }
}

/// What time it is.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For waiting.
    pub mono: Mono,
    /// Milliseconds since 1970, for stamps.
    pub wall_ms: u64,
}

/// How much is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// By as many replicas as the keyspace says.
    Quorum,
    /// No less than a session has seen; its writes are as with `Quorum`.
    Session(Floor),
    /// By any one.
    Eventual,
}

/// What a caller asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Want {
    /// What a key has.
    Get(Key),
    /// Sets a key, or removes it.
    Put(Key, OpId, Option<Bytes>),
    /// Keys in order.
    List {
        /// How they begin, with the whole name of their keyspace.
        prefix: String,
        /// Those after this one.
        after: Option<Key>,
        /// At most so many.
        limit: usize,
    },
}

/// What a caller is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// What the key has; with a removal, its stamp.
    Got(Option<Record>),
    /// It is written, with this stamp, and whether there was a value before, if that is known.
    Written(Stamp, bool),
    /// The keys, and after which one the next page begins.
    Listed(Vec<(Key, Record)>, Option<Key>),
    /// It is not done.
    Failed(Failure),
}

/// Why something is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// Too few replicas can be reached. Nothing has changed.
    #[error("too few servers that keep this key can be reached; `eventual` asks for one alone")]
    NoQuorum,
    /// Too few replicas have confirmed it in time. It may be there, or may still come.
    #[error("too few servers have confirmed it in time; a write may have happened, or may still")]
    TimedOut,
    /// No replica that can be reached has what the session has seen.
    #[error(
        "no server that can be reached has what this session has seen; ask again later, or begin a new session"
    )]
    Behind,
    /// The clocks of the servers are too far apart. It may be there all the same.
    #[error(
        "the clocks of servers are more than half a second apart: set them by NTP; a write may have happened"
    )]
    Clock,
    /// There is no room.
    #[error("servers that keep this key have no room: remove keys that are not needed")]
    Full,
    /// This server was away too long, and does not know yet what it missed.
    #[error(
        "this server was away for more than a day, and has not heard yet from most others what it missed"
    )]
    Returning,
    /// Too much is asked at once. Nothing has changed.
    #[error("too much is asked of this server at once; ask again later")]
    Busy,
}

/// Something goes in.
#[derive(Clone, Debug)]
pub enum Input {
    /// The servers that gossip knows, this one included.
    Peers(Vec<(u64, Reach)>),
    /// Another server says something.
    Received(u64, Packet),
    /// A caller asks something; the number is the caller's.
    Asked(u64, Want, Level),
    /// All batches up to this one are on the disk.
    Synced(u64),
}

/// What gossip says of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It answers, or may.
    There,
    /// It does not.
    Gone,
}

/// Something comes out.
#[derive(Clone, Debug)]
pub enum Output {
    /// To another server.
    Send(u64, Packet),
    /// To a caller.
    Answer(u64, Answer),
}

/// Something to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A record, or that there is none.
    Record(Key, Option<Record>),
    /// A hint, or that there is none.
    Hint(u64, Option<Hint>),
    /// A write that was seen, and when; or that it is forgotten.
    Op(OpId, Option<(Stamp, u64)>),
    /// The ring.
    Ring(Vec<u64>),
    /// When this server was last with the others, in milliseconds since 1970.
    Together(u64),
}

/// What has happened, in numbers that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records sent to replicas that a read found behind.
    pub read_repairs: u64,
    /// Hints kept.
    pub hints_queued: u64,
    /// Hints that have got there.
    pub hints_replayed: u64,
    /// Hints given up for their age or for room.
    pub hints_dropped: u64,
    /// Records that comparing has brought here.
    pub differences: u64,
    /// Removals forgotten.
    pub tombstones_collected: u64,
    /// Records refused because of their stamps.
    pub clock_refusals: u64,
    /// How often all was forgotten after too long an absence.
    pub purges: u64,
}

/// What was on the disk.
#[derive(Clone, Debug, Default)]
pub struct Loaded(pub Vec<Change>);
