//! The listeners as configured.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use super::{
    framing::{HeadLimits, TimeLimits},
    tcp::TcpListenerParams,
};
use crate::{identity::edge::EdgeParams, policy::limit::RateLimitParams, types::Direction};

/// Both listeners and what they have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenersParams {
    /// Network → local application; `None` does not listen.
    pub inbound: Option<ListenerParams>,
    /// Local application → services; `None` does not listen.
    pub outbound: Option<ListenerParams>,
    /// Local application → services that speak no HTTP, one listener for each.
    pub tcp: Vec<TcpListenerParams>,
    /// An inbound or redirected connection that is passed on as bytes, and on which nothing moves for this long, is closed.
    pub tcp_idle_timeout: Duration,
    /// Where protocols are detected, or connections redirected, a client that says nothing for this long is taken to wait for the other side to
    /// speak first; `None` takes it for a slow client of HTTP.
    pub detect_timeout: Option<Duration>,
    /// Accepted connections are asked where they were going before the firewall redirected them.
    pub transparent: bool,
    /// Most connections per listener; further ones are answered 503 and closed.
    pub max_connections: u32,
    /// Most new connections in a time, per listener; further ones are answered 503 and closed. `None` is no limit.
    pub connection_rate: Option<RateLimitParams>,
    /// Most requests in flight per listener; further ones are answered 503. Zero is no limit.
    pub max_requests: u32,
    /// From the first byte of a head to its last, and from accept to the first byte.
    pub header_timeout: Duration,
    /// A connection without a request for this long is closed.
    pub idle_timeout: Duration,
    /// From the head of a request to the end of its body; `None` is no limit.
    pub request_timeout: Option<Duration>,
    /// A body (in either direction) that makes no progress for this long ends its request.
    pub stream_idle_timeout: Duration,
    /// Largest request head.
    pub max_header_bytes: u32,
    /// Most header fields in a request.
    pub max_headers: u32,
    /// What becomes of requests that servers read in several ways.
    pub normalisation: Normalisation,
    /// Who must prove who it is.
    pub mtls: MtlsParams,
}

/// Mutual TLS on the inbound listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MtlsParams {
    /// Who gets in.
    pub mode: MtlsMode,
    /// From the first byte of a handshake to its end.
    pub handshake_timeout: Duration,
    /// Handshakes that go on at once, in the whole process; further ones wait, at most for `handshake_timeout`.
    pub max_handshakes: u32,
}

/// Who gets in on the inbound listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtlsMode {
    /// Who proves to be of the mesh.
    #[default]
    Strict,
    /// The same, and whoever speaks plaintext.
    Permissive,
    /// Everybody, in plaintext.
    Disabled,
}

/// What becomes of requests that are well-formed, but that servers read in several ways. Whatever it is, it happens
/// before anything is decided, and what was decided upon is what is sent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Normalisation {
    /// `%2f` and `%5c` in a path.
    pub escaped_slashes: EscapedSlashes,
    /// Takes several slashes in a row for one.
    pub merge_slashes: bool,
    /// `_` in names of fields.
    pub underscores: Underscores,
}

/// What becomes of `%2f` and `%5c` in a path. In any case a path is refused in which they hide a `..` segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They are characters like any other.
    #[default]
    Keep,
    /// They become `/`.
    Unescape,
    /// The request is refused.
    Reject,
}

/// What becomes of fields with `_` in their name, which CGI and its heirs cannot tell from `-`. In any case those are
/// dropped that would be taken for one that only sidecars may set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// They pass.
    #[default]
    Allow,
    /// They are dropped.
    Drop,
    /// The request is refused.
    Reject,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerParams {
    /// Where it listens; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Hands an accepted connection to the worker with the fewest, rather than to whom the kernel chose.
    pub balance_connections: bool,
    /// Connections must begin with a PROXY header, which tells whose they are.
    pub requires_proxy_header: bool,
    /// Connections that do not begin with HTTP are passed on as bytes. Only of meaning on the inbound side.
    pub detect: bool,
    /// Redirected connections that are for nobody the sidecar knows go on to where they were going.
    pub passthrough: bool,
    /// What clients outside of the mesh are shown; `None` takes plaintext. Only of meaning on the outbound side.
    pub tls: Option<EdgeParams>,
}

impl ListenersParams {
    /// Whether connections on `side` may speak something else than HTTP.
    pub(crate) fn detects(&self, side: Direction) -> bool {
        side == Direction::Inbound && self.inbound.as_ref().is_some_and(|listener| listener.detect)
    }

    /// Whether connections on `side` must begin with a PROXY header.
    pub(crate) fn requires_proxy_header(&self, side: Direction) -> bool {
        let listener = match side {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        };
        listener.as_ref().is_some_and(|listener| listener.requires_proxy_header)
    }

    /// What the framing guard enforces on heads.
    pub(crate) fn head_limits(&self) -> Rc<HeadLimits> {
        Rc::new(HeadLimits {
            max_bytes: self.max_header_bytes as usize,
            max_headers: self.max_headers as usize,
        })
    }

    /// What the sweeper enforces.
    pub(crate) fn time_limits(&self) -> TimeLimits {
        TimeLimits {
            header: self.header_timeout,
            idle: self.idle_timeout,
            stream_idle: self.stream_idle_timeout,
        }
    }
}
