//! Counts the endpoints of a service by state, for gauges, and decides on panic routing.

use crate::{
    snapshot::{Changes, Cluster, SelectionId},
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
    let changes = cluster.divide(now);
    let panic = cluster.live.in_panic();
    cluster.metrics.set_panic_mode(panic);
    let failover = cluster.selection(SelectionId::ALL).failover();
    cluster.metrics.set_failover(failover);
    cluster.metrics.set_retry_budget(cluster.live.budget().remaining_ratio(cluster.params.retry_budget, now));
    if changes != Changes::default() {
        tell(cluster, changes, panic, failover);
    }
}

fn tell(cluster: &Cluster, changes: Changes, panic: bool, failover: f64) {
    let all = cluster.endpoints.len();
    let healthy = cluster.endpoints.iter().filter(|endpoint| endpoint.is_usable()).count();
    let service = &cluster.params.name;
    match (changes.panic, panic) {
        (true, true) => {
            tracing::warn!(%service, healthy, all, "too few endpoints are healthy; all of them are used");
        }
        (true, false) => tracing::info!(%service, healthy, all, "enough endpoints are healthy again"),
        (false, _) => {}
    }
    match (changes.failover, failover > 0.0) {
        (true, true) => {
            let share = format!("{:.0} %", failover * 100.0);
            tracing::warn!(%service, share, "endpoints of the first priority are missing; others take over");
        }
        (true, false) => tracing::info!(%service, "endpoints of the first priority take all traffic again"),
        (false, _) => {}
    }
}
