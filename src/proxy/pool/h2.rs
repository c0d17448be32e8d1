//! HTTP/2 connections: many requests at a time each, so the pool is a short list of shared connections, and
//! another is opened when all are full.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::Waker,
    time::Duration,
};

use hyper::client::conn::http2::SendRequest;
use tokio::sync::oneshot;

use super::EndpointPool;
use crate::{
    proxy::{
        body::RequestBody,
        codec,
        error::ProxyError,
        gauge::{ConnectionGauge, Raised},
    },
    rt::clock,
    snapshot::Cluster,
    telemetry::metrics::{ConnectionProtocol, LimitKind},
    types::Mono,
};

/// Most requests on one connection, whatever the endpoint allows: beyond it one slow TCP stream holds up too
/// many.
const MAX_STREAMS: usize = 100;

#[derive(Default)]
pub(super) struct H2Pool {
    connections: RefCell<Vec<Rc<Connection>>>,
    /// Someone is opening a connection; others wait for it rather than open one each.
    opening: Cell<bool>,
    waiting: RefCell<Vec<oneshot::Sender<bool>>>,
    streams: Cell<u32>,
}

struct Connection {
    sender: SendRequest<RequestBody>,
    /// Streams that the endpoint allows, as its SETTINGS say.
    capacity: Rc<Cell<usize>>,
    /// Wakes the driver, which alone can read that.
    driver: Rc<RefCell<Option<Waker>>>,
    streams: Cell<u32>,
    served: Cell<u32>,
    opened: Mono,
    idle_since: Cell<Mono>,
    gauge: Rc<ConnectionGauge>,
}

impl Connection {
    fn is_usable(&self) -> bool {
        // One stream is always allowed: an endpoint that says 0 for the moment makes it wait, not fail.
        let capacity = self.capacity.get().clamp(1, MAX_STREAMS);
        (self.streams.get() as usize) < capacity
    }

    /// Takes no request any more.
    fn is_spent(&self, cluster: &Cluster, now: Mono) -> bool {
        let limits = &cluster.params.limits;
        self.sender.is_closed()
            || limits.max_requests_per_connection.is_some_and(|most| self.served.get() >= most)
            || limits.max_connection_age.is_some_and(|most| now.since(self.opened) >= most)
    }
}

impl H2Pool {
    pub(super) fn is_empty(&self) -> bool {
        self.streams.get() == 0 && self.connections.borrow().is_empty()
    }

    /// Drops connections that are closed, or had no request for `idle_timeout`. A connection that still has
    /// streams lives on until they end.
    pub(super) fn sweep(&self, now: Mono, idle_timeout: Duration) {
        let mut dropped = Vec::new();
        self.connections.borrow_mut().retain(|connection| {
            let idle =
                connection.streams.get() == 0 && now.since(connection.idle_since.get()) >= idle_timeout;
            let keep = !connection.sender.is_closed() && !idle;
            if !keep {
                dropped.push(Rc::clone(connection));
            }
            keep
        });
    }

    fn usable(&self, cluster: &Cluster, now: Mono) -> Option<Rc<Connection>> {
        let mut connections = self.connections.borrow_mut();
        // What can take no request any more leaves the list; requests on it hold it until they end.
        connections.retain(|connection| !connection.is_spent(cluster, now));
        connections.iter().find(|connection| connection.is_usable()).map(Rc::clone)
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
    /// Takes a place on an open connection, or opens another. Cancel-safe.
    pub(crate) async fn checkout(pool: &Rc<EndpointPool>, cluster: &Cluster) -> Result<Self, ProxyError> {
        pool.idle_timeout.set(cluster.params.idle_timeout);
        loop {
            let now = clock::now();
            if let Some(connection) = pool.h2.usable(cluster, now) {
                return Ok(Self::enter(pool, connection, true));
            }
            if pool.h2.opening.get() {
                // Boxed, as opening is: both are rare, and their room would be copied with every request's future.
                Box::pin(wait_for_opening(pool, cluster)).await?;
                continue;
            }
            if pool.h2.connections.borrow().len() >= pool.max_connections(cluster) as usize {
                pool.metrics.limit_reached(LimitKind::PendingRequests);
                return Err(ProxyError::overflow());
            }
            let connection = Box::pin(open(pool, cluster)).await?;
            return Ok(Self::enter(pool, connection, false));
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
        if let Some(waker) = self.connection.driver.borrow().as_ref() {
            waker.wake_by_ref();
        }
        if self.connection.streams.get() == 0 {
            self.connection.idle_since.set(clock::now());
            self.connection.gauge.set_idle(true);
        }
    }
}

/// Ends the state "someone is opening" however the opening ends, and lets the others look again.
struct Opening<'a> {
    pool: &'a H2Pool,
    /// `None` if whoever opens goes away before it is known.
    succeeded: Option<bool>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.pool.opening.set(false);
        for waiter in self.pool.waiting.take() {
            // A waiter that went away needs no news.
            let _ = waiter.send(self.succeeded.unwrap_or(true));
        }
    }
}

async fn wait_for_opening(pool: &Rc<EndpointPool>, cluster: &Cluster) -> Result<(), ProxyError> {
    let opened = {
        let mut waiting = pool.h2.waiting.borrow_mut();
        waiting.retain(|waiter| !waiter.is_closed());
        if waiting.len() >= cluster.params.limits.max_pending_requests as usize {
            pool.metrics.limit_reached(LimitKind::PendingRequests);
            return Err(ProxyError::overflow());
        }
        let (give, take) = oneshot::channel();
        waiting.push(give);
        take
    };
    let _pending = Raised::new(pool.metrics.pending());
    match tokio::time::timeout(cluster.params.limits.queue_timeout, opened).await {
        Ok(Ok(true)) => Ok(()),
        // Nobody tries again for the others: they would stand in line for the same refusal.
        Ok(Ok(false) | Err(_)) => Err(ProxyError::shared_dial()),
        Err(_) => {
            pool.metrics.limit_reached(LimitKind::QueueTimeout);
            Err(ProxyError::overflow())
        }
    }
}

async fn open(pool: &Rc<EndpointPool>, cluster: &Cluster) -> Result<Rc<Connection>, ProxyError> {
    pool.h2.opening.set(true);
    let mut opening = Opening { pool: &pool.h2, succeeded: None };
    let opened = match pool.dial(cluster).await {
        Ok(stream) => codec::h2_client(stream).await.map_err(ProxyError::handshake),
        Err(error) => Err(error),
    };
    // A request that is cancelled in between says nothing of the endpoint: then one of the others opens.
    opening.succeeded = Some(opened.is_ok());
    let (sender, mut driver) = opened?;
    let gauge = Rc::new(ConnectionGauge::new(&pool.metrics, ConnectionProtocol::Http2));
    let shown = Rc::clone(&gauge);
    let capacity = Rc::new(Cell::new(driver.current_max_send_streams()));
    let told = Rc::clone(&capacity);
    let waker: Rc<RefCell<Option<Waker>>> = Rc::default();
    let asked = Rc::clone(&waker);
    tokio::task::spawn_local(async move {
        let _shown = shown;
        let driven = poll_fn(|cx| {
            let polled = Pin::new(&mut driver).poll(cx);
            told.set(driver.current_max_send_streams());
            let mut waker = asked.borrow_mut();
            if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            polled
        });
        if let Err(error) = driven.await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    let now = clock::now();
    let connection = Rc::new(Connection {
        sender,
        capacity,
        driver: waker,
        streams: Cell::new(0),
        served: Cell::new(0),
        opened: now,
        idle_since: Cell::new(now),
        gauge,
    });
    pool.h2.connections.borrow_mut().push(Rc::clone(&connection));
    Ok(connection)
}
