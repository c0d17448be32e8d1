//! Accepts connections of the admin API, and ends them when the process does.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Backend, Scope,
    dispatch::{self, Context},
};

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

/// Serves the API on `listener` until `drain` turns true or its sender is gone; then ends the connections, which
/// takes at most ten seconds, and returns.
///
/// # Errors
/// The address of `listener` cannot be read. Once serving, nothing that a client or the kernel does ends it.
pub async fn serve(
    listener: TcpListener,
    backend: Arc<dyn Backend>,
    scope: Scope,
    drain: watch::Receiver<bool>,
) -> io::Result<()> {
    serve_within(listener, backend, scope, drain, HEAD_TIMEOUT).await
}

/// [`serve`] with a head timeout of the caller's choice.
pub(super) async fn serve_within(
    listener: TcpListener,
    backend: Arc<dyn Backend>,
    scope: Scope,
    mut drain: watch::Receiver<bool>,
    head_timeout: Duration,
) -> io::Result<()> {
    let context = Arc::new(Context { backend, scope, bound: listener.local_addr()? });
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
            Ok((stream, _)) if connections.len() >= MAX_CONNECTIONS => refuse(&stream),
            Ok((stream, peer)) => {
                starved = false;
                let served = connection(stream, peer, Arc::clone(&context), draining.clone(), head_timeout);
                connections.spawn(served);
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
    Ok(())
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Says no as well as is possible without waiting for the client.
fn refuse(stream: &TcpStream) {
    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    // If it does not fit into an empty socket buffer, closing says the same.
    let _ = stream.try_write(BUSY);
}

async fn drained(drain: &mut watch::Receiver<bool>) {
    // A sender that is gone will never say anything else.
    let _ = drain.wait_for(|draining| *draining).await;
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    context: Arc<Context>,
    mut drain: watch::Receiver<bool>,
    head_timeout: Duration,
) {
    let service =
        service_fn(|request| async { Ok::<_, Infallible>(dispatch::answer(&context, peer, request).await) });
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
