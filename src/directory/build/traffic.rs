//! The tools of a route, resolved for a snapshot.

use std::sync::Arc;

use super::Builder;
use crate::{
    policy::{limit::KeyHasher, traffic::TrafficParams},
    snapshot::{Cluster, Fault, Mirror, RateLimiter, Traffic},
    telemetry::metrics::{FaultMetrics, MirrorMetrics, RateLimitMetrics},
    types::Direction,
};

impl Builder<'_> {
    pub(super) fn traffic(
        &mut self,
        route: &Arc<str>,
        side: Direction,
        params: &TrafficParams,
        clusters: &[Arc<Cluster>],
    ) -> Traffic {
        let TrafficParams { limits, fault, mirror, sticky, max_request_bytes } = params;
        let limits = limits.iter().map(|limit| {
            let metrics = RateLimitMetrics::resolve(self.registry, &limit.name);
            let hasher = KeyHasher::new(self.inputs.seed);
            RateLimiter::new(limit.clone(), self.live.limit(side, limit), hasher, metrics)
        });
        let limits = limits.collect();
        let fault = fault.as_ref().map(|params| Fault {
            params: params.clone(),
            metrics: FaultMetrics::resolve(self.registry, route),
        });
        // A service that does not exist cannot come out of validation.
        let mirror = mirror.as_ref().and_then(|mirror| {
            let cluster = clusters.iter().find(|cluster| cluster.params.name == mirror.service)?;
            let metrics = MirrorMetrics::resolve(self.registry, &mirror.service);
            Some(Mirror { cluster: Arc::clone(cluster), percent: mirror.percent, metrics })
        });
        Traffic { limits, fault, mirror, sticky: sticky.clone(), max_request_bytes: *max_request_bytes }
    }
}
