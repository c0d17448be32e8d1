//! HTTP/2 by prior knowledge, on either side, with the frames at hand.

use std::{future::Future, net::SocketAddr};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::within;

/// A client's connection.
#[derive(Clone)]
pub(crate) struct Http2(SendRequest<Bytes>);

impl Http2 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(within("connect", TcpStream::connect(address)).await.expect("it listens")).await
    }

    /// On a connection that somebody else made.
    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let mut settings = h2::client::Builder::new();
        // One stream that is not read must not use up the room of all.
        settings.initial_connection_window_size(16 * 1024 * 1024);
        let (sender, connection) = within("the handshake", settings.handshake(stream)).await.expect("HTTP/2");
        tokio::spawn(async move {
            // How the connection ended shows in its requests.
            let _ = connection.await;
        });
        Self(sender)
    }

    /// Whether the other side takes no more requests.
    pub(crate) async fn is_over(&self) -> bool {
        let mut sender = self.0.clone();
        std::future::poll_fn(|context| sender.poll_ready(context)).await.is_err()
    }

    /// Sends a request with a whole body, and `trailers` if there are any.
    pub(crate) async fn begin(&self, request: Request<Bytes>, trailers: Option<HeaderMap>) -> ResponseFuture {
        self.try_begin(request, trailers).await.expect("an open connection")
    }

    /// [`Http2::begin`] on a connection that may have been refused.
    pub(crate) async fn try_begin(
        &self,
        request: Request<Bytes>,
        trailers: Option<HeaderMap>,
    ) -> Option<ResponseFuture> {
        let mut sender = within("room for a stream", self.0.clone().ready()).await.ok()?;
        let (head, body) = request.into_parts();
        let end = body.is_empty() && trailers.is_none();
        let (response, mut stream) =
            sender.send_request(Request::from_parts(head, ()), end).expect("a request that can be sent");
        if !body.is_empty() {
            stream.send_data(body, trailers.is_none()).expect("an open stream");
        }
        if let Some(trailers) = trailers {
            stream.send_trailers(trailers).expect("an open stream");
        }
        Some(response)
    }

    /// Sends the head of a request and leaves its body to the caller.
    pub(crate) async fn open(&self, head: Request<()>) -> (ResponseFuture, SendStream<Bytes>) {
        let mut sender =
            within("room for a stream", self.0.clone().ready()).await.expect("an open connection");
        sender.send_request(head, false).expect("a request that can be sent")
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Result<Answer, h2::Error> {
        let response = self.begin(request, None).await;
        Answer::read(response).await
    }

    /// A GET.
    pub(crate) async fn get(&self, host: &str, target: &str) -> Result<Answer, h2::Error> {
        self.send(get(host, target)).await
    }
}

/// A GET request.
pub(crate) fn get(host: &str, target: &str) -> Request<Bytes> {
    Request::get(format!("http://{host}{target}")).body(Bytes::new()).expect("a valid request")
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) data: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    /// Reads it; an error is a stream that was reset or a connection that broke.
    pub(crate) async fn read(response: ResponseFuture) -> Result<Self, h2::Error> {
        let response: Response<RecvStream> = within("an answer", response).await?;
        let (head, mut stream) = response.into_parts();
        let mut data = Vec::new();
        while let Some(part) = within("a body", stream.data()).await {
            let part = part?;
            data.extend_from_slice(&part);
            stream.flow_control().release_capacity(part.len())?;
        }
        let trailers = within("trailers", stream.trailers()).await?;
        Ok(Self { status: head.status.as_u16(), headers: head.headers, data, trailers })
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// The server side of one connection, made from that of a scripted application.
pub(crate) async fn serve(
    connection: super::Connection,
    settings: &h2::server::Builder,
) -> Option<h2::server::Connection<TcpStream, Bytes>> {
    settings.handshake(connection.wire.stream).await.ok()
}

/// Answers every stream with what `answer` makes of it, each in a task of its own.
pub(crate) async fn serve_all<F>(
    connection: super::Connection,
    settings: h2::server::Builder,
    answer: impl Fn(Request<RecvStream>, h2::server::SendResponse<Bytes>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(mut streams) = serve(connection, &settings).await else { return };
    while let Some(Ok((request, respond))) = streams.accept().await {
        tokio::spawn(answer(request, respond));
    }
}

/// Answers 200 with `body`.
pub(crate) fn reply(respond: &mut h2::server::SendResponse<Bytes>, body: &'static str) {
    let head = Response::new(());
    // The sidecar may have cancelled the stream; that is what its client then sees.
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    let _ = stream.send_data(Bytes::from_static(body.as_bytes()), true);
}
