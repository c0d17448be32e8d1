//! `outrigger run`: from a file to a serving sidecar, and back to nothing, in a stated order.

use std::{path::PathBuf, sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::{
    admin_sockets::AdminSockets,
    backend::AppBackend,
    certificates::{self, Started},
    edge,
    identity::Identity,
    mesh,
    overload::Sampler,
    reload::{ReloadHandle, Reloader, ReloaderParts},
    shared::{self, SharedRecords, SharedView},
    state::ProcessState,
    store::{self, OpenedStore},
    waiting::WaitingBackend,
};
use crate::{
    admin,
    config::{self, Base, Bundle, FileSource, Fingerprint, Overlaid, ProcessEnvironment, Style},
    directory::{Directory, Publisher, dns::Resolver},
    identity::{IdentitySource, edge::EdgeTls},
    membership::Membership,
    proxy::{DataPlane, PlaneParams, health, jwks},
    rt::{Drain, Phase, ShutdownParams, Tasks, clock, random},
    snapshot::SnapshotCell,
    store::Store,
    telemetry::{
        access_log::{AccessLog, AccessLogOwner},
        log::{self, LogHandle},
        metrics::{ConfigMetrics, Registry, ReloadOutcome, ReloadTrigger, SharedMetrics},
    },
    types::Live,
};

/// How long workers may take to end once everything is cut.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long control tasks and the access log may take to end.
const TASKS_LIMIT: Duration = Duration::from_secs(2);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct RunParams {
    /// The configuration file.
    pub config: PathBuf,
    /// Data-plane threads; wins over the file (`OUTRIGGER_WORKERS`).
    pub workers: Option<usize>,
    /// Level of the log; wins over the file.
    pub log_level: Option<String>,
}

/// Why the sidecar did not start; nothing is left bound or running.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is wrong; the text is what `outrigger check` prints.
    #[error("{0}")]
    Invalid(String),
    /// Anything the machine refused: a port in use, a log file that cannot be opened.
    #[error("{what}: {source}")]
    Start {
        /// What could not be done.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RunError {
    pub(super) fn start<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        what: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Start { what, source: source.into() }
    }
}

/// Runs the sidecar until a signal ends it.
///
/// # Errors
/// See [`RunError`]; only before the sidecar serves.
pub fn run(params: &RunParams) -> Result<(), RunError> {
    let loaded = Loaded::read(params)?;
    let told = loaded.told(loaded.base.bundle().clone());
    let log = log::init(&told.telemetry.log).map_err(RunError::start("cannot start the log"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(RunError::start("cannot start the control runtime"))?;
    let served = runtime.block_on(serve(loaded, Arc::new(log)));
    // Look-ups and file reads that hang must not keep the process alive.
    runtime.shutdown_timeout(TASKS_LIMIT);
    served
}

/// A file, read and found good.
struct Loaded {
    source: FileSource,
    fingerprint: Fingerprint,
    base: Base,
    /// What the command line says instead of the file.
    workers: Option<usize>,
    log_level: Option<String>,
}

impl Loaded {
    fn read(params: &RunParams) -> Result<Self, RunError> {
        let source = FileSource::new(&params.config);
        let unreadable = |source| RunError::Unreadable { path: params.config.clone(), source };
        let text = source.read().map_err(unreadable)?;
        let invalid = |findings: config::Findings| RunError::Invalid(findings.render_text(Style::Plain));
        let base = Base::load(&text, &ProcessEnvironment).map_err(invalid)?;
        let RunParams { config: _, workers, log_level } = params.clone();
        Ok(Self { source, fingerprint: text.fingerprint(), base, workers, log_level })
    }

    /// The configuration to start with: what lies over the file is what was known last.
    fn bundle(&self, shared: &SharedRecords) -> (Arc<Bundle>, SharedView) {
        let Overlaid { bundle, standings } = self.base.overlay(&shared.records());
        (Arc::new(self.told(bundle)), SharedView::new(shared, &standings))
    }

    /// With what the command line says.
    fn told(&self, mut bundle: Bundle) -> Bundle {
        bundle.workers = self.workers.or(bundle.workers);
        if let Some(level) = &self.log_level {
            bundle.telemetry.log.level.clone_from(level);
        }
        bundle
    }
}

async fn serve(loaded: Loaded, log: Arc<LogHandle>) -> Result<(), RunError> {
    // Before anything else: a signal that comes while we start must not kill us half-way.
    let mut signals = Signals::listen().map_err(RunError::start("cannot listen to signals"))?;
    let first = Arc::new(SharedRecords::last_good(loaded.base.bundle()));
    let (bundle, view) = loaded.bundle(&first);
    let Loaded { source, fingerprint, base, .. } = loaded;
    let workers = bundle.workers.unwrap_or_else(cores);
    let drain = Drain::default();
    let registry = Registry::new(bundle.telemetry.max_series_per_metric, workers);
    registry.install_global();
    let state = begin(&bundle, fingerprint, view, &drain);
    let (access_log, access_owner) =
        AccessLog::start(bundle.telemetry.access_log.clone(), registry.access_log_dropped())
            .map_err(RunError::start("cannot open the access log"))?;
    let admin_sockets = AdminSockets::bind(&bundle)?;

    let mut tasks = Tasks::default();
    let waiting = Waiting { state: &state, registry: &registry, log: &log, sockets: &admin_sockets };
    let started = tokio::select! {
        started = start_identity(&bundle, waiting, &drain, &mut tasks) => Some(started?),
        () = signals.end() => None,
    };
    let Some(Started { identity, renewal, authority }) = started else {
        tracing::info!("told to leave before there was a certificate");
        drain.advance(Phase::Stopped);
        finish(tasks, access_owner).await;
        return Ok(());
    };
    let control = start_control(&bundle, identity.as_ref(), &registry, &drain, &mut tasks).await?;
    let limits = Arc::new(Live::new(Arc::new(bundle.listeners.clone())));
    let (sampler, pressure) = Sampler::new(&state, &control.cell, &registry, workers);
    tasks.spawn("overload", sampler.run(drain.watch()));
    let plane = DataPlane::start(PlaneParams {
        edge: start_edge(&bundle, &drain, &mut tasks)?,
        pressure,
        workers,
        listeners: Arc::clone(&limits),
        snapshot: Arc::clone(&control.cell),
        drain: drain.watch(),
        access_log: access_log.clone(),
        registry: Arc::clone(&registry),
        mesh: identity.as_ref().map(|identity| Arc::clone(&identity.mesh)),
    })
    .map_err(RunError::start("cannot start the data plane"))?;
    let Control { cell, publisher, membership, store } = control;
    let (store, says) = store::start(store, &registry, &drain, &mut tasks);
    certificates::keep_copy(authority, store.as_ref(), &registry, &drain, &mut tasks);
    let membership = mesh::start(membership, plane.inbound, says, &state, &cell, &drain, &mut tasks);
    let parts = ReloaderParts {
        source,
        state: Arc::clone(&state),
        publisher,
        limits,
        access_log,
        log: Arc::clone(&log),
        metrics: started_with(&fingerprint.to_string(), &bundle, &registry),
        shared_metrics: SharedMetrics::resolve(&registry),
        in_force: fingerprint,
        base: Arc::new(base),
        shared: first,
    };
    let reload = start_reload(parts, store.clone(), &registry, &drain, &mut tasks);
    let backend: Arc<dyn admin::Backend> = Arc::new(AppBackend {
        state: Arc::clone(&state),
        registry: Arc::clone(&registry),
        cell,
        reload: reload.clone(),
        log,
        identity,
        renewal,
        membership,
        store,
    });
    let (admin_open, admin_closes) = watch::channel(false);
    admin_sockets.serve(&backend, &bundle.admin.access, &registry, &admin_closes, &mut tasks)?;
    announce(&state, &plane, workers);
    signals.until_told_to_leave(&reload, &access_owner).await;
    leave(signals, &drain, &state.running().bundle.shutdown, plane).await;
    // The admin API answers to the end: whoever asks during the drain is told of it.
    drop(admin_open);
    finish(tasks, access_owner).await;
    Ok(())
}

/// What is known of the process before anything is bound.
fn begin(
    bundle: &Arc<Bundle>,
    fingerprint: Fingerprint,
    shared: SharedView,
    drain: &Drain,
) -> Arc<ProcessState> {
    let (hash, now, wall) = (fingerprint.to_string(), clock::now(), clock::wall());
    let state = ProcessState::new(Arc::clone(bundle), hash, drain.watch(), now, wall);
    state.update(|running| running.shared = Arc::new(shared));
    Arc::new(state)
}

/// Starts what changes the configuration: when it is asked, when the file changes, and when `store` has something else for
/// all sidecars.
fn start_reload(
    parts: ReloaderParts,
    store: Option<Store>,
    registry: &Arc<Registry>,
    drain: &Drain,
    tasks: &mut Tasks,
) -> ReloadHandle {
    let (bundle, first) = (parts.state.running().bundle, Arc::clone(&parts.shared));
    let (reloader, reload) = Reloader::new(parts);
    tasks.spawn("reload", reloader.run(drain.watch()));
    if let Some(store) = store {
        shared::start(store, reload.clone(), &bundle, first, registry, drain, tasks);
    }
    reload
}

/// Counts the configuration that the process starts with as the first that was taken.
fn started_with(hash: &str, bundle: &Bundle, registry: &Arc<Registry>) -> ConfigMetrics {
    let metrics = ConfigMetrics::resolve(registry);
    metrics.running(hash, &bundle.directory.local.name);
    metrics.reloaded(ReloadTrigger::Start, ReloadOutcome::Success, clock::wall());
    metrics
}

/// Says that it is served, and where what.
fn announce(state: &ProcessState, plane: &DataPlane, workers: usize) {
    state.update(|running| {
        running.ready = true;
        running.generation = running.generation.max(1);
        running.inbound = plane.inbound;
        running.outbound = plane.outbound;
        running.tcp.clone_from(&plane.tcp);
    });
    let bundle = state.running().bundle;
    tracing::info!(
        service = %bundle.directory.local.name,
        inbound = plane.inbound.map(tracing::field::display),
        outbound = plane.outbound.map(tracing::field::display),
        admin = %bundle.admin.address,
        workers,
        "serving"
    );
    notify(&[NotifyState::Ready]);
}

/// Ends what is left once the data plane is gone.
async fn finish(tasks: Tasks, access_log: AccessLogOwner) {
    tasks.finish(TASKS_LIMIT).await;
    if !access_log.stop(TASKS_LIMIT) {
        tracing::warn!("the access log did not take its last lines in time");
    }
    tracing::info!("gone");
}

struct Control {
    cell: SnapshotCell,
    publisher: Publisher,
    /// Bound, and not yet running: what it says is not known before the data plane is bound.
    membership: Option<Membership>,
    /// Bound as well.
    store: Option<OpenedStore>,
}

/// What is told while there is no certificate.
struct Waiting<'a> {
    state: &'a Arc<ProcessState>,
    registry: &'a Arc<Registry>,
    log: &'a Arc<LogHandle>,
    sockets: &'a AdminSockets,
}

/// Gets the certificates and starts what keeps them good. The admin API says meanwhile what is waited for.
async fn start_identity(
    bundle: &Bundle,
    waiting: Waiting<'_>,
    drain: &Drain,
    tasks: &mut Tasks,
) -> Result<Started, RunError> {
    let Some(params) = &bundle.identity else { return Ok(Started::default()) };
    let Waiting { state, registry, log, sockets } = waiting;
    let why = Arc::new(Live::new(Arc::new("waiting for a certificate".to_owned())));
    let (open, closes) = watch::channel(false);
    if matches!(params.source, IdentitySource::Builtin(_)) {
        let backend = WaitingBackend {
            state: Arc::clone(state),
            registry: Arc::clone(registry),
            log: Arc::clone(log),
            why: Arc::clone(&why),
        };
        let backend: Arc<dyn admin::Backend> = Arc::new(backend);
        sockets.twin()?.serve(&backend, &bundle.admin.access, registry, &closes, tasks)?;
    }
    let started = certificates::start(params, &why, registry, drain, tasks)
        .await
        .map_err(RunError::start("no certificate to serve with"))?;
    drop(open);
    Ok(started)
}

/// Reads the certificates for clients outside of the mesh and starts what follows them.
fn start_edge(bundle: &Bundle, drain: &Drain, tasks: &mut Tasks) -> Result<Option<Arc<EdgeTls>>, RunError> {
    let listener = bundle.listeners.outbound.as_ref();
    let Some(params) = listener.and_then(|listener| listener.tls.as_ref()) else { return Ok(None) };
    let edge = EdgeTls::new(params).map(Arc::new);
    let edge = edge.map_err(RunError::start("no certificate for `listeners.outbound.tls`"))?;
    tasks.spawn("edge certificates", edge::follow(Arc::clone(&edge), drain.watch()));
    Ok(Some(edge))
}

/// Starts what keeps the snapshot and the health of its endpoints up to date.
async fn start_control(
    bundle: &Bundle,
    identity: Option<&Identity>,
    registry: &Arc<Registry>,
    drain: &Drain,
    tasks: &mut Tasks,
) -> Result<Control, RunError> {
    let resolver = Resolver::new().map_err(RunError::start("cannot read the resolver's configuration"))?;
    let resolver = Arc::new(resolver);
    let tls = identity.map(|identity| Arc::clone(&identity.mesh));
    let membership = mesh::bind(bundle, tls.clone(), registry, &resolver).await?;
    let store = store::open(bundle, membership.as_ref(), tls.clone(), registry).await?;
    let (directory, cell, publisher) = Directory::start(
        bundle.directory.clone(),
        bundle.telemetry.propagation.clone(),
        Arc::clone(registry),
        resolver,
        tls,
        membership.as_ref().map(Membership::view),
        random::seeded(u64::MAX).u64(..),
    )
    .await;
    tasks.spawn("directory", directory.run(drain.watch()));
    // Those in files: the first request must not come too early for its token.
    let first = cell.load();
    let read = tokio::task::spawn_blocking(move || jwks::read_files(&first));
    read.await.map_err(RunError::start("cannot read the keys of token issuers"))?;
    let keeping = jwks::run(
        Arc::clone(&cell),
        Arc::clone(registry),
        publisher.published.clone(),
        random::seeded(u64::MAX - 3),
    );
    tasks.spawn("jwks", keeping);
    let checking = health::run(Arc::clone(&cell), publisher.published.clone(), random::seeded(u64::MAX - 1));
    tasks.spawn("health", checking);
    let watching = health::watch_outliers(Arc::clone(&cell), drain.watch(), random::seeded(u64::MAX - 2));
    tasks.spawn("outliers", watching);
    Ok(Control { cell, publisher, membership, store })
}

/// The signals that the process listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    reopen: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for a signal that ends the process; reloads and reopens meanwhile. Cancel-safe between signals.
    async fn until_told_to_leave(&mut self, reload: &ReloadHandle, access_log: &AccessLogOwner) {
        let Self { terminate, interrupt, hangup, reopen } = self;
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                _ = hangup.recv() => {
                    // Beside this loop: a file on a server that is gone must not keep SIGTERM waiting.
                    tokio::spawn(reload_and_tell(reload.clone()));
                }
                _ = reopen.recv() => access_log.reopen(),
            }
        }
    }

    /// Waits for SIGTERM or SIGINT.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Reloads because of SIGHUP. The outcome is in the log, in the metric and in the admin API.
async fn reload_and_tell(reload: ReloadHandle) {
    match NotifyState::monotonic_usec_now() {
        Ok(since) => notify(&[NotifyState::Reloading, since]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
    let _ = reload.reload(ReloadTrigger::Signal, false).await;
    notify(&[NotifyState::Ready]);
}

/// Leads the process through grace and drain. A second signal cuts both short.
async fn leave(mut signals: Signals, drain: &Drain, shutdown: &ShutdownParams, plane: DataPlane) {
    tracing::info!(grace = ?shutdown.grace, drain_timeout = ?shutdown.drain_timeout, "leaving");
    notify(&[NotifyState::Stopping]);
    drain.advance(Phase::Grace);
    let mut workers = tokio::task::spawn_blocking(move || plane.join());
    let orderly = async {
        tokio::time::sleep(shutdown.grace).await;
        drain.advance(Phase::Draining);
        if tokio::time::timeout(shutdown.drain_timeout, &mut workers).await.is_err() {
            tracing::warn!("the drain deadline has come");
        }
    };
    tokio::select! {
        () = orderly => {}
        () = signals.end() => tracing::warn!("told a second time; leaving at once"),
    }
    drain.advance(Phase::Stopped);
    if !workers.is_finished() {
        // What was cut is written down on the way out of its worker; one that hangs is not waited for.
        let _ = tokio::time::timeout(LAST_WORDS, workers).await;
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Tells systemd, if it listens.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
