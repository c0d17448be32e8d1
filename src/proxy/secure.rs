//! Mutual TLS on the inbound listener: who must prove who it is, who gets in without, and what becomes of the others.
//! The handshake itself is net/tls.rs, whom to believe identity/trust.rs.

use std::{
    cell::{Cell, RefCell},
    fmt::Write,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderValue;
use rustc_hash::FxHashSet;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Semaphore};

use super::{
    connection::Downstream,
    params::{ListenersParams, MtlsMode},
    reply::Reason,
    worker::Worker,
};
use crate::{
    identity::{Alpn, CertificateDer, MeshTls, TlsRefusal, edge::EdgeTls},
    net::{Stream, tls},
    rt::clock,
    telemetry::metrics::{Registry, TlsMetrics},
    types::{Direction, Mono, SpiffeId},
};

/// Content type of a handshake record: what every TLS connection begins with (RFC 8446 §5.1).
const HANDSHAKE: u8 = 0x16;
/// What a client of HTTP gets that speaks plaintext to a port that does not. Others are closed without a word.
const PLAINTEXT_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    proxy-status: outrigger; error=tls_certificate_error; details=\"plaintext\"\r\n\
    content-type: text/plain\r\n\
    content-length: 57\r\n\
    connection: close\r\n\r\n\
    this port speaks mutual TLS only; call through a sidecar\n";
/// How long such a client may take to hear it.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// A reason is logged at most this often; those in between are counted.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);
/// A handshake over a slow network takes this long.
const LEAST_PATIENCE: Duration = Duration::from_millis(250);
/// Addresses that were logged as speaking plaintext; beyond it nobody is logged any more.
const MAX_PLAINTEXT_CLIENTS: usize = 1024;

/// A caller who has proved who it is, with what the application is told of it.
#[derive(Debug)]
pub(crate) struct Caller {
    /// Who.
    pub(crate) id: SpiffeId,
    /// The same in Envoy's form, for `x-forwarded-client-cert`.
    pub(crate) forwarded: HeaderValue,
    /// The name of its service, or its identity if it is of none.
    pub(crate) source: HeaderValue,
    /// When its certificate expires.
    until: SystemTime,
    /// [`MeshTls::epoch`] as it was.
    epoch: u64,
    /// What it showed, to be judged again when it changes whom we believe.
    chain: Vec<CertificateDer<'static>>,
    /// The epoch in which it was last judged.
    judged: Cell<u64>,
}

impl Caller {
    /// The name of its service, or its identity if it is of none.
    pub(crate) fn name(&self) -> &str {
        self.id.service().unwrap_or(self.id.as_str())
    }

    /// Whether it would still be let in: its certificate has not expired, and nobody has revoked it or the root behind it
    /// since it was judged. Costs a look at two numbers unless one of them changed.
    pub(crate) fn stands(&self, mesh: &MeshTls, wall: SystemTime) -> bool {
        if wall > self.until {
            return false;
        }
        let epoch = mesh.epoch();
        if epoch != self.judged.get() {
            if !mesh.believes(&self.chain, wall) {
                return false;
            }
            self.judged.set(epoch);
        }
        true
    }

    fn new(accepted: &tls::Accepted, own: &SpiffeId, epoch: u64) -> Option<Self> {
        let id = accepted.caller.id.clone();
        let mut forwarded = String::with_capacity(160);
        // Writing to memory does not fail. Identities have no character that would need quotes.
        let _ = write!(forwarded, "By={own};Hash=");
        for byte in accepted.fingerprint {
            let _ = write!(forwarded, "{byte:02x}");
        }
        let _ = write!(forwarded, ";URI={id}");
        let source = HeaderValue::from_str(id.service().unwrap_or(id.as_str())).ok()?;
        Some(Self {
            forwarded: HeaderValue::from_str(&forwarded).ok()?,
            source,
            until: accepted.caller.not_after,
            epoch,
            chain: accepted.chain.clone(),
            judged: Cell::new(epoch),
            id,
        })
    }
}

/// What becomes of an accepted connection.
pub(crate) enum Secured {
    /// It has proved who calls, and said what it will speak.
    Proven(Stream, Rc<Caller>, Option<Alpn>),
    /// It speaks plaintext, and may.
    Plain(TcpStream),
    /// It was refused, counted and logged.
    Refused,
}

/// How long a handshake may take of which `free` places of `all` are left. Those who only hold their place get less time
/// the fewer there are, so that they cannot keep others waiting: at 1024 places of 5 s each it takes more than 4000
/// silent connections in a second until somebody waits for one.
fn patience(limit: Duration, free: usize, all: usize) -> Duration {
    let share = free as f64 / all.max(1) as f64;
    limit.mul_f64(share.clamp(0.0, 1.0)).max(LEAST_PATIENCE.min(limit))
}

/// What one worker needs for TLS.
pub(crate) struct Security {
    pub(crate) mesh: Arc<MeshTls>,
    metrics: Arc<TlsMetrics>,
    /// Handshakes that may go on at once.
    handshakes: Semaphore,
    places: usize,
    complaints: RefCell<[Complaint; TlsRefusal::ALL.len()]>,
    plaintext: RefCell<FxHashSet<std::net::IpAddr>>,
}

#[derive(Clone, Copy, Default)]
struct Complaint {
    last: Option<Mono>,
    left_out: u32,
}

impl Security {
    pub(crate) fn new(mesh: Arc<MeshTls>, registry: &Arc<Registry>, max_handshakes: u32) -> Self {
        Self {
            mesh,
            metrics: metrics(registry, Direction::Inbound),
            handshakes: Semaphore::new(max_handshakes.max(1) as usize),
            places: max_handshakes.max(1) as usize,
            complaints: RefCell::default(),
            plaintext: RefCell::default(),
        }
    }

    /// Lets a connection prove who it is, as the mode of the listener asks for. Waits for its first byte at most for the
    /// limit of heads, for its handshake at most for that of handshakes. Cancel-safe: dropping the future closes it.
    pub(crate) async fn admit(
        &self,
        limits: &ListenersParams,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) -> Secured {
        let mut first = [0];
        let looked = tokio::time::timeout(limits.header_timeout, stream.peek(&mut first)).await;
        match looked {
            Ok(Ok(1)) => {}
            Ok(Ok(_) | Err(_)) => return self.refuse(TlsRefusal::Closed, Duration::ZERO, peer, &"no bytes"),
            Err(_) => return self.refuse(TlsRefusal::Timeout, limits.header_timeout, peer, &"no bytes"),
        }
        if first[0] != HANDSHAKE {
            return match limits.mtls.mode {
                MtlsMode::Strict => {
                    self.metrics.plaintext_refused();
                    if first[0].is_ascii_uppercase() {
                        answer_plaintext(&mut stream).await;
                    }
                    self.refuse(TlsRefusal::Plaintext, Duration::ZERO, peer, &"the listener is strict")
                }
                MtlsMode::Permissive | MtlsMode::Disabled => {
                    self.metrics.plaintext_accepted();
                    self.note_plaintext(peer);
                    Secured::Plain(stream)
                }
            };
        }
        self.handshake(limits, stream, peer).await
    }

    async fn handshake(&self, limits: &ListenersParams, stream: TcpStream, peer: SocketAddr) -> Secured {
        let began = clock::now();
        let limit = self.patience(limits);
        let Ok(place) = tokio::time::timeout(limit, self.handshakes.acquire()).await else {
            return self.refuse(TlsRefusal::Overflow, limit, peer, &"too many handshakes at once");
        };
        // Before the handshake: a change during it may or may not have been seen by it.
        let epoch = self.mesh.epoch();
        let left = limit.saturating_sub(clock::now().since(began));
        // Without it the last flight of a handshake waits for the other side's delayed ACK.
        if stream.set_nodelay(true).is_err() {
            return self.refuse(TlsRefusal::Closed, Duration::ZERO, peer, &"the connection died");
        }
        let accepted = tls::accept(Stream::Tcp(stream), self.mesh.inbound(), left).await;
        drop(place);
        let took = clock::now().since(began);
        match accepted {
            Ok(accepted) => {
                let Some(caller) = Caller::new(&accepted, self.mesh.own(), epoch) else {
                    return self.refuse(
                        TlsRefusal::Identity,
                        took,
                        peer,
                        &"an identity that no field can hold",
                    );
                };
                self.metrics.handshake(if accepted.resumed { "resumed" } else { "ok" }, took);
                Secured::Proven(accepted.stream, Rc::new(caller), accepted.alpn)
            }
            Err(error) => self.refuse(error.reason, took, peer, &error.source),
        }
    }

    fn patience(&self, limits: &ListenersParams) -> Duration {
        patience(limits.mtls.handshake_timeout, self.handshakes.available_permits(), self.places)
    }

    /// Counts and logs a connection that is not served.
    pub(crate) fn refuse(
        &self,
        reason: TlsRefusal,
        took: Duration,
        peer: SocketAddr,
        detail: &dyn std::fmt::Display,
    ) -> Secured {
        self.metrics.handshake(reason.as_str(), took);
        let now = clock::now();
        let mut complaints = self.complaints.borrow_mut();
        let complaint = &mut complaints[reason as usize];
        if complaint.last.is_some_and(|last| now.since(last) < COMPLAINT_INTERVAL) {
            complaint.left_out += 1;
        } else {
            let left_out = std::mem::take(&mut complaint.left_out);
            complaint.last = Some(now);
            tracing::warn!(%peer, reason = reason.as_str(), %detail, left_out, "a caller was refused by TLS");
        }
        Secured::Refused
    }

    /// Tells, once for each address, who still speaks plaintext to a listener that takes both.
    fn note_plaintext(&self, peer: SocketAddr) {
        let mut known = self.plaintext.borrow_mut();
        if known.len() < MAX_PLAINTEXT_CLIENTS && known.insert(peer.ip()) {
            tracing::info!(client = %peer.ip(), "a caller speaks plaintext; it would be refused by `mtls.mode: strict`");
        }
    }
}

/// The numbers of handshakes in one direction.
pub(super) fn metrics(registry: &Arc<Registry>, direction: Direction) -> Arc<TlsMetrics> {
    TlsMetrics::resolve(registry, direction, &TlsRefusal::ALL.map(TlsRefusal::as_str))
}

/// Says in HTTP what is wrong. Whoever does not listen within the limit is not told.
async fn answer_plaintext(stream: &mut TcpStream) {
    let told = async {
        stream.write_all(PLAINTEXT_ANSWER).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would reset the connection and take the answer with it.
        let mut rest = [0; 1024];
        while tokio::io::AsyncReadExt::read(stream, &mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(ANSWER_LIMIT, told).await;
}

/// Whether a connection that was let in may go on for long: its certificate has not expired, and nobody has changed whom we
/// believe. Its requests are judged one by one, by [`lapse`].
pub(crate) struct Standing {
    until: SystemTime,
    epoch: u64,
    over: Cell<bool>,
}

impl Standing {
    pub(crate) fn of(caller: &Caller) -> Self {
        Self { until: caller.until, epoch: caller.epoch, over: Cell::new(false) }
    }

    /// Says once that it may not.
    pub(crate) fn has_ended(&self, wall: SystemTime, epoch: u64) -> bool {
        (epoch != self.epoch || wall > self.until) && !self.over.replace(true)
    }
}

/// What a connection needs of its worker's security, if there is any.
pub(crate) fn of(worker: &Worker, limits: &ListenersParams, side: Direction) -> Option<Rc<Security>> {
    let wanted = side == Direction::Inbound && limits.mtls.mode != MtlsMode::Disabled;
    worker.security.clone().filter(|_| wanted)
}

/// Why a request on this connection is refused before it is looked at: its caller has lost what let it in. `None` if it
/// has not.
pub(crate) fn lapse(downstream: &Downstream, now: Mono) -> Option<Reason> {
    let worker = &downstream.worker;
    let security = worker.security.as_ref().filter(|_| downstream.side == Direction::Inbound)?;
    let stands = match &downstream.caller {
        Some(caller) => caller.stands(&security.mesh, worker.wall_at(now)),
        // It came when plaintext was taken.
        None => worker.limits.peek().mtls.mode != MtlsMode::Strict,
    };
    if stands {
        return None;
    }
    downstream.state.request_graceful();
    let source = downstream.caller.as_ref().map_or("anonymous", |caller| caller.name());
    tracing::warn!(source, peer = %downstream.peer, "a request was refused: what let its connection in is gone");
    Some(Reason::denied("identity"))
}

/// Whether connections on `side` begin, or may begin, with a handshake.
pub(crate) fn speaks_tls(worker: &Worker, side: Direction) -> bool {
    match side {
        Direction::Inbound => of(worker, &worker.limits.peek(), side).is_some(),
        Direction::Outbound => worker.edge.is_some(),
    }
}

/// What one worker needs for clients outside of the mesh.
pub(crate) struct Edge {
    tls: Arc<EdgeTls>,
    metrics: Arc<TlsMetrics>,
    handshakes: Semaphore,
    places: usize,
}

impl Edge {
    pub(crate) fn new(tls: Arc<EdgeTls>, registry: &Arc<Registry>, max_handshakes: u32) -> Self {
        let handshakes = Semaphore::new(max_handshakes.max(1) as usize);
        // Its side is the one that callers of the mesh never come in by.
        let places = max_handshakes.max(1) as usize;
        Self { tls, metrics: metrics(registry, Direction::Outbound), handshakes, places }
    }

    /// Speaks TLS with a client that need not prove anything; `None` if that fails, which is counted. Takes at most the
    /// limit of handshakes. Cancel-safe: dropping the future closes the connection.
    pub(crate) async fn admit(
        &self,
        limits: &ListenersParams,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Option<Stream> {
        let mut first = [0];
        let looked = tokio::time::timeout(limits.header_timeout, stream.peek(&mut first)).await;
        let began = clock::now();
        if !matches!(looked, Ok(Ok(1))) {
            let reason = if looked.is_err() { TlsRefusal::Timeout } else { TlsRefusal::Closed };
            self.metrics.terminated(reason.as_str(), Duration::ZERO);
            return None;
        }
        let limit = patience(limits.mtls.handshake_timeout, self.handshakes.available_permits(), self.places);
        let shaking = async {
            let _place = self.handshakes.acquire().await;
            tls::terminate(Stream::Tcp(stream), &self.tls, limit).await
        };
        let shaken = tokio::time::timeout(limit, shaking).await;
        let took = clock::now().since(began);
        let (reason, stream) = match shaken {
            Ok(Ok(stream)) => ("ok", Some(stream)),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "no TLS with a client");
                (error.reason.as_str(), None)
            }
            Err(_) => (TlsRefusal::Timeout.as_str(), None),
        };
        self.metrics.terminated(reason, took);
        stream
    }
}
