//! The leaderless tier: keys of named keyspaces, kept by some servers each and read and written by quorum, by session or by
//! any one of them. What is decided is in core/; here it meets the disk, the network and those who ask.

mod agreement;
pub mod core;
mod disk;
mod driver;
mod handle;
mod keyspaces;
mod links;
#[cfg(test)]
mod tests;
mod token;

pub use agreement::{Agreement, Says};
pub use handle::{Consistency, Held, Listed, Quorum, QuorumStatus, Reached, Written};
pub use keyspaces::{Keyspace, KeyspaceLevel, Keyspaces};
pub use token::{Token, TokenError};

pub(super) use disk::{FILE, reread};
pub(super) use driver::{Driver, Opened};
pub(super) use handle::{ASK, Job, PACKET, answer, question, receive};
