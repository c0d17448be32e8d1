//! `circuit_breaker`, `outlier_detection` and `slow_start` of services and of `defaults`.

use std::time::Duration;

use crate::{
    config::{
        codes, defaults,
        fields::Fields,
        report::{Report, error},
        schema,
        tree::{Content, Node},
        value,
    },
    policy::{
        breaker::{BreakerParams, ErrorRate, MAX_PROBES, SlowCalls},
        outlier::{FailurePercentageParams, OutlierParams, SuccessRateParams},
    },
};

const MAX_COUNT: u32 = 1_000_000;
/// Envoy's factor is in thousandths; beyond ten deviations nobody is an outlier.
const MAX_STDEV_FACTOR: u32 = 10_000;

/// Whether the value is a word that switches a section off. `none` is the one that is documented: other YAML readers
/// take a bare `off` for a truth value.
fn is_off(node: &Node) -> bool {
    matches!(&node.content, Content::Scalar(scalar) if matches!(scalar.text.as_str(), "none" | "off"))
}

fn percent(node: &Node, report: &mut Report) -> Option<u32> {
    value::number_u32(node, 1..=100, report)
}

fn count(node: &Node, report: &mut Report) -> Option<u32> {
    value::number_u32(node, 1..=MAX_COUNT, report)
}

fn count_or_none(node: &Node, report: &mut Report) -> Option<u32> {
    value::number_u32(node, 0..=MAX_COUNT, report)
}

/// Reads `circuit_breaker`: `Some(None)` is `none`. What it does not say is taken from `inherited`, or is built in
/// where that is none.
pub(in crate::config) fn circuit_breaker(
    node: &Node,
    inherited: Option<BreakerParams>,
    report: &mut Report,
) -> Option<Option<BreakerParams>> {
    if is_off(node) {
        return Some(None);
    }
    let fields = Fields::open(node, &schema::CIRCUIT_BREAKER, report)?;
    let mut params = inherited.unwrap_or(defaults::CIRCUIT_BREAKER);
    params.consecutive_errors =
        fields.or("consecutive_errors", params.consecutive_errors, report, count_or_none);
    if let Some(node) = fields.get("error_rate") {
        error_rate(node, &mut params, report);
    }
    if let Some(node) = fields.get("slow_calls") {
        params.slow_calls = if is_off(node) { None } else { slow_calls(node, report) };
    }
    params.open_time = fields.or("open_time", params.open_time, report, value::wait);
    params.max_open_time =
        fields.or("max_open_time", params.max_open_time.max(params.open_time), report, value::wait);
    params.half_open_requests =
        fields.or("half_open_requests", params.half_open_requests, report, |node, report| {
            value::number_u32(node, 1..=MAX_PROBES, report)
        });
    if params.max_open_time < params.open_time {
        return report.add(
            error(codes::OUT_OF_RANGE, node.span, "`max_open_time` is shorter than `open_time`")
                .label("the circuit opens for `open_time` first"),
        );
    }
    Some(Some(params))
}

fn error_rate(node: &Node, params: &mut BreakerParams, report: &mut Report) {
    if is_off(node) {
        params.error_rate = None;
        return;
    }
    let Some(fields) = Fields::open(node, &schema::ERROR_RATE, report) else { return };
    let inherited = params.error_rate.map_or(defaults::ERROR_PERCENT, |rate| rate.percent);
    params.error_rate = Some(ErrorRate { percent: fields.or("percent", inherited, report, percent) });
    params.window = fields.or("window", params.window, report, value::wait);
    params.min_requests = fields.or("min_requests", params.min_requests, report, count);
}

fn slow_calls(node: &Node, report: &mut Report) -> Option<SlowCalls> {
    let fields = Fields::open(node, &schema::SLOW_CALLS, report)?;
    let duration = fields.require("duration", "duration: 1s", report)?;
    Some(SlowCalls {
        duration: value::wait(duration, report)?,
        percent: fields.or("percent", defaults::SLOW_PERCENT, report, percent),
    })
}

/// Reads `outlier_detection`: `Some(None)` is `none`. What it does not say is taken from `inherited`, or is built in
/// where that is none.
pub(in crate::config) fn outlier_detection(
    node: &Node,
    inherited: Option<OutlierParams>,
    report: &mut Report,
) -> Option<Option<OutlierParams>> {
    if is_off(node) {
        return Some(None);
    }
    let fields = Fields::open(node, &schema::OUTLIER_DETECTION, report)?;
    let mut params = inherited.unwrap_or(defaults::OUTLIER_DETECTION);
    let row = &mut params.consecutive;
    row.any_5xx = fields.or("consecutive_5xx", row.any_5xx, report, count_or_none);
    row.gateway_failure =
        fields.or("consecutive_gateway_failure", row.gateway_failure, report, count_or_none);
    row.local_origin_failure =
        fields.or("consecutive_local_origin_failure", row.local_origin_failure, report, count_or_none);
    params.interval = fields.or("interval", params.interval, report, value::wait);
    params.base_ejection_time =
        fields.or("base_ejection_time", params.base_ejection_time, report, value::wait);
    params.max_ejection_time = fields.or("max_ejection_time", params.max_ejection_time, report, value::wait);
    params.max_ejection_time_jitter =
        fields.or("max_ejection_time_jitter", params.max_ejection_time_jitter, report, value::duration);
    params.max_ejection_percent =
        fields.or("max_ejection_percent", params.max_ejection_percent, report, |node, report| {
            value::number(node, 0..=100, report).and_then(|percent| u8::try_from(percent).ok())
        });
    params.success_rate = success_rate(&fields, params.success_rate, report);
    params.failure_percentage = failure_percentage(&fields, params.failure_percentage, report);
    Some(Some(params))
}

/// As in Envoy, a factor of 0 switches the comparison off.
fn success_rate(
    fields: &Fields<'_>,
    inherited: Option<SuccessRateParams>,
    report: &mut Report,
) -> Option<SuccessRateParams> {
    let known = inherited.unwrap_or(SuccessRateParams { stdev_factor: 0, ..defaults::SUCCESS_RATE });
    let params = SuccessRateParams {
        minimum_hosts: fields.or("success_rate_minimum_hosts", known.minimum_hosts, report, count),
        request_volume: fields.or("success_rate_request_volume", known.request_volume, report, count),
        stdev_factor: fields.or("success_rate_stdev_factor", known.stdev_factor, report, |node, report| {
            value::number_u32(node, 0..=MAX_STDEV_FACTOR, report)
        }),
    };
    (params.stdev_factor > 0).then_some(params)
}

/// A threshold of 0 switches it off.
fn failure_percentage(
    fields: &Fields<'_>,
    inherited: Option<FailurePercentageParams>,
    report: &mut Report,
) -> Option<FailurePercentageParams> {
    let known = inherited.unwrap_or(FailurePercentageParams { threshold: 0, ..defaults::FAILURE_PERCENTAGE });
    let params = FailurePercentageParams {
        threshold: fields.or("failure_percentage_threshold", known.threshold, report, |node, report| {
            value::number_u32(node, 0..=100, report)
        }),
        minimum_hosts: fields.or("failure_percentage_minimum_hosts", known.minimum_hosts, report, count),
        request_volume: fields.or("failure_percentage_request_volume", known.request_volume, report, count),
    };
    (params.threshold > 0).then_some(params)
}

/// Reads `slow_start`; `0s` is none.
pub(in crate::config) fn slow_start(node: &Node, report: &mut Report) -> Option<Duration> {
    value::duration(node, report)
}
