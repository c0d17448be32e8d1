//! Telemetry as it is in force.

use serde_json::{Value, json};

use crate::{
    config::value::show_duration,
    telemetry::{
        AccessLogFilter, AccessLogParams, AccessLogSink, LogFormat, LogParams, Propagation, TelemetryParams,
    },
};

pub(super) fn section(telemetry: &TelemetryParams) -> Value {
    let TelemetryParams { log, access_log, max_series_per_metric, propagation } = telemetry;
    let LogParams { level, format } = log;
    let AccessLogParams { enabled, sink, format: lines, sample, only, slow } = access_log;
    let only = match only {
        AccessLogFilter::All => "all",
        AccessLogFilter::Errors => "errors",
        AccessLogFilter::Slow => "slow",
    };
    let path = match sink {
        AccessLogSink::Stdout => "stdout".to_owned(),
        AccessLogSink::File(path) => path.display().to_string(),
    };
    let family = |family: &Propagation| match family {
        Propagation::TraceContext => "tracecontext",
        Propagation::B3 => "b3",
    };
    json!({
        "log": { "level": level, "format": log_format(*format) },
        "access_log": {
            "enabled": enabled,
            "path": path,
            "format": log_format(*lines),
            "sample": share(*sample),
            "only": only,
            "slow": show_duration(*slow),
        },
        "metrics": { "max_series_per_metric": max_series_per_metric },
        "tracing": { "propagation": propagation.iter().map(family).collect::<Vec<_>>() },
    })
}

fn log_format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Json => "json",
        LogFormat::Text => "text",
    }
}

/// A fraction as percent, without the noise of its binary form.
fn share(fraction: f64) -> String {
    format!("{}%", (fraction * 100.0 * 1e6).round() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_shown_as_they_were_written() {
        assert_eq!(share(0.07), "7%");
        assert_eq!(share(0.005), "0.5%");
        assert_eq!(share(1.0), "100%");
    }
}
