//! A connection served by hyper behind the guard on a scripted socket, polled by hand until nothing moves.

use std::{
    cell::RefCell,
    collections::VecDeque,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::framing::{CoarseClock, ConnState, Detected, GuardedIo, HeadLimits, Reject};

pub(super) const LIMITS: HeadLimits = HeadLimits { max_bytes: 60 * 1024, max_headers: 100 };

/// What the service saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Request {
        method: String,
        target: String,
        body: Vec<u8>,
        trailers: usize,
    },
    /// Known at the start of the request or, for a body, only when it was read.
    Refused(Reject),
    BodyError,
}

/// What the service saw so far.
pub(super) type Events = Rc<RefCell<Vec<Event>>>;

/// What a client sends, in the pieces in which it arrives, and whether it then closes.
pub(super) struct Script {
    pub(super) pieces: VecDeque<Vec<u8>>,
    pub(super) ends: bool,
}

impl Script {
    pub(super) fn whole(bytes: &[u8]) -> Self {
        Self::cut(bytes, &[bytes.len()])
    }

    /// `bytes` in pieces of the given sizes, over and over.
    pub(super) fn cut(bytes: &[u8], sizes: &[usize]) -> Self {
        let mut pieces = VecDeque::new();
        let mut rest = bytes;
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, tail) = rest.split_at((*size).clamp(1, rest.len()));
            pieces.push_back(piece.to_vec());
            rest = tail;
        }
        Self { pieces, ends: false }
    }
}

/// A socket that reads from a script, a piece at a time with a pause after each, and keeps what is written.
struct ScriptedSocket {
    script: Script,
    pause: bool,
    written: Rc<RefCell<Vec<u8>>>,
}

impl AsyncRead for ScriptedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.pause) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(mut piece) = self.script.pieces.pop_front() else {
            return if self.script.ends { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let rest = piece.split_off(piece.len().min(buf.remaining()));
        buf.put_slice(&piece);
        if rest.is_empty() {
            self.pause = true;
        } else {
            self.script.pieces.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ScriptedSocket {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What became of a script.
pub(super) struct Served {
    pub(super) events: Vec<Event>,
    pub(super) written: Vec<u8>,
    /// The server ended the connection by itself.
    pub(super) finished: bool,
    pub(super) state: Rc<ConnState>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Polls until the future is done (true) or nothing will wake it any more (false).
fn run_until_stalled(future: impl Future<Output = ()>) -> bool {
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    while woken.0.swap(false, Ordering::Relaxed) {
        if future.as_mut().poll(&mut cx).is_ready() {
            return true;
        }
    }
    false
}

fn refusal(reject: Reject) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(reject.reason.as_str()));
    *response.status_mut() = StatusCode::from_u16(reject.status).expect("a valid status");
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Answers as the real service would and records what it saw.
pub(super) async fn answer(
    state: Rc<ConnState>,
    events: Events,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let active = state.begin_request();
    if let Some(reject) = active.reject() {
        events.borrow_mut().push(Event::Refused(reject));
        return Ok(refusal(reject));
    }
    let (parts, body) = request.into_parts();
    let (event, response) = match body.collect().await {
        Ok(body) => {
            let trailers = body.trailers().map_or(0, http::HeaderMap::len);
            let (method, target) = (parts.method.to_string(), parts.uri.to_string());
            let request = Event::Request { method, target, body: body.to_bytes().to_vec(), trailers };
            (request, Response::new(Full::from("ok")))
        }
        Err(_) => match active.reject() {
            Some(reject) => (Event::Refused(reject), refusal(reject)),
            None => (Event::BodyError, Response::new(Full::from("?"))),
        },
    };
    events.borrow_mut().push(event);
    Ok(response)
}

/// Lets hyper serve `script` behind the guard.
pub(super) fn serve(script: Script) -> Served {
    let state = ConnState::new(CoarseClock::default());
    let events = Events::default();
    let written = Rc::new(RefCell::new(Vec::new()));
    let socket = ScriptedSocket { script, pause: false, written: Rc::clone(&written) };
    let connection = async {
        let mut guarded = GuardedIo::new(socket, Rc::clone(&state), Rc::new(LIMITS));
        if guarded.detect().await.expect("a scripted socket never fails") != Detected::Http1 {
            return;
        }
        let service = service_fn(|request| answer(Rc::clone(&state), Rc::clone(&events), request));
        // A connection that breaks off is an outcome like any other.
        let _ = hyper::server::conn::http1::Builder::new()
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(guarded), service)
            .await;
    };
    let finished = run_until_stalled(connection);
    Served { events: events.take(), written: written.take(), finished, state }
}
