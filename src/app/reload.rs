//! Hot reload: read, validate, prepare, commit. Until the commit nothing of the running configuration has
//! changed; a failure leaves it as it is and is told in the log, in a metric and in the admin API.

use std::{collections::HashSet, sync::Arc};

use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{
    shared::{SharedRecords, SharedView},
    state::{LastReload, ProcessState},
};
use crate::{
    config::{
        self, Base, Bundle, Debounce, Diff, FileSource, Findings, Fingerprint, Overlaid, ProcessEnvironment,
        Record, Severity, Style,
    },
    directory::Publisher,
    proxy::ListenersParams,
    rt::{DrainWatch, Phase, clock},
    store::core::key::Revision,
    telemetry::{
        access_log::AccessLog,
        log::LogHandle,
        metrics::{ConfigMetrics, ReloadOutcome, ReloadTrigger, SharedMetrics},
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

/// What the reloader is asked.
pub(crate) enum ReloadRequest {
    /// Reads the file again.
    File { trigger: ReloadTrigger, dry_run: bool, answer: oneshot::Sender<Result<Reloaded, ReloadError>> },
    /// Lays other records over the file, which is not read.
    Share { records: Arc<SharedRecords>, answer: oneshot::Sender<Result<(), ReloadError>> },
    /// Says whether some of all records would fit.
    CheckAll {
        records: Vec<Record>,
        changed: HashSet<String>,
        answer: oneshot::Sender<Result<(), Vec<Findings>>>,
    },
    /// Says whether a record would fit.
    Check { record: Record, answer: oneshot::Sender<Result<Findings, Findings>> },
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
        let request = ReloadRequest::File { trigger, dry_run, answer };
        self.0.send(request).await.map_err(|_| ReloadError::Leaving)?;
        outcome.await.unwrap_or(Err(ReloadError::Leaving))
    }

    /// Lays `records` over the file instead of those that lie there now, and waits until requests are served by them.
    ///
    /// # Errors
    /// [`ReloadError::Leaving`] and no other: what does not fit is left out.
    pub(crate) async fn share(&self, records: Arc<SharedRecords>) -> Result<(), ReloadError> {
        let (answer, outcome) = oneshot::channel();
        let request = ReloadRequest::Share { records, answer };
        self.0.send(request).await.map_err(|_| ReloadError::Leaving)?;
        outcome.await.unwrap_or(Err(ReloadError::Leaving))
    }

    /// Whether `record` would fit with the file and all others that lie over it; warnings if so.
    ///
    /// # Errors
    /// [`ReloadError::Invalid`] with what is wrong with it.
    pub(crate) async fn check(&self, record: Record) -> Result<Findings, ReloadError> {
        let (answer, outcome) = oneshot::channel();
        self.0.send(ReloadRequest::Check { record, answer }).await.map_err(|_| ReloadError::Leaving)?;
        outcome.await.map_err(|_| ReloadError::Leaving)?.map_err(|findings| invalid(&findings))
    }

    /// Whether those of `records` whose keys are `changed` would fit with the file, if these were all that lie over it.
    ///
    /// # Errors
    /// [`ReloadError::Invalid`] with what is wrong with them.
    pub(crate) async fn check_all(
        &self,
        records: Vec<Record>,
        changed: HashSet<String>,
    ) -> Result<(), ReloadError> {
        let (answer, outcome) = oneshot::channel();
        let request = ReloadRequest::CheckAll { records, changed, answer };
        self.0.send(request).await.map_err(|_| ReloadError::Leaving)?;
        outcome.await.map_err(|_| ReloadError::Leaving)?.map_err(|findings| all_invalid(&findings))
    }
}

fn all_invalid(all: &[Findings]) -> ReloadError {
    let rendered = all.iter().map(|findings| findings.render_text(Style::Plain)).collect();
    let count: usize = all.iter().map(|findings| findings.count(Severity::Error)).sum();
    let records: serde_json::Value = all.iter().map(Findings::to_json).collect();
    ReloadError::Invalid { rendered, findings: json!({ "errors": count, "records": records }) }
}

fn invalid(findings: &Findings) -> ReloadError {
    ReloadError::Invalid { rendered: findings.render_text(Style::Plain), findings: findings.to_json() }
}

/// The one task that changes the configuration.
pub(crate) struct Reloader {
    parts: ReloaderParts,
    requests: mpsc::Receiver<ReloadRequest>,
    /// Which entries of the store were told of as left out.
    told: HashSet<(String, Revision)>,
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
    pub(crate) shared_metrics: SharedMetrics,
    pub(crate) in_force: Fingerprint,
    /// The file that is in force.
    pub(crate) base: Arc<Base>,
    /// What lies over it.
    pub(crate) shared: Arc<SharedRecords>,
}

/// A configuration that can be committed without anything that may fail.
struct Prepared {
    base: Arc<Base>,
    shared: SharedView,
    /// What the file says, and what lies over it, as far as it can be applied now.
    apply: Bundle,
    /// Keys that wait for a restart.
    pending: Vec<String>,
    diff: Diff,
    warnings: String,
    fingerprint: Fingerprint,
    hash: String,
}

impl Reloader {
    pub(crate) fn new(parts: ReloaderParts) -> (Self, ReloadHandle) {
        let (sender, requests) = mpsc::channel(QUEUE);
        (Self { parts, requests, told: HashSet::new() }, ReloadHandle(sender))
    }

    /// Serves requests and watches the file until the process leaves.
    pub(crate) async fn run(mut self, mut drain: DrainWatch) {
        let mut debounce = Debounce::new(self.parts.in_force);
        self.parts.state.running().shared.tell(&mut self.told, &self.parts.shared_metrics);
        loop {
            let params = self.parts.state.running().bundle.reload.clone();
            tokio::select! {
                () = drain.reached(Phase::Grace) => return,
                request = self.requests.recv() => {
                    let Some(request) = request else { return };
                    // Whoever asked may have gone; the outcome is in the log and in the state.
                    match request {
                        ReloadRequest::File { trigger, dry_run, answer } => {
                            // In boxes: what a whole configuration takes is not to lie in this loop.
                            let outcome = Box::pin(self.reload(trigger, dry_run)).await;
                            debounce.acknowledge(self.parts.in_force);
                            let _ = answer.send(outcome);
                        }
                        ReloadRequest::Share { records, answer } => {
                            let _ = answer.send(Box::pin(self.share(records)).await);
                        }
                        ReloadRequest::CheckAll { records, changed, answer } => {
                            let is_changed = |record: &Record| changed.contains(&record.key());
                            let _ = answer.send(self.parts.base.check_all(&records, is_changed));
                        }
                        ReloadRequest::Check { record, answer } => {
                            let _ = answer.send(self.parts.base.check(&self.parts.shared.records(), &record));
                        }
                    }
                }
                () = tokio::time::sleep(params.interval), if params.watch => {
                    let changed = self.read().await.is_ok_and(|text| debounce.observe(text.fingerprint()));
                    if changed {
                        // The outcome is logged and kept in the state.
                        let _ = Box::pin(self.reload(ReloadTrigger::File, false)).await;
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
        let base = Base::load(&text, &ProcessEnvironment).map_err(|findings| invalid(&findings))?;
        let base = Arc::new(base);
        let Overlaid { bundle: file, standings } = base.overlay(&self.parts.shared.records());
        let shared = SharedView::new(&self.parts.shared, &standings);
        if running.identity.is_some() != file.identity.is_some() {
            return Err(ReloadError::Switch);
        }
        if running.mesh.is_some() != file.mesh.is_some() {
            return Err(ReloadError::Mesh);
        }
        let diff = Diff::between(&running, &file);
        let findings = base.findings();
        let warnings = if findings.is_empty() { String::new() } else { findings.render_text(Style::Plain) };
        let apply = file.clone().with_restart_keys_of(&running);
        let pending = Diff::between(&apply, &file).restart_required;
        let fingerprint = text.fingerprint();
        Ok(Prepared {
            base,
            shared,
            apply,
            pending,
            diff,
            warnings,
            fingerprint,
            hash: fingerprint.to_string(),
        })
    }

    /// Lays `records` over the file that is in force. Of the running configuration only what they are about changes.
    async fn share(&mut self, records: Arc<SharedRecords>) -> Result<(), ReloadError> {
        let noticed = clock::now();
        let running = self.parts.state.running().bundle;
        let Overlaid { bundle, standings } = self.parts.base.overlay(&records.records());
        let shared = SharedView::new(&records, &standings);
        let apply = Bundle { telemetry: running.telemetry.clone(), ..bundle.with_restart_keys_of(&running) };
        let changed = Diff::between(&running, &apply).changed;
        if changed.is_empty() {
            self.parts.metrics.shared(ReloadOutcome::Unchanged);
            self.parts.state.update(|running| running.shared = Arc::new(shared.clone()));
        } else {
            let propagation = apply.telemetry.propagation.clone();
            let generation = self
                .parts
                .publisher
                .configure(apply.directory.clone(), propagation, noticed)
                .await
                .ok_or(ReloadError::Leaving)?;
            self.parts.metrics.shared(ReloadOutcome::Success);
            self.parts.state.update(|running| {
                running.bundle = Arc::new(apply);
                running.generation = generation;
                running.shared = Arc::new(shared.clone());
            });
            tracing::info!(
                revision = records.revision.0,
                generation,
                ?changed,
                "what is shared is put to work"
            );
        }
        shared.tell(&mut self.told, &self.parts.shared_metrics);
        self.parts.shared = records;
        Ok(())
    }

    /// Nothing in here fails, so nothing is half-applied.
    async fn commit(
        &mut self,
        prepared: Prepared,
        trigger: ReloadTrigger,
        noticed: Mono,
    ) -> Result<Reloaded, ReloadError> {
        let report = prepared.report();
        let Prepared { base, shared, apply, pending, fingerprint, hash, .. } = prepared;
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
        (self.parts.in_force, self.parts.base) = (fingerprint, base);
        shared.tell(&mut self.told, &self.parts.shared_metrics);
        self.parts.state.update(|running| {
            running.bundle = Arc::new(apply);
            running.hash = hash;
            running.loaded = clock::wall();
            running.generation = generation;
            running.pending_restart = pending;
            running.shared = Arc::new(shared);
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

/// What a test is handed in the place of the reloader.
#[cfg(test)]
pub(crate) struct Shares(mpsc::Receiver<ReloadRequest>);

#[cfg(test)]
impl ReloadHandle {
    /// A handle whose requests go to the test.
    pub(crate) fn of_test() -> (Self, Shares) {
        let (sender, requests) = mpsc::channel(QUEUE);
        (Self(sender), Shares(requests))
    }
}

#[cfg(test)]
impl Shares {
    /// The next records that are handed over, which are taken to be in force at once.
    pub(crate) async fn next(&mut self) -> Option<Arc<SharedRecords>> {
        loop {
            if let ReloadRequest::Share { records, answer } = self.0.recv().await? {
                let _ = answer.send(Ok(()));
                return Some(records);
            }
        }
    }
}
