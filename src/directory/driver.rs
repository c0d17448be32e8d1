//! Owner of the inputs of the snapshot: takes new configuration, keeps names resolved, publishes.

use std::{sync::Arc, time::Duration};

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
};

use super::{
    DirectoryParams, Inputs, LiveTable,
    build::{self, build},
    discovery::{Discovery, Seen},
    dns::{Answer, DnsError, Resolver},
};
use crate::{
    identity::MeshTls,
    membership::MembershipView,
    rt::{DrainWatch, Phase, clock},
    snapshot::{ClusterParams, EndpointParams, EndpointSource, SnapshotCell},
    telemetry::{
        Propagation,
        metrics::{ConfigMetrics, LiveLabels, Registry, RouteLabels},
    },
    types::{Direction, Live, Mono},
};

/// Changes waiting to be taken; senders wait when it is full, so nothing is lost.
const QUEUE: usize = 64;
/// First wait after a failed look-up; doubled up to the service's refresh interval.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long the first snapshot may wait for names.
const FIRST_LOOK_UP: Duration = Duration::from_secs(3);

enum Change {
    Configure {
        params: Box<DirectoryParams>,
        propagation: Vec<Propagation>,
        noticed: Mono,
        done: oneshot::Sender<u64>,
    },
    Resolved {
        service: Arc<str>,
        source: EndpointSource,
        endpoints: Vec<EndpointParams>,
    },
}

/// Handle by which configuration reaches the directory; clones are cheap.
#[derive(Clone, Debug)]
pub struct Publisher {
    changes: mpsc::Sender<Change>,
    /// The generation of the snapshot that was published last.
    pub published: watch::Receiver<u64>,
}

impl Publisher {
    /// Makes `params` what requests are served by; returns the generation once it is. `noticed` is when the
    /// change was first seen, for the metric. `None` if the directory has ended.
    pub async fn configure(
        &self,
        params: DirectoryParams,
        propagation: Vec<Propagation>,
        noticed: Mono,
    ) -> Option<u64> {
        let (done, published) = oneshot::channel();
        let change = Change::Configure { params: Box::new(params), propagation, noticed, done };
        self.changes.send(change).await.ok()?;
        published.await.ok()
    }
}

/// Owner of the snapshot cell's writing side.
#[derive(Debug)]
pub struct Directory {
    params: DirectoryParams,
    propagation: Vec<Propagation>,
    resolved: FxHashMap<Arc<str>, Vec<EndpointParams>>,
    discovery: Discovery,
    live: LiveTable,
    registry: Arc<Registry>,
    metrics: ConfigMetrics,
    resolver: Arc<Resolver>,
    mesh: Option<Arc<MeshTls>>,
    look_ups: FxHashMap<Arc<str>, (EndpointSource, AbortHandle)>,
    seed: u64,
    generation: u64,
    cell: SnapshotCell,
    changes: mpsc::Receiver<Change>,
    sender: mpsc::Sender<Change>,
    published: watch::Sender<u64>,
}

impl Directory {
    /// Services of the `mesh` prove who they are. Resolves the names of `params` (waiting a few seconds at most) and
    /// publishes the first snapshot. `members` tells who is in the mesh; `None` if nobody is to be found there.
    pub async fn start(
        params: DirectoryParams,
        propagation: Vec<Propagation>,
        registry: Arc<Registry>,
        resolver: Arc<Resolver>,
        mesh: Option<Arc<MeshTls>>,
        members: Option<watch::Receiver<Arc<MembershipView>>>,
        seed: u64,
    ) -> (Self, SnapshotCell, Publisher) {
        let resolved = first_look_up(&params.clusters, &resolver).await;
        // After the names: what is known of the members by now is in the first snapshot.
        let discovery = Discovery::new(members, &params.clusters);
        let mut live = LiveTable::default();
        live.read_external(&params.clusters);
        let inputs = Inputs {
            params: &params,
            resolved: &resolved,
            members: discovery.instances(),
            propagation: &propagation,
            mesh: mesh.as_deref(),
            seed,
            found: None,
        };
        let snapshot = build(&inputs, 1, &mut live, &registry);
        discovery.apply(&snapshot, clock::now());
        let cell: SnapshotCell = Arc::new(Live::new(Arc::new(snapshot)));
        let (sender, changes) = mpsc::channel(QUEUE);
        let (published, watch) = watch::channel(1);
        let publisher = Publisher { changes: sender.clone(), published: watch };
        let metrics = ConfigMetrics::resolve(&registry);
        let mut directory = Self {
            params,
            propagation,
            resolved,
            discovery,
            live,
            metrics,
            registry,
            resolver,
            mesh,
            look_ups: FxHashMap::default(),
            seed,
            generation: 1,
            cell: Arc::clone(&cell),
            changes,
            sender,
            published,
        };
        directory.keep_resolving();
        (directory, cell, publisher)
    }

    /// Takes changes until the process stops.
    pub async fn run(mut self, mut drain: DrainWatch) {
        loop {
            let change = tokio::select! {
                () = drain.reached(Phase::Stopped) => return,
                () = self.discovery.changed() => {
                    self.look_at_members();
                    continue;
                }
                change = self.changes.recv() => change,
            };
            let Some(change) = change else { return };
            match change {
                Change::Configure { params, propagation, noticed, done } => {
                    self.params = *params;
                    self.live.read_external(&self.params.clusters);
                    self.propagation = propagation;
                    self.keep_resolving();
                    self.look_up_new().await;
                    self.discovery.look(&self.params.clusters);
                    self.publish();
                    self.metrics.published(clock::now().since(noticed));
                    // Nobody waits any more: the configuration is live all the same.
                    let _ = done.send(self.generation);
                }
                Change::Resolved { service, source, endpoints } => {
                    // An answer for what the service was before a reload is not for it any more.
                    let wanted = self.look_ups.get(&service).is_some_and(|(current, _)| *current == source);
                    if wanted && self.resolved.get(&service) != Some(&endpoints) {
                        tracing::info!(%service, endpoints = endpoints.len(), "name resolved to other addresses");
                        self.resolved.insert(service, endpoints);
                        self.publish();
                    }
                }
            }
        }
    }

    fn look_at_members(&mut self) {
        match self.discovery.look(&self.params.clusters) {
            Seen::Nothing => {}
            Seen::Standings => self.discovery.apply(&self.cell.load(), clock::now()),
            Seen::Endpoints => self.publish(),
        }
    }

    fn publish(&mut self) {
        self.generation += 1;
        let inputs = Inputs {
            params: &self.params,
            resolved: &self.resolved,
            members: self.discovery.instances(),
            propagation: &self.propagation,
            mesh: self.mesh.as_deref(),
            seed: self.seed,
            found: Some(clock::now()),
        };
        let snapshot = build(&inputs, self.generation, &mut self.live, &self.registry);
        // Before it is used: nobody who is known to be sick is to get a first request.
        self.discovery.apply(&snapshot, clock::now());
        self.discovery.published(clock::now());
        self.registry.retain(&labels(&self.params), clock::now());
        // Requests hold what they use of the old one; the rest is freed here, not on a worker.
        drop(self.cell.swap(Arc::new(snapshot)));
        self.published.send_replace(self.generation);
    }

    /// Waits, a few seconds at most, for names that are new: a service must not be published without endpoints
    /// only because its first answer is still on its way.
    async fn look_up_new(&mut self) {
        let new: Vec<ClusterParams> = self
            .params
            .clusters
            .iter()
            .filter(|cluster| matches!(cluster.source, EndpointSource::Dns { .. }))
            .filter(|cluster| !self.resolved.contains_key(&cluster.name))
            .cloned()
            .collect();
        if !new.is_empty() {
            self.resolved.extend(first_look_up(&new, &self.resolver).await);
        }
    }

    /// Starts look-ups of new names and ends those of names that are gone.
    fn keep_resolving(&mut self) {
        let wanted: FxHashMap<Arc<str>, EndpointSource> = self
            .params
            .clusters
            .iter()
            .filter(|cluster| matches!(cluster.source, EndpointSource::Dns { .. }))
            .map(|cluster| (Arc::clone(&cluster.name), cluster.source.clone()))
            .collect();
        let resolved = &mut self.resolved;
        self.look_ups.retain(|service, (source, task)| {
            let now = wanted.get(service);
            let keep = now == Some(source);
            if !keep {
                task.abort();
            }
            // Addresses outlive a change of how often they are looked up.
            if !now.is_some_and(|now| asks_the_same(now, source)) {
                resolved.remove(service);
            }
            keep
        });
        for (service, source) in wanted {
            if self.look_ups.contains_key(&service) {
                continue;
            }
            let work = resolve_for_ever(
                Arc::clone(&self.resolver),
                Arc::clone(&service),
                source.clone(),
                self.sender.clone(),
            );
            let task = tokio::spawn(work).abort_handle();
            self.look_ups.insert(service, (source, task));
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        for (_, task) in self.look_ups.values() {
            task.abort();
        }
    }
}

/// Whether two sources have the same answer.
fn asks_the_same(one: &EndpointSource, other: &EndpointSource) -> bool {
    match (one, other) {
        (
            EndpointSource::Dns { name, port, .. },
            EndpointSource::Dns { name: other_name, port: other_port, .. },
        ) => name == other_name && port == other_port,
        _ => false,
    }
}

async fn look_up(resolver: &Resolver, source: &EndpointSource) -> Option<Result<Answer, DnsError>> {
    match source {
        EndpointSource::Static(_) | EndpointSource::Mesh => None,
        EndpointSource::Dns { name, port, .. } => Some(resolver.resolve(name, *port).await),
    }
}

async fn first_look_up(
    clusters: &[ClusterParams],
    resolver: &Arc<Resolver>,
) -> FxHashMap<Arc<str>, Vec<EndpointParams>> {
    let mut found = FxHashMap::default();
    let mut running = tokio::task::JoinSet::new();
    for cluster in clusters {
        let (resolver, name, source) =
            (Arc::clone(resolver), Arc::clone(&cluster.name), cluster.source.clone());
        running.spawn(async move { (name, look_up(&resolver, &source).await) });
    }
    let all = async {
        while let Some(done) = running.join_next().await {
            match done {
                Ok((service, Some(Ok(answer)))) => {
                    found.insert(service, answer.endpoints);
                }
                Ok((service, Some(Err(error)))) => {
                    tracing::warn!(%service, %error, "name cannot be resolved; trying again");
                }
                Ok((_, None)) | Err(_) => {}
            }
        }
    };
    if tokio::time::timeout(FIRST_LOOK_UP, all).await.is_err() {
        tracing::warn!("not all names were resolved at the start; going on without them");
    }
    found
}

async fn resolve_for_ever(
    resolver: Arc<Resolver>,
    service: Arc<str>,
    source: EndpointSource,
    changes: mpsc::Sender<Change>,
) {
    let EndpointSource::Dns { min_refresh, .. } = &source else { return };
    let mut failures: u32 = 0;
    loop {
        let wait = match look_up(&resolver, &source).await {
            Some(Ok(answer)) => {
                failures = 0;
                let wait = answer.ttl.max(*min_refresh);
                let resolved = Change::Resolved {
                    service: Arc::clone(&service),
                    source: source.clone(),
                    endpoints: answer.endpoints,
                };
                if changes.send(resolved).await.is_err() {
                    return;
                }
                wait
            }
            Some(Err(error)) => {
                if failures == 0 {
                    tracing::warn!(%service, %error, "name cannot be resolved; keeping the last addresses");
                }
                failures = failures.saturating_add(1);
                RETRY_AFTER.saturating_mul(1 << failures.min(6)).min((*min_refresh).max(RETRY_AFTER))
            }
            None => return,
        };
        tokio::time::sleep(wait).await;
    }
}

fn labels(params: &DirectoryParams) -> LiveLabels {
    let mut routes = FxHashSet::default();
    let mut services = FxHashSet::default();
    let mut add = |direction, service: &Arc<str>, route: &Arc<str>| {
        routes.insert(RouteLabels { direction, service: Arc::clone(service), route: Arc::clone(route) });
    };
    let none: Arc<str> = build::NO_ROUTE.into();
    add(Direction::Outbound, &none, &none);
    add(Direction::Inbound, &none, &none);
    add(Direction::Inbound, &params.local.name, &build::INBOUND_ROUTE.into());
    for route in &params.routes {
        match &route.action {
            crate::policy::route::Action::Forward { targets, .. } => {
                for target in targets {
                    add(Direction::Outbound, &target.service, &route.name);
                }
            }
            crate::policy::route::Action::Redirect(_) | crate::policy::route::Action::Direct(_) => {
                add(Direction::Outbound, &none, &route.name);
            }
        }
    }
    services.insert(Arc::clone(&params.local.name));
    if params.passthrough.is_some() {
        let passthrough: Arc<str> = build::PASSTHROUGH.into();
        routes.insert(RouteLabels {
            direction: Direction::Outbound,
            service: Arc::clone(&passthrough),
            route: Arc::clone(&passthrough),
        });
        services.insert(passthrough);
    }
    services.extend(params.clusters.iter().map(|cluster| Arc::clone(&cluster.name)));
    LiveLabels { routes, services }
}

#[cfg(test)]
mod tests;
