//! Unary calls between the nodes of a mesh: a body goes there, a body comes back, within a deadline. HTTP/2 on a port of
//! its own, within the mTLS of the mesh where it has one. What is said in the bodies is another's business.
//!
//! What is guaranteed: a call is answered by the node that was meant, and by no other; at most once (nothing is sent a
//! second time that may have arrived); and who called knows whether the other certainly did nothing
//! ([`Failure::is_undone`]).

mod answer;
mod caller;
mod known;
mod line;
mod server;
#[cfg(test)]
mod tests;
mod traffic;
mod wire;

use std::{fmt, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;

pub use self::{
    caller::{Caller, Failure, Part, RpcError},
    known::{Known, Unproved},
    server::Rpc,
    wire::{LARGEST, LONGEST},
};
use crate::types::{Mono, SpiffeId};

/// Longest name of a method.
const LONGEST_METHOD: usize = 64;

/// Three connections to each peer, so that a snapshot never delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Heartbeats and votes: small, and late within a tenth of a second.
    Beat,
    /// Entries of the log, and reads and writes.
    Log,
    /// Snapshots, and what else is large.
    Bulk,
}

/// Who is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its number. Another node at its address does not answer in its place.
    pub node: u64,
    /// Where its port for calls is.
    pub address: SocketAddr,
}

/// Who a node is to the others.
#[derive(Clone, Debug)]
pub struct Own {
    /// The cluster, of which both sides must be.
    pub cluster: Arc<str>,
    /// Its number in the cluster.
    pub node: u64,
}

/// Which node calls, and how long it waits, by the head of a call to `node` of `cluster`: for tests of how that is read.
///
/// # Errors
/// It is not meant for that node, or says too little.
pub fn read_head(headers: &http::HeaderMap, cluster: &str, node: u64) -> Result<(u64, Duration), Refusal> {
    let own = Own { cluster: cluster.into(), node };
    let wire::Head { from, limit } = wire::Head::read(headers, &wire::cluster_value(&own), node)?;
    Ok((from, limit))
}

/// What is asked for: 1 to 64 bytes of `a` to `z`, `_` and `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Method(Box<str>);

impl Method {
    /// `None` if `name` is no name of a method.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::is_name(name).then(|| Self(name.into()))
    }

    fn is_name(name: &str) -> bool {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte == b'_' || byte == b'/';
        (1..=LONGEST_METHOD).contains(&name.len()) && name.bytes().all(allowed)
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A call to this node.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is asked for.
    pub method: Method,
    /// The node that it says it is. With [`Rpc::knowing`], one of the service whose identity is that of `caller`: sidecars
    /// of one service have the same, and can take each other's number.
    pub from: u64,
    /// The identity that the caller has proved, of the trust domain of the mesh; `None` without mTLS.
    pub caller: Option<SpiffeId>,
    /// At most [`LARGEST`] bytes.
    pub body: Bytes,
    /// When the caller does not wait any more. At most [`LONGEST`] ahead.
    pub deadline: Mono,
}

/// Why a call is not answered. Nothing was done, and nothing will be, but for the two statuses that say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400 to 599; what is not counts as 500. Where something may have been done it is 502, or 504 if there was no time.
    pub status: StatusCode,
    /// For people. What is longer than 512 bytes is cut.
    pub text: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

/// Answers calls. Any number of them at once.
pub trait Answering: Send + Sync + 'static {
    /// The answer to `call`, of at most [`LARGEST`] bytes. It is dropped when the caller goes away or its deadline has
    /// passed: what must not be given up half done belongs into a task.
    fn answer(&self, call: Call) -> Pin<Box<dyn Future<Output = Result<Bytes, Refusal>> + Send>>;
}
