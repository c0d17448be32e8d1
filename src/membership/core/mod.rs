//! Decisions of the membership: pure. Time and chance are arguments; packets are bytes that come in and go out.

pub mod fact;
pub mod view;
