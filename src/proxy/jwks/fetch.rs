//! Fetches a key set: one GET over HTTP/1.1, with TLS or without, everything about it bounded.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    identity::{
        external::{self, ExternalTlsError},
        jwt::UrlSource,
    },
    net::{self, DialError},
    proxy::error::BoxError,
    types::EndpointAddress,
};

/// From the look-up of the name to the last byte.
const DEADLINE: Duration = Duration::from_secs(5);
/// Of that, for one address.
const CONNECT: Duration = Duration::from_secs(2);
/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;
const MAX_BODY: usize = 1024 * 1024;
const MAX_HEAD: usize = 64 * 1024;
const USER_AGENT: &str = concat!("outrigger-jwks/", env!("CARGO_PKG_VERSION"));

/// Why there is no key set.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the name {0} has no address")]
    Name(Box<str>, #[source] Option<io::Error>),
    #[error("no connection")]
    Dial(#[from] DialError),
    #[error("TLS is not set up")]
    Setup(#[from] ExternalTlsError),
    #[error("the server does not prove who it is")]
    Tls(#[source] io::Error),
    #[error("the answer is broken")]
    Broken(#[source] BoxError),
    /// Redirects too: where keys are is for the configuration to say.
    #[error("the answer is {0}, not 200")]
    Status(StatusCode),
}

/// The body behind `url`. Nothing outlives the future: dropping it ends everything. Cancel-safe: yes.
pub(super) async fn get(url: &UrlSource) -> Result<Bytes, FetchError> {
    tokio::time::timeout(DEADLINE, exchange(url)).await.unwrap_or(Err(FetchError::TimedOut(DEADLINE)))
}

async fn exchange(url: &UrlSource) -> Result<Bytes, FetchError> {
    let stream = connect(url).await?;
    let Some(tls) = &url.tls else { return ask(url, stream).await };
    let tls_params = tls.clone();
    // Reads files.
    let config = tokio::task::spawn_blocking(move || external::client_config(&tls_params, &[b"http/1.1"]))
        .await
        .map_err(|error| FetchError::Broken(error.into()))??;
    let name = tls.server_name.as_deref().unwrap_or(&url.host);
    let stream = net::secure(stream, name, config).await.map_err(FetchError::Tls)?;
    ask(url, stream).await
}

async fn connect(url: &UrlSource) -> Result<net::Stream, FetchError> {
    let found = tokio::net::lookup_host((&*url.host, url.port)).await;
    let found = found.map_err(|error| FetchError::Name(url.host.clone(), Some(error)))?;
    let mut failed = FetchError::Name(url.host.clone(), None);
    for address in found.take(MAX_ADDRESSES).collect::<Vec<SocketAddr>>() {
        match net::dial(&EndpointAddress::Tcp(address), CONNECT).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error.into(),
        }
    }
    Err(failed)
}

async fn ask<S>(url: &UrlSource, stream: S) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| FetchError::Broken(error.into()))?;
    let request = request(url).map_err(|error| FetchError::Broken(error.into()))?;
    let exchange = async {
        let broken = |error: hyper::Error| FetchError::Broken(error.into());
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        Ok(body.map_err(FetchError::Broken)?.to_bytes())
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        outcome = &mut exchange => outcome,
        // The answer may be complete all the same: the server closes after it.
        _ = connection => exchange.await,
    }
}

fn request(url: &UrlSource) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::get(&*url.target).body(Empty::new())?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::try_from(url.authority())?);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}
