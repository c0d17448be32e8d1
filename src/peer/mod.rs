//! Sidecars among each other, beside the requests of applications: certificates are asked for and signed here,
//! and nodes call nodes (rpc). Knows nothing of routes and services; what is done with a certificate is another's business.

mod client;
mod pace;
mod protocol;
pub mod rpc;
mod schedule;
mod server;
mod source;

pub use client::AskError;
pub use protocol::{Bundle, MeshPhase};
pub use schedule::{backoff, is_due, life, look_interval, renew_at};
pub use server::{Service, ServiceError, ServiceParams};
pub use source::{Obtained, Proof, Source, SourceError, Wanted};
