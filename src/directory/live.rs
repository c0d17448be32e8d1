//! The live numbers of endpoints and services, kept by identity from snapshot to snapshot.

use std::sync::{Arc, atomic::AtomicU64};

use rustc_hash::FxHashMap;

use crate::{
    identity::jwt::{IssuerKeys, JwtParams, Verifier},
    policy::limit::{LimitKey, Period, RateLimitParams},
    snapshot::{AdaptiveLive, ClusterLive, EndpointLive, KeyStore},
    telemetry::metrics::Registry,
    types::{Direction, EndpointAddress},
};

/// Which of the two listeners a service belongs to: the local application may also be a service that others,
/// and the application itself, call through the outbound listener.
type ClusterKey = (bool, Arc<str>);

/// What makes two rate limits the same one: with another key or period the state of one means nothing to the other,
/// with another rate or burst it does, and forgetting it would be a free refill.
type LimitIdentity = (Direction, Arc<str>, LimitKey, Period);

/// Everything that must survive a reload.
#[derive(Debug, Default)]
pub struct LiveTable {
    endpoints: FxHashMap<(ClusterKey, EndpointAddress), Arc<EndpointLive>>,
    clusters: FxHashMap<ClusterKey, Arc<ClusterLive>>,
    hits: FxHashMap<Arc<str>, Arc<AtomicU64>>,
    limits: FxHashMap<LimitIdentity, Arc<KeyStore>>,
    concurrency: Arc<AdaptiveLive>,
    issuers: FxHashMap<Arc<str>, Arc<IssuerKeys>>,
    /// With the tokens that it remembers.
    verifier: Option<(JwtParams, Arc<Verifier>)>,
}

impl LiveTable {
    /// The numbers of the endpoint at `address`, and whether it is new. `seed` is for one that is.
    pub(super) fn endpoint(
        &mut self,
        local: bool,
        cluster: &Arc<str>,
        address: &EndpointAddress,
        seed: u64,
    ) -> (Arc<EndpointLive>, bool) {
        let key = ((local, Arc::clone(cluster)), address.clone());
        let mut is_new = false;
        let live = self.endpoints.entry(key).or_insert_with(|| {
            is_new = true;
            Arc::new(EndpointLive::new(true, seed))
        });
        live.set_retired(false);
        (Arc::clone(live), is_new)
    }

    /// The state of a service.
    pub(super) fn cluster(&mut self, local: bool, name: &Arc<str>) -> Arc<ClusterLive> {
        Arc::clone(self.clusters.entry((local, Arc::clone(name))).or_default())
    }

    /// The hits of a route.
    pub(super) fn hits(&mut self, route: &Arc<str>) -> Arc<AtomicU64> {
        Arc::clone(self.hits.entry(Arc::clone(route)).or_default())
    }

    /// The buckets of a rate limit.
    pub(super) fn limit(&mut self, side: Direction, params: &RateLimitParams) -> Arc<KeyStore> {
        let identity = (side, Arc::clone(&params.name), params.key.clone(), params.rate.per);
        Arc::clone(self.limits.entry(identity).or_default())
    }

    /// What was learned of the application.
    pub(super) fn concurrency(&self) -> Arc<AdaptiveLive> {
        Arc::clone(&self.concurrency)
    }

    /// The verifier for `params`: the same one as long as they are the same, and the keys of an issuer in any case.
    pub(super) fn verifier(&mut self, params: &JwtParams, registry: &Registry) -> Arc<Verifier> {
        if let Some((known, verifier)) = &self.verifier
            && known == params
        {
            return Arc::clone(verifier);
        }
        let issuers = &mut self.issuers;
        let keys = |issuer: &Arc<str>| Arc::clone(issuers.entry(Arc::clone(issuer)).or_default());
        let verifier = Arc::new(Verifier::new(params, registry, keys));
        self.issuers.retain(|issuer, _| params.issuers.iter().any(|known| known.issuer == *issuer));
        self.verifier = Some((params.clone(), Arc::clone(&verifier)));
        verifier
    }

    /// No tokens are looked at any more.
    pub(super) fn forget_verifier(&mut self) {
        self.verifier = None;
        self.issuers.clear();
    }

    /// Lets go of everything that the latest snapshot, and no other holder, uses. Pools learn of it by the mark.
    pub(super) fn forget_unused(&mut self, used: &[Arc<EndpointLive>]) {
        let used: rustc_hash::FxHashSet<_> = used.iter().map(|live| live.id()).collect();
        self.endpoints.retain(|_, live| {
            let keep = used.contains(&live.id());
            if !keep {
                live.set_retired(true);
            }
            keep
        });
        self.limits.retain(|_, store| Arc::strong_count(store) > 1);
        self.hits.retain(|_, hits| Arc::strong_count(hits) > 1);
        self.clusters.retain(|_, live| Arc::strong_count(live) > 1);
    }
}
