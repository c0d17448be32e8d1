//! Who a member is to SWIM's engine, and where its chance comes from.

use std::{convert::Infallible, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::membership::core::{
    packet::{self, MAX_LIFE},
    roster::Sight,
    view::{MemberId, MemberState},
};

/// One life of one member. The member is the same as long as its id is; what counts is its latest life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) id: MemberId,
    #[serde(deserialize_with = "packet::life")]
    pub(super) generation: u64,
    pub(super) address: SocketAddr,
}

impl Identity {
    /// A life of the same member that is later than this one and than that of `generation`; the last one if there is none
    /// that late. Two in the last life are one to all others, who then go on listening; nobody would to one beyond it.
    pub(super) fn after(&self, generation: u64) -> Self {
        let later = self.generation.max(generation).saturating_add(1).min(MAX_LIFE);
        Self { generation: later, ..self.clone() }
    }
}

impl foca::Identity for Identity {
    type Addr = MemberId;

    /// Whoever was declared dead and is not begins another life: death cannot be taken back. `None` after the last one.
    fn renew(&self) -> Option<Self> {
        Some(self.after(self.generation)).filter(|next| next != self)
    }

    fn addr(&self) -> MemberId {
        self.id
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        // With the same number one of the two must win, the same everywhere.
        (self.generation, self.address) > (other.generation, other.address)
    }
}

/// Whether `told` says of a member what is known: the same, or that a life that is over is over.
pub(super) fn is_known(known: &Sight, told: &foca::Member<Identity>) -> bool {
    known.generation == told.id().generation
        && known.address == told.id().address
        && match known.state {
            MemberState::Alive => {
                known.incarnation == told.incarnation() && told.state() == foca::State::Alive
            }
            MemberState::Suspect => {
                known.incarnation == told.incarnation() && told.state() == foca::State::Suspect
            }
            MemberState::Dead | MemberState::Left => true,
        }
}

/// The generator that the engine draws from.
#[derive(Debug)]
pub(super) struct Chance(pub(super) fastrand::Rng);

impl rand::TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.u32(..))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.u64(..))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use foca::Identity as _;

    use super::*;

    fn identity(generation: u64) -> Identity {
        Identity { id: MemberId(1), generation, address: ([10, 0, 0, 1], 7946).into() }
    }

    #[test]
    fn a_life_is_followed_by_a_later_one_until_the_last() {
        assert_eq!(identity(7).renew(), Some(identity(8)));
        assert_eq!(identity(7).after(100), identity(101));
        assert_eq!(identity(7).after(MAX_LIFE), identity(MAX_LIFE));
        assert_eq!(identity(MAX_LIFE - 1).renew(), Some(identity(MAX_LIFE)));
        assert_eq!(identity(MAX_LIFE).renew(), None);
    }
}
