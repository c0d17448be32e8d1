//! What a member begins with, and what comes out of it.

use std::{net::SocketAddr, time::Duration};

use crate::membership::core::{
    fact::Facts,
    tuning::Tuning,
    view::{MemberId, MemberState},
};

/// What a member begins with.
#[derive(Debug)]
pub struct Setup {
    /// Who it is.
    pub id: MemberId,
    /// Which start of it: greater than that of any earlier one.
    pub generation: u64,
    /// Where others reach it.
    pub address: SocketAddr,
    /// How patient it is.
    pub tuning: Tuning,
    /// What it says about itself.
    pub facts: Facts,
    /// When by its own clock, in microseconds since 1970.
    pub said_at: u64,
    /// Whether members must prove who they are before they are sent requests.
    pub needs_proof: bool,
    /// Its chance.
    pub rng: fastrand::Rng,
}

/// What comes out.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// To be sealed and sent.
    Send {
        /// Where to.
        to: SocketAddr,
        /// What.
        packet: Vec<u8>,
    },
    /// To be written down and counted.
    Event(Event),
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// What is thought of a member has changed.
    Member {
        /// Of whom.
        id: MemberId,
        /// To what.
        state: MemberState,
        /// Who said so: the sender of the packet, or this node itself.
        by: MemberId,
        /// Who accuses it, if it is suspected or dead.
        accusers: Vec<MemberId>,
    },
    /// News of a member about itself, that it said so long ago by its clock and ours, as far as they agree.
    Fact {
        /// Who.
        id: MemberId,
        /// When it said so, in microseconds since 1970.
        said_at: u64,
    },
    /// A probe was answered directly within that time.
    Answered(Duration),
    /// A probe was not answered, neither to us nor to those we asked.
    Unanswered(MemberId),
    /// This node was suspected and has said that it is there.
    SpokeUp {
        /// For the how-manieth time.
        incarnation: u16,
    },
    /// This node was declared dead and has begun another life.
    Returned {
        /// Which.
        generation: u64,
    },
    /// This node did nothing for so long; what it should have heard meanwhile is waited for again.
    Lagged(Duration),
    /// Somebody else says to be this node: its data directory was copied.
    Impostor(SocketAddr),
    /// Somebody spoke in the name of this node, and later than it did itself; it has begun another life.
    Misquoted,
    /// Most members were lost at once, or enough of them are back.
    Isolated(bool),
}
