//! The only builder of hyper connections, so that every knob is set in one place, with its reason beside it.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Waker,
    time::Duration,
};

use hyper::{client::conn as client, rt::Executor, server::conn as server};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    body::RequestBody,
    flow::{self, Flow, Flows},
    upgrade::stream,
};
use crate::proxy::ListenersParams;

/// Runs the streams of one client's HTTP/2 connection on its worker, under the eyes of the sweeper.
#[derive(Clone)]
pub(crate) struct StreamTasks {
    flows: Rc<Flows>,
    next: Rc<Cell<Option<Rc<Flow>>>>,
}

impl StreamTasks {
    pub(crate) fn new(flows: Rc<Flows>) -> Self {
        Self { flows, next: Rc::default() }
    }

    /// The next task carries this flow. hyper starts the task of a request as soon as the service took the request.
    pub(crate) fn announce(&self, flow: Rc<Flow>) {
        self.next.set(Some(flow));
    }
}

impl<F: Future + 'static> Executor<F> for StreamTasks {
    fn execute(&self, future: F) {
        let task = tokio::task::spawn_local(future).abort_handle();
        match self.next.take() {
            Some(flow) => self.flows.watch(flow, task),
            // Nothing was announced: it sends on a stream that became a tunnel.
            None => stream::note_sending(task),
        }
    }
}

/// Runs what hyper wants to run beside an HTTP/2 connection to an endpoint: waits for responses, and uploads, which
/// the sweeper watches. The connection must be polled within [`flow::offering`].
#[derive(Clone)]
pub(crate) struct UploadTasks {
    flows: Rc<Flows>,
    driver: Rc<DriverWaker>,
}

impl<F: Future + 'static> Executor<F> for UploadTasks {
    fn execute(&self, future: F) {
        if !self.driver.reads.replace(true) {
            let driver = Rc::clone(&self.driver);
            tokio::task::spawn_local(driver.woken_by(future));
            return;
        }
        let task = tokio::task::spawn_local(future).abort_handle();
        stream::note_started(task.id());
        if let Some(upload) = flow::take_offered() {
            self.flows.watch(upload, task);
        } else if !flow::is_offering() {
            // Nobody drives the connection: it sends on a stream whose answer just made it a tunnel.
            stream::note_sending(task);
        }
    }
}

/// Wakes the driver of an HTTP/2 connection to an endpoint, which alone can say how many streams the endpoint
/// allows, but is not woken when that changes: another task, the first that hyper starts, reads the socket.
#[derive(Default)]
pub(crate) struct DriverWaker {
    waker: RefCell<Option<Waker>>,
    /// The task that reads has been started.
    reads: Cell<bool>,
    /// The endpoint has sent its SETTINGS: there is no more news worth waking for at every read.
    settled: Cell<bool>,
}

impl DriverWaker {
    /// Remembers whom to wake.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn settle(&self) {
        self.settled.set(true);
    }

    async fn woken_by<F: Future>(self: Rc<Self>, reading: F) {
        let mut reading = pin!(reading);
        poll_fn(|cx| {
            let polled = reading.as_mut().poll(cx);
            if !self.settled.get() {
                self.wake();
            }
            polled.map(drop)
        })
        .await;
    }
}

/// Read buffer of an HTTP/1 connection: the smallest that holds `max_header_bytes` in one piece.
const H1_MIN_BUFFER: usize = 8 * 1024;
/// Streams that one HTTP/2 peer may have open.
const H2_MAX_STREAMS: u32 = 100;
/// Bytes that an HTTP/2 peer may send ahead on one stream: what the slowest reader costs us in memory.
const H2_STREAM_WINDOW: u32 = 256 * 1024;
/// The same for a connection; larger than a stream's, so that one stalled stream cannot stop the others.
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes buffered per stream towards a peer that does not read.
const H2_SEND_BUFFER: usize = 64 * 1024;
/// What [`client::http2::Connection::current_max_send_streams`] says before the endpoint has sent its SETTINGS: a
/// number that no endpoint can send.
pub(crate) const H2_UNTOLD: usize = usize::MAX - 1;
/// A peer that leaves a PING unanswered for this long is gone.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a quiet HTTP/2 connection is asked whether it still lives.
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// Server side of HTTP/1. Framing and time limits are the guard's (`proxy::framing`); hyper only parses what the
/// guard let through.
pub(crate) fn h1_server(limits: &ListenersParams) -> server::http1::Builder {
    let mut builder = server::http1::Builder::new();
    builder
        .half_close(false)
        .keep_alive(true)
        .max_headers(limits.max_headers as usize + 1)
        .max_buf_size(H1_MIN_BUFFER.max(limits.max_header_bytes as usize + 1024))
        .header_read_timeout(None)
        .pipeline_flush(false);
    builder
}

/// Server side of HTTP/2 (prior knowledge).
pub(crate) fn h2_server(limits: &ListenersParams, tasks: StreamTasks) -> server::http2::Builder<StreamTasks> {
    let mut builder = server::http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_MAX_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_header_list_size(limits.max_header_bytes)
        .max_send_buf_size(H2_SEND_BUFFER)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        // Whatever may be upgraded on HTTP/1.1 may be here: WebSockets (RFC 8441).
        .enable_connect_protocol();
    builder
}

/// Client side of an HTTP/1 connection and the future that drives it.
pub(crate) async fn h1_client<S>(
    stream: S,
) -> hyper::Result<(
    client::http1::SendRequest<RequestBody>,
    client::http1::Connection<TokioIo<S>, RequestBody>,
)>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    client::http1::Builder::new().handshake(TokioIo::new(stream)).await
}

/// Client side of an HTTP/2 connection (prior knowledge) and the future that drives it.
pub(crate) async fn h2_client<S>(
    stream: S,
    flows: Rc<Flows>,
    driver: Rc<DriverWaker>,
) -> hyper::Result<(
    client::http2::SendRequest<RequestBody>,
    client::http2::Connection<TokioIo<S>, RequestBody, UploadTasks>,
)>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    client::http2::Builder::new(UploadTasks { flows, driver })
        .timer(TokioTimer::new())
        .initial_max_send_streams(H2_UNTOLD)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_send_buf_size(H2_SEND_BUFFER)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await
}
