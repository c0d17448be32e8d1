//! `telemetry`: log, access log, metrics, trace headers.

use std::path::PathBuf;

use crate::{
    config::{
        codes, defaults,
        fields::{Fields, each},
        report::{Report, error},
        schema,
        suggest::closest,
        tree::Node,
        value,
    },
    telemetry::{
        AccessLogFilter, AccessLogParams, AccessLogSink, LogFormat, LogParams, Propagation, TelemetryParams,
    },
};

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
const FORMATS: [(&str, LogFormat); 2] = [("json", LogFormat::Json), ("text", LogFormat::Text)];
const MOST_SERIES: u64 = 100_000;

/// What `telemetry` is when nothing is said.
fn builtin() -> TelemetryParams {
    TelemetryParams {
        log: LogParams { level: defaults::LOG_LEVEL.to_owned(), format: LogFormat::Json },
        access_log: AccessLogParams {
            enabled: true,
            sink: AccessLogSink::Stdout,
            format: LogFormat::Json,
            sample: 1.0,
            only: AccessLogFilter::Errors,
            slow: defaults::SLOW,
        },
        max_series_per_metric: defaults::MAX_SERIES,
        propagation: vec![Propagation::TraceContext, Propagation::B3],
    }
}

pub(in crate::config) fn read(root: &Fields<'_>, report: &mut Report) -> TelemetryParams {
    let mut params = builtin();
    let Some(fields) =
        root.optional("telemetry", report, |node, report| Fields::open(node, &schema::TELEMETRY, report))
    else {
        return params;
    };
    if let Some(log) = fields.optional("log", report, |node, report| Fields::open(node, &schema::LOG, report))
    {
        params.log.level = log.or("level", params.log.level, report, level);
        params.log.format = log.or("format", params.log.format, report, format);
    }
    if let Some(node) = fields.get("access_log") {
        access_log(node, &mut params.access_log, report);
    }
    let metrics =
        fields.optional("metrics", report, |node, report| Fields::open(node, &schema::METRICS, report));
    if let Some(metrics) = metrics {
        let most = metrics.optional("max_series_per_metric", report, |node, report| {
            value::number(node, 1..=MOST_SERIES, report)
        });
        params.max_series_per_metric =
            most.and_then(|most| usize::try_from(most).ok()).unwrap_or(defaults::MAX_SERIES);
    }
    let tracing =
        fields.optional("tracing", report, |node, report| Fields::open(node, &schema::TRACING, report));
    if let Some(tracing) = tracing {
        params.propagation = tracing.or("propagation", params.propagation, report, propagation);
    }
    params
}

fn access_log(node: &Node, params: &mut AccessLogParams, report: &mut Report) {
    let Some(fields) = Fields::open(node, &schema::ACCESS_LOG, report) else { return };
    params.enabled = fields.or("enabled", params.enabled, report, value::flag);
    if let Some(sink) = fields.optional("path", report, sink) {
        params.sink = sink;
    }
    params.format = fields.or("format", params.format, report, format);
    params.sample = fields.or("sample", params.sample, report, value::share);
    let filters =
        [("errors", AccessLogFilter::Errors), ("slow", AccessLogFilter::Slow), ("all", AccessLogFilter::All)];
    params.only =
        fields.or("only", params.only, report, |node, report| value::word(node, &filters, &[], report));
    params.slow = fields.or("slow", params.slow, report, value::wait);
}

fn format(node: &Node, report: &mut Report) -> Option<LogFormat> {
    value::word(node, &FORMATS, &[], report)
}

/// `info`, or directives as in `info,outrigger::proxy=debug`.
fn level(node: &Node, report: &mut Report) -> Option<String> {
    let text = value::text(node, report)?;
    for directive in text.split(',') {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        if !LEVELS.contains(&level) {
            return report.add(
                error(codes::UNKNOWN_WORD, node.span, "not a log level")
                    .label("unknown level")
                    .suggest(closest(level, LEVELS, &[("warning", "warn"), ("err", "error")]))
                    .note(format!(
                        "one of: {}; or directives as in `info,outrigger::proxy=debug`",
                        LEVELS.join(", ")
                    )),
            );
        }
    }
    Some(text.to_owned())
}

/// `stdout`, or the absolute path of a file.
fn sink(node: &Node, report: &mut Report) -> Option<AccessLogSink> {
    match value::text(node, report)? {
        "stdout" => Some(AccessLogSink::Stdout),
        path if path.starts_with('/') && !path.contains('\0') => {
            Some(AccessLogSink::File(PathBuf::from(path)))
        }
        _ => report.add(
            error(codes::MALFORMED, node.span, "not a place for the access log")
                .label("expected `stdout` or an absolute path")
                .help("for example `/var/log/outrigger/access.log`"),
        ),
    }
}

fn propagation(node: &Node, report: &mut Report) -> Option<Vec<Propagation>> {
    let words = [("tracecontext", Propagation::TraceContext), ("b3", Propagation::B3)];
    let mut families = Vec::new();
    for family in each(node, "trace headers", report, |node, report| value::word(node, &words, &[], report))?
    {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    Some(families)
}
