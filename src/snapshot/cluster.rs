//! One service as the data plane sees it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use super::{ClusterParams, Endpoint};
use crate::{
    policy::{balance::Balancer, latency::Latencies, retry::RetryBudget},
    telemetry::metrics::ClusterMetrics,
    types::Mono,
};

/// State of a service that outlives snapshots.
#[derive(Debug, Default)]
pub struct ClusterLive {
    panic: AtomicBool,
    requests: AtomicU32,
    retries: AtomicU32,
    budget: RetryBudget,
    latencies: Latencies,
}

impl ClusterLive {
    /// Whether so few endpoints are healthy that all of them are used.
    #[must_use]
    pub fn in_panic(&self) -> bool {
        self.panic.load(Relaxed)
    }

    /// Switches panic routing; returns whether that changed anything.
    pub fn set_panic(&self, panic: bool) -> bool {
        self.panic.swap(panic, Relaxed) != panic
    }

    /// Requests that this process has in flight to the service, those that wait between two attempts included.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests.load(Relaxed)
    }

    /// Requests that are being repeated at this moment.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.retries.load(Relaxed)
    }

    /// Counts a request as being repeated until the guard is dropped.
    #[must_use]
    pub fn begin_retrying(self: &Arc<Self>) -> Retrying {
        self.retries.fetch_add(1, Relaxed);
        Retrying(Arc::clone(self))
    }

    /// What retries are paid from.
    #[must_use]
    pub fn budget(&self) -> &RetryBudget {
        &self.budget
    }

    /// How long its endpoints took to answer lately.
    #[must_use]
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }
}

/// A request in flight to a service; dropping it ends the count.
#[derive(Debug)]
pub struct ActiveRequest(Arc<ClusterLive>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

/// A request that is being repeated; dropping it ends the count.
#[derive(Debug)]
pub struct Retrying(Arc<ClusterLive>);

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Relaxed);
    }
}

impl Cluster {
    /// Counts a request as in flight until the guard is dropped; `None`, and nothing is counted, if as many as are
    /// allowed already are.
    #[must_use]
    pub fn enter(&self) -> Option<ActiveRequest> {
        // Counted first and looked at then: of two that see the last place, one must not get it.
        let before = self.live.requests.fetch_add(1, Relaxed);
        let place = ActiveRequest(Arc::clone(&self.live));
        (before < self.params.limits.max_requests).then_some(place)
    }
}

impl Cluster {
    /// When the first circuit breaker lets an attempt through again; `None` if no breaker keeps any away at `now`.
    #[must_use]
    pub fn earliest_probe(&self, now: Mono) -> Option<Mono> {
        let usable = self.endpoints.iter().filter(|endpoint| endpoint.is_usable() || self.live.in_panic());
        usable.filter_map(|endpoint| endpoint.retry_at(now)).min()
    }
}

/// One service: its policy, its endpoints, its metrics.
#[derive(Debug)]
pub struct Cluster {
    /// As configured.
    pub params: ClusterParams,
    /// What discovery found, in a stable order (by address).
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Chooses among `endpoints`.
    pub balancer: Balancer,
    /// Live state.
    pub live: Arc<ClusterLive>,
    /// Metric handles.
    pub metrics: Arc<ClusterMetrics>,
}
