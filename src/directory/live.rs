//! The live numbers of endpoints and services, kept by identity from snapshot to snapshot.

use std::sync::{Arc, atomic::AtomicU64};

use rustc_hash::FxHashMap;

use crate::{
    identity::{
        MeshTls,
        external::ExternalTls,
        jwt::{IssuerKeys, JwtParams, Verifier},
    },
    policy::limit::{LimitKey, Period, RateLimitParams},
    snapshot::{
        AdaptiveLive, ClusterLive, ClusterParams, EndpointLive, KeyStore, UpstreamTls, UpstreamTlsParams,
    },
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
    peers: FxHashMap<Arc<str>, UpstreamTls>,
    externals: FxHashMap<Arc<str>, UpstreamTls>,
    issuers: FxHashMap<Arc<str>, Arc<IssuerKeys>>,
    /// With the tokens that it remembers.
    verifier: Option<(JwtParams, Arc<Verifier>)>,
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
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

    /// The TLS of a service of the mesh, with the sessions that can be taken up again.
    pub(super) fn peer(&mut self, service: &Arc<str>, mesh: &MeshTls) -> UpstreamTls {
        if let Some(known) = self.peers.get(service) {
            return known.clone();
        }
        let made = match mesh.peer(service) {
            Ok(peer) => UpstreamTls::Mesh(Arc::new(peer)),
            // Never plaintext instead. Names of services can all have an identity: validation knows the same rule.
            Err(_) => UpstreamTls::Impossible,
        };
        self.peers.entry(Arc::clone(service)).or_insert(made).clone()
    }

    /// Reads the certificates for services outside of the mesh anew. Blocks. One whose files cannot be used gets no
    /// connection at all, and the log says why.
    pub(super) fn read_external(&mut self, clusters: &[ClusterParams]) {
        let read = |cluster: &ClusterParams| {
            let UpstreamTlsParams::External(params) = &cluster.tls else { return None };
            let tls = match ExternalTls::new(params) {
                Ok(tls) => UpstreamTls::External(Arc::new(tls)),
                Err(error) => {
                    tracing::error!(service = %cluster.name, error = %chain(&error), "no TLS to a service");
                    UpstreamTls::Impossible
                }
            };
            Some((Arc::clone(&cluster.name), tls))
        };
        self.externals = clusters.iter().filter_map(read).collect();
    }

    /// The TLS of a service outside of the mesh, as last read.
    pub(super) fn external(&self, service: &Arc<str>) -> UpstreamTls {
        self.externals.get(service).cloned().unwrap_or(UpstreamTls::Impossible)
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
