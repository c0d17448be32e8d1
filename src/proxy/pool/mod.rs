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

use super::{error::ProxyError, flow::Flows};
use crate::{
    net::{DialError, Stream, dial, dial_either},
    rt::clock,
    snapshot::{Cluster, Endpoint, EndpointId},
    telemetry::metrics::{ClusterMetrics, ConnectResult},
    types::Mono,
};

/// All upstream connections of one worker.
pub(crate) struct Pools {
    endpoints: RefCell<FxHashMap<EndpointId, Rc<EndpointPool>>>,
    workers: u32,
    flows: Rc<Flows>,
}

impl Pools {
    /// No connections yet. `workers` shares out what is configured per process; uploads over HTTP/2 are watched in
    /// `flows`.
    pub(crate) fn new(workers: usize, flows: Rc<Flows>) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        Self { endpoints: RefCell::default(), workers, flows }
    }

    /// The pool of `endpoint`; made at its first use.
    pub(crate) fn of(&self, endpoint: &Arc<Endpoint>, cluster: &Cluster) -> Rc<EndpointPool> {
        let id = endpoint.live.id();
        if let Some(pool) = self.endpoints.borrow().get(&id) {
            // The same endpoint, but as this snapshot has it.
            if !Arc::ptr_eq(&pool.endpoint.borrow(), endpoint) {
                pool.endpoint.replace(Arc::clone(endpoint));
            }
            return Rc::clone(pool);
        }
        let pool = Rc::new(EndpointPool::new(Arc::clone(endpoint), cluster, self.workers, &self.flows));
        self.endpoints.borrow_mut().insert(id, Rc::clone(&pool));
        pool
    }

    /// Closes what was idle for too long and forgets endpoints that left the configuration. Connections in use
    /// are not touched: they close when their requests end.
    pub(crate) fn sweep(&self, now: Mono) {
        self.endpoints.borrow_mut().retain(|_, pool| {
            let gone = pool.is_retired();
            pool.h1.sweep(now, if gone { Duration::ZERO } else { pool.idle_timeout.get() });
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
    h1: h1::H1Pool,
    h2: h2::H2Pool,
}

impl EndpointPool {
    fn new(endpoint: Arc<Endpoint>, cluster: &Cluster, workers: u32, flows: &Rc<Flows>) -> Self {
        Self {
            endpoint: RefCell::new(endpoint),
            workers,
            idle_timeout: Cell::new(Duration::from_secs(30)),
            h1: h1::H1Pool::default(),
            h2: h2::H2Pool::default(),
            flows: Rc::clone(flows),
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

    pub(crate) async fn dial(&self, cluster: &Cluster) -> Result<Stream, ProxyError> {
        let started = clock::now();
        let limit = cluster.params.connect_timeout;
        let endpoint = Arc::clone(&self.endpoint.borrow());
        let dialed = match &endpoint.alternate {
            None => dial(&endpoint.address, limit).await,
            Some(alternate) => dial_either(&endpoint.address, alternate, limit).await,
        };
        let result = match &dialed {
            Ok(_) => ConnectResult::Ok,
            Err(DialError::Refused(_)) => ConnectResult::Refused,
            Err(DialError::TimedOut(_)) => ConnectResult::Timeout,
        };
        self.metrics.connected(result, clock::now().since(started));
        dialed.map_err(ProxyError::dial)
    }
}
