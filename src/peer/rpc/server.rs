//! The port on which a node is called: receives connections, has them prove who they are, ends them. One call is
//! answer.rs's.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, server};
use tokio::{
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Answering, Known, Own,
    answer::{self, Port, Proof, Seat},
    traffic::{Counted, Traffic},
    wire::{self, Activity, Budget},
};
use crate::{
    identity::{Alpn, MeshTls},
    net::{self, Accepting, BindError, Stream, tls},
    rt::{DrainWatch, Phase, clock},
};

/// Connections at once: three of each of eighty peers.
const MAX_CONNECTIONS: usize = 256;
/// Those beside them that have not proved yet who they are: strangers take no place of a peer's.
const MAX_STRANGERS: usize = 64;
/// For the handshake of TLS.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
/// From there to the first call, which whoever connects makes at once.
const FIRST_CALL: Duration = Duration::from_secs(10);
/// A connection without a call for so long is closed; those who call close theirs sooner.
const IDLE: Duration = Duration::from_secs(90);
/// A little longer than those who call keep one: they make a new one between two calls.
const LIFE: Duration = wire::LIFE.saturating_add(Duration::from_secs(60));
/// What is in progress when a connection is told to end has this long to finish.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// For telling the other side which of its calls were received.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// A stream lives at most so long: the longest call, and some time to take its answer.
const STREAM_LIFE: Duration = wire::LONGEST.saturating_add(Duration::from_secs(10));
/// Calls that were given up before they were looked at: all of a connection at once is no attack among peers.
const MAX_GIVEN_UP: usize = 256;

/// The port on which this node is called, bound.
pub struct Rpc {
    accepting: Accepting,
    local: SocketAddr,
    mesh: Option<Arc<MeshTls>>,
    known: Option<Arc<Known>>,
    closes: Phase,
    own: Own,
}

impl Rpc {
    /// Binds `address`; with port 0 the system chooses one. With `mesh`, only members of its trust domain are let in;
    /// without, everybody is. Call it on the runtime that will run it.
    ///
    /// # Errors
    /// The failure of the kernel; nothing is left bound.
    pub fn bind(address: SocketAddr, mesh: Option<Arc<MeshTls>>, own: Own) -> Result<Self, BindError> {
        let failed = |source| BindError { address, source };
        let socket = net::bind(address, 1)?.pop();
        let socket = socket.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        let local = socket.local_addr().map_err(failed)?;
        let accepting = Accepting::new(socket).map_err(failed)?;
        Ok(Self { accepting, local, mesh, known: None, closes: Phase::Draining, own })
    }

    /// Refuses, within mTLS, whoever says to be a node that has not proved to be of the service of its certificate.
    #[must_use]
    pub fn knowing(mut self, known: Arc<Known>) -> Self {
        self.known = Some(known);
        self
    }

    /// Goes on until [`Phase::Stopped`]: others need it to the end.
    #[must_use]
    pub fn until_stopped(mut self) -> Self {
        self.closes = Phase::Stopped;
        self
    }

    /// Where it listens.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Lets `answering` answer. At [`Phase::Draining`], if it was not told otherwise, the port closes, and calls in progress have five seconds, or
    /// until [`Phase::Stopped`]; what is not done then is dropped. When this returns, or is dropped, no call is in
    /// progress.
    pub async fn run(self, answering: Arc<dyn Answering>, mut drain: DrainWatch) {
        let Self { accepting, local, mesh, known, closes, own } = self;
        tracing::info!(address = %local, node = own.node, "this node can be called");
        let port = Arc::new(Port {
            cluster: wire::cluster_value(&own),
            node: own.node,
            mesh,
            known,
            closes,
            answering,
            budget: Budget::default(),
        });
        let mut connections = JoinSet::new();
        let watch = drain.clone();
        tokio::select! {
            () = drain.reached(closes) => {}
            () = accept(&port, accepting, &mut connections, &watch) => {}
        }
        while connections.join_next().await.is_some() {}
    }
}

/// Receives connections for ever.
async fn accept(
    port: &Arc<Port>,
    mut accepting: Accepting,
    connections: &mut JoinSet<()>,
    drain: &DrainWatch,
) {
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let (stream, peer) = tokio::select! {
            accepted = accepting.accept() => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a connection between nodes panicked");
                }
                continue;
            }
        };
        // Closed without a word: a handshake to say it in would cost what is to be saved.
        let Ok(stranger) = Arc::clone(&strangers).try_acquire_owned() else { continue };
        let (port, places, drain) = (Arc::clone(port), Arc::clone(&places), drain.clone());
        connections
            .spawn(async move { connection(port, stream, peer, Places { stranger, places }, drain).await });
    }
}

/// The place of one connection, and where it takes the next one from.
struct Places {
    stranger: OwnedSemaphorePermit,
    places: Arc<Semaphore>,
}

async fn connection(
    port: Arc<Port>,
    stream: TcpStream,
    peer: SocketAddr,
    Places { stranger, places }: Places,
    mut drain: DrainWatch,
) {
    // It only costs a delay if it cannot be set.
    let _ = stream.set_nodelay(true);
    let proving = prove(&port, Stream::Tcp(stream));
    let proved = tokio::select! {
        proved = proving => proved,
        () = drain.reached(port.closes) => return,
    };
    let (stream, proof, life) = match proved {
        Ok(proved) => proved,
        Err(error) => {
            tracing::debug!(%peer, error, "a caller was refused");
            return;
        }
    };
    let Ok(_place) = places.try_acquire_owned() else {
        tracing::debug!(%peer, "a caller was refused: there are too many connections");
        return;
    };
    drop(stranger);
    let activity = Arc::new(Activity::default());
    let seat = Arc::new(Seat { port, proof, activity, out: Notify::new() });
    serve(stream, peer, seat, life, drain).await;
}

/// Who calls, and for how long that is good.
async fn prove(port: &Port, stream: Stream) -> Result<(Stream, Option<Proof>, Duration), String> {
    let Some(mesh) = &port.mesh else { return Ok((stream, None, LIFE)) };
    // Before the handshake: what changes while it goes on is judged anew.
    let epoch = mesh.epoch();
    let accepted = tls::accept(stream, mesh.inbound(), HANDSHAKE_LIMIT).await;
    let accepted = accepted.map_err(|error| error.to_string())?;
    if accepted.alpn != Some(Alpn::Http2) {
        return Err("it does not speak HTTP/2".to_owned());
    }
    let left = accepted.caller.not_after.duration_since(clock::wall()).unwrap_or_default();
    let proof = Proof { id: accepted.caller.id, chain: accepted.chain, epoch: AtomicU64::new(epoch) };
    Ok((accepted.stream, Some(proof), LIFE.min(left)))
}

type Connection = server::Connection<Counted, Bytes>;

/// What is said of HTTP/2 before the first call.
async fn shake_hands(stream: Stream, traffic: &Arc<Traffic>) -> Result<Box<Connection>, h2::Error> {
    let handshake = server::Builder::new()
        .max_concurrent_streams(wire::STREAMS)
        .max_pending_accept_reset_streams(MAX_GIVEN_UP)
        .initial_window_size(wire::STREAM_WINDOW)
        .initial_connection_window_size(wire::CONNECTION_WINDOW)
        .max_header_list_size(wire::LARGEST_HEAD)
        .max_send_buffer_size(wire::SEND_BUFFER)
        .handshake(Counted::new(stream, Arc::clone(traffic)));
    // On the heap: it is large, and one of many.
    Ok(Box::new(handshake.await?))
}

/// Answers the calls of one connection for at most `life`.
async fn serve(stream: Stream, peer: SocketAddr, seat: Arc<Seat>, life: Duration, mut drain: DrainWatch) {
    let traffic = Arc::new(Traffic::default());
    let shaken = tokio::select! {
        shaken = timeout(FIRST_CALL, shake_hands(stream, &traffic)) => shaken,
        () = drain.reached(seat.port.closes) => return,
    };
    let mut connection = match shaken {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a connection between nodes broke");
            return;
        }
        Err(_) => return,
    };
    let mut silence = pin!(traffic.silence(connection.ping_pong()));
    let mut answers = JoinSet::new();
    let ended = tokio::select! {
        ended = receive(&mut connection, &seat, &mut answers) => Some(ended),
        () = silence.as_mut() => Some(Ok(())),
        () = drain.reached(seat.port.closes) => None,
        () = sleep(life) => None,
        () = seat.out.notified() => None,
        () = seat.activity.quiet(FIRST_CALL, IDLE) => None,
    };
    let ended = match ended {
        Some(ended) => Some(ended),
        None => {
            connection.graceful_shutdown();
            tokio::select! {
                ended = timeout(LAST_ANSWER, receive(&mut connection, &seat, &mut answers)) => ended.ok(),
                () = silence => Some(Ok(())),
                () = drain.reached(Phase::Stopped) => None,
            }
        }
    };
    answers.shutdown().await;
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%peer, %error, "a connection between nodes broke"),
        // What is still on its way was not received, and may be sent elsewhere.
        None => {
            connection.abrupt_shutdown(Reason::NO_ERROR);
            let _ = timeout(LAST_WORDS, poll_fn(|cx| connection.poll_closed(cx))).await;
        }
    }
}

/// Takes calls, and has each answered by a task of its own, until the connection has ended. What has not been answered then is
/// for the owner of the tasks to drop.
async fn receive(
    connection: &mut Connection,
    seat: &Arc<Seat>,
    answers: &mut JoinSet<()>,
) -> Result<(), h2::Error> {
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        while let Some(ended) = answers.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a call between nodes panicked");
            }
        }
        let answering = answer::answer(Arc::clone(seat), request, respond);
        answers.spawn(async move {
            // What it waits for after so long is a peer that does not read, and is not told.
            let _ = timeout(STREAM_LIFE, answering).await;
        });
    }
    Ok(())
}
