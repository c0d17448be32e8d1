//! Where TCP connections come in: a listener of its own, or the inbound one when the application speaks no HTTP.
//! Finds out whose connection it is and where it goes; the rest is in `session`.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{
    TcpListenerParams,
    client_hello::HelloReader,
    screen::Content,
    server_names::ServerNames,
    session::{self, Arrival},
};
use crate::{
    net::Stream,
    proxy::{
        authz,
        origin::{self, Origin, OriginError},
        secure::Caller,
        worker::Worker,
    },
    rt::clock,
    snapshot::{Cluster, MeshSnapshot, Protocol},
    telemetry::metrics::{Registry, TcpMetrics, TcpResult},
    types::Direction,
};

/// The name of the inbound listener in logs.
const INBOUND: &str = "inbound";
/// What metrics call the service of a connection for which there is none.
const NO_SERVICE: &str = "none";
/// First read of a ClientHello; most fit.
const HELLO_READ: usize = 2048;

/// A listener whose connections go to TCP services.
#[derive(Debug)]
pub(crate) struct TcpListener {
    params: TcpListenerParams,
    names: ServerNames,
    /// Of the routes, by their index.
    routed: Vec<Arc<TcpMetrics>>,
    /// Of all other connections.
    unrouted: Arc<TcpMetrics>,
}

/// Where a connection goes.
struct Destination<'a> {
    service: Option<&'a Arc<str>>,
    metrics: &'a Arc<TcpMetrics>,
    server_name: Option<String>,
    /// Bytes that were read to find out.
    early: Vec<u8>,
}

impl TcpListener {
    pub(crate) fn new(params: TcpListenerParams, registry: &Registry) -> Self {
        let metrics = |service: &str| TcpMetrics::resolve(registry, Direction::Outbound, service);
        Self {
            names: ServerNames::new(&params.routes),
            routed: params.routes.iter().map(|route| metrics(&route.service)).collect(),
            unrouted: metrics(params.service.as_deref().unwrap_or(NO_SERVICE)),
            params,
        }
    }

    /// Most connections at a time.
    pub(crate) fn cap(&self) -> u32 {
        self.params.max_connections
    }

    /// Closes a connection that is one too many. There is no way to say why.
    pub(crate) fn refuse(&self, stream: TcpStream) {
        self.unrouted.ended(TcpResult::Overload);
        drop(stream);
    }

    /// Serves one accepted connection to its end.
    pub(crate) async fn serve(&self, worker: Rc<Worker>, mut stream: TcpStream, peer: SocketAddr) {
        let mut arrival = Arrival {
            direction: Direction::Outbound,
            listener: &self.params.name,
            origin: Origin { source: peer, destination: None },
            caller: None,
            server_name: "",
            started: clock::now(),
            early: b"",
            idle_timeout: self.params.idle_timeout,
            content: Content::Any,
        };
        let patience = worker.limits.peek().header_timeout;
        if self.params.requires_proxy_header {
            match origin::read(&mut stream, peer, patience).await {
                Ok(origin) => arrival.origin = origin,
                Err(error) => {
                    tracing::debug!(%error, %peer, "a connection without a PROXY header");
                    let late = matches!(error, OriginError::Late);
                    let result = if late { TcpResult::DownstreamTimeout } else { TcpResult::BadRequest };
                    return session::refuse(&worker, arrival, &self.unrouted, result);
                }
            }
        }
        let destination = match self.destination(&mut stream, patience).await {
            Ok(destination) => destination,
            Err(result) => return session::refuse(&worker, arrival, &self.unrouted, result),
        };
        arrival.early = &destination.early;
        arrival.server_name = destination.server_name.as_deref().unwrap_or_default();
        let snapshot = worker.snapshot.load();
        let cluster = destination.service.and_then(|service| find(&snapshot, service));
        drop(snapshot);
        session::serve(&worker, arrival, Stream::Tcp(stream), cluster, destination.metrics).await;
    }

    /// Finds out where the connection goes, by its server name if there are routes.
    async fn destination(
        &self,
        stream: &mut TcpStream,
        patience: Duration,
    ) -> Result<Destination<'_>, TcpResult> {
        let mut destination = Destination {
            service: self.params.service.as_ref(),
            metrics: &self.unrouted,
            server_name: None,
            early: Vec::new(),
        };
        if self.params.routes.is_empty() {
            return Ok(destination);
        }
        let hello = read_hello(stream, &mut destination.early);
        let named = tokio::time::timeout(patience, hello).await;
        destination.server_name = named.map_err(|_| TcpResult::DownstreamTimeout)??;
        let route = destination.server_name.as_deref().and_then(|name| self.names.find(name));
        if let Some(route) = route {
            destination.service = Some(&self.params.routes[route].service);
            destination.metrics = &self.routed[route];
        }
        Ok(destination)
    }
}

/// Reads into `early` until the client has said whom it wants to talk to.
async fn read_hello(stream: &mut TcpStream, early: &mut Vec<u8>) -> Result<Option<String>, TcpResult> {
    let mut reader = HelloReader::default();
    early.reserve(HELLO_READ);
    loop {
        let seen = early.len();
        let read = stream.read_buf(early).await.map_err(|_| TcpResult::DownstreamReset)?;
        if read == 0 {
            return Err(if seen == 0 { TcpResult::Closed } else { TcpResult::BadRequest });
        }
        match reader.push(&early[seen..]) {
            Ok(None) => {}
            Ok(Some(hello)) => return Ok(hello.server_name),
            Err(error) => {
                tracing::debug!(%error, "a connection without a ClientHello");
                return Err(TcpResult::BadRequest);
            }
        }
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

    /// Serves one accepted connection of `caller`, if that was proved, to its end.
    pub(crate) async fn serve(
        &self,
        worker: Rc<Worker>,
        stream: Stream,
        origin: Origin,
        caller: Option<Rc<Caller>>,
    ) {
        let snapshot = worker.snapshot.load();
        let application = &snapshot.inbound;
        // An application of which nobody said that it speaks no HTTP may speak it, and what comes this way is held to
        // none of the rules for requests.
        let is_declared = application.cluster.params.protocol == Protocol::Tcp;
        let arrival = Arrival {
            direction: Direction::Inbound,
            listener: INBOUND,
            origin,
            caller: caller.as_deref(),
            server_name: "",
            started: clock::now(),
            early: b"",
            idle_timeout: worker.limits.peek().tcp_idle_timeout,
            content: if is_declared { Content::Any } else { Content::NoHttp },
        };
        let caller_id = caller.as_deref().map(|caller| &caller.id);
        if !application.takes_unread() || !authz::may_connect(&worker, &application.callers, caller_id) {
            return session::refuse(&worker, arrival, &self.metrics, TcpResult::Denied);
        }
        let cluster = Arc::clone(&application.cluster);
        drop(snapshot);
        session::serve(&worker, arrival, stream, Some(cluster), &self.metrics).await;
    }
}
