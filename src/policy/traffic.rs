//! What a route does beside sending a request on: rate limits, injected faults, copies to another service, and who
//! always gets the same side of a split. Parameters only; the decisions stand in files of their own.

use std::sync::Arc;

use super::{balance::HashOn, fault::FaultParams, limit::RateLimitParams};

/// Tools of one route. The default is none, and costs a request nothing.
#[derive(Clone, Debug, Default)]
pub struct TrafficParams {
    /// Every one of them must allow a request, in the order of the file.
    pub limits: Vec<RateLimitParams>,
    /// What goes wrong on purpose.
    pub fault: Option<FaultParams>,
    /// Who gets a copy.
    pub mirror: Option<MirrorParams>,
    /// What of a request chooses among the services of a split; `None`, or a request without it, leaves it to chance.
    pub sticky: Option<HashOn>,
    /// Largest body of a request, in bytes; zero is no limit.
    pub max_request_bytes: u64,
}

/// A service that gets copies of requests, whose answers nobody reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorParams {
    /// Name of the service.
    pub service: Arc<str>,
    /// Share of the requests that are copied, 0 to 100.
    pub percent: u8,
}
