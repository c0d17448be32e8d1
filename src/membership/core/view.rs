//! The mesh as one member sees it: what `directory` makes endpoints of, and what people are shown.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::fact::Facts;
use crate::types::Mono;

/// Stands for one node for as long as its data directory lives: drawn once, by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberId(#[serde(with = "fixed")] pub u64);

/// A number by chance is long: eight bytes are fewer than it would have as a number of variable length.
mod fixed {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        number.to_be_bytes().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        <[u8; 8]>::deserialize(from).map(u64::from_be_bytes)
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What is thought of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// It answers.
    Alive,
    /// Somebody did not get an answer; it has some time to speak up.
    Suspect,
    /// It did not answer and did not speak up.
    Dead,
    /// It said that it would go.
    Left,
}

impl MemberState {
    /// All.
    pub const ALL: [Self; 4] = [Self::Alive, Self::Suspect, Self::Dead, Self::Left];

    /// As it is shown and as it labels metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }
}

/// Whether requests may be sent to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routable {
    /// As to any other.
    Yes,
    /// Fewer: it is suspected.
    Thinned,
    /// Only if its service has nobody else: most members were lost at once, so it may well be us who are lost.
    LastResort,
    /// None: it takes none, is leaving, is gone, or has not proved who it is.
    No,
}

/// One member.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Who it is.
    pub id: MemberId,
    /// Which life of it: rises at each start.
    pub generation: u64,
    /// How often it had to speak up in this life.
    pub incarnation: u32,
    /// Where it gossips.
    pub address: SocketAddr,
    /// What is thought of it.
    pub state: MemberState,
    /// Since when.
    pub since: Mono,
    /// Whether it proved on a connection of its own that it is who it says to be. Always so where the mesh has no mTLS.
    pub is_confirmed: bool,
    /// Whether requests may be sent to it.
    pub routable: Routable,
    /// What it says about itself; `None` if that has not come yet.
    pub facts: Option<Arc<Facts>>,
    /// Who suspects it, at present.
    pub accusers: Vec<MemberId>,
    /// How long it took to answer the last probe; `None` if this node has not probed it.
    pub round_trip: Option<Duration>,
}

/// All members that are known, this node included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MembershipView {
    /// Rises with each change.
    pub revision: u64,
    /// This node.
    pub own: Option<MemberId>,
    /// By id.
    pub members: Vec<Arc<Member>>,
    /// How far this node distrusts itself: 0 not at all, up to 8. Its probes are slower and its accusations later by that much.
    pub health_score: u8,
    /// Most members were lost at once: more likely, this node is cut off.
    pub is_isolated: bool,
}

impl MembershipView {
    /// How many are in `state`.
    #[must_use]
    pub fn count(&self, state: MemberState) -> usize {
        self.members.iter().filter(|member| member.state == state).count()
    }
}
