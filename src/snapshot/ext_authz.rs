//! The service that is asked whether requests may pass: as configured, and resolved.

use std::{sync::Arc, time::Duration};

use http::HeaderName;

use super::Cluster;
use crate::telemetry::metrics::ExtAuthzMetrics;

/// External authorisation of what comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtAuthzParams {
    /// The service that is asked; one that is configured, and speaks HTTP.
    pub service: Arc<str>,
    /// What is put in front of the path of a request; empty, or begins with a slash and does not end with one.
    pub path: Box<str>,
    /// From the question to the whole answer.
    pub timeout: Duration,
    /// Requests pass if there is no answer.
    pub fail_open: bool,
    /// Headers of the request that the service gets to see.
    pub request_headers: Vec<HeaderName>,
    /// Headers of a good answer that the application gets, in place of those that the client sent.
    pub upstream_headers: Vec<HeaderName>,
    /// Headers of a refusal that the client gets.
    pub client_headers: Vec<HeaderName>,
}

/// The same with everything resolved that a question needs.
#[derive(Debug)]
pub struct ExtAuthz {
    /// As configured.
    pub params: ExtAuthzParams,
    /// The service.
    pub cluster: Arc<Cluster>,
    /// Counters.
    pub metrics: ExtAuthzMetrics,
}
