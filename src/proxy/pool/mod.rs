//! Upstream connections of one worker: per endpoint, bounded, reused last-in-first-out. Knows nothing of routes
//! or retries; the loop that uses it is in proxy/exchange.rs.

mod h1;
mod h2;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use rustc_hash::FxHashMap;

pub(crate) use h1::{H1Lease, TunnelParts, TunnelSlot};
pub(crate) use h2::H2Lease;

use super::{error::ProxyError, flow::Flows, secure};
use crate::{
    identity::{Alpn, TlsRefusal},
    net::{
        DialError, Stream, dial, dial_either,
        tls::{self, TlsTo},
    },
    rt::clock,
    snapshot::{Cluster, Endpoint, EndpointId, TlsEpoch, UpstreamTls},
    telemetry::metrics::{ClusterMetrics, ConnectResult, Registry, TlsMetrics},
    types::{Direction, Mono},
};

/// All upstream connections of one worker.
pub(crate) struct Pools {
    endpoints: RefCell<FxHashMap<EndpointId, Rc<EndpointPool>>>,
    workers: u32,
    flows: Rc<Flows>,
    handshakes: Arc<TlsMetrics>,
}

impl Pools {
    /// No connections yet. `workers` shares out what is configured per process; uploads over HTTP/2 are watched in
    /// `flows`.
    pub(crate) fn new(workers: usize, flows: Rc<Flows>, registry: &Arc<Registry>) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        let handshakes = secure::metrics(registry, Direction::Outbound);
        Self { endpoints: RefCell::default(), workers, flows, handshakes }
    }

    /// The pool of `endpoint`; made at its first use.
    pub(crate) fn of(&self, endpoint: &Arc<Endpoint>, cluster: &Cluster) -> Rc<EndpointPool> {
        let id = endpoint.live.id();
        if let Some(pool) = self.endpoints.borrow().get(&id) {
            // The same endpoint, but as this snapshot has it.
            if !Arc::ptr_eq(&pool.endpoint.borrow(), endpoint) {
                pool.endpoint.replace(Arc::clone(endpoint));
                pool.tls.replace(cluster.tls.clone());
            }
            return Rc::clone(pool);
        }
        let pool = Rc::new(EndpointPool::new(Arc::clone(endpoint), cluster, self));
        self.endpoints.borrow_mut().insert(id, Rc::clone(&pool));
        pool
    }

    /// Closes what was idle for too long and forgets endpoints that left the configuration. Connections in use
    /// are not touched: they close when their requests end.
    pub(crate) fn sweep(&self, now: Mono) {
        self.endpoints.borrow_mut().retain(|_, pool| {
            let gone = pool.is_retired();
            pool.h1.sweep(now, if gone { Duration::ZERO } else { pool.idle_timeout.get() }, pool.epoch());
            h2::sweep(pool, now, if gone { Duration::ZERO } else { pool.idle_timeout.get() });
            !(gone && pool.h1.is_empty() && pool.h2.is_empty())
        });
    }
}

/// Connections of one worker to one endpoint.
pub(crate) struct EndpointPool {
    endpoint: RefCell<Arc<Endpoint>>,
    metrics: Arc<ClusterMetrics>,
    workers: u32,
    /// As of the last request: the sweeper has no snapshot at hand.
    idle_timeout: Cell<Duration>,
    flows: Rc<Flows>,
    tls: RefCell<UpstreamTls>,
    handshakes: Arc<TlsMetrics>,
    /// Why the endpoint was last not believed, or did not believe us; `None` since it was the last time.
    disbelief: Cell<Option<TlsRefusal>>,
    h1: h1::H1Pool,
    h2: h2::H2Pool,
}

impl EndpointPool {
    fn new(endpoint: Arc<Endpoint>, cluster: &Cluster, pools: &Pools) -> Self {
        Self {
            endpoint: RefCell::new(endpoint),
            workers: pools.workers,
            idle_timeout: Cell::new(Duration::from_secs(30)),
            h1: h1::H1Pool::default(),
            h2: h2::H2Pool::default(),
            flows: Rc::clone(&pools.flows),
            tls: RefCell::new(cluster.tls.clone()),
            handshakes: Arc::clone(&pools.handshakes),
            disbelief: Cell::default(),
            metrics: Arc::clone(&cluster.metrics),
        }
    }

    /// The endpoint left the configuration.
    fn is_retired(&self) -> bool {
        self.endpoint.borrow().live.is_retired()
    }

    /// Connections that this worker may have to the endpoint.
    fn max_connections(&self, cluster: &Cluster) -> u32 {
        (cluster.params.limits.max_connections / self.workers).max(1)
    }

    /// Stands for whom is believed: a connection that was made with another one takes no new requests.
    fn epoch(&self) -> TlsEpoch {
        self.tls.borrow().epoch()
    }

    /// Connects, and lets the endpoint prove who it is where that is wanted. All of it within the connect timeout.
    pub(crate) async fn dial(&self, cluster: &Cluster, alpn: Alpn) -> Result<Stream, ProxyError> {
        let to = match &cluster.tls {
            UpstreamTls::None => None,
            UpstreamTls::Mesh(peer) => Some(TlsTo::Peer(peer)),
            UpstreamTls::External(external) => Some(TlsTo::External(external)),
            UpstreamTls::Impossible => return Err(ProxyError::no_identity()),
        };
        let started = clock::now();
        let limit = cluster.params.connect_timeout;
        let endpoint = Arc::clone(&self.endpoint.borrow());
        let dialed = match &endpoint.alternate {
            None => dial(&endpoint.address, limit).await,
            Some(alternate) => dial_either(&endpoint.address, alternate, limit).await,
        };
        let took = clock::now().since(started);
        let result = match &dialed {
            Ok(_) => ConnectResult::Ok,
            Err(DialError::Refused(_)) => ConnectResult::Refused,
            Err(DialError::TimedOut(_)) => ConnectResult::Timeout,
        };
        let (stream, to) = match (dialed, to) {
            (Ok(stream), Some(to)) => (stream, to),
            (dialed, _) => {
                self.metrics.connected(result, took);
                return dialed.map_err(ProxyError::dial);
            }
        };
        let secured = tls::connect(stream, to, alpn, limit.saturating_sub(took)).await;
        let now = clock::now();
        let result = if secured.is_ok() { ConnectResult::Ok } else { ConnectResult::Tls };
        self.metrics.connected(result, now.since(started));
        let word = secured.as_ref().map_or_else(|error| error.reason.as_str(), |_| "ok");
        self.handshakes.handshake(word, now.since(started).saturating_sub(took));
        let disbelief = secured.as_ref().err().map(|error| error.reason);
        let before = self.disbelief.replace(disbelief);
        secured.map_err(|error| {
            // Told when it begins, not with every attempt.
            if before != disbelief {
                tracing::warn!(
                    service = %cluster.params.name, endpoint = %endpoint.label, reason = error.reason.as_str(),
                    error = %error.source, "no TLS with an endpoint"
                );
            }
            ProxyError::tls(error)
        })
    }
}
