//! Tools of a route, resolved: limits with their buckets, services with their endpoints, everything with its metrics.

use std::sync::Arc;

use super::{Cluster, RateLimiter};
use crate::{
    policy::{balance::HashOn, fault::FaultParams},
    telemetry::metrics::{FaultMetrics, MirrorMetrics},
};

/// Tools of one route. The default is none.
#[derive(Debug, Default)]
pub struct Traffic {
    /// All of them must allow a request.
    pub limits: Vec<RateLimiter>,
    /// What goes wrong on purpose.
    pub fault: Option<Fault>,
    /// Who gets a copy.
    pub mirror: Option<Mirror>,
    /// What of a request chooses among the services of a split.
    pub sticky: Option<HashOn>,
    /// Largest body of a request, in bytes; zero is no limit.
    pub max_request_bytes: u64,
}

impl Traffic {
    /// Whether a request may be held up or refused before it is sent.
    #[must_use]
    pub fn guards(&self) -> bool {
        !self.limits.is_empty() || self.fault.is_some() || self.max_request_bytes > 0
    }
}

/// Faults of a route, and where they are counted.
#[derive(Debug)]
pub struct Fault {
    /// As configured.
    pub params: FaultParams,
    /// Counters.
    pub metrics: Arc<FaultMetrics>,
}

/// Where copies go.
#[derive(Debug)]
pub struct Mirror {
    /// The service.
    pub cluster: Arc<Cluster>,
    /// Share of the requests, 0 to 100.
    pub percent: u8,
    /// Counters.
    pub metrics: Arc<MirrorMetrics>,
}
