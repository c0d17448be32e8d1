//! Where TCP connections come in: a listener of its own, or the inbound one when the application speaks no HTTP.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use tokio::net::TcpStream;

use super::{
    TcpListenerParams,
    session::{self, Arrival},
};
use crate::{
    proxy::worker::Worker,
    snapshot::{Cluster, MeshSnapshot, Protocol},
    telemetry::metrics::{Registry, TcpMetrics, TcpResult},
    types::Direction,
};

/// The name of the inbound listener in logs.
const INBOUND: &str = "inbound";

/// A listener whose connections go to a TCP service.
#[derive(Debug)]
pub(crate) struct TcpListener {
    params: TcpListenerParams,
    metrics: Arc<TcpMetrics>,
}

impl TcpListener {
    pub(crate) fn new(params: TcpListenerParams, registry: &Registry) -> Self {
        let metrics = TcpMetrics::resolve(registry, Direction::Outbound, &params.service);
        Self { params, metrics }
    }

    /// Most connections at a time.
    pub(crate) fn cap(&self) -> u32 {
        self.params.max_connections
    }

    /// Closes a connection that is one too many. There is no way to say why.
    pub(crate) fn refuse(&self, stream: TcpStream) {
        self.metrics.ended(TcpResult::Overload);
        drop(stream);
    }

    /// Serves one accepted connection to its end.
    pub(crate) async fn serve(&self, worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
        let arrival = Arrival {
            direction: Direction::Outbound,
            listener: &self.params.name,
            peer,
            early: b"",
            idle_timeout: self.params.idle_timeout,
        };
        let snapshot = worker.snapshot.load();
        let cluster = find(&snapshot, &self.params.service);
        session::serve(&worker, arrival, stream, cluster, &self.metrics).await;
    }
}

/// The service of this name, if it still is one that takes bytes: listeners outlive reloads.
fn find(snapshot: &MeshSnapshot, name: &str) -> Option<Arc<Cluster>> {
    let index = snapshot.clusters.binary_search_by(|cluster| (*cluster.params.name).cmp(name)).ok()?;
    let cluster = &snapshot.clusters[index];
    (cluster.params.protocol == Protocol::Tcp).then(|| Arc::clone(cluster))
}

/// The inbound listener as far as it passes on bytes.
#[derive(Debug)]
pub(crate) struct Inbound {
    metrics: Arc<TcpMetrics>,
}

impl Inbound {
    /// `service` is the name of the application's service.
    pub(crate) fn new(service: &str, registry: &Registry) -> Self {
        Self { metrics: TcpMetrics::resolve(registry, Direction::Inbound, service) }
    }

    /// Whether connections on `side` go to the application without a look at their content.
    pub(crate) fn takes_all(side: Direction, snapshot: &MeshSnapshot) -> bool {
        side == Direction::Inbound && snapshot.inbound.cluster.params.protocol == Protocol::Tcp
    }

    /// Closes a connection that is one too many.
    pub(crate) fn refuse(&self, stream: TcpStream) {
        self.metrics.ended(TcpResult::Overload);
        drop(stream);
    }

    /// Serves one accepted connection to its end.
    pub(crate) async fn serve(&self, worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
        let idle_timeout = worker.limits.peek().tcp_idle_timeout;
        let arrival =
            Arrival { direction: Direction::Inbound, listener: INBOUND, peer, early: b"", idle_timeout };
        let cluster = Arc::clone(&worker.snapshot.peek().inbound.cluster);
        session::serve(&worker, arrival, stream, Some(cluster), &self.metrics).await;
    }
}
