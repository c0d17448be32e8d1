//! Joins configuration and discovery into the snapshot that the data plane reads.

pub mod dns;

use std::{sync::Arc, time::Duration};

use crate::{
    policy::route::RouteParams,
    snapshot::{ClusterParams, Protocol},
    types::EndpointAddress,
};

/// What the snapshot is made of, as configured.
#[derive(Clone, Debug)]
pub struct DirectoryParams {
    /// The local application, behind the inbound listener.
    pub local: LocalServiceParams,
    /// Routes of the outbound listener, in the order of the file.
    pub routes: Vec<RouteParams>,
    /// Services that routes may name.
    pub clusters: Vec<ClusterParams>,
}

/// The service instance that this sidecar stands beside.
#[derive(Clone, Debug)]
pub struct LocalServiceParams {
    /// Name of the service; metric label.
    pub name: Arc<str>,
    /// Where the application listens.
    pub address: EndpointAddress,
    /// What it speaks.
    pub protocol: Protocol,
    /// Limit of a whole inbound request; `None` is no limit.
    pub timeout: Option<Duration>,
    /// Limit of one attempt to connect.
    pub connect_timeout: Duration,
    /// A pooled connection that nobody used for this long is closed.
    pub idle_timeout: Duration,
    /// Active check of the application; `None` trusts it.
    pub health_check: Option<crate::snapshot::HealthCheckParams>,
}
