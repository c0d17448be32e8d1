//! The HTTP exchange of a check: one request, one answer, over HTTP/1.1 or HTTP/2 by prior knowledge.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{CheckFailure, MAX_BODY, MAX_HEAD};

/// What stands in `User-Agent`, so that applications can tell checks from traffic.
pub(super) const USER_AGENT: &str = concat!("outrigger-health/", env!("CARGO_PKG_VERSION"));

/// Most header fields of an answer over HTTP/1.1.
const MAX_HEADERS: usize = 100;

/// What is asked.
pub(super) struct Question<'a> {
    /// `Host` or `:authority`.
    pub(super) authority: &'a str,
    /// Path and query.
    pub(super) path: &'a str,
    /// More fields; one of them may replace `User-Agent`.
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
}

/// A whole answer over HTTP/2.
pub(super) struct Answer {
    pub(super) head: Response<()>,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// Status of the answer over HTTP/1.1. The body is not read.
pub(super) async fn status_over_http1<S>(question: &Question<'_>, stream: S) -> Result<u16, CheckFailure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut request = question.request(question.path.to_owned())?.map(|()| Empty::<Bytes>::new());
    let host = HeaderValue::from_str(question.authority).map_err(|e| CheckFailure::Request(e.into()))?;
    request.headers_mut().insert(header::HOST, host);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD as usize)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let exchange = async { Ok(sender.send_request(request).await.map_err(broken)?.status().as_u16()) };
    beside(connection, exchange).await
}

/// Status of the answer over HTTP/2. The body is not read.
pub(super) async fn status_over_http2<S>(question: &Question<'_>, stream: S) -> Result<u16, CheckFailure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let request = question.request(absolute(question))?;
    let (mut sender, connection) = handshake(stream).await?;
    let exchange = async {
        let (answer, _body) = sender.send_request(request, true).map_err(broken)?;
        Ok(answer.await.map_err(broken)?.status().as_u16())
    };
    beside(connection, exchange).await
}

/// Posts `body` over HTTP/2 and reads the whole answer, at most [`MAX_BODY`] of it.
pub(super) async fn post_over_http2<S>(
    question: &Question<'_>,
    body: Bytes,
    stream: S,
) -> Result<Answer, CheckFailure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let mut request = question.request(absolute(question))?;
    *request.method_mut() = http::Method::POST;
    let (mut sender, connection) = handshake(stream).await?;
    let exchange = async {
        let (answer, mut sending) = sender.send_request(request, false).map_err(broken)?;
        sending.send_data(body, true).map_err(broken)?;
        let (head, mut receiving) = answer.await.map_err(broken)?.into_parts();
        let mut body = BytesMut::new();
        while let Some(chunk) = receiving.data().await {
            let chunk = chunk.map_err(broken)?;
            if body.len() + chunk.len() > MAX_BODY {
                return Err(CheckFailure::Broken("the body is longer than 64 KiB".into()));
            }
            // What is read counts as released: the peer could otherwise send less than MAX_BODY with padding.
            let _ = receiving.flow_control().release_capacity(chunk.len());
            body.extend_from_slice(&chunk);
        }
        let trailers = receiving.trailers().await.map_err(broken)?;
        Ok(Answer { head: Response::from_parts(head, ()), body: body.freeze(), trailers })
    };
    beside(connection, exchange).await
}

impl Question<'_> {
    fn request(&self, uri: String) -> Result<Request<()>, CheckFailure> {
        let mut request = Request::get(uri).body(()).map_err(CheckFailure::Request)?;
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        // The first of a name replaces what stands there, further ones add to it.
        let mut given = HeaderMap::new();
        for (name, value) in self.headers {
            given.append(name, value.clone());
        }
        request.headers_mut().extend(given);
        Ok(request)
    }
}

fn absolute(question: &Question<'_>) -> String {
    format!("http://{}{}", question.authority, question.path)
}

/// HTTP/2 by the `h2` crate itself: hyper's client would spawn a task per connection, which outlives the check.
async fn handshake<S>(
    stream: S,
) -> Result<(h2::client::SendRequest<Bytes>, h2::client::Connection<S, Bytes>), CheckFailure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(MAX_HEAD);
    let (sender, connection) = builder.handshake(stream).await.map_err(broken)?;
    Ok((sender.ready().await.map_err(broken)?, connection))
}

/// Runs the connection while the exchange goes on.
async fn beside<T, E>(
    connection: impl Future<Output = Result<(), E>>,
    exchange: impl Future<Output = Result<T, CheckFailure>>,
) -> Result<T, CheckFailure> {
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        outcome = &mut exchange => outcome,
        // The answer may be complete all the same: peers close after it. What the connection ended with is
        // told to the exchange as well.
        _ = connection => exchange.await,
    }
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> CheckFailure {
    CheckFailure::Broken(Box::new(error))
}
