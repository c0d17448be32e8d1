//! A small, fast HTTP application to put behind a sidecar: the benches load it, the interop scripts talk to it.
//! HTTP/1.1 and HTTP/2 by prior knowledge on one port; every path below answers the same on both.
//!
//! | path | answer |
//! |---|---|
//! | `/` | 52 bytes of text |
//! | `/bytes/N` | N bytes of a fixed pattern, streamed in 64 KiB chunks (`?chunked`: without a Content-Length) |
//! | `/sink` | reads the body, answers `bytes=LENGTH xxh64=HASH` |
//! | `/echo` | the request body as it comes, trailers included |
//! | `/headers` | the request head as text |
//! | `/trailers` | a line of text and the trailer `x-trailer: last` |
//! | `/status/N` | status N |
//! | `/delay/MS` | 200 after MS milliseconds |
//! | `/die-after/N` | N bytes of a longer body, then the connection breaks (`?chunked` as above) |
//! | `/healthz` | 200, or what the last `POST /healthz?status=N` asked for |
//!
//! A request with `Upgrade: echo` becomes a tunnel that sends back what it gets.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use xxhash_rust::xxh64::Xxh64;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const GREETING: &str = "Hello from the application behind the sidecar, 52 B\n";
const INSTANCE: HeaderName = HeaderName::from_static("x-instance");
const CHUNK: usize = 64 * 1024;
/// HTTP/2 stream window: large enough that one stream is never the bottleneck on loopback.
const WINDOW: u32 = 1024 * 1024;

/// Command line.
#[derive(Parser)]
struct Args {
    /// Where to listen; port 0 picks a free one. The address taken is printed as `listening ADDR`.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Threads, each with its own listener on the same port.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Sent back in `x-instance`, to tell several instances apart.
    #[arg(long, default_value = "app")]
    name: HeaderValue,
}

/// What all connections share.
struct App {
    name: HeaderValue,
    health: AtomicU16,
    pattern: Bytes,
}

fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    let app = Arc::new(App { name: args.name, health: AtomicU16::new(200), pattern: pattern() });
    let first = bind(args.listen)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..args.workers {
        listeners.push(bind(address)?);
    }
    writeln!(std::io::stdout(), "listening {address}")?;

    let workers: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let app = Arc::clone(&app);
            std::thread::spawn(move || run_worker(listener, &app))
        })
        .collect();
    for worker in workers {
        worker.join().map_err(|_| "a worker panicked")??;
    }
    Ok(())
}

/// Opens a listening socket that shares its port with those of the other workers.
fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM.nonblocking(),
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn run_worker(listener: std::net::TcpListener, app: &Arc<App>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream, Arc::clone(app)))),
                // Out of descriptors, most likely: wait for connections to end instead of spinning.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
}

/// Serves one connection until either side ends it. Errors are the client's business, not worth a log line.
async fn serve(stream: TcpStream, app: Arc<App>) {
    let _ = stream.set_nodelay(true);
    let Ok(http2) = opens_with_http2_preface(&stream).await else { return };
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move {
            let head_only = request.method() == Method::HEAD;
            let mut response = app.answer(request).await;
            if head_only {
                drop_body(&mut response);
            }
            response.headers_mut().insert(INSTANCE, app.name.clone());
            Ok::<_, Infallible>(response)
        }
    });
    let io = TokioIo::new(stream);
    let _ = if http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(WINDOW).initial_connection_window_size(4 * WINDOW);
        builder.serve_connection(io, service).await
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(None);
        builder.serve_connection(io, service).with_upgrades().await
    };
}

/// Looks at the first three bytes without taking them: `PRI` opens HTTP/2, and no HTTP/1 method starts so.
async fn opens_with_http2_preface(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; 3];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 || first[..seen] != b"PRI"[..seen] {
            return Ok(false);
        }
        if seen == first.len() {
            return Ok(true);
        }
        // The socket stays readable, so peeking again at once would spin until the next byte is here.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl App {
    async fn answer(&self, mut request: Request<Incoming>) -> Response<Reply> {
        if request.headers().get(header::UPGRADE).is_some_and(|value| value == "echo") {
            return switch_to_echo(&mut request);
        }
        let uri = request.uri().clone();
        // `OPTIONS *` and CONNECT come without a leading slash.
        let path = uri.path().trim_start_matches('/');
        let (verb, argument) = path.split_once('/').unwrap_or((path, ""));
        let number = argument.parse::<u64>().ok();
        let chunked = uri.query() == Some("chunked");
        match (verb, number) {
            ("", _) => text(GREETING),
            ("bytes", Some(total)) => self.stream(total, total, chunked),
            ("die-after", Some(sent)) => self.stream(sent, sent + 1024 * 1024, chunked),
            ("sink", _) => sink(request.into_body()).await,
            ("echo", _) => echo(request),
            ("headers", _) => text(head_as_text(&request)),
            ("trailers", _) => with_trailers(),
            ("status", Some(code)) => status(code),
            ("delay", Some(millis)) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                text("waited\n")
            }
            ("healthz", _) => self.health(request.method(), uri.query()),
            _ => with_status(StatusCode::NOT_FOUND),
        }
    }

    /// Answers with `sent` bytes of the pattern, and breaks off if `promised` is more than that.
    fn stream(&self, sent: u64, promised: u64, chunked: bool) -> Response<Reply> {
        let ending = if sent == promised { Ending::Clean } else { Ending::Flush };
        let pattern = self.pattern.clone();
        let body = Reply::Stream(Stream { pattern, sent: 0, left: sent, ending });
        let mut response = Response::new(body);
        if !chunked {
            response.headers_mut().insert(header::CONTENT_LENGTH, promised.into());
        }
        response
    }

    fn health(&self, method: &Method, query: Option<&str>) -> Response<Reply> {
        if method == Method::POST {
            let wanted = query.and_then(|query| query.strip_prefix("status="));
            let Some(code) = wanted.and_then(|code| code.parse().ok()) else { return status(400) };
            self.health.store(code, Ordering::Relaxed);
            return text("set\n");
        }
        status(self.health.load(Ordering::Relaxed).into())
    }
}

/// Keeps the length that GET would have told. On HTTP/2 nobody else drops the body of an answer to HEAD.
fn drop_body(response: &mut Response<Reply>) {
    if let Some(length) = response.body().size_hint().exact().filter(|length| *length > 0) {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = Reply::Whole(None);
}

fn text(body: impl Into<Bytes>) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Some(body.into())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// Errors say their name; the other statuses have no body, which for 204 and 304 is the law.
fn with_status(code: StatusCode) -> Response<Reply> {
    let error = code.is_client_error() || code.is_server_error();
    let body = error.then(|| code.canonical_reason().unwrap_or("other").into());
    let mut response = Response::new(Reply::Whole(body));
    *response.status_mut() = code;
    response
}

/// A final status by number; what is none is answered with 400.
fn status(code: u64) -> Response<Reply> {
    let code = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    with_status(code.filter(|code| !code.is_informational()).unwrap_or(StatusCode::BAD_REQUEST))
}

async fn sink(mut body: Incoming) -> Response<Reply> {
    let (mut length, mut hash) = (0, Xxh64::new(0));
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return status(400) };
        if let Ok(data) = frame.into_data() {
            length += data.len();
            hash.update(&data);
        }
    }
    text(format!("bytes={length} xxh64={:016x}\n", hash.digest()))
}

fn echo(request: Request<Incoming>) -> Response<Reply> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Reply::Echo(body));
    // HTTP/1.1 trailers are only written if they were announced.
    for name in [header::CONTENT_TYPE, header::TRAILER] {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

fn with_trailers() -> Response<Reply> {
    let trailers =
        HeaderMap::from_iter([(HeaderName::from_static("x-trailer"), HeaderValue::from_static("last"))]);
    let mut response = Response::new(Reply::Trailed(Some("before the trailers\n".into()), Some(trailers)));
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-trailer"));
    response
}

fn head_as_text<B>(request: &Request<B>) -> String {
    let mut head = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        head += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    head
}

fn switch_to_echo(request: &mut Request<Incoming>) -> Response<Reply> {
    tokio::spawn(echo_tunnel(hyper::upgrade::on(request)));
    let mut response = Response::new(Reply::Whole(None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("echo"));
    response
}

async fn echo_tunnel(upgrade: OnUpgrade) {
    let Ok(upgraded) = upgrade.await else { return };
    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
}

/// A response body.
enum Reply {
    Whole(Option<Bytes>),
    Trailed(Option<Bytes>, Option<HeaderMap>),
    Stream(Stream),
    Echo(Incoming),
}

/// A window that slides over the pattern, so that chunks lost, repeated or swapped change the hash.
struct Stream {
    pattern: Bytes,
    sent: u64,
    left: u64,
    ending: Ending,
}

/// How a [`Stream`] ends.
enum Ending {
    Clean,
    /// Breaks, but first gives the connection one turn to write out what it holds.
    Flush,
    Break,
}

impl Stream {
    fn next_chunk(&mut self) -> Bytes {
        let length = self.left.min(CHUNK as u64);
        let start = (self.sent / CHUNK as u64 * 61) as usize % CHUNK;
        self.sent += length;
        self.left -= length;
        self.pattern.slice(start..start + length as usize)
    }

    fn poll_chunk(&mut self, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left > 0 {
            return Poll::Ready(Some(Ok(Frame::data(self.next_chunk()))));
        }
        match self.ending {
            Ending::Clean => Poll::Ready(None),
            Ending::Flush => {
                self.ending = Ending::Break;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Ending::Break => Poll::Ready(Some(Err("broken off as asked".into()))),
        }
    }
}

/// Two chunks of noise from a linear congruential generator (tests make the same bytes to compare).
fn pattern() -> Bytes {
    let mut state: u32 = 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(2 * CHUNK).collect()
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Whole(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Self::Trailed(data, trailers) => {
                let data = data.take().map(Frame::data);
                Poll::Ready(data.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            Self::Stream(stream) => stream.poll_chunk(context),
            Self::Echo(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(data) => data.is_none(),
            Self::Trailed(data, trailers) => data.is_none() && trailers.is_none(),
            Self::Stream(stream) => stream.left == 0 && matches!(stream.ending, Ending::Clean),
            Self::Echo(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(data) => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
            Self::Trailed(..) | Self::Stream(_) => SizeHint::default(),
            Self::Echo(body) => body.size_hint(),
        }
    }
}
