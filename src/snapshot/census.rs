//! Counts the endpoints of a service by state, for gauges, and decides on panic routing.

use super::{Changes, Cluster, SelectionId};
use crate::types::{EndpointState, Mono};

impl Cluster {
    /// Counts its endpoints anew, divides its traffic by what they are like at `now`, and lets those warm up that are
    /// back. To be called whenever a verdict changes, and now and then for what changes by itself; only by the control
    /// runtime.
    pub fn recount(&self, now: Mono) {
        let mut counts = [0; EndpointState::ALL.len()];
        for endpoint in &self.endpoints {
            counts[endpoint.state(now) as usize] += 1;
        }
        self.metrics.set_endpoints(counts);
        let changes = self.divide(now);
        // Only now it is known which of them panic routing uses.
        self.endpoints.iter().for_each(|endpoint| endpoint.follow(now));
        let panic = self.live.in_panic();
        self.metrics.set_panic_mode(panic);
        let failover = self.selection(SelectionId::ALL).failover();
        self.metrics.set_failover(failover);
        self.metrics.set_retry_budget(self.live.budget().remaining_ratio(self.params.retry_budget, now));
        if changes != Changes::default() {
            tell(self, changes, panic, failover);
        }
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
