//! Keys of `retry`, `retry_budget`, `circuit_breaker` and `outlier_detection`.

use super::{NONE, Section};

pub(in crate::config) static CIRCUIT_BREAKER: Section = Section {
    name: "circuit_breaker",
    example: "consecutive_errors: 7, open_time: 1s",
    known: &[
        "consecutive_errors",
        "error_rate",
        "slow_calls",
        "open_time",
        "max_open_time",
        "half_open_requests",
    ],
    later: NONE,
    aliases: &[
        ("max_failures", "consecutive_errors"),
        ("consecutive_5xx", "consecutive_errors"),
        ("threshold", "consecutive_errors"),
        ("base_ejection_time", "open_time"),
        ("min_penalty", "open_time"),
        ("max_penalty", "max_open_time"),
        ("max_ejection_time", "max_open_time"),
        ("wait_duration", "open_time"),
        ("probes", "half_open_requests"),
    ],
};

pub(in crate::config) static ERROR_RATE: Section = Section {
    name: "error_rate",
    example: "percent: 50, window: 10s, min_requests: 20",
    known: &["percent", "window", "min_requests"],
    later: NONE,
    aliases: &[("threshold", "percent"), ("interval", "window"), ("request_volume", "min_requests")],
};

pub(in crate::config) static SLOW_CALLS: Section = Section {
    name: "slow_calls",
    example: "duration: 1s, percent: 80",
    known: &["duration", "percent"],
    later: NONE,
    aliases: &[("slower_than", "duration"), ("threshold", "percent")],
};

pub(in crate::config) static OUTLIER_DETECTION: Section = Section {
    name: "outlier_detection",
    example: "interval: 10s, base_ejection_time: 30s",
    known: &[
        "consecutive_5xx",
        "consecutive_gateway_failure",
        "consecutive_local_origin_failure",
        "interval",
        "base_ejection_time",
        "max_ejection_time",
        "max_ejection_time_jitter",
        "max_ejection_percent",
        "success_rate_minimum_hosts",
        "success_rate_request_volume",
        "success_rate_stdev_factor",
        "failure_percentage_threshold",
        "failure_percentage_minimum_hosts",
        "failure_percentage_request_volume",
    ],
    later: NONE,
    aliases: &[
        ("consecutive_errors", "consecutive_5xx"),
        ("consecutive5xxErrors", "consecutive_5xx"),
        ("consecutive_gateway_errors", "consecutive_gateway_failure"),
    ],
};

pub(in crate::config) static RETRY: Section = Section {
    name: "retry",
    example: "attempts: 2, per_try_timeout: 500ms",
    known: &[
        "attempts",
        "retry_on",
        "per_try_timeout",
        "backoff",
        "max_body",
        "retry_non_idempotent",
        "hedge",
    ],
    later: NONE,
    aliases: &[
        ("num_retries", "attempts"),
        ("max_retries", "attempts"),
        ("limit", "attempts"),
        ("timeout", "per_try_timeout"),
        ("codes", "retry_on"),
        ("conditions", "retry_on"),
        ("retry_back_off", "backoff"),
    ],
};

pub(in crate::config) static BACKOFF: Section = Section {
    name: "backoff",
    example: "base: 25ms, max: 250ms",
    known: &["base", "max"],
    later: NONE,
    aliases: &[("base_interval", "base"), ("max_interval", "max"), ("initial", "base")],
};

pub(in crate::config) static HEDGE: Section = Section {
    name: "hedge",
    example: "percentile: 95, min_delay: 10ms",
    known: &["percentile", "min_delay"],
    later: NONE,
    aliases: &[("delay", "min_delay")],
};

pub(in crate::config) static RETRY_BUDGET: Section = Section {
    name: "retry_budget",
    example: "percent: 20, min_per_second: 3",
    known: &["percent", "min_per_second"],
    later: NONE,
    aliases: &[
        ("budget_percent", "percent"),
        ("retry_ratio", "percent"),
        ("ratio", "percent"),
        ("min_retries_per_second", "min_per_second"),
    ],
};
