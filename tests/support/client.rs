//! A client of HTTP/1 that sends whatever bytes it is given and reads answers as they are.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    wire::{Body, Extent, Head, Wire},
    within,
};

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: Head,
    pub(crate) body: Body,
    /// Heads of the 1xx answers before it.
    pub(crate) informational: Vec<Head>,
}

impl Response {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// The reason that the sidecar gives if it answered itself.
    pub(crate) fn flag(&self) -> &str {
        self.field("x-outrigger-flag").unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body.data).into_owned()
    }

    /// Whether the whole body came.
    pub(crate) fn is_complete(&self) -> bool {
        self.body.complete
    }
}

/// One connection.
pub(crate) struct Client<S = TcpStream> {
    wire: Wire<S>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = within("connect", TcpStream::connect(address)).await.expect("it listens");
        stream.set_nodelay(true).expect("the socket is open");
        Self::over(stream)
    }

    /// Ends the connection with a reset instead of an orderly close.
    pub(crate) fn reset(self) {
        self.wire.reset();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// On a connection that somebody else made.
    pub(crate) fn over(stream: S) -> Self {
        Self { wire: Wire::new(stream) }
    }

    /// The connection itself, of which nothing was read ahead.
    pub(crate) fn into_stream(self) -> S {
        self.wire.stream
    }

    /// Writes; if the sidecar has closed, its answers show that.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within("send", self.wire.write(bytes.as_ref())).await;
    }

    /// The final answer to a request that is not HEAD; fails if none comes.
    pub(crate) async fn response(&mut self) -> Response {
        self.answer(false).await.expect("an answer, not a close")
    }

    /// The final answer to HEAD.
    pub(crate) async fn response_to_head(&mut self) -> Response {
        self.answer(true).await.expect("an answer, not a close")
    }

    /// The final answer, if one comes before the close.
    pub(crate) async fn try_response(&mut self) -> Option<Response> {
        self.answer(false).await
    }

    /// The next head, final or not.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        within("a head", self.wire.head()).await
    }

    async fn answer(&mut self, to_head: bool) -> Option<Response> {
        let mut informational = Vec::new();
        loop {
            let head = self.head().await?;
            let status: u16 = head.start.split(' ').nth(1).and_then(|code| code.parse().ok())?;
            if (100..200).contains(&status) && status != 101 {
                informational.push(head);
                continue;
            }
            let extent = match (head.field("transfer-encoding"), head.field("content-length")) {
                _ if to_head || matches!(status, 101 | 204 | 304) => Extent::Nothing,
                (Some(_), _) => Extent::Chunked,
                (None, Some(length)) => Extent::Length(length.parse().ok()?),
                (None, None) => Extent::ToTheClose,
            };
            let body = within("a body", self.wire.body(extent)).await;
            return Some(Response { status, head, body, informational });
        }
    }

    /// As many bytes as they are; fewer if the connection ends.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        within("bytes", self.wire.exactly(count)).await
    }

    /// Everything up to the close by the other side.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        within("the close", self.wire.rest()).await
    }

    /// Waits until the other side has closed; fails if it sends anything more.
    pub(crate) async fn closed(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "more came: {}", String::from_utf8_lossy(&rest));
    }

    /// Sends no more.
    pub(crate) async fn finish(&mut self) {
        let _ = self.wire.stream.shutdown().await;
    }

    /// A GET on this connection.
    pub(crate) async fn get(&mut self, host: &str, target: &str) -> Response {
        self.send(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        self.response().await
    }
}

/// Sends `request` on a connection of its own and reads the answer.
pub(crate) async fn send(address: SocketAddr, request: impl AsRef<[u8]>) -> Response {
    let mut client = Client::connect(address).await;
    client.send(request).await;
    client.response().await
}

/// A GET on a connection of its own.
pub(crate) async fn get(address: SocketAddr, host: &str, target: &str) -> Response {
    Client::connect(address).await.get(host, target).await
}
