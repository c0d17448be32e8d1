//! Who is in the mesh: sidecars find each other by gossip (SWIM with Lifeguard), tell each other what each alone knows about
//! itself, and notice who is gone. `core` decides and is pure; the rest moves bytes. What is done with the members is
//! another's business: `directory` makes endpoints of them.

mod answers;
mod call;
pub mod core;
mod driver;
mod errands;
mod handle;
mod home;
mod journal;
mod order;
mod params;
mod rotation;
mod sockets;

pub use self::{
    core::{
        fact::{Facts, Health, Speaks, StorePlace},
        view::{Member, MemberId, MemberState, MembershipView, Routable},
    },
    driver::{Membership, StartError},
    errands::Lookup,
    handle::{AskedOrder, Handle},
    home::{HomeError, kept_id},
    order::{KeyHolders, KeyMark, KeyMarkError, KeyringError, KeyringOrder, KeyringReport},
    params::{GossipKey, GossipKeyError, Params, Profile, Seed},
};
