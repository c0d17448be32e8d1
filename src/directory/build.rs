//! Builds a snapshot. Pure: the same inputs give the same snapshot, and nothing is read, waited for or started.

pub(super) mod members;
mod traffic;

use std::sync::Arc;

use http::HeaderName;
use rustc_hash::FxHashMap;

use self::members::Instances;
use super::{DirectoryParams, LiveTable};
use crate::{
    identity::MeshTls,
    policy::{
        affinity::SessionId,
        authz::Policy,
        concurrency::ConcurrencyMode,
        route::{Action, HeaderEdits, PathPattern, Rewrite, RouteParams, RouteTable, Target},
    },
    snapshot::{
        AdaptiveLimiter, Cluster, ClusterParams, Destination, Endpoint, EndpointLive, EndpointParams,
        EndpointSource, ExtAuthz, Forward, InboundApp, MeshSnapshot, Passthrough, PassthroughParams,
        PassthroughSide, Route, RouteAction, Safeguards, SelectionId, Selections, Unrouted, UpstreamTls,
        UpstreamTlsParams,
    },
    telemetry::{
        Propagation,
        metrics::{
            ClusterMetrics, ConcurrencyMetrics, ExtAuthzMetrics, HttpMetrics, PassthroughMetrics, Registry,
        },
    },
    types::{Direction, EndpointAddress, Mono, Tags},
};

/// Route label of requests that no route took, and of the one route of the inbound listener.
pub(super) const NO_ROUTE: &str = "none";
pub(super) const INBOUND_ROUTE: &str = "inbound";
/// Service and route label of requests that go where their connection was going.
pub(super) const PASSTHROUGH: &str = "passthrough";

/// What a snapshot is built from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Routes and services.
    pub params: &'a DirectoryParams,
    /// What name look-ups found, by service.
    pub resolved: &'a FxHashMap<Arc<str>, Vec<EndpointParams>>,
    /// What the members of the mesh are, by service.
    pub members: &'a FxHashMap<Arc<str>, Instances>,
    /// Trace headers.
    pub propagation: &'a [Propagation],
    /// The mesh, in which services prove who they are; `None` if its traffic is plaintext.
    pub mesh: Option<&'a MeshTls>,
    /// Where round robin begins: another number for each process, so that many do not march in step.
    pub seed: u64,
    /// When what is new was found. `None` at the start of the process: everything is new then, and if all of it
    /// warmed up, nothing would.
    pub found: Option<Mono>,
}

/// Builds snapshot number `generation`. Live numbers come from `live`, which also learns what is new.
#[must_use]
pub fn build(
    inputs: &Inputs<'_>,
    generation: u64,
    live: &mut LiveTable,
    registry: &Arc<Registry>,
) -> MeshSnapshot {
    let mut builder = Builder { inputs, live, registry };
    let mut clusters: Vec<Arc<Cluster>> =
        inputs.params.clusters.iter().map(|params| Arc::new(builder.cluster(params, false))).collect();
    clusters.sort_by(|one, other| one.params.name.cmp(&other.params.name));
    let routes: Vec<Arc<Route>> =
        inputs.params.routes.iter().map(|route| Arc::new(builder.route(route, &clusters))).collect();
    let inbound = builder.inbound(&clusters);
    let passthrough = inputs.params.passthrough.as_ref().map(|params| builder.passthrough(params));
    let unrouted = |side| HttpMetrics::resolve(registry, side, NO_ROUTE, NO_ROUTE);
    let unrouted =
        Unrouted { inbound: unrouted(Direction::Inbound), outbound: unrouted(Direction::Outbound) };
    let snapshot = MeshSnapshot {
        generation,
        table: RouteTable::compile(&inputs.params.routes),
        routes,
        clusters,
        inbound,
        unrouted,
        passthrough,
        propagation: inputs.propagation.to_vec(),
    };
    let used: Vec<_> = snapshot
        .all_clusters()
        .flat_map(|cluster| cluster.endpoints.iter().map(|endpoint| Arc::clone(&endpoint.live)))
        .collect();
    live.forget_unused(&used);
    snapshot
}

struct Builder<'a> {
    inputs: &'a Inputs<'a>,
    live: &'a mut LiveTable,
    registry: &'a Arc<Registry>,
}

impl Builder<'_> {
    fn cluster(&mut self, params: &ClusterParams, local: bool) -> Cluster {
        let live = self.live.cluster(local, &params.name);
        let mut found: Vec<EndpointParams> = match &params.source {
            EndpointSource::Static(endpoints) => endpoints.clone(),
            EndpointSource::Dns { .. } => self.inputs.resolved.get(&params.name).cloned().unwrap_or_default(),
            EndpointSource::Mesh => {
                let known = self.inputs.members.get(&params.name);
                known.map(|known| known.endpoints.clone()).unwrap_or_default()
            }
        };
        found.sort_by(|one, other| one.address.cmp(&other.address));
        found.dedup_by(|one, other| one.address == other.address);
        let alternates = match &params.source {
            EndpointSource::Static(_) | EndpointSource::Mesh => vec![None; found.len()],
            EndpointSource::Dns { .. } => alternates(&found),
        };
        let metrics = ClusterMetrics::resolve(self.registry, &params.name);
        let safeguards = Safeguards {
            breaker: params.circuit_breaker,
            consecutive: params.outlier_detection.map(|outlier| outlier.consecutive).unwrap_or_default(),
            slow_start: params.slow_start,
        };
        let endpoints: Vec<Arc<Endpoint>> = found
            .into_iter()
            .zip(alternates)
            .map(|(endpoint, alternate)| {
                let label: Arc<str> = endpoint.address.to_string().into();
                Arc::new(Endpoint {
                    alternate,
                    live: self.endpoint_live(params, local, &endpoint.address),
                    session: SessionId::of(&label),
                    label,
                    address: endpoint.address,
                    weight: endpoint.weight,
                    priority: endpoint.priority,
                    tags: endpoint.tags,
                    cluster: Arc::clone(&live),
                    service: Arc::clone(&params.name),
                    metrics: Arc::clone(&metrics),
                    safeguards: safeguards.clone(),
                })
            })
            .collect();
        let subsets = if local { Vec::new() } else { self.subsets(&params.name) };
        let cluster = Cluster {
            selections: Selections::new(params, &subsets, &endpoints, self.inputs.seed),
            tls: self.tls(params),
            params: params.clone(),
            endpoints,
            zone: self.inputs.params.local.tags.zone().map(Arc::from),
            live,
            metrics,
        };
        cluster.divide(self.inputs.found.unwrap_or(Mono::ZERO));
        cluster
    }

    /// What the endpoints of a service prove themselves with.
    fn tls(&mut self, params: &ClusterParams) -> UpstreamTls {
        match (&params.tls, self.inputs.mesh) {
            (UpstreamTlsParams::Mesh, Some(mesh)) => self.live.peer(&params.name, mesh),
            // Without mTLS there is no mesh to prove anything in; validation says so.
            (UpstreamTlsParams::Disabled, _) | (UpstreamTlsParams::Mesh, None) => UpstreamTls::None,
            (UpstreamTlsParams::External(_), _) => self.live.external(&params.name),
        }
    }

    /// The tags that routes ask for among the endpoints of `service`.
    fn subsets(&self, service: &Arc<str>) -> Vec<Tags> {
        let mut subsets = Vec::new();
        for route in &self.inputs.params.routes {
            let Action::Forward { targets, .. } = &route.action else { continue };
            for Target { service: asked, subset, .. } in targets {
                if asked == service && !subset.is_empty() && !subsets.contains(subset) {
                    subsets.push(subset.clone());
                }
            }
        }
        subsets
    }

    fn endpoint_live(
        &mut self,
        params: &ClusterParams,
        local: bool,
        address: &EndpointAddress,
    ) -> Arc<EndpointLive> {
        let (live, is_new) = self.live.endpoint(local, &params.name, address, self.inputs.seed);
        if let Some(found) = self.inputs.found.filter(|_| is_new && !params.slow_start.is_zero()) {
            live.warm_up(found);
        }
        live
    }

    fn route(&mut self, params: &RouteParams, clusters: &[Arc<Cluster>]) -> Route {
        let metrics =
            |service: &str| HttpMetrics::resolve(self.registry, Direction::Outbound, service, &params.name);
        let action = match &params.action {
            Action::Forward { targets, rewrite } => {
                // A target without a service cannot come out of validation; it would get no traffic.
                let (shares, found): (Vec<Target>, Vec<_>) = targets
                    .iter()
                    .filter_map(|target| {
                        let cluster =
                            clusters.iter().find(|cluster| cluster.params.name == target.service)?;
                        let destination = Destination {
                            cluster: Arc::clone(cluster),
                            selection: cluster.subset(&target.subset),
                            metrics: metrics(&target.service),
                        };
                        Some((target.clone(), destination))
                    })
                    .unzip();
                RouteAction::Forward(Forward {
                    total_weight: shares.iter().map(|share| share.weight).sum(),
                    shares,
                    destinations: found,
                    rewrite: rewrite.clone(),
                })
            }
            Action::Redirect(redirect) => RouteAction::Redirect(redirect.clone(), metrics(NO_ROUTE)),
            Action::Direct(direct) => RouteAction::Direct(direct.clone(), metrics(NO_ROUTE)),
        };
        Route {
            hits: self.live.hits(&params.name),
            name: Arc::clone(&params.name),
            path: params.matcher.path.clone(),
            action,
            timeout: params.timeout,
            retry: params.retry.clone(),
            request_headers: params.request_headers.clone(),
            response_headers: params.response_headers.clone(),
            traffic: self.traffic(&params.name, Direction::Outbound, &params.traffic, clusters),
            reserved: Arc::default(),
        }
    }

    fn passthrough(&mut self, params: &PassthroughParams) -> Passthrough {
        let local = &self.inputs.params.local;
        let cluster = self.cluster(&local.passthrough(), false);
        let http = HttpMetrics::resolve(self.registry, Direction::Outbound, PASSTHROUGH, PASSTHROUGH);
        let side = |direction, allowed| PassthroughSide {
            allowed,
            metrics: PassthroughMetrics::resolve(self.registry, direction),
        };
        Passthrough {
            cluster,
            http,
            retry: local.retry(),
            inbound: side(Direction::Inbound, params.inbound),
            outbound: side(Direction::Outbound, params.outbound),
        }
    }

    fn inbound(&mut self, clusters: &[Arc<Cluster>]) -> InboundApp {
        let local = &self.inputs.params.local;
        let cluster = Arc::new(self.cluster(&local.cluster(), true));
        let metrics = HttpMetrics::resolve(self.registry, Direction::Inbound, &local.name, INBOUND_ROUTE);
        let name: Arc<str> = INBOUND_ROUTE.into();
        let traffic = self.traffic(&name, Direction::Inbound, &local.traffic, &[]);
        let route = Arc::new(Route {
            hits: self.live.hits(&name),
            name,
            path: PathPattern::Any,
            action: RouteAction::Forward(Forward {
                shares: vec![Target { service: Arc::clone(&local.name), subset: Tags::default(), weight: 1 }],
                destinations: vec![Destination {
                    cluster: Arc::clone(&cluster),
                    selection: SelectionId::ALL,
                    metrics,
                }],
                total_weight: 1,
                rewrite: Rewrite::default(),
            }),
            timeout: local.timeout,
            retry: local.retry(),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            traffic,
            reserved: reserved(self.inputs.params),
        });
        let concurrency = (local.concurrency.mode != ConcurrencyMode::Off).then(|| {
            let metrics = ConcurrencyMetrics::resolve(self.registry);
            AdaptiveLimiter::new(local.concurrency, self.live.concurrency(), metrics)
        });
        let DirectoryParams { intentions, trust_domain, jwt, ext_authz, .. } = self.inputs.params;
        let callers = Policy::compile(intentions, trust_domain);
        let jwt = match jwt {
            Some(params) => Some(self.live.verifier(params, self.registry)),
            None => {
                self.live.forget_verifier();
                None
            }
        };
        // A service that does not exist cannot come out of validation.
        let ext_authz = ext_authz.as_ref().and_then(|params| {
            let cluster = clusters.iter().find(|cluster| cluster.params.name == params.service)?;
            let metrics = ExtAuthzMetrics::resolve(self.registry);
            Some(ExtAuthz { params: params.clone(), cluster: Arc::clone(cluster), metrics })
        });
        InboundApp { route, cluster, jwt, ext_authz, concurrency, callers }
    }
}

/// Headers of what comes in that the client cannot set.
fn reserved(params: &DirectoryParams) -> Arc<[HeaderName]> {
    let claims = params.jwt.iter().flat_map(|jwt| &jwt.issuers).flat_map(|issuer| &issuer.forward_claims);
    let said = params.ext_authz.iter().flat_map(|authz| &authz.upstream_headers);
    claims.map(|(_, name)| name).chain(said).cloned().collect()
}

/// For each endpoint of a name, one of the other address family: the n-th of one family with the n-th of the other.
fn alternates(found: &[EndpointParams]) -> Vec<Option<EndpointAddress>> {
    let is_v6 = |endpoint: &EndpointParams| match &endpoint.address {
        EndpointAddress::Tcp(address) => address.is_ipv6(),
        EndpointAddress::Unix(_) => false,
    };
    let (six, four): (Vec<&EndpointParams>, Vec<&EndpointParams>) = found.iter().partition(|one| is_v6(one));
    let (mut next_six, mut next_four) = (six.iter().cycle(), four.iter().cycle());
    found
        .iter()
        .map(|endpoint| if is_v6(endpoint) { next_four.next() } else { next_six.next() })
        .map(|other| other.map(|other| other.address.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(addresses: &[&str]) -> Vec<EndpointParams> {
        let params = |text: &&str| EndpointParams::new(text.parse().unwrap());
        addresses.iter().map(params).collect()
    }

    #[test]
    fn each_address_of_a_dual_stack_name_has_one_of_the_other_family() {
        let found = endpoints(&["127.0.0.1:80", "127.0.0.2:80", "[::1]:80"]);
        let texts: Vec<String> =
            alternates(&found).into_iter().map(|other| other.unwrap().to_string()).collect();
        assert_eq!(texts, ["[::1]:80", "[::1]:80", "127.0.0.1:80"]);
    }

    #[test]
    fn a_name_with_one_family_has_no_alternates() {
        assert_eq!(alternates(&endpoints(&["127.0.0.1:80", "127.0.0.2:80"])), [None, None]);
    }
}
