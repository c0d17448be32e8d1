//! What is counted per service whose connections are passed on as bytes.

use std::sync::Arc;

use super::{HotCounter, HotGauge, Registry, family};
use crate::types::Direction;

/// The numbers of the TCP connections of one service on one side.
#[derive(Debug)]
pub struct TcpMetrics {
    received: Arc<HotCounter>,
    sent: Arc<HotCounter>,
    open: Arc<HotGauge>,
    ended: [metrics::Counter; TcpResult::ALL.len()],
}

/// How a TCP connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpResult {
    /// Both sides said that they are done.
    Closed,
    /// Nothing moved for too long.
    Idle,
    /// The client broke the connection.
    DownstreamReset,
    /// The endpoint broke the connection.
    UpstreamReset,
    /// No connection to an endpoint could be made.
    UpstreamConnect,
    /// The service has no endpoint that may be used.
    NoHealthyEndpoint,
    /// The endpoints are at their limit of connections.
    UpstreamOverflow,
    /// The listener is at its limit of connections.
    Overload,
    /// No service for the name that the client asked for, or the service is gone from the configuration.
    NoRoute,
    /// What the client sent first is not what the listener needs: a ClientHello, a PROXY header.
    BadRequest,
    /// What the listener needs did not come in time.
    DownstreamTimeout,
    /// The caller may not connect.
    Denied,
    /// The client spoke HTTP where the application takes it only as such, and not as bytes.
    Http,
    /// The sidecar ended before the connection did.
    Draining,
}

impl TcpResult {
    const ALL: [Self; 14] = [
        Self::Closed,
        Self::Idle,
        Self::DownstreamReset,
        Self::UpstreamReset,
        Self::UpstreamConnect,
        Self::NoHealthyEndpoint,
        Self::UpstreamOverflow,
        Self::Overload,
        Self::NoRoute,
        Self::BadRequest,
        Self::DownstreamTimeout,
        Self::Denied,
        Self::Http,
        Self::Draining,
    ];

    /// The value of the metric label `result`, and of the access log's field.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle_timeout",
            Self::DownstreamReset => "downstream_reset",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamConnect => "upstream_connect",
            Self::NoHealthyEndpoint => "no_healthy_endpoint",
            Self::UpstreamOverflow => "upstream_overflow",
            Self::Overload => "overload",
            Self::NoRoute => "no_route",
            Self::BadRequest => "bad_request",
            Self::DownstreamTimeout => "downstream_timeout",
            Self::Denied => "denied",
            Self::Http => "http",
            Self::Draining => "draining",
        }
    }

    /// Whether the client did not get what it came for, and not by its own doing or for lack of use.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        !matches!(self, Self::Closed | Self::Idle | Self::DownstreamReset | Self::Draining)
    }
}

impl TcpMetrics {
    /// The handle for this service on this side. Each call gives the same counters.
    #[must_use]
    pub fn resolve(registry: &Registry, direction: Direction, service: &str) -> Arc<Self> {
        let labels = [("direction", direction.as_str()), ("service", service)];
        let bytes = |side| registry.hot_counter(&family::TCP_BYTES, &[labels[0], labels[1], ("side", side)]);
        let ended = |result: TcpResult| {
            registry
                .counter(&family::TCP_CONNECTIONS_TOTAL, &[labels[0], labels[1], ("result", result.as_str())])
        };
        Arc::new(Self {
            received: bytes("received"),
            sent: bytes("sent"),
            open: registry.hot_gauge(&family::TCP_CONNECTIONS, &labels),
            ended: TcpResult::ALL.map(ended),
        })
    }

    /// Bytes from clients that were passed on.
    #[must_use]
    pub fn received(&self) -> &Arc<HotCounter> {
        &self.received
    }

    /// Bytes that were passed on to clients.
    #[must_use]
    pub fn sent(&self) -> &Arc<HotCounter> {
        &self.sent
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> &Arc<HotGauge> {
        &self.open
    }

    /// Counts a connection that has ended.
    pub fn ended(&self, result: TcpResult) {
        self.ended[result as usize].increment(1);
    }
}
