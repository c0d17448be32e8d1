//! Applications that do what a test tells them, byte by byte, and remember what they saw.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use super::wire::{Body, Extent, Head, Wire};

/// A request as the application saw it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: Head,
    pub(crate) body: Body,
}

impl Request {
    pub(crate) fn target(&self) -> &str {
        self.head.start.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Request>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// An application. Dropping it closes everything it has open.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl App {
    /// Serves each connection with `script`; the connection closes when the script ends.
    pub(crate) async fn script<F>(script: impl Fn(Connection) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::on("127.0.0.1:0", script).await
    }

    /// [`App::script`] at a given address.
    pub(crate) async fn on<F>(address: &str, script: impl Fn(Connection) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.expect("a loopback address can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                shared.open.fetch_add(1, Ordering::SeqCst);
                let open = Open(Arc::clone(&shared));
                connections.spawn(script(Connection { wire: Wire::new(stream), number, open }));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, seen, task }
    }

    /// Answers every request, on connections that stay open, with what `answer` makes of it.
    pub(crate) async fn answering(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::script(answers(answer)).await
    }

    /// Answers 200 with `body`.
    pub(crate) async fn saying(body: &'static str) -> Self {
        Self::answering(move |_| ok(body)).await
    }

    /// What the configuration calls it.
    pub(crate) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Requests that it has read to their end, or as far as they came.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().expect("nobody panics with it").clone()
    }

    /// The one request that it has read.
    pub(crate) fn only_request(&self) -> Request {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests[0].clone()
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.seen.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    /// Stops listening and closes all connections; whoever connects now is refused.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Open(Arc<Seen>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A connection to an application.
pub(crate) struct Connection {
    pub(crate) wire: Wire<TcpStream>,
    /// How many were accepted before.
    pub(crate) number: usize,
    open: Open,
}

impl Connection {
    /// Reads a whole request and remembers it; `None` when the connection ends.
    pub(crate) async fn request(&mut self) -> Option<Request> {
        let head = self.wire.head().await?;
        let extent = match (head.field("transfer-encoding"), head.field("content-length")) {
            (Some(_), _) => Extent::Chunked,
            (None, Some(length)) => Extent::Length(length.parse().unwrap_or(0)),
            (None, None) => Extent::Nothing,
        };
        let body = self.wire.body(extent).await;
        let request = Request { head, body };
        self.remember(request.clone());
        Some(request)
    }

    /// Reads a head only, and remembers it.
    pub(crate) async fn head(&mut self) -> Option<Request> {
        let head = self.wire.head().await?;
        let request = Request { head, body: Body::default() };
        self.remember(request.clone());
        Some(request)
    }

    fn remember(&self, request: Request) {
        self.open.0.requests.lock().expect("nobody panics with it").push(request);
    }

    /// Writes; a peer that is gone is the peer's business.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.wire.write(bytes.as_ref()).await;
    }

    /// Reads until the other side ends the connection.
    pub(crate) async fn until_closed(&mut self) {
        self.wire.rest().await;
    }

    /// Ends the connection with a reset instead of an orderly close.
    pub(crate) fn reset(self) {
        self.wire.reset();
    }
}

/// A script that answers all requests of a connection.
pub(crate) fn answers<A>(answer: A) -> impl Fn(Connection) -> BoxedScript + Send + 'static
where
    A: Fn(&Request) -> Vec<u8> + Send + Sync + 'static,
{
    let answer = Arc::new(answer);
    move |mut connection| {
        let answer = Arc::clone(&answer);
        Box::pin(async move {
            while let Some(request) = connection.request().await {
                let response = answer(&request);
                connection.send(response).await;
            }
        })
    }
}

type BoxedScript = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// A 200 with a body.
pub(crate) fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
