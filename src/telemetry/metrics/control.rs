//! What is counted off the request path: configuration and its way to the data plane.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{HotHistogram, Registry, exposition, family};

/// What made the process look at its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadTrigger {
    /// The process started.
    Start,
    /// The file changed.
    File,
    /// SIGHUP.
    Signal,
    /// The admin API.
    Api,
    /// What all sidecars share changed.
    Store,
}

impl ReloadTrigger {
    /// The value of the metric label `trigger`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::File => "file",
            Self::Signal => "signal",
            Self::Api => "api",
            Self::Store => "store",
        }
    }
}

/// How loading a configuration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// It is running now.
    Success,
    /// It is the one that is already running.
    Unchanged,
    /// The old one goes on.
    Failure,
}

impl ReloadOutcome {
    /// The value of the metric label `result`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Unchanged => "unchanged",
            Self::Failure => "failure",
        }
    }
}

/// The numbers of configuration loading.
#[derive(Clone, Debug)]
pub struct ConfigMetrics {
    registry: Arc<Registry>,
    publish: Arc<HotHistogram>,
}

/// Which configuration is running. Not a gauge of the recorder, because the series of the previous one must be
/// gone at once: two of them look like a mesh whose sidecars disagree.
#[derive(Clone, Debug)]
pub(super) struct RunningConfig {
    hash: Arc<str>,
    service: Arc<str>,
}

impl RunningConfig {
    pub(super) fn render(&self, out: &mut String) {
        exposition::header(out, &family::CONFIG_INFO);
        let labels = [("hash", &*self.hash), ("service", &*self.service)];
        exposition::sample(out, family::CONFIG_INFO.name, labels, 1);
    }
}

impl ConfigMetrics {
    /// The handle; any number of them show the same numbers.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>) -> Self {
        let publish = registry.histogram(&family::SNAPSHOT_PUBLISH, &[]);
        Self { registry: Arc::clone(registry), publish }
    }

    /// Counts an attempt to load the configuration that ended at `at`.
    pub fn reloaded(&self, trigger: ReloadTrigger, outcome: ReloadOutcome, at: SystemTime) {
        let labels = [("result", outcome.as_str()), ("trigger", trigger.as_str())];
        self.registry.counter(&family::RELOADS, &labels).increment(1);
        let good = outcome != ReloadOutcome::Failure;
        self.registry.gauge(&family::RELOAD_SUCCESSFUL, &[]).set(f64::from(u8::from(good)));
        if outcome == ReloadOutcome::Success {
            let unix = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.registry.gauge(&family::RELOAD_TIMESTAMP, &[]).set(unix.as_secs_f64());
        }
    }

    /// Counts that what all sidecars share was laid over the file. What is known of the file stays: it was not read.
    pub fn shared(&self, outcome: ReloadOutcome) {
        let labels = [("result", outcome.as_str()), ("trigger", ReloadTrigger::Store.as_str())];
        self.registry.counter(&family::RELOADS, &labels).increment(1);
    }

    /// Tells which configuration runs from now on. `service` is the name of the local service.
    pub fn running(&self, hash: &str, service: &str) {
        let config = RunningConfig { hash: Arc::from(hash), service: Arc::from(service) };
        self.registry.lock().config = Some(config);
    }

    /// Observes the time from noticing a change to the data plane seeing it.
    pub fn published(&self, took: Duration) {
        self.publish.observe(took);
    }
}
