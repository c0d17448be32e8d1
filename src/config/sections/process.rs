//! Small sections about the process as a whole: `version`, `workers`, `defaults`, `reload`, `shutdown`.

use std::time::Duration;

use super::{load_balancer, locality, mtls::Mtls, resilience, retry};
use crate::{
    config::{
        ReloadParams, codes, defaults, defaults::Inherited, fields::Fields, report::Report, schema,
        tree::Node, value,
    },
    proxy::MtlsMode,
    rt::ShutdownParams,
    snapshot::UpstreamTlsParams,
};

const MAX_WORKERS: u64 = 1024;
const SHORTEST_POLL: Duration = Duration::from_millis(100);

pub(in crate::config) fn version(root: &Fields<'_>, report: &mut Report) {
    if let Some(node) = root.require("version", "version: 1", report) {
        value::number(node, 1..=1, report);
    }
}

pub(in crate::config) fn workers(root: &Fields<'_>, report: &mut Report) -> Option<usize> {
    let read = |node: &Node, report: &mut Report| value::number(node, 1..=MAX_WORKERS, report);
    root.optional("workers", report, read).and_then(|count| usize::try_from(count).ok())
}

pub(in crate::config) fn inherited(root: &Fields<'_>, mtls: &Mtls, report: &mut Report) -> Inherited {
    let mut inherited = Inherited::builtin();
    if mtls.listener.mode != MtlsMode::Disabled {
        inherited.tls = UpstreamTlsParams::Mesh;
    }
    let Some(fields) =
        root.optional("defaults", report, |node, report| Fields::open(node, &schema::DEFAULTS, report))
    else {
        return inherited;
    };
    inherited.timeout = fields.or("timeout", inherited.timeout, report, value::limit);
    inherited.connect_timeout = fields.or("connect_timeout", inherited.connect_timeout, report, value::wait);
    inherited.idle_timeout = fields.or("idle_timeout", inherited.idle_timeout, report, idle_timeout);
    inherited.retry = fields
        .optional("retry", report, |node, report| retry::read(node, &Inherited::builtin().retry, report))
        .unwrap_or(inherited.retry);
    inherited.retry_budget = fields
        .optional("retry_budget", report, |node, report| retry::budget(node, defaults::RETRY_BUDGET, report))
        .unwrap_or(inherited.retry_budget);
    let (breaker, outliers) = (inherited.circuit_breaker, inherited.outlier_detection);
    inherited.circuit_breaker = fields.or("circuit_breaker", breaker, report, |node, report| {
        resilience::circuit_breaker(node, breaker, report)
    });
    inherited.outlier_detection = fields.or("outlier_detection", outliers, report, |node, report| {
        resilience::outlier_detection(node, outliers, report)
    });
    inherited.slow_start = fields.or("slow_start", inherited.slow_start, report, resilience::slow_start);
    inherited.zones = fields.or("zones", inherited.zones, report, locality::zones);
    retry::check_per_try(fields.get("retry"), &inherited.retry, inherited.timeout, report);
    inherited.balance = fields.or("load_balancer", inherited.balance, report, load_balancer::read);
    inherited
}

/// How long a pooled connection may be unused, with a warning when servers tend to be faster.
pub(in crate::config) fn idle_timeout(node: &Node, report: &mut Report) -> Option<Duration> {
    let value = value::wait(node, report)?;
    if value > Duration::from_secs(60) {
        report.add::<()>(
            crate::config::report::warning(
                codes::LONG_IDLE,
                node.span,
                "idle connections are kept for longer than 60s",
            )
            .label("many servers close theirs earlier")
            .help("stay below the idle timeout of the server, or use the default of 30s"),
        );
    }
    Some(value)
}

pub(in crate::config) fn reload(root: &Fields<'_>, report: &mut Report) -> ReloadParams {
    let mut params = ReloadParams { watch: true, interval: defaults::RELOAD_INTERVAL };
    let fields = root.optional("reload", report, |node, report| Fields::open(node, &schema::RELOAD, report));
    if let Some(fields) = fields {
        params.watch = fields.or("watch", params.watch, report, value::flag);
        params.interval = fields.or("interval", params.interval, report, |node, report| {
            value::duration_from(node, SHORTEST_POLL, report)
        });
    }
    params
}

pub(in crate::config) fn shutdown(root: &Fields<'_>, report: &mut Report) -> ShutdownParams {
    let mut params = ShutdownParams { grace: defaults::GRACE, drain_timeout: defaults::DRAIN_TIMEOUT };
    let fields =
        root.optional("shutdown", report, |node, report| Fields::open(node, &schema::SHUTDOWN, report));
    if let Some(fields) = fields {
        params.grace = fields.or("grace", params.grace, report, value::duration);
        params.drain_timeout = fields.or("drain_timeout", params.drain_timeout, report, value::duration);
    }
    params
}
