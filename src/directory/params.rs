//! What the snapshot is made of, as configured.

use std::{sync::Arc, time::Duration};

use super::build::PASSTHROUGH;
use crate::{
    identity::jwt::JwtParams,
    policy::{
        authz::Intentions,
        balance::BalanceParams,
        concurrency::ConcurrencyParams,
        locality::ZoneParams,
        retry::{Backoff, BudgetParams, RetryOn, RetryParams},
        route::RouteParams,
        traffic::TrafficParams,
    },
    snapshot::{
        ClusterParams, EndpointParams, EndpointSource, ExtAuthzParams, HealthCheckParams, Limits,
        PassthroughParams, Protocol, SubsetFallback, UpstreamTlsParams,
    },
    types::{EndpointAddress, Tags, TrustDomain},
};

/// What the snapshot is made of, as configured.
#[derive(Clone, Debug)]
pub struct DirectoryParams {
    /// The local application, behind the inbound listener.
    pub local: LocalServiceParams,
    /// Who may call it.
    pub intentions: Intentions,
    /// Whose identities its callers have.
    pub trust_domain: TrustDomain,
    /// Whose tokens of end users are taken from what comes in; `None` looks at none.
    pub jwt: Option<JwtParams>,
    /// Who is asked whether a request that comes in may pass; `None` asks nobody.
    pub ext_authz: Option<ExtAuthzParams>,
    /// Routes of the outbound listener, in the order of the file.
    pub routes: Vec<RouteParams>,
    /// Services that routes may name.
    pub clusters: Vec<ClusterParams>,
    /// What becomes of redirected connections; `None` if none are expected.
    pub passthrough: Option<PassthroughParams>,
}

/// The service instance that this sidecar stands beside.
#[derive(Clone, Debug)]
pub struct LocalServiceParams {
    /// Name of the service; metric label.
    pub name: Arc<str>,
    /// Where the application listens.
    pub address: EndpointAddress,
    /// What it is called beside its name; the tag `zone` says where this sidecar is.
    pub tags: Tags,
    /// What it speaks.
    pub protocol: Protocol,
    /// Limit of a whole inbound request; `None` is no limit.
    pub timeout: Option<Duration>,
    /// Limit of one attempt to connect.
    pub connect_timeout: Duration,
    /// A pooled connection that nobody used for this long is closed.
    pub idle_timeout: Duration,
    /// Active check of the application; `None` trusts it.
    pub health_check: Option<HealthCheckParams>,
    /// Rate limits of what comes in. It has no split to make sticky and nobody to copy to.
    pub traffic: TrafficParams,
    /// How many requests it can take at once, and what is done about it.
    pub concurrency: ConcurrencyParams,
}

/// Only what surely was not processed is sent to the application again; that much cannot hurt it.
const LOCAL_RETRY_BUDGET: BudgetParams = BudgetParams { percent: 100, min_per_second: 10 };

impl LocalServiceParams {
    /// The application is asked again only if it surely did not process the request (a connection that had died in
    /// the pool). Everything else is repeated by the sidecar of the caller, and by nobody else.
    pub(super) fn retry(&self) -> RetryParams {
        RetryParams {
            attempts: 1,
            retry_on: RetryOn::unprocessed(),
            per_try_timeout: None,
            backoff: Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) },
            max_body: 64 * 1024,
            retry_non_idempotent: false,
            hedge: None,
        }
    }

    /// Everything that is no service of the mesh, as one service; its endpoints are where connections were going.
    pub(super) fn passthrough(&self) -> ClusterParams {
        ClusterParams {
            name: PASSTHROUGH.into(),
            source: EndpointSource::Static(Vec::new()),
            protocol: Protocol::Auto,
            health_check: None,
            ..self.cluster()
        }
    }

    /// The application as a service with one endpoint.
    pub(super) fn cluster(&self) -> ClusterParams {
        ClusterParams {
            name: Arc::clone(&self.name),
            source: EndpointSource::Static(vec![EndpointParams::new(self.address.clone())]),
            protocol: self.protocol,
            tls: UpstreamTlsParams::Disabled,
            send_proxy: None,
            balance: BalanceParams::RoundRobin,
            connect_timeout: self.connect_timeout,
            idle_timeout: self.idle_timeout,
            retry_budget: LOCAL_RETRY_BUDGET,
            limits: Limits {
                max_requests: u32::MAX,
                max_retries: u32::MAX,
                max_connections: 4096,
                max_pending_requests: 4096,
                queue_timeout: self.connect_timeout,
                max_requests_per_connection: None,
                max_connection_age: None,
            },
            health_check: self.health_check.clone(),
            // The sidecar of each caller judges this instance, and can choose another; this one cannot.
            circuit_breaker: None,
            outlier_detection: None,
            slow_start: Duration::ZERO,
            // Panic routing makes no sense with one endpoint: a sick application is told as 503 at once.
            panic_threshold_percent: 0,
            zones: ZoneParams::None,
            subset_fallback: SubsetFallback::None,
            affinity: None,
        }
    }
}
