//! One TCP connection of a client, from accept to close: choose an endpoint, connect, copy, write down.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, Method};

use super::{
    relay::{Broken, Flow, relay},
    screen::{Content, Screened},
};
use crate::{
    identity::Alpn,
    net::{
        Stream,
        proxy_protocol::{self, Addresses},
    },
    policy::{
        balance::{HashOn, Hashing, hash_key},
        classify::Outcome,
        route::RequestView,
    },
    proxy::{gauge::Raised, origin::Origin, secure::Caller, worker::Worker},
    rt::clock,
    snapshot::{Admission, Cluster, Endpoint, SelectionId},
    telemetry::{
        access_log::TcpRecord,
        metrics::{TcpMetrics, TcpResult},
    },
    types::{Direction, Mono},
};

/// Endpoints that are tried for one connection. Nothing was sent before one of them answers, so any number would be
/// safe; the client waits meanwhile.
const MAX_TRIES: usize = 3;

/// How a connection came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) direction: Direction,
    /// Name of the listener.
    pub(crate) listener: &'a str,
    pub(crate) origin: Origin,
    /// Who calls, if that was proved.
    pub(crate) caller: Option<&'a Caller>,
    /// Server name that the client asked for; empty if none was looked for or found.
    pub(crate) server_name: &'a str,
    /// When it was accepted.
    pub(crate) started: Mono,
    /// Bytes that were read from the client already, to find out where they go.
    pub(crate) early: &'a [u8],
    /// A connection on which nothing moves for this long is closed.
    pub(crate) idle_timeout: Duration,
    /// What the client may send.
    pub(crate) content: Content,
}

/// What is remembered of a connection, and written down exactly once, when it is dropped.
struct Record<'a> {
    worker: &'a Rc<Worker>,
    arrival: Arrival<'a>,
    metrics: &'a TcpMetrics,
    service: Option<Arc<Cluster>>,
    endpoint: Option<Arc<Endpoint>>,
    attempts: u32,
    up: Flow,
    down: Flow,
    result: TcpResult,
    _open: Raised,
}

impl<'a> Record<'a> {
    fn new(worker: &'a Rc<Worker>, arrival: Arrival<'a>, metrics: &'a TcpMetrics, result: TcpResult) -> Self {
        Self {
            worker,
            arrival,
            metrics,
            service: None,
            endpoint: None,
            attempts: 0,
            up: Flow::new(metrics.received()),
            down: Flow::new(metrics.sent()),
            result,
            _open: Raised::new(metrics.open()),
        }
    }

    fn attempt(&mut self, endpoint: &Arc<Endpoint>) {
        self.attempts += 1;
        self.endpoint = Some(Arc::clone(endpoint));
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.metrics.ended(self.result);
        let now = clock::now();
        self.worker.access_log.borrow_mut().record_tcp(&TcpRecord {
            at: self.worker.wall_at(now),
            direction: self.arrival.direction,
            listener: self.arrival.listener,
            server_name: self.arrival.server_name,
            service: self.service.as_ref().map_or("", |cluster| &cluster.params.name),
            endpoint: self.endpoint.as_ref().map(|endpoint| &endpoint.address),
            result: self.result.as_str(),
            failed: self.result.is_failure(),
            bytes_in: self.up.total(),
            bytes_out: self.down.total(),
            duration: now.since(self.arrival.started),
            attempts: self.attempts,
            source: self.arrival.caller.map_or("", Caller::name),
            client: self.arrival.origin.source.ip(),
        });
    }
}

/// Writes down a connection that ended with `result` before it was known where it goes.
pub(crate) fn refuse(worker: &Rc<Worker>, arrival: Arrival<'_>, metrics: &TcpMetrics, result: TcpResult) {
    drop(Record::new(worker, arrival, metrics, result));
}

/// Serves one accepted connection to its end. `cluster` is `None` if there is no service for it. Dropped before the
/// end, the connection is cut, so that neither side takes what it got for all there was.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    arrival: Arrival<'_>,
    stream: Stream,
    cluster: Option<Arc<Cluster>>,
    metrics: &TcpMetrics,
) {
    // What it is if nobody says otherwise before the drop.
    let mut record = Record::new(worker, arrival, metrics, TcpResult::Draining);
    record.service.clone_from(&cluster);
    let mut client = Cut::new(stream);
    // Without it the last small segment waits for the other side's delayed ACK.
    if client.stream.tcp().is_some_and(|stream| stream.set_nodelay(true).is_err()) {
        record.result = TcpResult::DownstreamReset;
        return;
    }
    let Some(cluster) = cluster else {
        record.result = TcpResult::NoRoute;
        return client.close();
    };
    let (stream, _admission) = match connect(worker, &cluster, arrival.origin.source, &mut |endpoint| {
        record.attempt(endpoint);
    })
    .await
    {
        Ok(connected) => connected,
        Err(result) => {
            record.result = result;
            return client.close();
        }
    };
    let mut endpoint = Cut::new(stream);
    record.up.begin_with(preamble(&cluster, &arrival, &client.stream), arrival.early);
    let flows = (&mut record.up, &mut record.down);
    let idle = arrival.idle_timeout;
    let mut screened = Screened::new(&mut client.stream, arrival.content);
    let copied = relay(&mut screened, &mut endpoint.stream, flows, idle, &worker.clock).await;
    let was_http = screened.was_http();
    record.result = match copied {
        Err(Broken::Client(_)) if was_http => {
            tracing::debug!(peer = %arrival.origin.source, "HTTP on a connection that was to be anything else");
            TcpResult::Http
        }
        Ok(()) => TcpResult::Closed,
        Err(Broken::Idle) => TcpResult::Idle,
        Err(Broken::Client(error)) => {
            tracing::debug!(%error, peer = %arrival.origin.source, "the client broke its connection");
            TcpResult::DownstreamReset
        }
        Err(Broken::Endpoint(error)) => {
            tracing::debug!(%error, service = %cluster.params.name, "the endpoint broke its connection");
            TcpResult::UpstreamReset
        }
    };
    if matches!(record.result, TcpResult::Closed | TcpResult::Idle) {
        client.close();
        endpoint.close();
    }
}

/// What the endpoint is told of the connection before its bytes.
fn preamble(cluster: &Cluster, arrival: &Arrival<'_>, client: &Stream) -> Vec<u8> {
    let (Some(version), Some(client)) = (cluster.params.send_proxy, client.tcp()) else { return Vec::new() };
    let Origin { source, destination } = arrival.origin;
    // Where the client connected to, unless somebody in front of us said otherwise. A socket that cannot tell is
    // dead, and what is written here will not be read.
    let destination = destination.or_else(|| client.local_addr().ok()).unwrap_or(source);
    proxy_protocol::write(version, Addresses { source, destination })
}

/// A stream that is reset when it is dropped, unless it was closed: a stream that breaks off must not look complete.
struct Cut {
    stream: Stream,
    orderly: bool,
}

impl Cut {
    fn new(stream: Stream) -> Self {
        Self { stream, orderly: false }
    }

    fn close(mut self) {
        self.orderly = true;
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if !self.orderly {
            // Fails only if the socket is dead already.
            let _ = self.stream.reset_on_close();
        }
    }
}

/// Connects to an endpoint of the service, and to another one if that fails.
/// `attempted` hears of each that is tried.
///
/// # Errors
/// Why there is no connection: of the last endpoint, if any was tried.
pub(crate) async fn connect(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    client: SocketAddr,
    attempted: &mut dyn FnMut(&Arc<Endpoint>),
) -> Result<(Stream, Admission), TcpResult> {
    let key = affinity(cluster, client);
    let mut tried = [usize::MAX; MAX_TRIES];
    let mut last = TcpResult::NoHealthyEndpoint;
    for attempt in 0..MAX_TRIES {
        let now = clock::now();
        let picked = {
            let rng = &mut *worker.rng.borrow_mut();
            cluster.pick(SelectionId::ALL, &tried[..attempt], key, now, rng)
        };
        let Some(index) = picked else { return Err(last) };
        tried[attempt] = index;
        let endpoint = &cluster.endpoints[index];
        if endpoint.live.in_flight() >= cluster.params.limits.max_connections {
            last = TcpResult::UpstreamOverflow;
            continue;
        }
        let Some(mut admission) = endpoint.admit(now) else { continue };
        attempted(endpoint);
        match worker.pools.of(endpoint, cluster).dial(cluster, Alpn::Bytes).await {
            Ok(stream) => {
                admission.settle(Outcome::Success, None, clock::now());
                return Ok((stream, admission));
            }
            Err(error) => {
                tracing::debug!(service = %cluster.params.name, endpoint = %endpoint.label, %error, "no connection");
                admission.settle(Outcome::LocalOrigin, None, clock::now());
                last = TcpResult::UpstreamConnect;
            }
        }
    }
    Err(last)
}

/// What a hashing balancer places the connection by: of all that it may be told to hash, only the client's address
/// exists here. Without a key it chooses at random.
fn affinity(cluster: &Cluster, peer: SocketAddr) -> Option<u64> {
    let Some(Hashing { hash_on: hash_on @ HashOn::SourceAddress, .. }) = cluster.params.balance.hashing()
    else {
        return None;
    };
    let headers = HeaderMap::new();
    let view = RequestView { host: "", path: "/", query: None, method: &Method::CONNECT, headers: &headers };
    hash_key(hash_on, &view, peer.ip())
}
