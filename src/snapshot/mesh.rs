//! The snapshot itself and the cell that holds the current one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::HeaderName;

use super::{AdaptiveLimiter, Cluster, ExtAuthz, Passthrough, SelectionId, Traffic};
use crate::{
    identity::jwt::Verifier,
    policy::{
        authz::Policy,
        retry::RetryParams,
        route::{DirectResponse, HeaderEdits, PathPattern, Redirect, Rewrite, RouteTable, Target},
    },
    telemetry::{Propagation, metrics::HttpMetrics},
    types::{Direction, Live},
};

/// The one cell through which snapshots reach the data plane.
pub type SnapshotCell = Arc<Live<MeshSnapshot>>;

/// Everything that a request needs to know, consistent in itself. Never changed after it was published.
#[derive(Debug)]
pub struct MeshSnapshot {
    /// Counts published snapshots from 1.
    pub generation: u64,
    /// Finds a route of the outbound listener.
    pub table: RouteTable,
    /// Routes, by the index that `table` gives.
    pub routes: Vec<Arc<Route>>,
    /// Services, sorted by name.
    pub clusters: Vec<Arc<Cluster>>,
    /// What stands behind the inbound listener.
    pub inbound: InboundApp,
    /// Metrics of requests that no route took, or that were refused before one was looked for, by listener.
    pub unrouted: Unrouted,
    /// Where redirected connections go that are for no service; `None` if none are expected.
    pub passthrough: Option<Passthrough>,
    /// Trace headers that are read and written.
    pub propagation: Vec<Propagation>,
}

/// Requests without a route are counted where they came in.
#[derive(Debug)]
pub struct Unrouted {
    /// Of the inbound listener.
    pub inbound: Arc<HttpMetrics>,
    /// Of the outbound listener.
    pub outbound: Arc<HttpMetrics>,
}

impl Unrouted {
    /// Those of one listener.
    #[must_use]
    pub fn of(&self, side: Direction) -> &Arc<HttpMetrics> {
        match side {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

/// The local application, reached by one route that matches everything.
#[derive(Debug)]
pub struct InboundApp {
    /// Always [`RouteAction::Forward`] to the application.
    pub route: Arc<Route>,
    /// The application as a service with one endpoint.
    pub cluster: Arc<Cluster>,
    /// Looks at tokens of end users; `None` looks at none.
    pub jwt: Option<Arc<Verifier>>,
    /// Who is asked whether a request may pass; `None` asks nobody.
    pub ext_authz: Option<ExtAuthz>,
    /// How many requests it can take at once; `None` if that is not learned.
    pub concurrency: Option<Arc<AdaptiveLimiter>>,
    /// Who may call it.
    pub callers: Policy,
}

impl InboundApp {
    /// Whether it may be reached by connections whose bytes nobody reads. Not if there is something that every request
    /// must have: there is no way to find out.
    #[must_use]
    pub fn takes_unread(&self) -> bool {
        self.ext_authz.is_none() && !self.jwt.as_ref().is_some_and(|verifier| verifier.is_required())
    }
}

impl MeshSnapshot {
    /// All services, the local application included.
    pub fn all_clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.iter().chain(std::iter::once(&self.inbound.cluster))
    }
}

/// One route with everything resolved that its requests need.
#[derive(Debug)]
pub struct Route {
    /// Unique; a metric label.
    pub name: Arc<str>,
    /// What the path was matched against; a prefix rewrite needs it.
    pub path: PathPattern,
    /// What happens.
    pub action: RouteAction,
    /// Limit of the whole request, retries included.
    pub timeout: Option<Duration>,
    /// How failed attempts are repeated.
    pub retry: RetryParams,
    /// Edits on the way up.
    pub request_headers: HeaderEdits,
    /// Edits on the way down.
    pub response_headers: HeaderEdits,
    /// Rate limits, faults, copies, sticky splits.
    pub traffic: Traffic,
    /// Headers that only a token or external authorisation may set: trailers do not say them either.
    pub reserved: Arc<[HeaderName]>,
    /// Requests that this route took, for the route table of the admin API.
    pub hits: Arc<AtomicU64>,
}

impl Route {
    /// Counts a request.
    pub fn hit(&self) {
        self.hits.fetch_add(1, Relaxed);
    }
}

/// What a route does.
#[derive(Debug)]
pub enum RouteAction {
    /// Sends the request to one of the targets.
    Forward(Forward),
    /// Answers with a redirect.
    Redirect(Redirect, Arc<HttpMetrics>),
    /// Answers at once.
    Direct(DirectResponse, Arc<HttpMetrics>),
}

/// Targets of a route.
#[derive(Debug)]
pub struct Forward {
    /// Names and weights, for the choice.
    pub shares: Vec<Target>,
    /// By the same index: where the requests go.
    pub destinations: Vec<Destination>,
    /// Sum of the weights; above zero.
    pub total_weight: u32,
    /// Changes of path and host.
    pub rewrite: Rewrite,
}

/// A service that a route leads to.
#[derive(Debug)]
pub struct Destination {
    /// The service.
    pub cluster: Arc<Cluster>,
    /// Which of its endpoints.
    pub selection: SelectionId,
    /// Metrics of this route with this service.
    pub metrics: Arc<HttpMetrics>,
}
