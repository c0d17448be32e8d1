//! Keys of rate limits, faults, copies.

use super::{NO_ALIASES, NONE, Section};

pub(in crate::config) static RATE_LIMIT: Section = Section {
    name: "rate_limit",
    example: "rate: 100/s, burst: 50, key: source_address",
    known: &["rate", "burst", "key", "shadow", "max_keys"],
    later: NONE,
    aliases: &[
        ("requests_per_unit", "rate"),
        ("limit", "rate"),
        ("average", "rate"),
        ("max_tokens", "burst"),
        ("descriptor", "key"),
        ("dry_run", "shadow"),
    ],
};

pub(in crate::config) static RATE_LIMIT_KEY: Section = Section {
    name: "key",
    example: "header: x-tenant",
    known: &["header"],
    later: NONE,
    aliases: NO_ALIASES,
};

pub(in crate::config) static FAULT: Section = Section {
    name: "fault",
    example: "delay: 200ms, percent: 1",
    known: &["delay", "abort", "percent", "headers"],
    later: NONE,
    aliases: &[
        ("fixed_delay", "delay"),
        ("http_status", "abort"),
        ("status", "abort"),
        ("percentage", "percent"),
    ],
};

pub(in crate::config) static MIRROR: Section = Section {
    name: "mirror",
    example: "service: api-shadow, percent: 5",
    known: &["service", "percent"],
    later: NONE,
    aliases: &[("cluster", "service"), ("backend", "service"), ("percentage", "percent")],
};

pub(in crate::config) static CONCURRENCY: Section = Section {
    name: "concurrency",
    example: "mode: enforce, max: 500",
    known: &["mode", "min", "max"],
    later: NONE,
    aliases: &[("min_limit", "min"), ("max_limit", "max"), ("enabled", "mode")],
};

pub(in crate::config) static OVERLOAD: Section = Section {
    name: "overload",
    example: "max_memory: 256MiB",
    known: &[
        "enabled",
        "max_memory",
        "max_lag",
        "stop_keep_alive",
        "shed_low_priority",
        "refuse_requests",
        "stop_accepting",
    ],
    later: NONE,
    aliases: &[
        ("memory", "max_memory"),
        ("max_heap_size_bytes", "max_memory"),
        ("disable_http_keepalive", "stop_keep_alive"),
    ],
};

pub(in crate::config) static NORMALIZE: Section = Section {
    name: "normalize",
    example: "escaped_slashes: reject",
    known: &["escaped_slashes", "merge_slashes", "headers_with_underscores"],
    later: NONE,
    aliases: &[
        ("path_with_escaped_slashes_action", "escaped_slashes"),
        ("headers_with_underscores_action", "headers_with_underscores"),
        ("underscores_in_headers", "headers_with_underscores"),
    ],
};
