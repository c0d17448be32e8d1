//! Bodies on their way through: requests that may have to be sent twice, responses that give their connection
//! back and are recorded when they end. Nothing is collected: frames pass one at a time, and whoever does not
//! read stops whoever writes.

use std::{
    cell::{Cell, OnceCell, RefCell},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    deadline::{Deadline, Expired},
    error::BoxError,
    flow::{self, Flow},
    headers, jwt,
    pool::{H1Lease, H2Lease},
    record::RequestRecord,
    upgrade::stream::TunnelBody,
};
use crate::{
    rt::clock,
    snapshot::Admission,
    types::{Flag, Mono},
};

/// What became of a request body so far. Shared by the body, which hyper owns, and the exchange.
#[derive(Default)]
pub(crate) struct Upload {
    bytes: Cell<u64>,
    last: Cell<Mono>,
    ended: Cell<Option<Mono>>,
    fault: Cell<Option<UploadFault>>,
    /// Most bytes that may come; zero is no limit.
    most: Cell<u64>,
    /// Somebody wants the next bytes, and the client has not sent them.
    starved: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
    flow: Flow,
    /// What its trailers may not say.
    reserved: OnceCell<Arc<[HeaderName]>>,
}

/// Why a body did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadFault {
    /// The client stopped sending.
    TimedOut,
    /// The client broke off, or its framing did.
    Broken,
    /// It is larger than its route allows.
    TooLarge,
}

impl UploadFault {
    fn of(error: &hyper::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            let io = error.downcast_ref::<std::io::Error>();
            if io.is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut) {
                return Self::TimedOut;
            }
            cause = error.source();
        }
        Self::Broken
    }
}

impl Upload {
    /// At most `most` bytes may come; one more is a fault. Zero is no limit.
    pub(crate) fn limit_bytes(&self, most: u64) {
        self.most.set(most);
    }

    /// Fields of these names are dropped from its trailers: the application may take them for headers, in which only
    /// others than the client may set them.
    pub(crate) fn reserve(&self, names: &Arc<[HeaderName]>) {
        if !names.is_empty() {
            let _ = self.reserved.set(Arc::clone(names));
        }
    }

    fn clean(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let reserved = self.reserved.get().map_or(&[][..], |names| names);
        jwt::clean_trailers(headers::clean_trailers(frame), reserved)
    }

    /// It took longer than a request may take to come.
    pub(crate) fn time_out(&self) {
        if self.ended.get().is_none() && self.fault.get().is_none() {
            self.fault.set(Some(UploadFault::TimedOut));
        }
    }

    /// When the last byte came; `None` if it has not.
    pub(crate) fn ended(&self) -> Option<Mono> {
        self.ended.get()
    }

    /// When something last came.
    pub(crate) fn last(&self) -> Mono {
        self.last.get()
    }

    /// Whether it is the client who keeps it waiting.
    pub(crate) fn is_starved(&self) -> bool {
        self.starved.get()
    }

    /// Why reading it from the client failed; `None` if it did not.
    pub(crate) fn fault(&self) -> Option<UploadFault> {
        self.fault.get()
    }

    /// Bytes that came.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// How it moves on towards the endpoint.
    pub(crate) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Silence counts from `now` on.
    pub(crate) fn begin(&self, now: Mono) {
        self.last.set(now);
    }

    /// Wakes `waker` when the upload ends or fails.
    pub(crate) fn wake_at_end(&self, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *waiting = Some(waker.clone());
        }
    }

    fn watch<T>(&self, polled: Poll<T>) -> Poll<T> {
        self.starved.set(polled.is_pending());
        self.flow.asked();
        polled
    }

    fn passed(&self, frame: Option<&Result<Frame<Bytes>, hyper::Error>>, at_end: bool) {
        let now = clock::now();
        self.last.set(now);
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.bytes.set(self.bytes.get() + data.len() as u64);
                    if self.most.get() > 0 && self.bytes.get() > self.most.get() {
                        self.fault.set(Some(UploadFault::TooLarge));
                    }
                    self.flow.handed_out(now);
                }
            }
            Some(Err(error)) => self.fault.set(Some(UploadFault::of(error))),
            None => {}
        }
        if (at_end || frame.is_none() || self.fault.get().is_some()) && self.ended.get().is_none() {
            self.ended.set(Some(now));
            if let Some(waker) = self.waiting.take() {
                waker.wake();
            }
        }
    }
}

impl AsRef<Flow> for Upload {
    fn as_ref(&self) -> &Flow {
        &self.flow
    }
}

/// Body of a request on its way up.
pub(crate) enum RequestBody {
    /// Nothing.
    Empty,
    /// Passed on as it comes; can be sent once.
    Once(Incoming, Rc<Upload>),
    /// Passed on as it comes and kept, up to a limit, to be sent again.
    Again(Replay),
    /// Nothing: what follows on the stream is a tunnel's.
    Tunnel(#[expect(dead_code, reason = "acts when dropped")] TunnelBody),
}

impl RequestBody {
    /// Whether sending it now would send all of it.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            // A body that can be sent once is either still here, untouched, or gone.
            Self::Empty | Self::Once(..) | Self::Tunnel(_) => true,
            Self::Again(replay) => replay.is_whole(),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty | Self::Tunnel(_) => Poll::Ready(None),
            Self::Once(incoming, upload) => {
                flow::offer(upload);
                let frame = ready!(upload.watch(Pin::new(&mut *incoming).poll_frame(cx)));
                upload.passed(frame.as_ref(), incoming.is_end_stream());
                if upload.fault() == Some(UploadFault::TooLarge) {
                    return Poll::Ready(Some(Err(too_large())));
                }
                Poll::Ready(frame.map(|frame| frame.map(|frame| upload.clean(frame)).map_err(Into::into)))
            }
            Self::Again(replay) => replay.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Tunnel(_) => true,
            Self::Once(incoming, _) => incoming.is_end_stream(),
            Self::Again(replay) => replay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Tunnel(_) => SizeHint::with_exact(0),
            Self::Once(incoming, _) => incoming.size_hint(),
            Self::Again(replay) => replay.size,
        }
    }
}

/// Ends the request at the endpoint, so that what it has is not taken for the whole.
fn too_large() -> BoxError {
    "the body of the request is larger than its route allows".into()
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !matches!(self, Self::Empty) {
            flow::withdraw();
        }
    }
}

/// A body that remembers what it has sent.
pub(crate) struct Replay {
    source: Rc<RefCell<Source>>,
    upload: Rc<Upload>,
    size: SizeHint,
    next: usize,
    /// The attempt that this copy belongs to.
    attempt: u32,
}

struct Source {
    incoming: Incoming,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    limit: usize,
    /// More than the limit came, or trailers did: `kept` is not the whole any more.
    overflowed: bool,
    /// The attempt that may read. A connection that failed may hold its copy for a moment longer; if that copy
    /// read on, what it took would be missing in the next.
    attempt: u32,
}

impl Replay {
    /// Wraps `incoming`, of which nothing has been read yet; it is kept as long as it fits `limit` bytes.
    pub(crate) fn new(incoming: Incoming, upload: Rc<Upload>, limit: u32) -> Self {
        let size = incoming.size_hint();
        let source = Source {
            incoming,
            kept: Vec::new(),
            kept_bytes: 0,
            limit: limit as usize,
            overflowed: false,
            attempt: 0,
        };
        Self { source: Rc::new(RefCell::new(source)), upload, size, next: 0, attempt: 0 }
    }

    /// Whether all that was taken from the client is still known.
    fn is_whole(&self) -> bool {
        !self.source.borrow().overflowed && self.upload.fault().is_none()
    }

    /// The body from its beginning, for one attempt. Copies made before it can read nothing any more.
    pub(crate) fn for_attempt(&self) -> Self {
        let attempt = self.source.borrow().attempt + 1;
        self.source.borrow_mut().attempt = attempt;
        Self {
            source: Rc::clone(&self.source),
            upload: Rc::clone(&self.upload),
            size: self.size,
            next: 0,
            attempt,
        }
    }

    /// A way to the body after the request has been answered.
    pub(crate) fn tap(&self) -> Tap {
        Tap { source: Rc::clone(&self.source), upload: Rc::clone(&self.upload), size: self.size }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let source = &mut *self.source.borrow_mut();
        if source.attempt != self.attempt {
            return Poll::Ready(Some(Err("another attempt has taken the body over".into())));
        }
        flow::offer(&self.upload);
        if let Some(kept) = source.kept.get(self.next) {
            self.next += 1;
            self.upload.flow.handed_out(clock::now());
            return Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
        }
        let frame = ready!(self.upload.watch(Pin::new(&mut source.incoming).poll_frame(cx)));
        self.upload.passed(frame.as_ref(), source.incoming.is_end_stream());
        if self.upload.fault() == Some(UploadFault::TooLarge) {
            return Poll::Ready(Some(Err(too_large())));
        }
        if let Some(Ok(frame)) = &frame {
            match frame.data_ref() {
                Some(data) if !source.overflowed && source.kept_bytes + data.len() <= source.limit => {
                    source.kept_bytes += data.len();
                    source.kept.push(data.clone());
                    self.next += 1;
                }
                Some(_) | None => {
                    source.overflowed = true;
                    source.kept = Vec::new();
                    self.next = 0;
                }
            }
        }
        Poll::Ready(frame.map(|frame| frame.map(|frame| self.upload.clean(frame)).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.borrow();
        self.next >= source.kept.len() && source.incoming.is_end_stream()
    }
}

/// Reads a kept body once more when nobody else does any longer.
pub(crate) struct Tap {
    source: Rc<RefCell<Source>>,
    upload: Rc<Upload>,
    size: SizeHint,
}

impl Tap {
    /// The body from its beginning; `None` if it did not come to its end, or not all of it was kept. Copies that
    /// were made for attempts can read nothing any more.
    pub(crate) fn replay(self) -> Option<Replay> {
        self.upload.ended()?;
        let Self { source, upload, size } = self;
        let replay = Replay { source, upload, size, next: 0, attempt: 0 };
        replay.is_whole().then(|| replay.for_attempt())
    }
}

/// The connection that a response comes on.
pub(crate) enum Lease {
    /// HTTP/1: ours alone until the response ends.
    Http1(H1Lease, crate::snapshot::Limits),
    /// HTTP/2: one place of many.
    Http2(#[expect(dead_code, reason = "held for its drop, which frees the place")] H2Lease),
}

/// Body of a response on its way down.
pub(crate) enum ResponseBody {
    /// Made by the proxy.
    Local(Option<Bytes>, Option<Box<RequestRecord>>),
    /// Comes from an endpoint.
    Upstream(Box<UpstreamBody>),
}

/// A response body with everything that must happen when it ends, however it ends.
pub(crate) struct UpstreamBody {
    pub(crate) incoming: Incoming,
    /// Bytes that the head announced.
    pub(crate) expected: Option<u64>,
    pub(crate) lease: Option<Lease>,
    pub(crate) record: Box<RequestRecord>,
    pub(crate) deadline: Deadline,
    pub(crate) admission: Option<Admission>,
}

impl UpstreamBody {
    /// The response is complete: the connection goes back to its pool.
    fn complete(&mut self) {
        self.record.complete();
        self.admission = None;
        match self.lease.take() {
            // An HTTP/1 connection is only clean if the request went out completely too; hyper sees to that:
            // it does not become ready before.
            Some(Lease::Http1(lease, limits)) => lease.release(&limits, clock::now()),
            Some(Lease::Http2(_)) | None => {}
        }
    }

    fn fail(&mut self, flag: Flag) {
        self.record.fail(flag);
        self.lease = None;
        self.admission = None;
    }
}

impl ResponseBody {
    /// It is given up for the reason `flag`; what follows is not the client's doing.
    pub(crate) fn abandon(&mut self, flag: Flag) {
        if let Self::Upstream(body) = self
            && body.lease.is_some()
        {
            body.fail(flag);
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        if self.lease.is_some() {
            // hyper stops asking once it has written as many bytes as the head announced.
            let whole = self.expected.is_some_and(|expected| self.record.sent_bytes() >= expected);
            if whole || self.incoming.is_end_stream() {
                self.complete();
            } else {
                self.fail(Flag::DownstreamClosed);
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Local(bytes, _) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(body) => match Pin::new(&mut body.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    body.record.passed(&frame);
                    body.deadline.progress();
                    if frame.is_trailers() || body.incoming.is_end_stream() {
                        // Nothing can follow. hyper may not ask again, or only when a slow client has taken this.
                        body.complete();
                    }
                    Poll::Ready(Some(Ok(headers::clean_trailers(frame))))
                }
                Poll::Ready(Some(Err(error))) => {
                    body.fail(Flag::UpstreamReset);
                    Poll::Ready(Some(Err(error.into())))
                }
                Poll::Ready(None) => {
                    body.complete();
                    Poll::Ready(None)
                }
                Poll::Pending => {
                    let expired = ready!(body.deadline.poll(cx));
                    let callers = expired == Expired::Caller;
                    body.fail(if callers { Flag::Deadline } else { Flag::UpstreamTimeout });
                    Poll::Ready(Some(Err("the time of the request is up".into())))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Local(bytes, _) => bytes.is_none(),
            Self::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Upstream(body) => body.incoming.size_hint(),
        }
    }
}
