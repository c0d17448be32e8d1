//! One service as the data plane sees it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use super::{ClusterParams, Endpoint};
use crate::{policy::balance::Balancer, telemetry::metrics::ClusterMetrics};

/// State of a service that outlives snapshots.
#[derive(Debug, Default)]
pub struct ClusterLive {
    panic: AtomicBool,
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
