//! What nodes say to each other while they found a store, and what they write down. Decides nothing.

use serde::{Deserialize, Serialize};

/// Names a store, and in its last 16 bits the epoch of it: 0 when it is founded, and one more each time that it is gone on
/// with from the disk of one server (docs/adr/0028). Drawn by chance by whoever first proposed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(pub u64);

impl StoreId {
    /// The first epoch of a store; `chance` is more than the epoch has room for.
    #[must_use]
    pub fn fresh(chance: u64) -> Self {
        Self(chance.max(1 << EPOCH_BITS) & !EPOCHS)
    }

    /// How often it was gone on with from one disk.
    #[must_use]
    pub fn epoch(self) -> u64 {
        self.0 & EPOCHS
    }

    /// The same store in its next epoch; `None` after the last one.
    #[must_use]
    pub fn next_epoch(self) -> Option<Self> {
        (self.epoch() < EPOCHS).then_some(Self(self.0 + 1))
    }

    /// Whether both are epochs of one store.
    #[must_use]
    pub fn is_kin(self, other: Self) -> bool {
        self.0 >> EPOCH_BITS == other.0 >> EPOCH_BITS
    }

    /// Whether `later` is a later epoch of the same store.
    #[must_use]
    pub fn is_before(self, later: Self) -> bool {
        self.is_kin(later) && self < later
    }
}

const EPOCH_BITS: u32 = 16;
const EPOCHS: u64 = (1 << EPOCH_BITS) - 1;

/// The first voters of a store: 1, 3 or 5 different nodes, in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u64>", into = "Vec<u64>")]
pub struct Members(Vec<u64>);

/// A list of nodes cannot found a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the first members of a store are 1, 3 or 5 different nodes, in the order of their ids")]
pub struct MembersError;

/// Which try of whom. Later ones are greater; no two nodes have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// Counts up; 0 is before the first.
    pub round: u64,
    /// Whose try it is.
    pub proposer: u64,
}

/// A store that might be founded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Proposal {
    /// Its first voters.
    pub members: Members,
    /// Its name.
    pub store: StoreId,
}

/// A vote that was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// In which try.
    pub ballot: Ballot,
    /// For what.
    pub proposal: Proposal,
}

/// What a node must never forget, nor its disk lose: to whom it is bound, and for what it last voted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// It heeds no earlier ballot than this one.
    pub ballot: Ballot,
    /// Its last vote.
    pub accepted: Option<Accepted>,
}

/// Which seeds a node was configured with. Majorities of different lists need not meet, so all nodes must have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedList {
    /// How many there are.
    pub count: u32,
    /// The same for two nodes if their lists are; how it is made is the caller's business.
    pub digest: u64,
}

/// Why a node gives no promise or vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// It is bound to this ballot.
    Bound(Ballot),
    /// It belongs to a store.
    Founded(StoreId),
    /// It was configured with other seeds.
    OtherSeeds,
    /// It was to be a member and may not.
    Ineligible,
}

/// A word from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Be bound to me.
    Propose {
        /// My try.
        ballot: Ballot,
        /// My seeds.
        seeds: SeedList,
        /// Whom I want to found a store.
        members: Members,
    },
    /// I am bound to you.
    Promised {
        /// The try that it answers.
        ballot: Ballot,
        /// My last vote before.
        accepted: Option<Accepted>,
    },
    /// Vote for this.
    Confirm {
        /// My try.
        ballot: Ballot,
        /// My seeds.
        seeds: SeedList,
        /// For what.
        proposal: Proposal,
    },
    /// I have voted for it.
    Confirmed {
        /// The try that it answers.
        ballot: Ballot,
    },
    /// I do neither.
    Refused {
        /// The try that it answers.
        ballot: Ballot,
        /// Why.
        why: Refusal,
    },
    /// You are bound to me no longer.
    Abandon {
        /// The try that is over.
        ballot: Ballot,
    },
    /// A majority of the seeds has voted for this: its members found it.
    Decided(Proposal),
}

impl Members {
    /// # Errors
    /// If these nodes cannot found a store.
    pub fn new(nodes: Vec<u64>) -> Result<Self, MembersError> {
        let fits = matches!(nodes.len(), 1 | 3 | 5) && nodes.is_sorted_by(|one, next| one < next);
        if fits { Ok(Self(nodes)) } else { Err(MembersError) }
    }

    /// In the order of their ids.
    #[must_use]
    pub fn nodes(&self) -> &[u64] {
        &self.0
    }

    /// Whether `node` is one of them.
    #[must_use]
    pub fn contains(&self, node: u64) -> bool {
        self.0.contains(&node)
    }
}

impl TryFrom<Vec<u64>> for Members {
    type Error = MembersError;

    fn try_from(nodes: Vec<u64>) -> Result<Self, MembersError> {
        Self::new(nodes)
    }
}

impl From<Members> for Vec<u64> {
    fn from(members: Members) -> Self {
        members.0
    }
}

impl SeedList {
    /// How many seeds are more than half of them.
    #[must_use]
    pub fn majority(self) -> usize {
        self.count as usize / 2 + 1
    }
}
