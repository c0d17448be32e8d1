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
    tcp::{self, Inbound, Speaks},
    tunnel::{self, TunnelPlan},
    worker::Worker,
};
use crate::{
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
    pub(crate) caller: Option<SpiffeId>,
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
    // Connections are in the clear: nobody proves who they are.
    let caller: Option<SpiffeId> = None;
    let mut only_bytes = Inbound::takes_all(side, &worker.snapshot.peek());
    let mut intercepted = None;
    if limits.transparent {
        // Boxed: the room for it would otherwise be taken in the future of every connection.
        match Box::pin(intercept::admit(&worker, &limits, &stream, dialed_by, side)).await {
            Admitted::Http(destination) => intercepted = destination,
            Admitted::Application => only_bytes = true,
            Admitted::Raw(plan) => {
                return Box::pin(passthrough::run(&worker, &limits, stream, plan)).await;
            }
            Admitted::Refused => return,
        }
    }
    if !only_bytes && limits.detects(side) {
        only_bytes = Box::pin(speaks_other(&stream, &limits)).await;
    }
    if only_bytes {
        let inbound = Arc::clone(&worker.inbound_tcp);
        // Boxed: it must not make room in the future of every HTTP connection.
        return Box::pin(inbound.serve(worker, stream, origin, caller)).await;
    }
    // Without it the last small segment of an answer waits for the client's delayed ACK.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "connection died before it was served");
        return;
    }
    let state = ConnState::new(Rc::clone(&worker.clock));
    if worker.drain.phase() >= Phase::Draining {
        state.request_graceful();
    }
    worker.sweeper.watch(&state, &limits);
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

/// Whether the connection speaks anything but HTTP.
async fn speaks_other(stream: &TcpStream, limits: &ListenersParams) -> bool {
    tcp::detect(stream, limits.detect_timeout, limits.header_timeout).await == Speaks::Other
}

async fn serve_http1(downstream: Rc<Downstream>, io: GuardedIo<TcpStream>) {
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

async fn serve_http2(downstream: Rc<Downstream>, io: GuardedIo<TcpStream>) {
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
