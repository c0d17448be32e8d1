//! What both ends of a connection share: its writes are counted, its silence is noticed, bodies are received.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Ping, PingPong, RecvStream};
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{sleep, timeout},
};

use super::wire;
use crate::net::Stream;

/// How often a connection was read from and written to.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    heard: AtomicUsize,
    written: AtomicUsize,
}

impl Traffic {
    /// How often something was about to be written. As long as this stays the same nothing leaves.
    pub(super) fn written(&self) -> usize {
        self.written.load(Relaxed)
    }

    /// Ends when the other side is silent, and does not answer a ping within [`wire::PING_LIMIT`] either. Else never.
    pub(super) async fn silence(&self, pings: Option<PingPong>) {
        // A connection hands them out once, which was now.
        let Some(mut pings) = pings else { return std::future::pending().await };
        loop {
            let heard = self.heard.load(Relaxed);
            sleep(wire::PING_INTERVAL).await;
            // Who sends is there: a pong behind much else may be late.
            if self.heard.load(Relaxed) != heard {
                continue;
            }
            match timeout(wire::PING_LIMIT, pings.ping(Ping::opaque())).await {
                Ok(Ok(_)) => {}
                // It ends, and says so itself.
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => return,
            }
        }
    }
}

/// A stream whose traffic is counted.
#[derive(Debug)]
pub(super) struct Counted {
    stream: Stream,
    traffic: Arc<Traffic>,
}

impl Counted {
    pub(super) fn new(stream: Stream, traffic: Arc<Traffic>) -> Self {
        Self { stream, traffic }
    }

    fn write(self: Pin<&mut Self>) -> Pin<&mut Stream> {
        let this = self.get_mut();
        this.traffic.written.fetch_add(1, Relaxed);
        Pin::new(&mut this.stream)
    }
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buf));
        this.traffic.heard.fetch_add(1, Relaxed);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // What is flushed was counted when it was written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A body that arrives. What is taken of it makes room for more; dropped before its end, the other side is told.
#[derive(Debug)]
pub(super) struct Received {
    stream: RecvStream,
    /// What was said of it.
    length: Option<u64>,
}

impl Received {
    pub(super) fn new(headers: &HeaderMap, stream: RecvStream) -> Self {
        Self { length: wire::number(headers, &CONTENT_LENGTH), stream }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let data = match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => data,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        };
        // It fails for a stream that is gone, which then says so itself.
        let _ = self.stream.flow_control().release_capacity(data.len());
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
