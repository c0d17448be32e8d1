//! Follows the members of the mesh and keeps what they are for services. Who is an endpoint of what is decided in
//! `build::members`; snapshots are published by the driver.

use std::{sync::Arc, time::Duration};

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::watch;

use super::build::members::{Fallen, Gathered, Instances, Mismatch, fallen, gather};
use crate::{
    membership::MembershipView,
    rt::clock,
    snapshot::{Cluster, ClusterParams, MeshSnapshot, Standing},
    types::Mono,
};

/// Least time between two snapshots that members are the reason for. A thousand of them that come one by one would make
/// a thousand snapshots, and each builds the rings of all services.
const PAUSE: Duration = Duration::from_millis(100);

/// What a look at the members brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing that matters to requests.
    Nothing,
    /// Only what is thought of endpoints; no snapshot needs to be built for that.
    Standings,
    /// Other endpoints.
    Endpoints,
}

/// What the members of the mesh are for services.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    /// `None` without a mesh, or once nobody tells of it any more: what was known last stays.
    views: Option<watch::Receiver<Arc<MembershipView>>>,
    view: Arc<MembershipView>,
    instances: FxHashMap<Arc<str>, Instances>,
    /// Where instances had died when the last snapshot was published. Nowhere before the second one: who comes into the
    /// first is not back from anything that this process has seen.
    fallen: Fallen,
    /// Whom the log has told of.
    told: FxHashSet<Mismatch>,
    not_before: Mono,
}

impl Discovery {
    /// Begins with the view that there is.
    pub(super) fn new(
        views: Option<watch::Receiver<Arc<MembershipView>>>,
        clusters: &[ClusterParams],
    ) -> Self {
        let mut discovery = Self { views, ..Self::default() };
        discovery.look(clusters);
        discovery
    }

    /// The instances of each service that is discovered in the mesh.
    pub(super) fn instances(&self) -> &FxHashMap<Arc<str>, Instances> {
        &self.instances
    }

    /// Waits for a view that nobody has looked at; for ever where there is no mesh. Cancel-safe: yes.
    pub(super) async fn changed(&mut self) {
        if let Some(views) = &mut self.views {
            tokio::time::sleep_until(clock::instant(self.not_before)).await;
            if views.changed().await.is_ok() {
                return;
            }
            self.views = None;
        }
        std::future::pending::<()>().await;
    }

    /// Looks at the members for the instances of `clusters`.
    pub(super) fn look(&mut self, clusters: &[ClusterParams]) -> Seen {
        if let Some(views) = &mut self.views {
            self.view = Arc::clone(&views.borrow_and_update());
        }
        let Gathered { instances, mismatches } = gather(clusters, &self.view);
        self.tell_mismatches(mismatches);
        let mut seen = if instances == self.instances { Seen::Nothing } else { Seen::Standings };
        for (service, found) in &instances {
            let known =
                self.instances.get(service).map(|known| known.endpoints.as_slice()).unwrap_or_default();
            if known != found.endpoints {
                let (before, now) = (known.len(), found.endpoints.len());
                tracing::info!(%service, before, now, "other members of the mesh stand beside the service");
                seen = Seen::Endpoints;
            }
        }
        self.instances = instances;
        seen
    }

    /// Notes that a snapshot was built with what was seen last.
    pub(super) fn published(&mut self, now: Mono) {
        self.not_before = now.after(PAUSE);
        // Only now: those who are back were to be told from those who are new in this snapshot.
        self.fallen = fallen(&self.view, &self.instances, &self.fallen);
    }

    /// Writes what the members say of endpoints of `snapshot` to where requests read it.
    pub(super) fn apply(&self, snapshot: &MeshSnapshot, now: Mono) {
        for cluster in &snapshot.clusters {
            self.apply_to(cluster, now);
        }
    }

    fn apply_to(&self, cluster: &Cluster, now: Mono) {
        let instances = self.instances.get(&cluster.params.name);
        let fallen = self.fallen.get(&cluster.params.name);
        let mut is_due = false;
        for endpoint in &cluster.endpoints {
            if fallen.is_some_and(|fallen| fallen.contains(&endpoint.address)) {
                endpoint.live.replace_failed();
            }
            // Those of services that are not discovered in the mesh have nobody who says anything.
            let standing = instances.map(|of| of.standing(&endpoint.address)).unwrap_or_default();
            let before = endpoint.live.heed(standing, clock::wall());
            // Who is new has to be counted as well once, or nobody would know later that it is back.
            is_due |= before != standing || endpoint.live.is_new();
            tell_health(cluster, &endpoint.label, before, standing);
        }
        if is_due {
            cluster.recount(now);
        }
    }

    /// Logs each member that is left out once, and again if it is later, after it was not.
    fn tell_mismatches(&mut self, mismatches: Vec<Mismatch>) {
        for Mismatch { service, node, is_secured, .. } in
            mismatches.iter().filter(|one| !self.told.contains(one))
        {
            let reason = if *is_secured {
                "it speaks mutual TLS, and the service is configured without"
            } else {
                "it speaks no mutual TLS, and the service is configured with it"
            };
            tracing::info!(%service, %node, reason, "member is no endpoint of the service");
        }
        self.told = mismatches.into_iter().collect();
    }
}

fn tell_health(cluster: &Cluster, endpoint: &str, before: Standing, now: Standing) {
    let service = &cluster.params.name;
    match (before.is_unhealthy, now.is_unhealthy) {
        (false, true) => {
            tracing::warn!(%service, endpoint, reason = "its own sidecar says so", "endpoint is unhealthy");
        }
        (true, false) => {
            tracing::info!(%service, endpoint, "its own sidecar finds the endpoint healthy again");
        }
        (true, true) | (false, false) => {}
    }
}
