//! A service as configured: where its endpoints come from and how they are used.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};

use crate::{
    identity::external::ExternalTlsParams,
    policy::{
        affinity::AffinityParams, balance::BalanceParams, breaker::BreakerParams, locality::ZoneParams,
        outlier::OutlierParams, retry::BudgetParams,
    },
    types::{EndpointAddress, ProxyVersion, Tags},
};

/// One service (Envoy: cluster).
#[derive(Clone, Debug)]
pub struct ClusterParams {
    /// Unique; a metric label, `[a-zA-Z0-9._-]{1,64}`.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub source: EndpointSource,
    /// What its endpoints speak.
    pub protocol: Protocol,
    /// What its connections are secured with.
    pub tls: UpstreamTlsParams,
    /// The PROXY header that is put in front of TCP connections; `None` puts none.
    pub send_proxy: Option<ProxyVersion>,
    /// How one is chosen.
    pub balance: BalanceParams,
    /// Limit of one attempt to connect.
    pub connect_timeout: Duration,
    /// A pooled connection that nobody used for this long is closed.
    pub idle_timeout: Duration,
    /// What one sidecar may have open or waiting.
    pub limits: Limits,
    /// How many retries its traffic pays for.
    pub retry_budget: BudgetParams,
    /// Active checks; `None` trusts every endpoint.
    pub health_check: Option<HealthCheckParams>,
    /// Keeps attempts from endpoints that fail; `None` never does.
    pub circuit_breaker: Option<BreakerParams>,
    /// Puts out endpoints that do worse than their peers; `None` never does.
    pub outlier_detection: Option<OutlierParams>,
    /// How long an endpoint that discovery found later takes to get its full share; zero: none.
    pub slow_start: Duration,
    /// Below this share of healthy endpoints all are used; 0 switches panic routing off. Percent, 0 to 100.
    pub panic_threshold_percent: u8,
    /// How traffic is divided among the zones of the endpoints.
    pub zones: ZoneParams,
    /// Where requests go whose route asks for tags that no endpoint has.
    pub subset_fallback: SubsetFallback,
    /// The cookie that brings a client back to its endpoint; `None` sets none.
    pub affinity: Option<AffinityParams>,
}

/// What connections to the endpoints of a service are secured with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UpstreamTlsParams {
    /// The mTLS of the mesh: its endpoints are sidecars, and prove to be of this service.
    Mesh,
    /// Nothing.
    #[default]
    Disabled,
    /// TLS to somebody outside of the mesh.
    External(ExternalTlsParams),
}

/// What becomes of requests for a subset of a service in which there is nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubsetFallback {
    /// They fail.
    #[default]
    None,
    /// They go to any endpoint of the service.
    Any,
}

/// Where endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum EndpointSource {
    /// A fixed list.
    Static(Vec<EndpointParams>),
    /// A name, resolved again whenever its TTL ends, but not more often than `min_refresh`.
    Dns {
        /// Absolute name; for SRV the full `_service._proto.name`.
        name: Arc<str>,
        /// Port for A/AAAA records; `None` means that SRV records give port and weight.
        port: Option<u16>,
        /// At least this long between look-ups, however short the TTL is.
        min_refresh: Duration,
    },
    /// Whoever in the mesh says to stand beside an instance of the service.
    Mesh,
}

/// One endpoint, as listed or found.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointParams {
    /// Where it listens.
    pub address: EndpointAddress,
    /// 1 to 1000.
    pub weight: u32,
    /// 0 is asked first, [`MAX_PRIORITY`](crate::policy::locality::MAX_PRIORITY) last.
    pub priority: u8,
    /// What it is called beside its address.
    pub tags: Tags,
}

impl EndpointParams {
    /// An endpoint of which nothing is known but its address.
    #[must_use]
    pub fn new(address: EndpointAddress) -> Self {
        Self { address, weight: 1, priority: 0, tags: Tags::default() }
    }
}

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What the client spoke: HTTP/2 requests go up as HTTP/2 (h2c), HTTP/1 requests as HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything: bytes are passed on as they come.
    Tcp,
}

/// Bounds of what one sidecar may have open or waiting for one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight, those that wait between two attempts included.
    pub max_requests: u32,
    /// Requests that are being repeated at the same time.
    pub max_retries: u32,
    /// Connections per endpoint; shared out evenly among the workers, at least one each.
    pub max_connections: u32,
    /// Requests per endpoint and worker that may wait for a connection.
    pub max_pending_requests: u32,
    /// Longest wait for a connection once `max_connections` is reached.
    pub queue_timeout: Duration,
    /// A connection is closed after this many requests; `None` never.
    pub max_requests_per_connection: Option<u32>,
    /// A connection takes no new request after this age; `None` never.
    pub max_connection_age: Option<Duration>,
}

/// Active health checks of the endpoints of one service.
#[derive(Clone, Debug)]
pub struct HealthCheckParams {
    /// What is asked.
    pub kind: HealthCheckKind,
    /// Time between checks of one endpoint, varied by ±10 %; the first checks are spread over one interval.
    pub interval: Duration,
    /// Limit of one check, connecting included.
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy endpoint healthy.
    pub healthy_threshold: u32,
    /// Failures in a row that make a healthy endpoint unhealthy.
    pub unhealthy_threshold: u32,
}

/// What a health check asks.
#[derive(Clone, Debug)]
pub enum HealthCheckKind {
    /// A GET over the protocol of the service (HTTP/1.1 where that is `auto`).
    Http {
        /// Path and query.
        path: String,
        /// Host header; `None` sends the name of the service.
        host: Option<String>,
        /// More headers.
        headers: Vec<(HeaderName, HeaderValue)>,
        /// Any of these makes the check succeed.
        expected: Vec<StatusRange>,
    },
    /// A connection that is accepted.
    Tcp,
    /// `grpc.health.v1.Health/Check` over h2c.
    Grpc {
        /// Name of the service asked for; empty asks for the server as a whole.
        service: String,
    },
}

/// Statuses from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// Lowest status.
    pub first: u16,
    /// Highest status.
    pub last: u16,
}
