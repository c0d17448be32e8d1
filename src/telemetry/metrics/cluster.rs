//! What is counted per service on the way up: endpoints, connections, limits, health checks.

use std::{sync::Arc, time::Duration};

use super::{ConnectionProtocol, HotGauge, HotHistogram, Registry, family};
use crate::types::{Circuit, EjectionCause, EndpointState, RetryDenied};

/// The numbers of one service.
#[derive(Debug)]
pub struct ClusterMetrics {
    endpoints: [metrics::Gauge; EndpointState::ALL.len()],
    ejections: [metrics::Counter; EjectionCause::ALL.len()],
    circuits: [metrics::Counter; Circuit::ALL.len()],
    panic_mode: metrics::Gauge,
    failover: metrics::Gauge,
    retry_budget: metrics::Gauge,
    connections: [[Arc<HotGauge>; 2]; 2],
    connects: [metrics::Counter; ConnectResult::ALL.len()],
    connect_duration: Arc<HotHistogram>,
    pending: Arc<HotGauge>,
    rejections: [metrics::Counter; LimitKind::ALL.len()],
    checks: [metrics::Counter; 2],
    retries_denied: [metrics::Counter; RetryDenied::ALL.len()],
    hedges: [metrics::Counter; HedgeOutcome::ALL.len()],
}

/// What a pooled connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// Carries at least one request.
    Active,
    /// Waits for the next one.
    Idle,
}

/// How an attempt to connect ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectResult {
    /// Connected.
    Ok,
    /// Nobody listens there.
    Refused,
    /// Took longer than allowed.
    Timeout,
    /// Connected, but one side did not believe the other.
    Tls,
    /// Anything else: unreachable, out of descriptors.
    Other,
}

impl ConnectResult {
    const ALL: [Self; 5] = [Self::Ok, Self::Refused, Self::Timeout, Self::Tls, Self::Other];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Other => "other",
        }
    }
}

/// Which limit refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Too many requests already wait for a connection.
    PendingRequests,
    /// No connection became free in time.
    QueueTimeout,
    /// Too many requests are in flight.
    Requests,
    /// Too many requests are being repeated; the failed attempt's outcome stands.
    Retries,
}

impl LimitKind {
    const ALL: [Self; 4] = [Self::PendingRequests, Self::QueueTimeout, Self::Requests, Self::Retries];

    const fn as_str(self) -> &'static str {
        match self {
            Self::PendingRequests => "pending_requests",
            Self::QueueTimeout => "queue_timeout",
            Self::Requests => "max_requests",
            Self::Retries => "max_retries",
        }
    }
}

/// What came of a second attempt beside a slow first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeOutcome {
    /// Its answer was the one that was taken.
    Won,
    /// The first attempt's was.
    Lost,
    /// It was not made: no budget, no endpoint, or too many of them.
    Denied,
}

impl HedgeOutcome {
    const ALL: [Self; 3] = [Self::Won, Self::Lost, Self::Denied];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Denied => "denied",
        }
    }
}

impl ClusterMetrics {
    /// The handle for this service: the same one each time, also across reloads.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>, service: &str) -> Arc<Self> {
        let name: Arc<str> = Arc::from(service);
        {
            let mut state = registry.lock();
            state.retention.use_service(Arc::clone(&name));
            if let Some(known) = state.clusters.get(&name) {
                return Arc::clone(known);
            }
        }
        let made = Arc::new(Self::new(registry, service));
        Arc::clone(registry.lock().clusters.entry(name).or_insert(made))
    }

    fn new(registry: &Registry, service: &str) -> Self {
        let service = ("service", service);
        let endpoints =
            |state: EndpointState| registry.gauge(&family::ENDPOINTS, &[service, ("state", state.as_str())]);
        let ejection = |cause: EjectionCause| {
            registry.counter(&family::ENDPOINT_EJECTIONS, &[service, ("reason", cause.as_str())])
        };
        let circuit =
            |to: Circuit| registry.counter(&family::CIRCUIT_TRANSITIONS, &[service, ("to", to.as_str())]);
        let connections = |state| {
            ["http1", "http2"].map(|protocol| {
                let labels = [service, ("state", state), ("protocol", protocol)];
                registry.hot_gauge(&family::UPSTREAM_CONNECTIONS, &labels)
            })
        };
        let connect = |result: ConnectResult| {
            registry.counter(&family::UPSTREAM_CONNECTS, &[service, ("result", result.as_str())])
        };
        let limit = |kind: LimitKind| {
            registry.counter(&family::UPSTREAM_LIMIT_REJECTIONS, &[service, ("limit", kind.as_str())])
        };
        let denied = |reason: RetryDenied| {
            registry.counter(&family::RETRIES_DENIED, &[service, ("reason", reason.as_str())])
        };
        let hedge = |outcome: HedgeOutcome| {
            registry.counter(&family::HEDGES, &[service, ("outcome", outcome.as_str())])
        };
        let check = |result| registry.counter(&family::HEALTH_CHECKS, &[service, ("result", result)]);
        Self {
            endpoints: EndpointState::ALL.map(endpoints),
            ejections: EjectionCause::ALL.map(ejection),
            circuits: Circuit::ALL.map(circuit),
            panic_mode: registry.gauge(&family::PANIC_MODE, &[service]),
            failover: registry.gauge(&family::FAILOVER, &[service]),
            retry_budget: registry.gauge(&family::RETRY_BUDGET, &[service]),
            connections: ["active", "idle"].map(connections),
            connects: ConnectResult::ALL.map(connect),
            connect_duration: registry.histogram(&family::UPSTREAM_CONNECT_DURATION, &[service]),
            pending: registry.hot_gauge(&family::UPSTREAM_PENDING, &[service]),
            rejections: LimitKind::ALL.map(limit),
            checks: ["success", "failure"].map(check),
            retries_denied: RetryDenied::ALL.map(denied),
            hedges: HedgeOutcome::ALL.map(hedge),
        }
    }

    /// Tells how many endpoints there are in each state, in the order of [`EndpointState::ALL`]. Not for the request
    /// path.
    pub fn set_endpoints(&self, counts: [usize; EndpointState::ALL.len()]) {
        self.endpoints.iter().zip(counts).for_each(|(gauge, count)| gauge.set(count as f64));
    }

    /// Counts an endpoint that the outlier detection put out.
    pub fn ejected(&self, cause: EjectionCause) {
        self.ejections[cause as usize].increment(1);
    }

    /// Counts a circuit breaker of an endpoint that changed.
    pub fn circuit_changed(&self, to: Circuit) {
        self.circuits[to as usize].increment(1);
    }

    /// Tells whether all endpoints are used because too few are healthy. Not for the request path.
    pub fn set_panic_mode(&self, panicking: bool) {
        self.panic_mode.set(f64::from(u8::from(panicking)));
    }

    /// Tells which share of the traffic goes to later priorities than the first, 0 to 1. Not for the request path.
    pub fn set_failover(&self, ratio: f64) {
        self.failover.set(ratio);
    }

    /// Tells which share of the retry budget is left, 0 to 1. Not for the request path.
    pub fn set_retry_budget(&self, ratio: f64) {
        self.retry_budget.set(ratio);
    }

    /// Open connections in this state.
    #[must_use]
    pub fn connections(&self, state: ConnectionState, protocol: ConnectionProtocol) -> &Arc<HotGauge> {
        let protocol = match protocol {
            ConnectionProtocol::Http1 | ConnectionProtocol::Unknown => 0,
            ConnectionProtocol::Http2 => 1,
        };
        &self.connections[state as usize][protocol]
    }

    /// Counts an attempt to connect; `took` is kept for those that succeeded.
    pub fn connected(&self, result: ConnectResult, took: Duration) {
        self.connects[result as usize].increment(1);
        if result == ConnectResult::Ok {
            self.connect_duration.observe(took);
        }
    }

    /// Requests that wait for a connection.
    #[must_use]
    pub fn pending(&self) -> &Arc<HotGauge> {
        &self.pending
    }

    /// Counts a request that a limit refused.
    pub fn limit_reached(&self, kind: LimitKind) {
        self.rejections[kind as usize].increment(1);
    }

    /// Counts an attempt that the route would have repeated, but that was not.
    pub fn retry_denied(&self, reason: RetryDenied) {
        self.retries_denied[reason as usize].increment(1);
    }

    /// Counts a second attempt beside a slow first one.
    pub fn hedged(&self, outcome: HedgeOutcome) {
        self.hedges[outcome as usize].increment(1);
    }

    /// Counts an active health check.
    pub fn health_checked(&self, succeeded: bool) {
        self.checks[usize::from(!succeeded)].increment(1);
    }
}
