//! Where redirected connections go that are for no service of the mesh: to where they were going. Built like a
//! service, so that metrics, pools and the access log need no special case.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use super::{
    Cluster, Destination, Endpoint, EndpointLive, Forward, Route, RouteAction, Safeguards, SelectionId,
    Selections, Traffic, UpstreamTls,
};
use crate::{
    policy::{
        affinity::SessionId,
        outlier::ConsecutiveParams,
        retry::RetryParams,
        route::{HeaderEdits, PathPattern, Rewrite, Target},
    },
    telemetry::metrics::{HttpMetrics, PassthroughMetrics},
    types::{Direction, EndpointAddress, Tags},
};

/// Whether redirected connections may go on to where they were going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassthroughParams {
    /// To other ports than the application's.
    pub inbound: bool,
    /// To destinations that no route knows.
    pub outbound: bool,
}

/// What a redirected connection needs that is for no service.
#[derive(Debug)]
pub struct Passthrough {
    /// Stands for all destinations together; has no endpoints of its own.
    pub cluster: Cluster,
    /// Metrics of its HTTP requests.
    pub http: Arc<HttpMetrics>,
    /// How failed attempts are repeated.
    pub retry: RetryParams,
    /// Connections from the network.
    pub inbound: PassthroughSide,
    /// Connections from the application.
    pub outbound: PassthroughSide,
}

/// One direction of it.
#[derive(Debug)]
pub struct PassthroughSide {
    /// Whether connections may pass.
    pub allowed: bool,
    /// Metrics of connections that are not HTTP.
    pub metrics: Arc<PassthroughMetrics>,
}

impl Passthrough {
    /// Those of one listener.
    #[must_use]
    pub fn of(&self, side: Direction) -> &PassthroughSide {
        match side {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    /// A route to `destination` for the requests of one connection, and the live state of its only endpoint. Mark that
    /// as retired at the end of the connection, so that pools let go of it.
    #[must_use]
    pub fn route_to(&self, destination: SocketAddr) -> (Arc<Route>, Arc<EndpointLive>) {
        let address = EndpointAddress::Tcp(destination);
        // It lives as long as one connection, too short for any guard to learn something.
        let safeguards = Safeguards {
            breaker: None,
            consecutive: ConsecutiveParams::default(),
            slow_start: Duration::ZERO,
        };
        let live = Arc::new(EndpointLive::new(true, 0));
        let endpoint = Arc::new(Endpoint {
            label: address.to_string().into(),
            address,
            alternate: None,
            weight: 1,
            priority: 0,
            tags: Tags::default(),
            session: SessionId::of(""),
            live: Arc::clone(&live),
            cluster: Arc::clone(&self.cluster.live),
            service: Arc::clone(&self.cluster.params.name),
            metrics: Arc::clone(&self.cluster.metrics),
            safeguards,
        });
        let params = self.cluster.params.clone();
        let name = Arc::clone(&params.name);
        let endpoints = vec![endpoint];
        let cluster = Cluster {
            tls: UpstreamTls::None,
            selections: Selections::new(&params, &[], &endpoints, 0),
            zone: None,
            params,
            endpoints,
            live: Arc::clone(&self.cluster.live),
            metrics: Arc::clone(&self.cluster.metrics),
        };
        let route = Route {
            name: Arc::clone(&name),
            path: PathPattern::Any,
            action: RouteAction::Forward(Forward {
                shares: vec![Target { service: name, subset: Tags::default(), weight: 1 }],
                destinations: vec![Destination {
                    cluster: Arc::new(cluster),
                    selection: SelectionId::ALL,
                    metrics: Arc::clone(&self.http),
                }],
                total_weight: 1,
                rewrite: Rewrite::default(),
            }),
            // Nobody said how long an unknown service may take.
            timeout: None,
            retry: self.retry.clone(),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            traffic: Traffic::default(),
            reserved: Arc::default(),
            hits: Arc::new(AtomicU64::new(0)),
        };
        (Arc::new(route), live)
    }
}
