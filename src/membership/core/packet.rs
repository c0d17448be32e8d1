//! What is within a sealed packet: a message of SWIM, and what travels along. Also what two members compare over TCP.
//! Everything is read with bounds; what cannot be read is refused as a whole.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::{fact::Facts, view::MemberId};

/// Most members that are read from one comparison: more than a mesh may have.
pub const MAX_MEMBERS: usize = 8192;
/// The last life that a member can have. Lives are counted from the microseconds since 1970 of a first start, one by one from
/// there, so no clock that was ever set by hand or by mistake comes near: this is the year 38504. What says to be later was
/// forged, and would leave nothing to take its place; all that comes from outside is refused beyond it. It is the same number
/// for all and has nothing to do with their clocks: else one that is slow would refuse whole packets of those who believed
/// what it does not. It does not keep a forger from naming this one; what comes of that is in home.rs.
pub const MAX_LIFE: u64 = 1 << 60;

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
    #[serde(deserialize_with = "life")]
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
    #[serde(deserialize_with = "life")]
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
        #[serde(deserialize_with = "life")]
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
        #[serde(deserialize_with = "life")]
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
    #[serde(deserialize_with = "life")]
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

/// Reads which life of a member it is.
///
/// # Errors
/// It is later than [`MAX_LIFE`].
pub(super) fn life<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let life = u64::deserialize(from)?;
    if life <= MAX_LIFE { Ok(life) } else { Err(D::Error::custom("no member has a life so late")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::core::fact::tests::facts;

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

    #[test]
    fn a_life_that_no_clock_leads_to_is_refused_wherever_it_is_spoken_of() {
        let (id, incarnation) = (MemberId(5), 1);
        for (generation, is_read) in [(MAX_LIFE, true), (MAX_LIFE + 1, false), (u64::MAX, false)] {
            let facts = facts("web-1");
            let record = FactRecord { id, generation, sequence: 1, has_left: false, said_at: 0, facts };
            let items = [
                Item::Fact(record),
                Item::Accusation(Accusation { accuser: MemberId(1), target: id, generation, incarnation }),
                Item::Suspected { generation, incarnation },
                Item::Refuted { target: id, generation, incarnation },
            ];
            for item in items {
                let packet = [begin(&[]), item.encode()].concat();
                assert_eq!(read(&packet).is_ok(), is_read, "{item:?}");
            }
            let address = ([10, 0, 0, 1], 7946).into();
            let seen = Seen { id, generation, address, incarnation, standing: Standing::Alive };
            let seen = postcard::to_allocvec(&seen).unwrap();
            assert_eq!(postcard::from_bytes::<Seen>(&seen).is_ok(), is_read, "{generation}");
        }
    }
}
