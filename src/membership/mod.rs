//! Who is in the mesh: sidecars find each other by gossip (SWIM with Lifeguard), tell each other what each alone knows about
//! itself, and notice who is gone. `core` decides and is pure; the rest moves bytes. What is done with the members is
//! another's business: `directory` makes endpoints of them.

pub mod core;
mod order;
mod params;

pub use self::{
    core::{
        fact::{Facts, Health, Speaks},
        view::{Member, MemberId, MemberState, MembershipView, Routable},
    },
    order::{KeyHolders, KeyMark, KeyringError, KeyringOrder, KeyringReport},
    params::{GossipKey, GossipKeyError, Params, Profile, Seed},
};
