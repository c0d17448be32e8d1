//! What is within a sealed packet: a message of SWIM, and what travels along. Also what two members compare over TCP.
//! Everything is read with bounds; what cannot be read is refused as a whole.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{fact::Facts, view::MemberId};

/// Most members that are read from one comparison: more than a mesh may have.
pub const MAX_MEMBERS: usize = 8192;

/// A packet cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the packet cannot be read")]
pub struct Unreadable;

/// What a member says about itself, with what tells old from new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactRecord {
    /// Who says it.
    pub id: MemberId,
    /// In which life.
    pub generation: u64,
    /// Rises with each change within that life.
    pub sequence: u32,
    /// It says that it goes.
    pub has_left: bool,
    /// Microseconds since 1970 by its own clock when it said so; for measuring only.
    pub said_at: u64,
    /// What it says.
    pub facts: Facts,
}

impl FactRecord {
    /// Whether this takes the place of `other`, which is of the same member.
    #[must_use]
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.generation, self.sequence) > (other.generation, other.sequence)
    }
}

/// One member does not hear from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accusation {
    /// Who does not hear.
    pub accuser: MemberId,
    /// Whom.
    pub target: MemberId,
    /// In which life of it.
    pub generation: u64,
    /// And since it spoke up for the how-manieth time.
    pub incarnation: u16,
}

/// What travels along with a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// News.
    Fact(FactRecord),
    /// News.
    Accusation(Accusation),
    /// To the receiver alone: you are suspected (Lifeguard: buddy system).
    Suspected {
        /// In which life.
        generation: u64,
        /// Since it spoke up for the how-manieth time.
        incarnation: u16,
    },
    /// To the receiver alone: the member that you asked me to try does not answer me either (Lifeguard: nack).
    Nack {
        /// The probe that it was asked for.
        probe: u8,
    },
    /// To the receiver alone: a member that you say is suspected has spoken up since.
    Refuted {
        /// Who.
        target: MemberId,
        /// In which life.
        generation: u64,
        /// For the how-manieth time.
        incarnation: u16,
    },
}

/// What a piece of news is about: a newer one about the same takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A member's facts.
    Fact(MemberId),
    /// What one thinks of another.
    Accusation(MemberId, MemberId),
    /// Nothing that is sent on.
    Private,
}

impl Item {
    /// What it is about.
    #[must_use]
    pub fn topic(&self) -> Topic {
        match self {
            Self::Fact(record) => Topic::Fact(record.id),
            Self::Accusation(accusation) => Topic::Accusation(accusation.accuser, accusation.target),
            Self::Suspected { .. } | Self::Nack { .. } | Self::Refuted { .. } => Topic::Private,
        }
    }

    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Into memory, of types that have a form: nothing can go wrong.
        postcard::to_allocvec(self).unwrap_or_default()
    }
}

/// Begins a packet with a message of SWIM, which may be empty.
#[must_use]
pub fn begin(swim: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(super::tuning::MAX_PACKET);
    // SWIM's messages are shorter than MAX_SWIM.
    packet.extend_from_slice(&(swim.len() as u16).to_be_bytes());
    packet.extend_from_slice(swim);
    packet
}

/// Takes a packet apart.
///
/// # Errors
/// It is not what [`begin`] and [`Item::encode`] make.
pub fn read(packet: &[u8]) -> Result<(&[u8], Vec<Item>), Unreadable> {
    let (length, rest) = packet.split_first_chunk::<2>().ok_or(Unreadable)?;
    let (swim, mut rest) = rest.split_at_checked(u16::from_be_bytes(*length).into()).ok_or(Unreadable)?;
    let mut items = Vec::new();
    while !rest.is_empty() {
        let (item, left) = postcard::take_from_bytes(rest).map_err(|_| Unreadable)?;
        items.push(item);
        rest = left;
    }
    Ok((swim, items))
}

/// One member as another sees it, as it is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Who.
    pub id: MemberId,
    /// In which life.
    pub generation: u64,
    /// Where it gossips.
    pub address: SocketAddr,
    /// Since it spoke up for the how-manieth time.
    pub incarnation: u16,
    /// What is thought of it.
    pub standing: Standing,
}

/// What is thought of a member, as SWIM has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It answers.
    Alive,
    /// It may not.
    Suspect,
    /// It is gone.
    Down,
}

/// All that a member knows, as it is compared with another's (memberlist: push/pull).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knowledge {
    /// The members, this one included.
    pub members: Vec<Seen>,
    /// What they say about themselves.
    pub facts: Vec<FactRecord>,
}

impl Knowledge {
    /// Whether it is of a size that can be.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        self.members.len() <= MAX_MEMBERS && self.facts.len() <= MAX_MEMBERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accusation() -> Item {
        Item::Accusation(Accusation {
            accuser: MemberId(1),
            target: MemberId(u64::MAX),
            generation: 7,
            incarnation: 3,
        })
    }

    #[test]
    fn packets_read_back_as_they_were_written() {
        let items = [
            accusation(),
            Item::Nack { probe: 9 },
            Item::Suspected { generation: 2, incarnation: 1 },
            Item::Refuted { target: MemberId(5), generation: 2, incarnation: 1 },
        ];
        let mut packet = begin(b"swim");
        items.iter().for_each(|item| packet.extend(item.encode()));
        assert_eq!(read(&packet), Ok((&b"swim"[..], items.to_vec())));
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let mut packet = begin(b"swim");
        packet.extend(accusation().encode());
        let whole = 6;
        for length in (0..packet.len()).filter(|length| *length != whole) {
            assert_eq!(read(&packet[..length]), Err(Unreadable), "{length}");
        }
    }
}
