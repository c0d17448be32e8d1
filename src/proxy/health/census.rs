//! Counts the endpoints of a service by state, for gauges, and decides on panic routing.

use crate::{
    policy::panic_threshold,
    snapshot::Cluster,
    types::{EndpointState, Mono},
};

/// Recounts the endpoints of `cluster`. Called whenever a verdict changes, and now and then for what changes by
/// itself.
pub(super) fn publish(cluster: &Cluster, now: Mono) {
    let mut counts = [0; EndpointState::ALL.len()];
    for endpoint in &cluster.endpoints {
        counts[endpoint.state(now) as usize] += 1;
    }
    cluster.metrics.set_endpoints(counts);
    let all = cluster.endpoints.len();
    // An open circuit does not count: it closes by itself, and panic must not send to what just failed (ADR 0008).
    let usable = cluster.endpoints.iter().filter(|endpoint| endpoint.is_usable()).count();
    let panic = panic_threshold::in_panic(usable, all, cluster.params.panic_threshold_percent);
    cluster.metrics.set_panic_mode(panic);
    if cluster.live.set_panic(panic) {
        let service = &cluster.params.name;
        if panic {
            tracing::warn!(%service, healthy = usable, all, "too few endpoints are healthy; all of them are used");
        } else {
            tracing::info!(%service, healthy = usable, all, "enough endpoints are healthy again");
        }
    }
}
