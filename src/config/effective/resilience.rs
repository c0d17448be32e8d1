//! Circuit breakers and outlier detection as they are in force.

use serde_json::{Value, json};

use crate::{
    config::{defaults, value::show_duration},
    policy::{
        breaker::{BreakerParams, ErrorRate, SlowCalls},
        outlier::{ConsecutiveParams, FailurePercentageParams, OutlierParams, SuccessRateParams},
    },
};

const OFF: &str = "none";

pub(super) fn circuit_breaker(params: Option<&BreakerParams>) -> Value {
    let Some(params) = params else { return OFF.into() };
    let BreakerParams {
        consecutive_errors,
        error_rate,
        slow_calls,
        window,
        min_requests,
        open_time,
        max_open_time,
        half_open_requests,
        probe_timeout: _,
    } = params;
    let rate = |ErrorRate { percent }: ErrorRate| json!({ "percent": percent, "window": show_duration(*window), "min_requests": min_requests });
    let slow = |SlowCalls { duration, percent }: SlowCalls| json!({ "duration": show_duration(duration), "percent": percent });
    json!({
        "consecutive_errors": consecutive_errors,
        "error_rate": error_rate.map_or_else(|| OFF.into(), rate),
        "slow_calls": slow_calls.map_or_else(|| OFF.into(), slow),
        "open_time": show_duration(*open_time),
        "max_open_time": show_duration(*max_open_time),
        "half_open_requests": half_open_requests,
    })
}

pub(super) fn outlier_detection(params: Option<&OutlierParams>) -> Value {
    let Some(params) = params else { return OFF.into() };
    let OutlierParams {
        consecutive: ConsecutiveParams { any_5xx, gateway_failure, local_origin_failure },
        interval,
        base_ejection_time,
        max_ejection_time,
        max_ejection_time_jitter,
        max_ejection_percent,
        success_rate,
        failure_percentage,
    } = params;
    let rate = success_rate.unwrap_or(SuccessRateParams { stdev_factor: 0, ..defaults::SUCCESS_RATE });
    let alone = failure_percentage
        .unwrap_or(FailurePercentageParams { threshold: 0, ..defaults::FAILURE_PERCENTAGE });
    json!({
        "consecutive_5xx": any_5xx,
        "consecutive_gateway_failure": gateway_failure,
        "consecutive_local_origin_failure": local_origin_failure,
        "interval": show_duration(*interval),
        "base_ejection_time": show_duration(*base_ejection_time),
        "max_ejection_time": show_duration(*max_ejection_time),
        "max_ejection_time_jitter": show_duration(*max_ejection_time_jitter),
        "max_ejection_percent": max_ejection_percent,
        "success_rate_minimum_hosts": rate.minimum_hosts,
        "success_rate_request_volume": rate.request_volume,
        "success_rate_stdev_factor": rate.stdev_factor,
        "failure_percentage_threshold": alone.threshold,
        "failure_percentage_minimum_hosts": alone.minimum_hosts,
        "failure_percentage_request_volume": alone.request_volume,
    })
}
