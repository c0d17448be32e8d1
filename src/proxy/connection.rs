//! One connection of a client, from accept to close: detect the protocol, let hyper serve it, tunnel if a request
//! asked for it.

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    ListenersParams, authz,
    codec::{self, StreamTasks},
    deadline::SpareTimer,
    exchange,
    flow::{Flow, WatchedBody},
    framing::{ConnState, Detected, GuardedIo},
    gauge::Raised,
    intercept::{self, Admitted, Intercepted},
    origin::{self, Origin},
    passthrough,
    secure::{self, Caller, Secured, Standing},
    tcp::{self, Inbound, Speaks},
    tunnel::{self, TunnelPlan},
    worker::Worker,
};
use crate::{
    identity::{Alpn, TlsRefusal},
    net::Stream,
    rt::Phase,
    telemetry::metrics::{ConnectionProtocol, ListenerOutcome},
    types::{Direction, Flag, SpiffeId},
};

/// What all requests of one client connection share.
pub(crate) struct Downstream {
    pub(crate) worker: Rc<Worker>,
    pub(crate) side: Direction,
    pub(crate) peer: SocketAddr,
    /// Who is at the other end, if that was proved; `None` on connections that prove nothing.
    pub(crate) caller: Option<Rc<Caller>>,
    /// Where decisions about it are counted.
    pub(super) decisions: authz::Decisions,
    pub(crate) state: Rc<ConnState>,
    /// Limits as they were when the connection was accepted.
    pub(crate) limits: Arc<ListenersParams>,
    pub(crate) timer: SpareTimer,
    /// Where the connection was going, if it was redirected here.
    pub(crate) intercepted: Option<Intercepted>,
    tunnel: Cell<Option<Box<TunnelPlan>>>,
}

impl Downstream {
    /// What the client takes the scheme of its request to be.
    pub(crate) fn scheme(&self) -> &'static str {
        let encrypted = self.side == Direction::Outbound && self.worker.edge.is_some();
        if encrypted { "https" } else { "http" }
    }

    /// Who is at the other end, if that was proved.
    pub(crate) fn caller_id(&self) -> Option<&SpiffeId> {
        self.caller.as_deref().map(|caller| &caller.id)
    }

    /// The connection becomes a tunnel as soon as the 101 is written.
    pub(crate) fn open_tunnel(&self, plan: TunnelPlan) {
        self.tunnel.set(Some(Box::new(plan)));
    }

    /// Waits for the moment when everything that still runs is dropped.
    pub(crate) async fn stopped(&self) {
        self.worker.drain.clone().reached(Phase::Stopped).await;
    }
}

/// Serves one accepted connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, mut stream: TcpStream, peer: SocketAddr, side: Direction) {
    let limits = worker.limits.load();
    let mut origin = Origin { source: peer, destination: None };
    if limits.requires_proxy_header(side) {
        match Box::pin(origin::read(&mut stream, peer, limits.header_timeout)).await {
            Ok(found) => origin = found,
            Err(error) => {
                tracing::debug!(%error, %peer, "a connection without a PROXY header");
                let metrics = worker.listener_metrics(side);
                metrics.opened(ConnectionProtocol::Unknown, ListenerOutcome::Refused);
                return metrics.rejected("proxy_protocol");
            }
        }
    }
    let (dialed_by, peer) = (peer, origin.source);
    let mut only_bytes = Inbound::takes_all(side, &worker.snapshot.peek());
    let mut intercepted = None;
    let mut detects = limits.detects(side);
    if limits.transparent {
        // Boxed: the room for it would otherwise be taken in the future of every connection.
        match Box::pin(intercept::admit(&worker, &limits, &stream, dialed_by, side)).await {
            Admitted::Http(destination) => intercepted = destination,
            Admitted::Application { speaks_anything } => detects |= speaks_anything,
            Admitted::Raw(plan) => {
                return Box::pin(passthrough::run(&worker, &limits, stream, plan)).await;
            }
            Admitted::Refused => return,
        }
    }
    let Some(Known { stream, caller, alpn }) = know(&worker, &limits, side, stream, peer).await else {
        return;
    };
    match (alpn, &stream) {
        (Some(Alpn::Bytes), _) if only_bytes || detects => only_bytes = true,
        (Some(Alpn::Bytes), _) => {
            // An application that speaks HTTP is never reached past the checks of that.
            if let Some(security) = &worker.security {
                security.refuse(TlsRefusal::Alpn, Duration::ZERO, peer, &"the application speaks HTTP");
            }
            return;
        }
        (None, Stream::Tcp(plain)) if !only_bytes && detects => {
            only_bytes = Box::pin(speaks_other(plain, &limits)).await;
        }
        (Some(Alpn::Http1 | Alpn::Http2) | None, _) => {}
    }
    if only_bytes {
        let inbound = Arc::clone(&worker.inbound_tcp);
        // Boxed: it must not make room in the future of every HTTP connection.
        return Box::pin(inbound.serve(worker, stream, origin, caller)).await;
    }
    serve_http(worker, limits, side, peer, Known { stream, caller, alpn }, intercepted).await;
}

/// Serves a connection that speaks HTTP to its end.
async fn serve_http(
    worker: Rc<Worker>,
    limits: Arc<ListenersParams>,
    side: Direction,
    peer: SocketAddr,
    known: Known,
    intercepted: Option<Intercepted>,
) {
    let Known { stream, caller, .. } = known;
    // Without it the last small segment of an answer waits for the client's delayed ACK.
    if let Some(Err(error)) = stream.tcp().map(|stream| stream.set_nodelay(true)) {
        tracing::debug!(%error, "connection died before it was served");
        return;
    }
    let state = ConnState::new(Rc::clone(&worker.clock));
    if worker.drain.phase() >= Phase::Draining {
        state.request_graceful();
    }
    worker.sweeper.watch(&state, &limits, caller.as_deref().map(Standing::of));
    let downstream = Rc::new(Downstream {
        worker: Rc::clone(&worker),
        side,
        peer,
        caller,
        decisions: authz::Decisions::default(),
        state: Rc::clone(&state),
        limits: Arc::clone(&limits),
        timer: SpareTimer::default(),
        intercepted,
        tunnel: Cell::new(None),
    });
    let mut io = GuardedIo::new(stream, Rc::clone(&state), limits.head_limits());
    let metrics = worker.listener_metrics(side);
    match io.detect().await {
        Ok(Detected::Http1) => {
            metrics.opened(ConnectionProtocol::Http1, ListenerOutcome::Accepted);
            let _open = Raised::new(metrics.open(ConnectionProtocol::Http1));
            serve_http1(downstream, io).await;
        }
        Ok(Detected::Http2) => {
            metrics.opened(ConnectionProtocol::Http2, ListenerOutcome::Accepted);
            let _open = Raised::new(metrics.open(ConnectionProtocol::Http2));
            serve_http2(downstream, io).await;
        }
        Ok(Detected::Closed) | Err(_) => {
            metrics.opened(ConnectionProtocol::Unknown, ListenerOutcome::Error);
        }
    }
}

/// A connection, and who is at its other end.
struct Known {
    stream: Stream,
    caller: Option<Rc<Caller>>,
    alpn: Option<Alpn>,
}

/// Finds out who calls, where that must be proved; `None` if the connection was refused.
async fn know(
    worker: &Rc<Worker>,
    limits: &ListenersParams,
    side: Direction,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<Known> {
    let unknown = |stream| Some(Known { stream: Stream::Tcp(stream), caller: None, alpn: None });
    if let Some(edge) = worker.edge.as_ref().filter(|_| side == Direction::Outbound) {
        let Some(stream) = Box::pin(edge.admit(limits, stream, peer)).await else {
            let metrics = worker.listener_metrics(side);
            metrics.opened(ConnectionProtocol::Unknown, ListenerOutcome::Refused);
            return None;
        };
        return Some(Known { stream, caller: None, alpn: None });
    }
    let Some(security) = secure::of(worker, limits, side) else { return unknown(stream) };
    // Boxed: the room for it would otherwise be taken in the future of every connection.
    match Box::pin(security.admit(limits, stream, peer)).await {
        Secured::Plain(stream) => unknown(stream),
        Secured::Proven(stream, caller, alpn) => Some(Known { stream, caller: Some(caller), alpn }),
        Secured::Refused => {
            let metrics = worker.listener_metrics(side);
            metrics.opened(ConnectionProtocol::Unknown, ListenerOutcome::Refused);
            None
        }
    }
}

/// Whether the connection speaks anything but HTTP.
async fn speaks_other(stream: &TcpStream, limits: &ListenersParams) -> bool {
    tcp::detect(stream, limits.detect_timeout, limits.header_timeout).await == Speaks::Other
}

async fn serve_http1(downstream: Rc<Downstream>, io: GuardedIo<Stream>) {
    let shared = Rc::clone(&downstream);
    // Boxed for each request, so that an idle connection does not hold room for a request.
    let service = service_fn(move |request| Box::pin(exchange::serve_http1(Rc::clone(&shared), request)));
    let mut driver = codec::h1_server(&downstream.limits).serve_connection(TokioIo::new(io), service);
    // hyper's own graceful shutdown would close behind a response whose head is already gone, and the client could
    // not know: instead the next head says `Connection: close`, and the sweeper cuts who sends nothing.
    let served = (&mut driver).await;
    // Taken whatever happened: the plan holds the connection's own state, and would keep it, and itself, for ever.
    let plan = downstream.tunnel.take();
    if let Err(error) = served {
        tracing::debug!(%error, peer = %downstream.peer, "connection ended");
        if let Some(mut plan) = plan {
            plan.record.fail(Flag::DownstreamClosed);
        }
        return;
    }
    let parts = driver.into_parts();
    let mut io = parts.io.into_inner();
    match plan {
        Some(plan) => {
            let early = join(parts.read_buf, &io.take_leftover());
            io.start_tunnel();
            tunnel::on_connection(&downstream, io, early, *plan).await;
        }
        None => io.close().await,
    }
}

async fn serve_http2(downstream: Rc<Downstream>, io: GuardedIo<Stream>) {
    let state = Rc::clone(&downstream.state);
    let shared = Rc::clone(&downstream);
    let tasks = StreamTasks::new(Rc::clone(downstream.worker.sweeper.flows()));
    let announced = tasks.clone();
    let service = service_fn(move |request| {
        let flow = Flow::limited(shared.limits.stream_idle_timeout);
        announced.announce(Rc::clone(&flow));
        let clock = Rc::clone(&shared.worker.clock);
        let served = exchange::serve(Rc::clone(&shared), request);
        Box::pin(async move {
            let response = served.await?;
            Ok::<_, Infallible>(response.map(|body| WatchedBody::new(body, flow, clock)))
        })
    });
    let builder = codec::h2_server(&downstream.limits, tasks);
    let mut driver = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut leaving = false;
    let served = poll_fn(|cx| {
        if !leaving && state.poll_graceful_wanted(cx).is_ready() {
            leaving = true;
            driver.as_mut().graceful_shutdown();
        }
        driver.as_mut().poll(cx)
    })
    .await;
    if let Some(flood) = state.flood() {
        downstream.worker.listener_metrics(downstream.side).rejected(flood.as_str());
    }
    if let Err(error) = served {
        tracing::debug!(%error, peer = %downstream.peer, "connection ended");
    }
}

fn join(first: Bytes, second: &[u8]) -> Bytes {
    if second.is_empty() {
        return first;
    }
    let mut joined = Vec::with_capacity(first.len() + second.len());
    joined.extend_from_slice(&first);
    joined.extend_from_slice(second);
    joined.into()
}
