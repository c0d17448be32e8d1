//! The wrapper around a downstream socket that hands the codec only bytes it has validated.
//!
//! In the common case, a read that holds whole messages, bytes are looked at where the codec's buffer is and
//! nothing is copied. Only what must be held back (an incomplete head, bytes after an upgrade request) is moved
//! to a buffer of its own, which is freed as soon as it is empty.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    detect::{Sniff, sniff},
    frames::{Flood, FrameWatch, Role},
    head::HeadLimits,
    linger::{LINGER_BYTES, LINGER_TIME, linger},
    reject::Reject,
    scan::{Place, RequestScanner, Rest, Scan},
    state::{ConnState, Decision, Phase, ReadFate},
};
use crate::net::{JOINED, join_small};

/// What the codec is given in place of a head that was refused. The service recognises it by
/// [`ActiveRequest::reject`](super::ActiveRequest::reject), never by its text.
const REFUSED_HEAD: &[u8] = b"OUTRIGGER-REJECT / HTTP/1.1\r\nhost: reject\r\nconnection: close\r\n\r\n";

/// First read of a connection: large enough for a usual head, so that detection costs no extra system call.
const DETECT_READ: usize = 2048;

/// The outcome of [`GuardedIo::detect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Serve it as HTTP/1.
    Http1,
    /// Serve it as HTTP/2.
    Http2,
    /// The client closed, or said nothing for too long: close.
    Closed,
}

/// How bytes pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Through the scanner.
    Http1,
    /// As they are: HTTP/2 or a tunnel.
    Raw,
}

/// A downstream socket behind the guard.
pub struct GuardedIo<S> {
    io: S,
    state: Rc<ConnState>,
    limits: Rc<HeadLimits>,
    mode: Mode,
    scanner: RequestScanner,
    /// Received and not handed out: first `ready` bytes that may be, then what is held back.
    held: Vec<u8>,
    ready: usize,
    /// Bytes at the front of `held` that were handed out already.
    taken: usize,
    broken_body: Option<Reject>,
    /// Watches for floods on HTTP/2.
    frames: Option<Box<FrameWatch>>,
    /// Bytes after the last request were dropped: the client goes on sending what nobody reads.
    ignored: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> GuardedIo<S> {
    /// Guards `io`. Call [`detect`](Self::detect) before anything else.
    pub fn new(io: S, state: Rc<ConnState>, limits: Rc<HeadLimits>) -> Self {
        Self {
            io,
            state,
            limits,
            mode: Mode::Http1,
            scanner: RequestScanner::default(),
            held: Vec::new(),
            ready: 0,
            taken: 0,
            broken_body: None,
            frames: None,
            ignored: false,
        }
    }

    /// Reads until the protocol is known; what was read is handed to the codec later. The wait is limited by
    /// the sweeper. Cancel-safe.
    pub async fn detect(&mut self) -> io::Result<Detected> {
        poll_fn(|cx| self.poll_detect(cx)).await
    }

    fn poll_detect(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Detected>> {
        loop {
            if let Some(reject) = self.state.take_late_head() {
                self.refuse_head(reject);
                return Poll::Ready(Ok(Detected::Http1));
            }
            if self.state.read_fate() != ReadFate::Open {
                return Poll::Ready(Ok(Detected::Closed));
            }
            let mut space = [0u8; DETECT_READ];
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    self.state.note_reader_waits(cx);
                    return Poll::Pending;
                }
            }
            if buffer.filled().is_empty() {
                if !self.held.is_empty() {
                    self.state.note_truncated_head();
                }
                return Poll::Ready(Ok(Detected::Closed));
            }
            self.state.note_read();
            self.held.extend_from_slice(buffer.filled());
            match sniff(&self.held) {
                Sniff::Undecided => {}
                Sniff::Http1 => {
                    self.scan_held();
                    return Poll::Ready(Ok(Detected::Http1));
                }
                Sniff::Http2 => {
                    self.pass_raw(Phase::H2);
                    let mut frames = Box::new(FrameWatch::new(Role::Server, self.state.now()));
                    // A first read holds fewer frames than any budget.
                    let _ = frames.received(&self.held, self.state.now());
                    self.frames = Some(frames);
                    return Poll::Ready(Ok(Detected::Http2));
                }
            }
        }
    }

    /// Turns the connection into a tunnel: what was held back is read first, then the socket. The caller has
    /// taken the guard back from the codec, whose own read buffer precedes all of this.
    pub fn start_tunnel(&mut self) {
        self.pass_raw(Phase::Tunnel);
    }

    /// Takes the bytes that were received and not read yet.
    pub fn take_leftover(&mut self) -> Vec<u8> {
        let mut leftover = std::mem::take(&mut self.held);
        leftover.drain(..self.taken);
        self.ready = 0;
        self.taken = 0;
        leftover
    }

    /// Ends the connection after the codec is done with it: lets a client that is still sending read its
    /// answer ([`linger`]), closes at once otherwise.
    pub async fn close(mut self) {
        let sending = self.ignored || self.state.phase() == Phase::Body || self.state.rejected().is_some();
        if sending && self.state.read_fate() == ReadFate::Open && !self.state.write_failed() {
            linger(&mut self.io, LINGER_BYTES, LINGER_TIME).await;
        }
    }

    /// The state shared with the rest of the connection.
    pub fn state(&self) -> &Rc<ConnState> {
        &self.state
    }

    /// The socket.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    fn pass_raw(&mut self, phase: Phase) {
        self.mode = Mode::Raw;
        self.ready = self.held.len();
        self.state.enter(phase);
    }

    /// Looks at what is held and not ready.
    fn scan_held(&mut self) {
        let scan = self.scanner.scan(&self.held[self.ready..], &self.limits);
        self.ready += scan.pass;
        self.hold_back(&scan, self.ready, self.held.len() - self.ready);
    }

    /// Applies a verdict; `end` is where in `held` the bytes begin that were not passed, `left` their number.
    fn hold_back(&mut self, scan: &Scan, end: usize, left: usize) {
        if scan.heads > 0 {
            self.state.note_heads(scan.heads, scan.upgrade);
        }
        match scan.rest {
            Rest::Incomplete => {}
            Rest::Held if left > 0 => self.state.note_early_data(),
            Rest::Held => {}
            Rest::Ignored => {
                self.ignored |= left > 0;
                self.held.truncate(end);
            }
            Rest::RefusedHead(reject) => {
                self.held.truncate(end);
                self.refuse_head(reject);
            }
            Rest::BrokenBody(reject) => {
                self.held.truncate(end);
                self.broken_body = Some(reject);
                self.state.note_broken_body(reject);
            }
        }
        self.state.enter_place(self.scanner.place());
    }

    /// Presents the made-up request after everything that is ready. Only the first refusal counts.
    fn refuse_head(&mut self, reject: Reject) {
        if self.state.rejected().is_some() {
            return;
        }
        self.scanner.refuse_head(reject);
        self.held.truncate(self.ready);
        self.held.extend_from_slice(REFUSED_HEAD);
        self.ready = self.held.len();
        self.state.note_refused_head(reject);
        self.state.enter(Phase::Closing);
    }

    /// Hands out what is ready; true if that was anything.
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.taken == self.ready {
            return false;
        }
        let count = buf.remaining().min(self.ready - self.taken);
        buf.put_slice(&self.held[self.taken..self.taken + count]);
        self.taken += count;
        if self.taken == self.ready {
            self.held.drain(..self.ready);
            self.taken = 0;
            self.ready = 0;
            if self.held.is_empty() {
                self.held = Vec::new();
            }
        }
        true
    }

    fn poll_read_http1(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.hand_out(buf) {
                return Poll::Ready(Ok(()));
            }
            if let Some(reject) = self.broken_body {
                return Poll::Ready(Err(reject.into()));
            }
            if let Some(reject) = self.state.take_late_head()
                && matches!(self.scanner.place(), Place::Between | Place::Head)
            {
                self.refuse_head(reject);
                continue;
            }
            if self.state.read_fate() == ReadFate::Eof {
                return Poll::Ready(Ok(()));
            }
            if self.scanner.place() == Place::Held {
                match self.state.decision() {
                    Decision::Refused => {
                        self.state.forget_upgrade();
                        self.scanner.release();
                        self.scan_held();
                        continue;
                    }
                    // The codec must not see the end of a stream that is a tunnel's already, and one read
                    // ahead of the decision is enough.
                    Decision::Granted => return self.park(cx),
                    Decision::Open if !self.held.is_empty() => return self.park(cx),
                    Decision::Open => {}
                }
            }
            if self.state.rejected().is_some() {
                return self.park(cx);
            }
            if ready!(self.poll_fill(cx, buf))? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Reads once from the socket and looks at what came. True if the reader has something to see: validated
    /// bytes in `buf`, or the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let start = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(result) => result?,
            Poll::Pending => return self.starved(cx).map(|result| result.map(|()| false)),
        }
        let received = &buf.filled()[start..];
        if received.is_empty() {
            if self.scanner.place() == Place::Head {
                self.state.note_truncated_head();
            }
            return Poll::Ready(Ok(true));
        }
        self.state.note_read();
        if !self.held.is_empty() {
            self.held.extend_from_slice(received);
            buf.set_filled(start);
            self.scan_held();
            return Poll::Ready(Ok(false));
        }
        let scan = self.scanner.scan(received, &self.limits);
        if matches!(scan.rest, Rest::Incomplete | Rest::Held) && scan.pass < received.len() {
            self.held.extend_from_slice(&received[scan.pass..]);
        }
        let left = received.len() - scan.pass;
        buf.set_filled(start + scan.pass);
        self.hold_back(&scan, 0, left);
        Poll::Ready(Ok(scan.pass > 0))
    }

    fn poll_read_raw(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.hand_out(buf) || self.state.read_fate() == ReadFate::Eof {
            return Poll::Ready(Ok(()));
        }
        let start = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(result) => {
                self.state.note_read();
                let now = self.state.now();
                let watched =
                    self.frames.as_mut().map_or(Ok(()), |f| f.received(&buf.filled()[start..], now));
                match watched {
                    Ok(()) => Poll::Ready(result),
                    Err(flood) => Poll::Ready(Err(self.drown(cx, flood))),
                }
            }
            Poll::Pending => self.starved(cx),
        }
    }

    /// The client floods: it is told so, if that can be done at once, and the codec sees the connection break.
    fn drown(&mut self, cx: &mut Context<'_>, flood: Flood) -> io::Error {
        self.state.note_flood(flood);
        if let Some(farewell) = self.frames.as_ref().and_then(|frames| frames.farewell()) {
            // Whoever floods and does not read has no right to hear why.
            let _ = Pin::new(&mut self.io).poll_write(cx, &farewell);
        }
        io::Error::new(io::ErrorKind::ConnectionAborted, flood.as_str())
    }

    /// Looks at the first `count` bytes of `slices`, which have been written.
    fn watch_frames(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let (Some(frames), Poll::Ready(Ok(count))) = (&mut self.frames, &written) else { return written };
        let mut left = *count;
        let now = self.state.now();
        let mut watched = Ok(());
        for slice in slices {
            let count = slice.len().min(left);
            left -= count;
            watched = watched.and_then(|()| frames.sent(&slice[..count], now));
        }
        match watched {
            Ok(()) => written,
            Err(flood) => Poll::Ready(Err(self.drown(cx, flood))),
        }
    }

    /// No byte is there: waits, unless the sweeper has lost patience.
    fn starved(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.state.read_fate() == ReadFate::TimedOut {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.state.note_reader_waits(cx);
        Poll::Pending
    }

    fn park(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.state.park_reader(cx);
        Poll::Pending
    }

    /// Keeps book of a write.
    fn watch_write<T>(&self, cx: &Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.state.note_written();
            return written;
        }
        if self.state.write_failed() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.state.note_writer_waits(cx);
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for GuardedIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let guard = self.get_mut();
        match guard.mode {
            Mode::Http1 => guard.poll_read_http1(cx, buf),
            Mode::Raw => guard.poll_read_raw(cx, buf),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GuardedIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let guard = self.get_mut();
        let written = Pin::new(&mut guard.io).poll_write(cx, bytes);
        let written = guard.watch_frames(cx, &[IoSlice::new(bytes)], written);
        guard.watch_write(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let guard = self.get_mut();
        let mut room = [0; JOINED];
        let written = match join_small(slices, &mut room) {
            Some(joined) => Pin::new(&mut guard.io).poll_write(cx, joined),
            None => Pin::new(&mut guard.io).poll_write_vectored(cx, slices),
        };
        let written = guard.watch_frames(cx, slices, written);
        guard.watch_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
