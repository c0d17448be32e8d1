//! Keeps one checking task per endpoint that is to be checked, and writes the verdicts where the data plane and
//! the admin API read them.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tokio::{sync::watch, task::AbortHandle};

use super::{Schedule, check_once};
use crate::{
    policy::health::{CheckResult, HealthState, Thresholds, Transition},
    rt::clock,
    snapshot::{Cluster, Endpoint, EndpointId, HealthCheckParams, SnapshotCell},
};

/// Checks what the snapshot in `cell` says, and follows it with every generation that `published` tells. Ends
/// when the sender is gone; dropping the future ends all checks.
pub async fn run(cell: SnapshotCell, mut published: watch::Receiver<u64>, mut rng: fastrand::Rng) {
    let mut checks = Checks::default();
    loop {
        let snapshot = cell.load();
        checks.follow(snapshot.all_clusters(), &mut rng);
        drop(snapshot);
        if published.changed().await.is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct Checks {
    running: FxHashMap<EndpointId, Check>,
}

/// One checking task; dropping it ends it.
struct Check {
    /// What it was started with: another configuration means another task.
    params: String,
    cluster: watch::Sender<Arc<Cluster>>,
    task: AbortHandle,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checks {
    fn follow<'a>(&mut self, clusters: impl Iterator<Item = &'a Arc<Cluster>>, rng: &mut fastrand::Rng) {
        let mut kept = FxHashMap::default();
        for cluster in clusters {
            match &cluster.params.health_check {
                Some(params) => self.follow_cluster(cluster, params, &mut kept, rng),
                None => cluster.endpoints.iter().for_each(|endpoint| endpoint.live.trust()),
            }
            cluster.recount(clock::now());
        }
        // What is left belongs to endpoints that are gone, or are checked in another way now.
        self.running = kept;
    }

    fn follow_cluster(
        &mut self,
        cluster: &Arc<Cluster>,
        params: &HealthCheckParams,
        kept: &mut FxHashMap<EndpointId, Check>,
        rng: &mut fastrand::Rng,
    ) {
        let fingerprint = format!("{params:?} {:?}", cluster.params.protocol);
        let of = cluster.endpoints.len();
        for (place, endpoint) in cluster.endpoints.iter().enumerate() {
            let id = endpoint.live.id();
            let known = self.running.remove(&id).filter(|check| check.params == fingerprint);
            let check = known.unwrap_or_else(|| {
                let schedule = Schedule::new(params.interval, place, of, clock::now(), rng);
                let (sender, receiver) = watch::channel(Arc::clone(cluster));
                let work =
                    check_for_ever(receiver, Arc::clone(endpoint), params.clone(), schedule, rng.fork());
                let task = tokio::spawn(work).abort_handle();
                Check { params: fingerprint.clone(), cluster: sender, task }
            });
            check.cluster.send_replace(Arc::clone(cluster));
            kept.insert(id, check);
        }
    }
}

async fn check_for_ever(
    cluster: watch::Receiver<Arc<Cluster>>,
    endpoint: Arc<Endpoint>,
    params: HealthCheckParams,
    mut schedule: Schedule,
    mut rng: fastrand::Rng,
) {
    let thresholds = Thresholds { healthy: params.healthy_threshold, unhealthy: params.unhealthy_threshold };
    let mut state = HealthState::new(thresholds);
    loop {
        tokio::time::sleep_until(clock::instant(schedule.due())).await;
        let current = Arc::clone(&cluster.borrow());
        let service = &current.params.name;
        let checked = check_once(
            &params.kind,
            current.params.protocol,
            service,
            &endpoint.address,
            &current.tls,
            params.timeout,
        )
        .await;
        current.metrics.health_checked(checked.is_ok());
        let result = if checked.is_ok() { CheckResult::Passed } else { CheckResult::Failed };
        let reason = checked.err().map(|failure| failure.to_string());
        match state.observe(result) {
            Some(Transition::BecameHealthy) => {
                if !endpoint.live.passes_checks() {
                    tracing::info!(%service, endpoint = %endpoint.label, "endpoint is healthy again");
                }
                endpoint.live.judge(true, None, clock::wall());
                current.recount(clock::now());
            }
            Some(Transition::BecameUnhealthy) => {
                let reason = reason.unwrap_or_default();
                tracing::warn!(%service, endpoint = %endpoint.label, reason, "endpoint is unhealthy");
                endpoint.live.judge(false, Some(reason), clock::wall());
                current.recount(clock::now());
            }
            None => {}
        }
        schedule.checked(clock::now(), &mut rng);
    }
}
