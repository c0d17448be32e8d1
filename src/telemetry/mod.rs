//! What the sidecar tells of itself: metrics, logs, the access log, trace context.

pub mod access_log;
mod hex;
pub mod log;
pub mod metrics;
pub mod request_id;
pub mod trace;

use std::{path::PathBuf, time::Duration};

/// Everything that `telemetry:` configures.
#[derive(Clone, Debug)]
pub struct TelemetryParams {
    /// Structured log of the sidecar itself.
    pub log: LogParams,
    /// One line per request.
    pub access_log: AccessLogParams,
    /// Most series of one metric family; further label sets fold into `__overflow__`.
    pub max_series_per_metric: usize,
    /// Which trace headers are read and written, in order of preference.
    pub propagation: Vec<Propagation>,
}

/// Structured log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogParams {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives as in `info,outrigger::proxy=debug`.
    pub level: String,
    /// Text for people, JSON for machines.
    pub format: LogFormat,
}

/// Format of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One object a line.
    Json,
    /// One readable line.
    Text,
}

/// Access log.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLogParams {
    /// Off writes nothing.
    pub enabled: bool,
    /// Where lines go.
    pub sink: AccessLogSink,
    /// Text or JSON.
    pub format: LogFormat,
    /// Share of the lines that pass the filter and are written, 0.0 to 1.0. Failed requests always pass.
    pub sample: f64,
    /// Which requests are written at all.
    pub only: AccessLogFilter,
    /// What `only: slow` calls slow.
    pub slow: Duration,
}

/// Where access log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogSink {
    /// Standard output.
    Stdout,
    /// Appended to this file; SIGUSR1 reopens it.
    File(PathBuf),
}

/// Which requests are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFilter {
    /// All of them.
    All,
    /// Status 5xx, or a reason flag.
    Errors,
    /// Those, and all that took longer than `slow`.
    Slow,
}

/// A family of trace headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// `traceparent`, `tracestate` (W3C).
    TraceContext,
    /// `b3`, or `X-B3-*`, whichever came.
    B3,
}
