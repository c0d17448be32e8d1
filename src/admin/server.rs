//! Accepts connections of the admin API, and ends them when the process does.

use std::{convert::Infallible, fmt, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Access, Backend, Scope,
    dispatch::{self, Context},
    gate::Gate,
};
use crate::{net::UnixPlace, telemetry::metrics::AdminMetrics};

/// Most connections at the same time. People and scrapers need a handful; more is a mistake or an attack.
const MAX_CONNECTIONS: usize = 64;

/// Longest time from accepting a connection, or from the end of a response, to the end of the next head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// After this time a connection takes no further request, so that no client holds its place for ever.
const MAX_AGE: Duration = Duration::from_secs(300);

/// What is in flight when a connection is told to end has this long to finish.
const LAST_ANSWER: Duration = Duration::from_secs(10);

/// How long to wait before accepting again when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Largest head.
const MAX_HEAD: usize = 32 << 10;

/// Where connections come in.
#[derive(Debug)]
pub enum Listener {
    /// Over TCP.
    Tcp(TcpListener),
    /// Over a Unix socket, whose file goes when nobody listens any more.
    Unix(UnixListener, Arc<UnixPlace>),
}

/// What is served, and to whom.
pub struct Serving {
    /// Who tells and does it.
    pub backend: Arc<dyn Backend>,
    /// How much of it.
    pub scope: Scope,
    /// To whom.
    pub access: Access,
    /// Counts it.
    pub metrics: AdminMetrics,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Somebody on the network.
    Tcp {
        /// Where they are.
        peer: SocketAddr,
        /// The address of ours that they connected to.
        local: SocketAddr,
    },
    /// Somebody on this machine; the kernel vouches for the user.
    Unix {
        /// The user, if the kernel says.
        uid: Option<u32>,
    },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { peer, .. } => peer.fmt(f),
            Self::Unix { uid: Some(uid) } => write!(f, "unix socket, uid {uid}"),
            Self::Unix { uid: None } => f.write_str("unix socket"),
        }
    }
}

/// Serves the API on `listener` until `drain` turns true or its sender is gone; then ends the connections, which
/// takes at most ten seconds, and returns.
///
/// Nothing that a client or the kernel does ends it before.
pub async fn serve(listener: Listener, serving: Serving, drain: watch::Receiver<bool>) {
    serve_within(listener, serving, drain, HEAD_TIMEOUT).await;
}

/// [`serve`] with a head timeout of the caller's choice.
pub(super) async fn serve_within(
    listener: Listener,
    serving: Serving,
    mut drain: watch::Receiver<bool>,
    head_timeout: Duration,
) {
    let Serving { backend, scope, access: Access { token, hosts }, metrics } = serving;
    // A Unix socket has its file mode, and what everybody may know needs none.
    let asks = scope == Scope::Full && matches!(listener, Listener::Tcp(_));
    let gate = Gate::new(token.filter(|_| asks));
    let context = Arc::new(Context { backend, scope, hosts, gate, metrics });
    let mut connections = JoinSet::new();
    let mut starved = false;
    let draining = drain.clone();
    let mut ended = pin!(drained(&mut drain));
    loop {
        let accepted = tokio::select! {
            () = &mut ended => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) if connections.len() >= MAX_CONNECTIONS => stream.refuse(),
            Ok((stream, caller)) => {
                starved = false;
                let (context, drain) = (Arc::clone(&context), draining.clone());
                match stream {
                    Accepted::Tcp(stream) => {
                        connections.spawn(connection(stream, caller, context, drain, head_timeout));
                    }
                    Accepted::Unix(stream) => {
                        connections.spawn(connection(stream, caller, context, drain, head_timeout));
                    }
                }
            }
            // The client went away before its connection was accepted.
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                if !starved {
                    tracing::error!(%error, "admin listener cannot accept connections; trying again");
                }
                starved = true;
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// A connection of either kind.
enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// The next connection. Cancel-safe.
    async fn accept(&self) -> io::Result<(Accepted, Caller)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let local = stream.local_addr()?;
                Ok((Accepted::Tcp(stream), Caller::Tcp { peer, local }))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
                Ok((Accepted::Unix(stream), Caller::Unix { uid }))
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NotConnected
    )
}

impl Accepted {
    /// Says no as well as is possible without waiting for the client.
    fn refuse(&self) {
        const BUSY: &[u8] =
            b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        // If it does not fit into an empty socket buffer, closing says the same.
        let _ = match self {
            Self::Tcp(stream) => stream.try_write(BUSY),
            Self::Unix(stream) => stream.try_write(BUSY),
        };
    }
}

async fn drained(drain: &mut watch::Receiver<bool>) {
    // A sender that is gone will never say anything else.
    let _ = drain.wait_for(|draining| *draining).await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    caller: Caller,
    context: Arc<Context>,
    mut drain: watch::Receiver<bool>,
    head_timeout: Duration,
) {
    let service = service_fn(|request| async {
        Ok::<_, Infallible>(dispatch::answer(&context, &caller, request).await)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    tokio::select! {
        // What breaks a connection is the client's affair.
        _ = serving.as_mut() => return,
        () = drained(&mut drain) => {}
        () = sleep(MAX_AGE) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = timeout(LAST_ANSWER, serving).await;
}
