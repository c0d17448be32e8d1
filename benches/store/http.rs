//! Connections that the bench asks on: HTTP/1.1 to sidecars, gRPC over HTTP/2 to etcd. One at a time, or many.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet};

/// A keep-alive connection to a sidecar.
pub(crate) struct Http {
    sender: http1::SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

impl Http {
    pub(crate) async fn connect(to: SocketAddr) -> Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(dial(to).await?)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Ok(Self { sender, _driver: driver })
    }

    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, Bytes)> {
        self.sender.ready().await?;
        // The admin API wants the second field of whoever changes something.
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.header("x-outrigger", "1").body(Full::new(Bytes::from(body)))?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}

async fn dial(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection to a gRPC server. Clones share it.
#[derive(Clone)]
pub(crate) struct Grpc {
    to: SocketAddr,
    sender: http2::SendRequest<Full<Bytes>>,
}

impl Grpc {
    /// The connection ends with the last clone.
    pub(crate) async fn connect(to: SocketAddr, drivers: &mut JoinSet<()>) -> Result<Self> {
        let io = TokioIo::new(dial(to).await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        drivers.spawn(async move { drop(connection.await) });
        Ok(Self { to, sender })
    }

    /// One call with one message each way (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
    pub(crate) async fn call(&self, method: &str, message: &[u8]) -> Result<Bytes> {
        let mut framed = Vec::with_capacity(HEAD + message.len());
        framed.push(0);
        framed.extend(u32::try_from(message.len())?.to_be_bytes());
        framed.extend(message);
        let request = Request::post(format!("http://{}{method}", self.to))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(framed)))?;
        let response = self.sender.clone().send_request(request).await?;
        let status = response.status();
        let mut trailers = response.headers().clone();
        let whole = response.into_body().collect().await?;
        trailers.extend(whole.trailers().cloned().unwrap_or_default());
        let answer = whole.to_bytes();
        let is_done = trailers.get("grpc-status").is_some_and(|code| code == "0");
        if status != StatusCode::OK || !is_done || answer.len() < HEAD {
            bail!("{method}: {status} {trailers:?}");
        }
        Ok(answer.slice(HEAD..))
    }
}

/// A byte that says whether it is compressed, and the length.
const HEAD: usize = 5;
