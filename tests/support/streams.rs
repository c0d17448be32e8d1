//! Tunnels on streams of HTTP/2, on either side, and the WebSocket handshake that has them on HTTP/1.1.

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, ext::Protocol};
use http::{HeaderMap, HeaderValue, Method, Request, Response};

use super::{App, Connection, http2::Http2, within};

/// The sidecar's own: what it computes is held to the values of the standard beside it.
#[path = "../../src/proxy/upgrade/handshake.rs"]
mod handshake;

/// Extended CONNECT for a WebSocket.
pub(crate) fn websocket(target: &str) -> Request<()> {
    speaking("websocket", target)
}

/// Extended CONNECT for any protocol.
pub(crate) fn speaking(protocol: &'static str, target: &str) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = Method::CONNECT;
    *head.uri_mut() = format!("http://h{target}").parse().expect("a valid target");
    head.extensions_mut().insert(Protocol::from_static(protocol));
    head
}

/// CONNECT to `authority`.
pub(crate) fn connect(authority: &str) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = Method::CONNECT;
    *head.uri_mut() = authority.parse().expect("a valid authority");
    head
}

/// A stream that is, or may be, a tunnel.
pub(crate) struct Tunnel {
    pub(crate) send: SendStream<Bytes>,
    receive: RecvStream,
    ahead: Vec<u8>,
}

/// How a peer's side of a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Orderly,
    Reset(Reason),
}

impl Tunnel {
    pub(crate) fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self { send, receive, ahead: Vec::new() }
    }

    /// Opens a stream with `head`; what the answer says, and the stream.
    pub(crate) async fn open(client: &Http2, head: Request<()>) -> (u16, HeaderMap, Self) {
        let (response, send) = client.open(head).await;
        let (head, receive) = within("an answer", response).await.expect("an answer").into_parts();
        (head.status.as_u16(), head.headers, Self::new(send, receive))
    }

    /// Grants the tunnel that `request` asks for.
    pub(crate) fn grant(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) -> Self {
        let send = respond.send_response(Response::new(()), false).expect("an open stream");
        Self::new(send, request.into_body())
    }

    /// Sends; what does not fit the window waits inside h2.
    pub(crate) fn say(&mut self, bytes: impl Into<Bytes>) {
        self.send.send_data(bytes.into(), false).expect("an open stream");
    }

    /// Says that no more comes.
    pub(crate) fn finish(&mut self) {
        self.send.send_data(Bytes::new(), true).expect("an open stream");
    }

    async fn fill(&mut self) -> Result<bool, h2::Error> {
        match within("bytes", self.receive.data()).await {
            Some(Ok(part)) => {
                self.receive.flow_control().release_capacity(part.len())?;
                self.ahead.extend_from_slice(&part);
                Ok(true)
            }
            Some(Err(error)) => Err(error),
            None => Ok(false),
        }
    }

    /// As many bytes; fewer if the stream ends before.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.ahead.len() < count && matches!(self.fill().await, Ok(true)) {}
        let rest = self.ahead.split_off(count.min(self.ahead.len()));
        std::mem::replace(&mut self.ahead, rest)
    }

    /// What still comes, and how it ends.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            match self.fill().await {
                Ok(true) => {}
                Ok(false) => return (std::mem::take(&mut self.ahead), End::Orderly),
                Err(error) => {
                    let reason = error.reason().expect("an error of HTTP/2");
                    return (std::mem::take(&mut self.ahead), End::Reset(reason));
                }
            }
        }
    }
}

/// The answer that grants the WebSocket handshake of `request`, with more fields.
pub(crate) fn granted(request: &super::app::Request, fields: &str) -> String {
    let key = request.field("sec-websocket-key").expect("a key");
    let accept = handshake::accept(&HeaderValue::from_str(key).expect("a value"));
    let accept = accept.to_str().expect("text");
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {accept}\r\n{fields}\r\n"
    )
}

/// An application of HTTP/1.1 that takes WebSockets and sends back what it gets, until the other side finishes.
pub(crate) async fn echoing() -> App {
    App::script(serve_echo).await
}

/// What [`echoing`] does with a connection.
pub(crate) async fn serve_echo(mut connection: Connection) {
    let Some(request) = connection.head().await else { return };
    connection.send(granted(&request, "")).await;
    loop {
        let echoed = connection.wire.some().await;
        if echoed.is_empty() {
            return;
        }
        connection.send(echoed).await;
    }
}
