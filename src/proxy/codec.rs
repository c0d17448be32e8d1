//! The only builder of hyper connections, so that every knob is set in one place, with its reason beside it.

use std::{future::Future, time::Duration};

use hyper::{client::conn as client, rt::Executor, server::conn as server};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::RequestBody;
use crate::proxy::ListenersParams;

/// Runs hyper's tasks on the worker that owns the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnThisWorker;

impl<F: Future + 'static> Executor<F> for OnThisWorker {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
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
pub(crate) fn h2_server(limits: &ListenersParams) -> server::http2::Builder<OnThisWorker> {
    let mut builder = server::http2::Builder::new(OnThisWorker);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_MAX_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_header_list_size(limits.max_header_bytes)
        .max_send_buf_size(H2_SEND_BUFFER)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT);
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
) -> hyper::Result<(
    client::http2::SendRequest<RequestBody>,
    client::http2::Connection<TokioIo<S>, RequestBody, OnThisWorker>,
)>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    client::http2::Builder::new(OnThisWorker)
        .timer(TokioTimer::new())
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_send_buf_size(H2_SEND_BUFFER)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await
}
