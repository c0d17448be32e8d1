//! YAML → the other modules' params, with every problem reported at its place. Nothing below imports this.

use std::time::Duration;

/// A configuration file, parsed and validated: nothing in it can be wrong by itself any more.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Data-plane threads; `None` takes one per core.
    pub workers: Option<usize>,
    /// Listeners.
    pub listeners: crate::proxy::ListenersParams,
    /// Routes and services.
    pub directory: crate::directory::DirectoryParams,
    /// Admin API and metrics.
    pub admin: crate::admin::AdminParams,
    /// Logs, access log, trace headers.
    pub telemetry: crate::telemetry::TelemetryParams,
    /// Watching the file.
    pub reload: ReloadParams,
    /// End of the process.
    pub shutdown: crate::rt::ShutdownParams,
}

/// How changes of the file are noticed. SIGHUP and the admin call work in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadParams {
    /// Looks at the file by itself.
    pub watch: bool,
    /// How often it looks.
    pub interval: Duration,
}
