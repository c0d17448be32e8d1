//! HTTP/1 connections: one request at a time each, so the pool is a stack of idle ones, a count of open ones and
//! a queue of requests that wait.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use hyper::client::conn::http1::SendRequest;
use tokio::{sync::oneshot, task::AbortHandle};

use super::EndpointPool;
use crate::{
    identity::Alpn,
    net::Stream,
    proxy::{
        body::RequestBody,
        codec,
        error::ProxyError,
        gauge::{ConnectionGauge, Raised},
    },
    rt::clock,
    snapshot::{Cluster, TlsEpoch},
    telemetry::metrics::{ConnectionProtocol, LimitKind},
    types::Mono,
};

/// How long a connection whose response has ended may take to become ready again before it is dropped.
const READY_LIMIT: Duration = Duration::from_secs(1);

/// What is left of a connection after it switched protocols. It counts as open until this is dropped.
pub(crate) struct TunnelParts {
    pub(crate) stream: Stream,
    /// Bytes that were read too far: they belong to the tunnel.
    pub(crate) read: Bytes,
    /// Keeps the connection counted.
    pub(crate) open: TunnelSlot,
}

/// A connection that switched protocols counts as open until this is dropped.
pub(crate) struct TunnelSlot {
    _open: (Slot, Rc<ConnectionGauge>),
}

#[derive(Default)]
pub(super) struct H1Pool {
    /// Most recently used last.
    idle: RefCell<Vec<Idle>>,
    /// Connections open or being opened.
    open: Cell<u32>,
    waiting: RefCell<VecDeque<oneshot::Sender<Grant>>>,
}

struct Idle {
    connection: Connection,
    since: Mono,
}

/// What a waiting request gets.
enum Grant {
    /// A connection that became free.
    Use(Connection),
    /// The right to open one.
    Open(Slot),
}

/// One open connection, not in use.
struct Connection {
    sender: SendRequest<RequestBody>,
    /// Where the driver leaves the stream if the connection becomes a tunnel.
    tunnel: Rc<RefCell<Option<oneshot::Sender<TunnelParts>>>>,
    opened: Mono,
    /// What it was opened with.
    epoch: TlsEpoch,
    served: u32,
    gauge: Rc<ConnectionGauge>,
    _driver: Driver,
}

/// The task that drives a connection. It ends with whoever may use the connection: an endpoint that neither reads
/// a request's body nor closes would otherwise hold both sockets for ever.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The right to have one connection open. Dropping it gives the right to the next request in the queue.
pub(crate) struct Slot(Rc<EndpointPool>);

impl Slot {
    fn take(pool: &Rc<EndpointPool>) -> Self {
        pool.h1.open.set(pool.h1.open.get() + 1);
        Self(Rc::clone(pool))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.h1.open.set(self.0.h1.open.get() - 1);
        loop {
            let Some(waiter) = self.0.h1.waiting.borrow_mut().pop_front() else { return };
            if waiter.is_closed() {
                continue;
            }
            // If the waiter went away in between, dropping the refused grant passes the slot on.
            drop(waiter.send(Grant::Open(Slot::take(&self.0))));
            return;
        }
    }
}

impl H1Pool {
    pub(super) fn is_empty(&self) -> bool {
        self.open.get() == 0
    }

    /// Drops connections that are closed, or were not used for `idle_timeout`.
    pub(super) fn sweep(&self, now: Mono, idle_timeout: Duration, epoch: TlsEpoch) {
        // Taken out first: dropping a connection runs code that looks at the pool again.
        let mut kept = self.idle.take();
        let mut dropped = Vec::new();
        let mut at = 0;
        while at < kept.len() {
            let connection = &kept[at].connection;
            let used_up = connection.sender.is_closed() || connection.epoch != epoch;
            if used_up || now.since(kept[at].since) >= idle_timeout {
                dropped.push(kept.remove(at));
            } else {
                at += 1;
            }
        }
        self.idle.replace(kept);
        drop(dropped);
    }

    fn pop(&self, epoch: TlsEpoch) -> Option<Connection> {
        loop {
            let idle = self.idle.borrow_mut().pop()?;
            if !idle.connection.sender.is_closed() && idle.connection.epoch == epoch {
                return Some(idle.connection);
            }
        }
    }
}

/// A connection in use by one request. Dropping it without [`H1Lease::release`] closes the connection, and with
/// it cancels the request.
pub(crate) struct H1Lease {
    pool: Rc<EndpointPool>,
    connection: Connection,
    reused: bool,
}

impl H1Lease {
    /// Takes an idle connection, or opens one, or waits in the queue for either. Cancel-safe.
    pub(crate) async fn checkout(pool: &Rc<EndpointPool>, cluster: &Cluster) -> Result<Self, ProxyError> {
        pool.idle_timeout.set(cluster.params.idle_timeout);
        if let Some(connection) = pool.h1.pop(cluster.tls.epoch()) {
            connection.gauge.set_idle(false);
            return Ok(Self { pool: Rc::clone(pool), connection, reused: true });
        }
        let slot = if pool.h1.open.get() < pool.max_connections(cluster) {
            Slot::take(pool)
        } else {
            // Boxed, as opening is: both are rare, and their room would be copied with every request's future.
            match Box::pin(wait_in_queue(pool, cluster)).await? {
                Grant::Use(connection) if connection.epoch == cluster.tls.epoch() => {
                    return Ok(Self { pool: Rc::clone(pool), connection, reused: true });
                }
                // It is not secured as this request wants it; its place is.
                Grant::Use(_) => Slot::take(pool),
                Grant::Open(slot) => slot,
            }
        };
        let connection = Box::pin(open(pool, cluster, slot)).await?;
        Ok(Self { pool: Rc::clone(pool), connection, reused: false })
    }

    /// The handle to send one request with.
    pub(crate) fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        &mut self.connection.sender
    }

    /// Whether the connection has served a request before, so that its endpoint may just have closed it.
    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Asks for the bare stream in case the endpoint switches protocols. Call before the request is sent; the
    /// receiver gets nothing if it does not switch.
    pub(crate) fn expect_tunnel(&mut self) -> oneshot::Receiver<TunnelParts> {
        let (give, take) = oneshot::channel();
        self.connection.tunnel.replace(Some(give));
        take
    }

    /// Gives the connection back after a complete exchange. It is closed instead if it is used up, too old, or
    /// the endpoint does not want it any more.
    pub(crate) fn release(mut self, limits: &crate::snapshot::Limits, now: Mono) {
        self.connection.served += 1;
        self.connection.tunnel.replace(None);
        let used_up = limits.max_requests_per_connection.is_some_and(|most| self.connection.served >= most)
            || limits.max_connection_age.is_some_and(|most| now.since(self.connection.opened) >= most)
            || self.connection.epoch != self.pool.epoch()
            || self.pool.is_retired();
        if used_up || self.connection.sender.is_closed() {
            return;
        }
        if self.connection.sender.is_ready() {
            give_back(&self.pool, self.connection, now);
        } else {
            // The last byte of the response is here, but hyper has not turned the connection round yet.
            let Self { pool, mut connection, .. } = self;
            tokio::task::spawn_local(async move {
                if let Ok(Ok(())) = tokio::time::timeout(READY_LIMIT, connection.sender.ready()).await {
                    give_back(&pool, connection, clock::now());
                }
            });
        }
    }
}

fn give_back(pool: &Rc<EndpointPool>, mut connection: Connection, now: Mono) {
    loop {
        let Some(waiter) = pool.h1.waiting.borrow_mut().pop_front() else { break };
        match waiter.send(Grant::Use(connection)) {
            Ok(()) => return,
            Err(Grant::Use(back)) => connection = back,
            Err(Grant::Open(_)) => return,
        }
    }
    connection.gauge.set_idle(true);
    pool.h1.idle.borrow_mut().push(Idle { connection, since: now });
}

async fn wait_in_queue(pool: &Rc<EndpointPool>, cluster: &Cluster) -> Result<Grant, ProxyError> {
    let limits = &cluster.params.limits;
    let grant = {
        let mut waiting = pool.h1.waiting.borrow_mut();
        waiting.retain(|waiter| !waiter.is_closed());
        if waiting.len() >= limits.max_pending_requests as usize {
            pool.metrics.limit_reached(LimitKind::PendingRequests);
            return Err(ProxyError::overflow());
        }
        let (give, take) = oneshot::channel();
        waiting.push_back(give);
        take
    };
    let _pending = Raised::new(pool.metrics.pending());
    match tokio::time::timeout(limits.queue_timeout, grant).await {
        Ok(Ok(grant)) => Ok(grant),
        Ok(Err(_)) | Err(_) => {
            pool.metrics.limit_reached(LimitKind::QueueTimeout);
            Err(ProxyError::overflow())
        }
    }
}

async fn open(pool: &Rc<EndpointPool>, cluster: &Cluster, slot: Slot) -> Result<Connection, ProxyError> {
    let epoch = cluster.tls.epoch();
    let stream = pool.dial(cluster, Alpn::Http1).await?;
    let (sender, mut driver) = codec::h1_client(stream).await.map_err(ProxyError::handshake)?;
    let tunnel: Rc<RefCell<Option<oneshot::Sender<TunnelParts>>>> = Rc::default();
    let port = Rc::clone(&tunnel);
    let gauge = Rc::new(ConnectionGauge::new(&pool.metrics, ConnectionProtocol::Http1));
    let shown = Rc::clone(&gauge);
    let driving = tokio::task::spawn_local(async move {
        let open = (slot, shown);
        if let Err(error) = (&mut driver).await {
            tracing::debug!(%error, "upstream connection ended");
        }
        if let Some(give) = port.take() {
            let parts = driver.into_parts();
            // Whoever asked may have gone; then the stream closes here.
            drop(give.send(TunnelParts {
                stream: parts.io.into_inner(),
                read: parts.read_buf,
                open: TunnelSlot { _open: open },
            }));
        }
    });
    let driver = Driver(driving.abort_handle());
    Ok(Connection { sender, tunnel, opened: clock::now(), epoch, served: 0, gauge, _driver: driver })
}
