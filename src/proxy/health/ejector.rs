//! Runs the outlier detection of every service: reads the counts of its endpoints, puts out and takes back whom the
//! policy names. The only writer of ejections. Runs on the control runtime.

use std::{sync::Arc, time::Duration};

use rustc_hash::FxHashMap;

use crate::{
    policy::{
        classify::Outcome,
        outlier::{Observation, OutlierDetector, OutlierParams, Verdict},
    },
    rt::{DrainWatch, Phase, clock},
    snapshot::{Cluster, EndpointLive, SnapshotCell},
    types::Mono,
};

/// How often accusations, ends of ejections and states that change by themselves are looked at. A look at ten
/// thousand endpoints takes less than a millisecond.
const TICK: Duration = Duration::from_millis(250);

/// Looks after the services of the snapshot in `cell` until the process stops. Cancel-safe: yes.
pub async fn watch_outliers(cell: SnapshotCell, mut drain: DrainWatch, mut rng: fastrand::Rng) {
    let mut ticks = tokio::time::interval(TICK);
    // After a pause of the process one look is enough.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut watched = Watched::default();
    loop {
        tokio::select! {
            () = drain.reached(Phase::Stopped) => return,
            _ = ticks.tick() => {}
        }
        let snapshot = cell.load();
        watched.look(snapshot.all_clusters(), clock::now(), &mut rng);
    }
}

/// The detectors, by the live state of their service, which stays the same across reloads.
#[derive(Default)]
struct Watched(FxHashMap<usize, OutlierDetector>);

impl Watched {
    fn look<'a>(
        &mut self,
        clusters: impl Iterator<Item = &'a Arc<Cluster>>,
        now: Mono,
        rng: &mut fastrand::Rng,
    ) {
        let mut kept = FxHashMap::default();
        for cluster in clusters {
            let key = Arc::as_ptr(&cluster.live).addr();
            match &cluster.params.outlier_detection {
                Some(params) => {
                    let mut detector = self.0.remove(&key).unwrap_or_default();
                    judge(&mut detector, cluster, params, now, rng);
                    kept.insert(key, detector);
                }
                // Switched off by a reload.
                None => cluster.endpoints.iter().for_each(|endpoint| endpoint.live.take_back(now)),
            }
            cluster.recount(now);
        }
        self.0 = kept;
    }
}

fn judge(
    detector: &mut OutlierDetector,
    cluster: &Cluster,
    params: &OutlierParams,
    now: Mono,
    rng: &mut fastrand::Rng,
) {
    let seen: Vec<Observation> = cluster.endpoints.iter().map(|one| observation(&one.live)).collect();
    for verdict in detector.look(params, &seen, now, rng) {
        let (Verdict::Eject { index, .. } | Verdict::Return { index }) = verdict;
        let Some(endpoint) = cluster.endpoints.get(index) else { continue };
        let service = &cluster.params.name;
        match verdict {
            Verdict::Eject { cause, until, .. } => {
                endpoint.live.eject(cause, now);
                cluster.metrics.ejected(cause);
                let (reason, out_for) = (cause.as_str(), until.since(now));
                tracing::warn!(%service, endpoint = %endpoint.label, reason, ?out_for, "endpoint is ejected");
            }
            Verdict::Return { .. } => {
                endpoint.live.take_back(now);
                tracing::info!(%service, endpoint = %endpoint.label, "endpoint is back after its ejection");
            }
        }
    }
}

fn observation(live: &EndpointLive) -> Observation {
    Observation {
        id: live.id().0,
        outcomes: Outcome::ALL.map(|outcome| live.outcomes(outcome)),
        accused: live.take_accusation(),
    }
}
