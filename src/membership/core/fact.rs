//! What a member says about itself: nobody else may, so there is never a conflict to settle.

use std::{net::SocketAddr, sync::Arc};

use crate::types::Tags;

/// What one member says about itself. Whatever changes it is told to everybody with the next number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Name of the node; nobody else in the mesh may have it. `[a-zA-Z0-9._-]{1,64}`.
    pub node: Arc<str>,
    /// Name of the service that it stands beside, which is also whose identity it proves. `[a-zA-Z0-9._-]{1,64}`.
    pub service: Arc<str>,
    /// Where others reach the inbound listener of its sidecar; `None` if it takes no requests.
    pub endpoint: Option<SocketAddr>,
    /// What the application speaks.
    pub speaks: Speaks,
    /// Whether mutual TLS is spoken at `endpoint`.
    pub secured: bool,
    /// Its share beside other endpoints of the service, 1 to 1000.
    pub weight: u16,
    /// What it is called beside its name; `zone` and `version` among them.
    pub tags: Tags,
    /// What the check of its own application says.
    pub health: Health,
    /// It is about to leave: what is being answered is finished, nothing new should come.
    pub is_draining: bool,
    /// Requests that it is answering, as a power of two: 0 for none, else 1 + ⌊log₂⌋. Told now and then, not at each change.
    pub load: u8,
    /// Version of its program.
    pub version: Arc<str>,
    /// Marks of the gossip keys that it has; the first is the one that it seals with.
    pub keys: Vec<u32>,
}

/// What an application speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1 and HTTP/2, whatever is asked.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything: bytes.
    Tcp,
}

/// What the check of an application by its own sidecar says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// There is no check: it is trusted.
    #[default]
    Unchecked,
    /// It answers as it should.
    Healthy,
    /// It does not.
    Unhealthy,
}
