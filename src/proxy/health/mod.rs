//! Active health checks: one check of one endpoint, and when the next is due. Which endpoints are checked, and
//! what a result changes, is decided elsewhere (`policy::health`, `app`). Runs on the control runtime.

mod ejector;
mod grpc;
mod http;
mod runner;
mod schedule;

pub use ejector::watch_outliers;
pub use grpc::ServingStatus;
pub use runner::run;
pub use schedule::Schedule;

use std::{fmt, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::{
    identity::Alpn,
    net::{
        Stream,
        tls::{self, TlsTo},
    },
    snapshot::{HealthCheckKind, Protocol, StatusRange, UpstreamTls},
    types::EndpointAddress,
};

/// Longest body of an answer that is read; a health message has a few bytes.
const MAX_BODY: usize = 64 * 1024;

/// Longest head of an answer.
const MAX_HEAD: u32 = 64 * 1024;

/// Why a check failed. The message is the whole reason, causes included: it goes into one field of one log line.
#[derive(Debug, thiserror::Error)]
pub enum CheckFailure {
    /// No connection came about.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The time for the check was over.
    #[error("timed out {stage} after {}", humantime::format_duration(*.after))]
    TimedOut {
        /// What the check was doing.
        stage: Stage,
        /// Limit of the check.
        after: Duration,
    },
    /// The connection ended, or what came over it was not the protocol.
    #[error("no valid answer: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
    /// The request cannot be written as configured.
    #[error("the check is not a valid request: {0}")]
    Request(::http::Error),
    /// An HTTP status that is not expected.
    #[error("status {status} is not in {}", ranges(.expected))]
    Status {
        /// What came.
        status: u16,
        /// What would have been right.
        expected: Vec<StatusRange>,
    },
    /// One side did not believe the other.
    #[error("no TLS: {0}")]
    Tls(#[source] tls::TlsError),
    /// Nobody can prove to be of this service.
    #[error("the service can have no identity")]
    NoIdentity,
    /// The gRPC call failed.
    #[error("grpc status {0} ({name})", name = grpc::status_name(*.0))]
    GrpcStatus(u32),
    /// The gRPC call says that the service does not serve.
    #[error("health status {0}")]
    NotServing(ServingStatus),
    /// The answer to a gRPC check is no health message.
    #[error("not a grpc health answer: {0}")]
    GrpcAnswer(&'static str),
}

/// What a check that timed out was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Making the connection.
    Connecting,
    /// Sending the request and waiting for the answer.
    Waiting,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Waiting => "waiting for the answer",
        })
    }
}

/// Checks one endpoint once, over a connection of its own, which is closed when the check ends. All of it lives
/// in this future: nothing is spawned, so dropping it ends the check. Cancel-safe: yes.
///
/// `secured` is what the endpoint must prove itself with.
/// `service_name` is the host that is asked for where `kind` does not name one. The whole check, connecting
/// included, takes at most `timeout`.
///
/// # Errors
///
/// Why the endpoint is to be taken as failed.
pub async fn check_once(
    kind: &HealthCheckKind,
    protocol: Protocol,
    service_name: &str,
    address: &EndpointAddress,
    secured: &UpstreamTls,
    timeout: Duration,
) -> Result<(), CheckFailure> {
    let mut stage = Stage::Connecting;
    let check = async {
        let stream = match address {
            EndpointAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(CheckFailure::Connect)?;
                // Only saves a delay between two small writes; an error shows in the exchange if it matters.
                let _ = stream.set_nodelay(true);
                Stream::Tcp(stream)
            }
            EndpointAddress::Unix(path) => {
                Stream::Unix(UnixStream::connect(path).await.map_err(CheckFailure::Connect)?)
            }
        };
        let to = match secured {
            UpstreamTls::None => None,
            UpstreamTls::Mesh(peer) => Some(TlsTo::Peer(peer)),
            UpstreamTls::External(external) => Some(TlsTo::External(external)),
            UpstreamTls::Impossible => return Err(CheckFailure::NoIdentity),
        };
        let stream = match to {
            None => stream,
            Some(to) => {
                let secured = tls::connect(stream, to, spoken(kind, protocol), timeout).await;
                secured.map_err(CheckFailure::Tls)?
            }
        };
        stage = Stage::Waiting;
        ask(kind, protocol, service_name, stream).await
    };
    let outcome = tokio::time::timeout(timeout, check).await;
    outcome.unwrap_or(Err(CheckFailure::TimedOut { stage, after: timeout }))
}

/// What a check speaks.
fn spoken(kind: &HealthCheckKind, protocol: Protocol) -> Alpn {
    match (kind, protocol) {
        (HealthCheckKind::Grpc { .. }, _) | (HealthCheckKind::Http { .. }, Protocol::Http2) => Alpn::Http2,
        (HealthCheckKind::Http { .. }, Protocol::Auto | Protocol::Http1 | Protocol::Tcp) => Alpn::Http1,
        // It says nothing; but an inbound listener for HTTP lets nobody in who will speak something else.
        (HealthCheckKind::Tcp, Protocol::Tcp) => Alpn::Bytes,
        (HealthCheckKind::Tcp, Protocol::Auto | Protocol::Http1) => Alpn::Http1,
        (HealthCheckKind::Tcp, Protocol::Http2) => Alpn::Http2,
    }
}

async fn ask(
    kind: &HealthCheckKind,
    protocol: Protocol,
    service_name: &str,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(), CheckFailure> {
    match kind {
        HealthCheckKind::Tcp => Ok(()),
        HealthCheckKind::Http { path, host, headers, expected } => {
            let question =
                http::Question { authority: host.as_deref().unwrap_or(service_name), path, headers };
            let status = match protocol {
                Protocol::Http2 => http::status_over_http2(&question, stream).await?,
                Protocol::Auto | Protocol::Http1 | Protocol::Tcp => {
                    http::status_over_http1(&question, stream).await?
                }
            };
            if expected.iter().any(|range| (range.first..=range.last).contains(&status)) {
                return Ok(());
            }
            Err(CheckFailure::Status { status, expected: expected.clone() })
        }
        HealthCheckKind::Grpc { service } => grpc::check(service, service_name, stream).await,
    }
}

fn ranges(expected: &[StatusRange]) -> String {
    let range = |range: &StatusRange| {
        if range.first == range.last {
            range.first.to_string()
        } else {
            format!("{}-{}", range.first, range.last)
        }
    };
    expected.iter().map(range).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
