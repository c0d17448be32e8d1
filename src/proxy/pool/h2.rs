//! HTTP/2 connections: many requests at a time each, so the pool is a short list of shared connections, and
//! another is opened when all are full.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::client::conn::http2::SendRequest;
use tokio::sync::{Notify, oneshot};

use super::EndpointPool;
use crate::{
    identity::Alpn,
    proxy::{
        body::RequestBody,
        codec::{self, DriverWaker},
        error::ProxyError,
        flow,
        gauge::{ConnectionGauge, Raised},
    },
    rt::clock,
    snapshot::{Cluster, TlsEpoch},
    telemetry::metrics::{ConnectionProtocol, LimitKind},
    types::Mono,
};

/// Most requests on one connection, whatever the endpoint allows: beyond it one slow TCP stream holds up too
/// many.
const MAX_STREAMS: usize = 100;
/// Less than the streams that one connection can have in its life: a new one takes over in time.
const MAX_REQUESTS: u32 = 1 << 29;
const _: () =
    assert!(2 * (MAX_REQUESTS as u64) < 1 << 31, "a client's streams have the odd numbers of 31 bits");
/// How long a fresh connection is waited for to say how many streams it takes. It is the first thing an endpoint
/// sends; one that does not is shared as if it took a single stream.
const SETTINGS_WAIT: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct H2Pool {
    connections: RefCell<Vec<Rc<Connection>>>,
    /// Someone is opening a connection; others wait for it rather than open one each.
    opening: Cell<bool>,
    waiting: RefCell<VecDeque<oneshot::Sender<Grant>>>,
    streams: Cell<u32>,
    /// As of the last request that had to wait: whoever frees a place has no snapshot at hand.
    cluster: RefCell<Option<Arc<Cluster>>>,
}

/// What a waiting request gets.
enum Grant {
    /// A place on an open connection.
    Enter(H2Lease),
    /// The right to open one.
    Open(Opening),
    /// The connection that it waited for could not be opened, and there is no other.
    Failed,
}

struct Connection {
    sender: SendRequest<RequestBody>,
    /// Streams that the endpoint allows, as its SETTINGS say; [`codec::H2_UNTOLD`] until they came.
    capacity: Rc<Cell<usize>>,
    /// The endpoint takes extended CONNECT, as the same SETTINGS say.
    extended_connect: Rc<Cell<bool>>,
    /// Tells when they came.
    settled: Rc<Notify>,
    /// Wakes the driver, which alone can read that.
    driver: Rc<DriverWaker>,
    streams: Cell<u32>,
    served: Cell<u32>,
    opened: Mono,
    /// What it was opened with.
    epoch: TlsEpoch,
    idle_since: Cell<Mono>,
    gauge: Rc<ConnectionGauge>,
}

impl Connection {
    fn is_usable(&self) -> bool {
        let capacity = match self.capacity.get() {
            // Whoever opened it need not wait. All others do: a burst onto an endpoint that allows fewer streams
            // than we hoped would stand in line inside h2, where no other connection is looked for.
            codec::H2_UNTOLD => 1,
            // One stream is always allowed: an endpoint that says 0 for the moment makes it wait, not fail.
            told => told.clamp(1, MAX_STREAMS),
        };
        (self.streams.get() as usize) < capacity
    }

    /// Will soon tell how many streams it takes.
    fn is_settling(&self, now: Mono) -> bool {
        self.capacity.get() == codec::H2_UNTOLD && now.since(self.opened) < SETTINGS_WAIT
    }

    /// Takes no request any more. Its streams have numbers of 31 bits, of which a client has every second one.
    fn is_spent(&self, cluster: &Cluster, now: Mono) -> bool {
        let limits = &cluster.params.limits;
        self.sender.is_closed()
            || self.epoch != cluster.tls.epoch()
            || self.served.get()
                >= limits.max_requests_per_connection.unwrap_or(MAX_REQUESTS).min(MAX_REQUESTS)
            || limits.max_connection_age.is_some_and(|most| now.since(self.opened) >= most)
    }
}

/// Drops connections that are closed, or had no request for `idle_timeout`. A connection that still has streams
/// lives on until they end.
pub(super) fn sweep(pool: &Rc<EndpointPool>, now: Mono, idle_timeout: Duration) {
    let mut dropped = Vec::new();
    let epoch = pool.epoch();
    pool.h2.connections.borrow_mut().retain(|connection| {
        let old = connection.epoch != epoch || now.since(connection.idle_since.get()) >= idle_timeout;
        let idle = connection.streams.get() == 0 && old;
        let keep = !connection.sender.is_closed() && !idle;
        if !keep {
            dropped.push(Rc::clone(connection));
        }
        keep
    });
    drop(dropped);
    serve_waiting(pool);
}

impl H2Pool {
    pub(super) fn is_empty(&self) -> bool {
        self.streams.get() == 0 && self.connections.borrow().is_empty()
    }

    fn usable(&self, cluster: &Cluster, now: Mono) -> Option<Rc<Connection>> {
        let mut connections = self.connections.borrow_mut();
        // What can take no request any more leaves the list; requests on it hold it until they end.
        connections.retain(|connection| !connection.is_spent(cluster, now));
        connections.iter().find(|connection| connection.is_usable()).map(Rc::clone)
    }

    /// Whether a connection more is allowed, and the best that can be done now.
    fn may_open(&self, most: u32, now: Mono) -> bool {
        let connections = self.connections.borrow();
        !self.opening.get()
            && connections.len() < most as usize
            && !connections.iter().any(|connection| connection.is_settling(now))
    }

    fn pop_waiting(&self) -> Option<oneshot::Sender<Grant>> {
        loop {
            let waiter = self.waiting.borrow_mut().pop_front()?;
            if !waiter.is_closed() {
                return Some(waiter);
            }
        }
    }
}

/// Gives what is free to those who have waited longest. Called whenever something may have become free.
fn serve_waiting(pool: &Rc<EndpointPool>) {
    if pool.h2.waiting.borrow().is_empty() {
        return;
    }
    let Some(cluster) = pool.h2.cluster.borrow().clone() else { return };
    let now = clock::now();
    loop {
        let connection = pool.h2.usable(&cluster, now);
        if connection.is_none() && !pool.h2.may_open(pool.max_connections(&cluster), now) {
            return;
        }
        let Some(waiter) = pool.h2.pop_waiting() else { return };
        let grant = match connection {
            Some(connection) => Grant::Enter(H2Lease::enter(pool, connection, true)),
            None => Grant::Open(Opening::begin(pool)),
        };
        // If the waiter goes away before it looks, dropping the grant passes it on.
        drop(waiter.send(grant));
    }
}

/// Place for one request on a shared connection. Dropping it frees the place; the stream itself ends with
/// hyper's response future and body.
pub(crate) struct H2Lease {
    pool: Rc<EndpointPool>,
    connection: Rc<Connection>,
    reused: bool,
}

impl H2Lease {
    /// Takes a place on an open connection, or opens another, or waits in the queue for either. Cancel-safe.
    pub(crate) async fn checkout(
        pool: &Rc<EndpointPool>,
        cluster: &Arc<Cluster>,
    ) -> Result<Self, ProxyError> {
        pool.idle_timeout.set(cluster.params.idle_timeout);
        let now = clock::now();
        if pool.h2.waiting.borrow().is_empty() {
            if let Some(connection) = pool.h2.usable(cluster, now) {
                return Ok(Self::enter(pool, connection, true));
            }
            if pool.h2.may_open(pool.max_connections(cluster), now) {
                return Box::pin(open(pool, cluster, Opening::begin(pool))).await;
            }
        }
        // Boxed, as opening is: both are rare, and their room would be copied with every request's future.
        match Box::pin(wait_in_queue(pool, cluster)).await? {
            Grant::Enter(lease) => Ok(lease),
            Grant::Open(opening) => Box::pin(open(pool, cluster, opening)).await,
            // Nobody tries again for the others: they would stand in line for the same refusal.
            Grant::Failed => Err(ProxyError::shared_dial()),
        }
    }

    fn enter(pool: &Rc<EndpointPool>, connection: Rc<Connection>, reused: bool) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.gauge.set_idle(false);
        connection.served.set(connection.served.get() + 1);
        pool.h2.streams.set(pool.h2.streams.get() + 1);
        Self { pool: Rc::clone(pool), connection, reused }
    }

    /// A handle to send one request with.
    pub(crate) fn sender(&self) -> SendRequest<RequestBody> {
        self.connection.sender.clone()
    }

    /// Whether the endpoint takes extended CONNECT. Waits for its SETTINGS, which say so, but not for long: an endpoint
    /// that does not send any does not take it. Cancel-safe.
    pub(crate) async fn takes_extended_connect(&self) -> bool {
        if self.connection.capacity.get() == codec::H2_UNTOLD {
            // If they do not come, the answer is no.
            let _ = tokio::time::timeout(SETTINGS_WAIT, self.connection.settled.notified()).await;
        }
        self.connection.extended_connect.get()
    }

    /// Whether the connection was open before this request.
    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }
}

impl Drop for H2Lease {
    fn drop(&mut self) {
        self.connection.streams.set(self.connection.streams.get() - 1);
        self.pool.h2.streams.set(self.pool.h2.streams.get() - 1);
        // SETTINGS may have come meanwhile; the driver learns of them only when it runs.
        self.connection.driver.wake();
        if self.connection.streams.get() == 0 {
            self.connection.idle_since.set(clock::now());
            self.connection.gauge.set_idle(true);
        }
        serve_waiting(&self.pool);
    }
}

/// The right to open a connection. However it ends, the others look again.
struct Opening {
    pool: Rc<EndpointPool>,
    failed: bool,
}

impl Opening {
    fn begin(pool: &Rc<EndpointPool>) -> Self {
        pool.h2.opening.set(true);
        Self { pool: Rc::clone(pool), failed: false }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.pool.h2.opening.set(false);
        // A request that is cancelled in between says nothing of the endpoint: then one of the others opens.
        if self.failed && self.pool.h2.connections.borrow().is_empty() {
            for waiter in self.pool.h2.waiting.take() {
                // A waiter that went away needs no news.
                drop(waiter.send(Grant::Failed));
            }
        }
        serve_waiting(&self.pool);
    }
}

async fn wait_in_queue(pool: &Rc<EndpointPool>, cluster: &Arc<Cluster>) -> Result<Grant, ProxyError> {
    let limits = &cluster.params.limits;
    pool.h2.cluster.replace(Some(Arc::clone(cluster)));
    let grant = {
        let mut waiting = pool.h2.waiting.borrow_mut();
        waiting.retain(|waiter| !waiter.is_closed());
        if waiting.len() >= limits.max_pending_requests as usize {
            pool.metrics.limit_reached(LimitKind::PendingRequests);
            return Err(ProxyError::overflow());
        }
        let (give, take) = oneshot::channel();
        waiting.push_back(give);
        take
    };
    // If all who waited before have gone, nothing would come to serve this one.
    serve_waiting(pool);
    let _pending = Raised::new(pool.metrics.pending());
    match tokio::time::timeout(limits.queue_timeout, grant).await {
        Ok(Ok(grant)) => Ok(grant),
        Ok(Err(_)) | Err(_) => {
            pool.metrics.limit_reached(LimitKind::QueueTimeout);
            Err(ProxyError::overflow())
        }
    }
}

async fn open(
    pool: &Rc<EndpointPool>,
    cluster: &Arc<Cluster>,
    mut opening: Opening,
) -> Result<H2Lease, ProxyError> {
    let waker: Rc<DriverWaker> = Rc::default();
    let epoch = cluster.tls.epoch();
    let opened = match pool.dial(cluster, Alpn::Http2).await {
        Ok(stream) => codec::h2_client(stream, Rc::clone(&pool.flows), Rc::clone(&waker))
            .await
            .map_err(ProxyError::handshake),
        Err(error) => Err(error),
    };
    opening.failed = opened.is_err();
    let (sender, mut driver) = opened?;
    let gauge = Rc::new(ConnectionGauge::new(&pool.metrics, ConnectionProtocol::Http2));
    let shown = Rc::clone(&gauge);
    let capacity = Rc::new(Cell::new(driver.current_max_send_streams()));
    let told = Rc::clone(&capacity);
    let (extended_connect, settled) = (Rc::<Cell<bool>>::default(), Rc::<Notify>::default());
    let (extends, tells) = (Rc::clone(&extended_connect), Rc::clone(&settled));
    let asked = Rc::clone(&waker);
    let home = Rc::downgrade(pool);
    tokio::task::spawn_local(async move {
        let _shown = shown;
        let driven = poll_fn(|cx| {
            let polled = flow::offering(|| Pin::new(&mut driver).poll(cx));
            let now_told = driver.current_max_send_streams();
            asked.register(cx.waker());
            if now_told != codec::H2_UNTOLD {
                asked.settle();
            }
            let news = told.replace(now_told) != now_told;
            if news {
                extends.set(driver.is_extended_connect_protocol_enabled());
                tells.notify_waiters();
            }
            if (news || polled.is_ready())
                && let Some(pool) = home.upgrade()
            {
                serve_waiting(&pool);
            }
            polled
        });
        if let Err(error) = driven.await {
            tracing::debug!(%error, "upstream connection ended");
        }
        if let Some(pool) = home.upgrade() {
            serve_waiting(&pool);
        }
    });
    let now = clock::now();
    let connection = Rc::new(Connection {
        sender,
        capacity,
        extended_connect,
        settled,
        driver: waker,
        streams: Cell::new(0),
        served: Cell::new(0),
        opened: now,
        epoch,
        idle_since: Cell::new(now),
        gauge,
    });
    pool.h2.connections.borrow_mut().push(Rc::clone(&connection));
    // Before the others look again: its first place belongs to who opened it.
    let lease = H2Lease::enter(pool, connection, false);
    drop(opening);
    Ok(lease)
}
