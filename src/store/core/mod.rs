//! The strong tier as a value: a map whose every change is a command of the replicated log. Pure: time comes with the
//! command, as the leader read it, so that all replicas come to the same state.

pub mod autopilot;
pub mod bootstrap;
pub mod command;
pub mod key;
pub mod kv;
pub mod log_time;
pub mod order;
pub mod outcome;
