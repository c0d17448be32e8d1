//! YAML → the other modules' params, with every problem reported at its place. Nothing below imports this.
//!
//! `yaml` reads the text into a `tree` with places, `fields` and `value` read keys and values from it, `sections`
//! fill the params, `lint` gives advice, `diagnostic` tells people. No file here knows sockets or tasks.

mod codes;
mod defaults;
mod diagnostic;
mod diff;
mod effective;
mod environment;
mod fields;
mod form;
mod lint;
mod mask;
mod overlay;
mod parse;
mod precedence;
mod report;
mod schema;
mod sections;
mod source;
mod span;
mod suggest;
mod tree;
mod value;
mod yaml;

use std::time::Duration;

pub use codes::Code;
pub use diagnostic::{Diagnostic, Findings, Related, Severity, Style};
pub use diff::Diff;
pub use effective::{effective_json, effective_yaml};
pub use environment::{Environment, ProcessEnvironment};
pub use overlay::{
    Base, MAX_RECORD_BYTES, MAX_RECORDS, Overlaid, Record, RecordKind, Standing, is_policy, shared_yaml,
};
pub use parse::{load, parse};
pub use precedence::routes_in_order;
pub use source::{Debounce, FileSource, Fingerprint, Text};

/// A configuration file, parsed and validated: nothing in it can be wrong by itself any more.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Data-plane threads; `None` takes one per core.
    pub workers: Option<usize>,
    /// Who the sidecar is, and what it proves that with; `None` without mTLS.
    pub identity: Option<crate::identity::IdentityParams>,
    /// How it takes part in the gossip of the mesh; `None` takes no part.
    pub mesh: Option<crate::membership::Params>,
    /// How it takes part in the store of the mesh; `None` takes no part.
    pub store: Option<crate::store::Params>,
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
    /// What is done when the process runs out of something.
    pub overload: crate::policy::overload::OverloadParams,
    /// End of the process.
    pub shutdown: crate::rt::ShutdownParams,
    /// JSON pointers to the values that came from `${env:…}` or `${file:…}` and must not be shown.
    pub masked: Vec<String>,
}

/// How changes of the file are noticed. SIGHUP and the admin call work in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadParams {
    /// Looks at the file by itself.
    pub watch: bool,
    /// How often it looks.
    pub interval: Duration,
}
