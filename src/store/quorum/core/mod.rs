//! The leaderless tier as values: records that merge, who keeps which, and one machine per server that reads, writes and
//! repairs them. Pure: time, chance, messages and the disk are arguments.

pub mod clock;
pub mod hints;
pub mod machine;
pub mod merkle;
pub mod message;
mod read;
pub mod record;
mod removals;
mod repair;
pub mod ring;
pub mod rules;
mod scan;
pub mod session;
pub mod table;
#[cfg(test)]
mod tests;
mod write;
