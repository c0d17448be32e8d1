//! The certificate authority as a service of the mesh: receives connections, keeps its own certificate good, and follows
//! what the command line does to the authority. How a request is answered is server/answer.rs.

mod answer;
mod own;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use self::own::Own;
use super::pace::Pace;
use crate::{
    identity::{
        AuthorityPlace, AuthorityTls, TlsSetupError,
        ca::{Authority, CaError, MasterKey, Published},
    },
    net::{self, BindError, Stream, tls},
    rt::{DrainWatch, Phase, clock},
    telemetry::metrics::{CaMetrics, CaRequest, CaResult, Registry},
    types::Live,
};

/// Connections at once. Each asks one question and is gone.
const MAX_CONNECTIONS: usize = 64;
/// For a handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// From the end of the handshake to the end of the answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Requests for certificates that wait for their turn. Each takes some milliseconds, so the last waits for a second.
const QUEUE: usize = 32;
/// Requests for certificates taken per second, and at once: what one core signs in a tenth of its time. Those who come
/// with a certificate have a budget of their own, so that strangers cannot use it up.
const PER_SECOND: u32 = 20;
const BURST: u32 = 40;
/// Largest head of a request.
const MAX_HEAD: usize = 16 * 1024;
/// How often the state on disk is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Looks after which it is read although it did not change: lists become due by time.
const LOOKS_PER_READ: u32 = 60;
/// How long to wait before accepting again when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the service is made of.
#[derive(Clone, Debug)]
pub struct ServiceParams {
    /// The authority, and where it listens.
    pub place: AuthorityPlace,
    /// The longest lifetime of what it signs.
    pub leaf_ttl: Duration,
}

/// The service cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The authority on disk.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// The address.
    #[error("cannot listen")]
    Bind(#[from] BindError),
    /// It cannot use what it signed for itself.
    #[error("the authority's own certificate cannot be used: {0}")]
    Own(String),
    /// A defect of ours.
    #[error("the TLS library refuses its settings")]
    Tls(#[from] TlsSetupError),
    /// The process ends.
    #[error("the process is leaving")]
    Leaving,
}

/// The certificate authority, ready to be asked.
pub struct Service {
    shared: Arc<Shared>,
    listener: TcpListener,
    own: Own,
}

/// What all connections share.
struct Shared {
    authority: Arc<Authority>,
    tls: AuthorityTls,
    published: Live<Published>,
    leaf_ttl: Duration,
    queue: Arc<Semaphore>,
    turn: Arc<Semaphore>,
    joins: Mutex<Pace>,
    renewals: Mutex<Pace>,
    metrics: CaMetrics,
}

impl Service {
    /// Opens the authority, signs its own certificate, and binds its address.
    ///
    /// # Errors
    /// See [`ServiceError`]; nothing is left bound.
    pub async fn start(params: ServiceParams, registry: &Arc<Registry>) -> Result<Self, ServiceError> {
        let ServiceParams { place, leaf_ttl } = params;
        let AuthorityPlace { dir, key_file, address } = place;
        let opened = tokio::task::spawn_blocking(move || {
            if !Authority::is_in(&dir) {
                return Err(ServiceError::from(CaError::Absent(dir)));
            }
            let authority = Authority::open(&dir, &MasterKey::read(&key_file)?)?;
            let (own, material, published) = Own::make(&authority, clock::wall())?;
            Ok((Arc::new(authority), own, material, published))
        });
        let (authority, own, material, published) = opened.await.map_err(|_| ServiceError::Leaving)??;
        let socket = net::bind(address, 1)?.into_iter().next().ok_or(ServiceError::Leaving)?;
        let listener = TcpListener::from_std(socket).map_err(|_| ServiceError::Leaving)?;
        let now = clock::now();
        let shared = Shared {
            authority,
            tls: AuthorityTls::new(material)?,
            published: Live::new(Arc::new(published)),
            leaf_ttl,
            queue: Arc::new(Semaphore::new(QUEUE)),
            turn: Arc::new(Semaphore::new(1)),
            joins: Mutex::new(Pace::new(PER_SECOND, BURST, now)),
            renewals: Mutex::new(Pace::new(PER_SECOND, BURST, now)),
            metrics: CaMetrics::resolve(registry),
        };
        Ok(Self { shared: Arc::new(shared), listener, own })
    }

    /// The authority, for the sidecar that holds it.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.shared.authority)
    }

    /// Serves until the process leaves; what is being asked then is dropped.
    pub async fn run(self, mut drain: DrainWatch) {
        let Self { shared, listener, own } = self;
        let address = listener.local_addr().ok();
        tracing::info!(address = address.map(tracing::field::display), "the certificate authority answers");
        tokio::select! {
            () = drain.reached(Phase::Stopped) => {}
            () = accept(Arc::clone(&shared), listener) => {}
            () = follow(shared, own) => {}
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            // Closed without a word: a handshake to say it in would cost what is to be saved.
            Ok(_) if connections.len() >= MAX_CONNECTIONS => {
                shared.metrics.answered(CaRequest::Connect, CaResult::Overflow);
            }
            Ok((stream, peer)) => {
                connections.spawn(connection(Arc::clone(&shared), stream, peer));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    // It only costs a delay if it cannot be set.
    let _ = stream.set_nodelay(true);
    let accepted = tls::accept_joiner(Stream::Tcp(stream), &shared.tls, HANDSHAKE_LIMIT).await;
    let (stream, caller) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => {
            shared.metrics.answered(CaRequest::Connect, CaResult::Handshake);
            tracing::info!(%peer, reason = error.reason.as_str(), error = %error.source, "a caller of the authority was refused by TLS");
            return;
        }
    };
    let service = service_fn(|request| answer::answer(&shared, caller.as_ref(), peer, request));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        .max_buf_size(MAX_HEAD)
        // One question: whoever was revoked meanwhile must not ask another on a connection from before.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if timeout(REQUEST_LIMIT, serving).await.is_err() {
        shared.metrics.answered(CaRequest::Connect, CaResult::Timeout);
        tracing::info!(%peer, "a caller of the authority did not finish in time");
    }
}

/// Follows the state on disk, and renews the authority's own certificate.
async fn follow(shared: Arc<Shared>, own: Own) {
    let mut own = Arc::new(own);
    let mut seen = None;
    let mut looks: u32 = 0;
    let mut problem = None;
    loop {
        let (authority, current) = (Arc::clone(&shared.authority), Arc::clone(&own));
        let is_due = looks.is_multiple_of(LOOKS_PER_READ);
        looks = looks.wrapping_add(1);
        let looked = tokio::task::spawn_blocking(move || {
            let now = clock::wall();
            // The state of one that was superseded does not change, so nothing else would tell.
            authority.is_holder()?;
            let version = authority.version().ok();
            if version.is_some() && version == seen && !is_due && !current.is_due(now) {
                return Ok(None);
            }
            // What is read is at least of the version that was seen; if it is the next one, it is read once more.
            current.follow(&authority, now).map(|followed| Some((version, followed)))
        });
        match looked.await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some((version, (changed, published))))) => {
                seen = version;
                problem = None;
                if let Some((next, material)) = changed {
                    own = Arc::new(next);
                    shared.tls.replace(material);
                }
                // After the certificate: whoever hears of a root that signs can ask for a certificate of it.
                drop(shared.published.swap(Arc::new(published)));
            }
            Ok(Err(error @ ServiceError::Authority(CaError::Superseded { .. }))) => {
                tracing::error!(
                    error = error.to_string(),
                    "this certificate authority does not answer any more: name the one that holds it now in `mtls.ca.servers`"
                );
                return;
            }
            Ok(Err(error)) => {
                let text = error.to_string();
                if problem.as_ref() != Some(&text) {
                    tracing::error!(
                        error = text,
                        "the certificate authority cannot be read; what it said last is in force"
                    );
                    problem = Some(text);
                }
            }
            Err(_) => return,
        }
        tokio::time::sleep(LOOK).await;
    }
}
