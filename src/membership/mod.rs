//! Who is in the mesh: sidecars find each other by gossip (SWIM with Lifeguard), tell each other what each alone knows about
//! itself, and notice who is gone. `core` decides and is pure; the rest moves bytes. What is done with the members is
//! another's business: `directory` makes endpoints of them.

pub mod core;
mod handle;
mod mark;
mod order;
mod params;

pub use self::{
    core::{
        fact::{Facts, Health, Speaks},
        view::{Member, MemberId, MemberState, MembershipView, Routable},
    },
    handle::{AskedOrder, Handle},
    order::{KeyHolders, KeyMark, KeyMarkError, KeyringError, KeyringOrder, KeyringReport},
    params::{GossipKey, GossipKeyError, Params, Profile, Seed},
};
