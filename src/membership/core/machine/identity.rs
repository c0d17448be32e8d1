//! Who a member is to SWIM's engine, and where its chance comes from.

use std::{convert::Infallible, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::membership::core::{
    roster::Sight,
    view::{MemberId, MemberState},
};

/// One life of one member. The member is the same as long as its id is; what counts is its latest life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) id: MemberId,
    pub(super) generation: u64,
    pub(super) address: SocketAddr,
}

impl foca::Identity for Identity {
    type Addr = MemberId;

    /// Whoever was declared dead and is not begins another life: death cannot be taken back.
    fn renew(&self) -> Option<Self> {
        Some(Self { generation: self.generation.saturating_add(1), ..self.clone() })
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
