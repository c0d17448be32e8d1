//! Decisions of the membership: pure. Time and chance are arguments; packets are bytes that come in and go out.

pub mod broadcast;
pub mod envelope;
pub mod fact;
pub mod lifeguard;
pub mod machine;
pub mod message;
pub mod packet;
pub mod roster;
pub mod tuning;
pub mod view;
