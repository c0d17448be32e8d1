//! Hot reload: read, validate, prepare, commit. Until the commit nothing of the running configuration has
//! changed; a failure leaves it as it is and is told in the log, in a metric and in the admin API.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::state::{LastReload, ProcessState};
use crate::{
    config::{self, Bundle, Debounce, Diff, FileSource, Fingerprint, ProcessEnvironment, Style},
    directory::Publisher,
    proxy::ListenersParams,
    rt::{DrainWatch, Phase, clock},
    telemetry::{
        access_log::AccessLog,
        log::LogHandle,
        metrics::{ConfigMetrics, ReloadOutcome, ReloadTrigger},
    },
    types::{Live, Mono},
};

/// Reloads that wait for the one in progress; callers beyond it wait in line.
const QUEUE: usize = 16;

/// What a reload did, or would do.
#[derive(Clone, Debug)]
pub(crate) struct Reloaded {
    /// Key paths that changed.
    pub(crate) changed: Vec<String>,
    /// Those of them that wait for a restart.
    pub(crate) restart_required: Vec<String>,
    /// Warnings, rendered.
    pub(crate) warnings: String,
    /// Hash of the file.
    pub(crate) hash: String,
}

/// Why a reload changed nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// The file cannot be read.
    #[error("the configuration cannot be read: {0}")]
    Unreadable(String),
    /// The file is wrong; the text is what `outrigger check` prints.
    #[error("the configuration is invalid\n{rendered}")]
    Invalid {
        /// For people.
        rendered: String,
        /// For machines.
        findings: serde_json::Value,
    },
    /// Half of the mesh would be taken by surprise: connections and pools are of one kind or the other.
    #[error("mTLS is switched on or off with a restart only; use `mode: permissive` to move a running mesh")]
    Switch,
    /// Services without addresses would have nobody until the restart.
    #[error("`mesh` is added or removed with a restart only")]
    Mesh,
    /// The process is leaving.
    #[error("the sidecar is shutting down")]
    Leaving,
}

pub(crate) struct ReloadRequest {
    trigger: ReloadTrigger,
    dry_run: bool,
    answer: oneshot::Sender<Result<Reloaded, ReloadError>>,
}

/// Asks for reloads; clones are cheap.
#[derive(Clone)]
pub(crate) struct ReloadHandle(mpsc::Sender<ReloadRequest>);

impl ReloadHandle {
    /// Reloads now and waits for the outcome. With `dry_run` everything but the commit happens.
    pub(crate) async fn reload(
        &self,
        trigger: ReloadTrigger,
        dry_run: bool,
    ) -> Result<Reloaded, ReloadError> {
        let (answer, outcome) = oneshot::channel();
        let request = ReloadRequest { trigger, dry_run, answer };
        self.0.send(request).await.map_err(|_| ReloadError::Leaving)?;
        outcome.await.unwrap_or(Err(ReloadError::Leaving))
    }
}

/// The one task that changes the configuration.
pub(crate) struct Reloader {
    parts: ReloaderParts,
    requests: mpsc::Receiver<ReloadRequest>,
}

/// What a reload reads and changes.
pub(crate) struct ReloaderParts {
    pub(crate) source: FileSource,
    pub(crate) state: Arc<ProcessState>,
    pub(crate) publisher: Publisher,
    pub(crate) limits: Arc<Live<ListenersParams>>,
    pub(crate) access_log: AccessLog,
    pub(crate) log: Arc<LogHandle>,
    pub(crate) metrics: ConfigMetrics,
    pub(crate) in_force: Fingerprint,
}

/// A configuration that can be committed without anything that may fail.
struct Prepared {
    /// As the file says.
    file: Bundle,
    /// As it can be applied now.
    apply: Bundle,
    diff: Diff,
    warnings: String,
    fingerprint: Fingerprint,
    hash: String,
}

impl Reloader {
    pub(crate) fn new(parts: ReloaderParts) -> (Self, ReloadHandle) {
        let (sender, requests) = mpsc::channel(QUEUE);
        (Self { parts, requests }, ReloadHandle(sender))
    }

    /// Serves requests and watches the file until the process leaves.
    pub(crate) async fn run(mut self, mut drain: DrainWatch) {
        let mut debounce = Debounce::new(self.parts.in_force);
        loop {
            let params = self.parts.state.running().bundle.reload.clone();
            tokio::select! {
                () = drain.reached(Phase::Grace) => return,
                request = self.requests.recv() => {
                    let Some(request) = request else { return };
                    let outcome = self.reload(request.trigger, request.dry_run).await;
                    debounce.acknowledge(self.parts.in_force);
                    // Whoever asked may have gone; the outcome is in the log and in the state.
                    let _ = request.answer.send(outcome);
                }
                () = tokio::time::sleep(params.interval), if params.watch => {
                    let changed = self.read().await.is_ok_and(|text| debounce.observe(text.fingerprint()));
                    if changed {
                        // The outcome is logged and kept in the state.
                        let _ = self.reload(ReloadTrigger::File, false).await;
                    }
                }
            }
        }
    }

    async fn read(&self) -> Result<config::Text, ReloadError> {
        let source = self.parts.source.clone();
        // A file on a dead NFS server must not stop the control runtime.
        tokio::task::spawn_blocking(move || source.read())
            .await
            .map_err(|error| ReloadError::Unreadable(error.to_string()))?
            .map_err(|error| {
                ReloadError::Unreadable(format!("{}: {error}", self.parts.source.path().display()))
            })
    }

    async fn reload(&mut self, trigger: ReloadTrigger, dry_run: bool) -> Result<Reloaded, ReloadError> {
        let noticed = clock::now();
        let prepared = self.prepare().await;
        if dry_run {
            return prepared.map(|prepared| prepared.report());
        }
        let outcome = match prepared {
            Ok(prepared) => self.commit(prepared, trigger, noticed).await,
            Err(error) => Err(error),
        };
        self.tell(trigger, &outcome);
        outcome
    }

    /// Everything that can fail.
    async fn prepare(&self) -> Result<Prepared, ReloadError> {
        let text = self.read().await?;
        let running = self.parts.state.running().bundle;
        let (file, findings) =
            config::load(&text, &ProcessEnvironment).map_err(|findings| ReloadError::Invalid {
                rendered: findings.render_text(Style::Plain),
                findings: findings.to_json(),
            })?;
        if running.identity.is_some() != file.identity.is_some() {
            return Err(ReloadError::Switch);
        }
        if running.mesh.is_some() != file.mesh.is_some() {
            return Err(ReloadError::Mesh);
        }
        let diff = Diff::between(&running, &file);
        let warnings = if findings.is_empty() { String::new() } else { findings.render_text(Style::Plain) };
        let apply = file.clone().with_restart_keys_of(&running);
        let fingerprint = text.fingerprint();
        Ok(Prepared { file, apply, diff, warnings, fingerprint, hash: fingerprint.to_string() })
    }

    /// Nothing in here fails, so nothing is half-applied.
    async fn commit(
        &mut self,
        prepared: Prepared,
        trigger: ReloadTrigger,
        noticed: Mono,
    ) -> Result<Reloaded, ReloadError> {
        let report = prepared.report();
        let Prepared { file, apply, fingerprint, hash, .. } = prepared;
        let propagation = apply.telemetry.propagation.clone();
        let generation = self
            .parts
            .publisher
            .configure(apply.directory.clone(), propagation, noticed)
            .await
            .ok_or(ReloadError::Leaving)?;
        drop(self.parts.limits.swap(Arc::new(apply.listeners.clone())));
        self.parts.access_log.configure(&apply.telemetry.access_log);
        if let Err(error) = self.parts.log.set(&apply.telemetry.log.level) {
            tracing::warn!(%error, "the log level stays as it is");
        }
        self.parts.metrics.running(&hash, &apply.directory.local.name);
        self.parts.in_force = fingerprint;
        let pending = Diff::between(&apply, &file).restart_required;
        self.parts.state.update(|running| {
            running.bundle = Arc::new(apply);
            running.hash = hash;
            running.loaded = clock::wall();
            running.generation = generation;
            running.pending_restart = pending;
        });
        tracing::info!(trigger = trigger.as_str(), generation, changed = ?report.changed, "configuration reloaded");
        if !report.restart_required.is_empty() {
            tracing::warn!(keys = ?report.restart_required, "these keys come into force with the next restart");
        }
        Ok(report)
    }

    fn tell(&self, trigger: ReloadTrigger, outcome: &Result<Reloaded, ReloadError>) {
        let at = clock::wall();
        let result = match outcome {
            Ok(report) if report.changed.is_empty() => ReloadOutcome::Unchanged,
            Ok(_) => ReloadOutcome::Success,
            Err(_) => ReloadOutcome::Failure,
        };
        if let Err(error) = outcome {
            tracing::error!(trigger = trigger.as_str(), %error, "reload rejected; the running configuration stays");
        }
        self.parts.metrics.reloaded(trigger, result, at);
        self.parts.state.update(|running| {
            running.last_reload = Some(LastReload {
                at,
                trigger: trigger.as_str(),
                error: outcome.as_ref().err().map(ToString::to_string),
            });
        });
    }
}

impl Prepared {
    fn report(&self) -> Reloaded {
        Reloaded {
            changed: self.diff.changed.clone(),
            restart_required: self.diff.restart_required.clone(),
            warnings: self.warnings.clone(),
            hash: self.hash.clone(),
        }
    }
}
