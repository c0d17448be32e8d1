//! The table of metric families: name, kind, help, buckets. Nothing is exposed that does not stand here.

/// What a family is, as its `# TYPE` line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Upper bounds of the buckets in nanoseconds, ascending; `+Inf` is implied.
    Histogram(&'static [u64]),
}

/// One metric family.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, help }
}

const fn histogram(name: &'static str, bounds: &'static [u64], help: &'static str) -> Family {
    Family { name, kind: Kind::Histogram(bounds), help }
}

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// Half a millisecond to ten seconds: a call inside a mesh takes a few milliseconds, and a first bucket above
/// that would hide everything.
const REQUEST: &[u64] = &[
    500 * US,
    MS,
    2_500 * US,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    S,
    2_500 * MS,
    5 * S,
    10 * S,
];
const OVERHEAD: &[u64] = &[20 * US, 50 * US, 100 * US, 200 * US, 500 * US, MS, 2 * MS, 5 * MS, 10 * MS];
pub(super) const CONNECT: &[u64] = &[
    500 * US,
    MS,
    2_500 * US,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    S,
    2_500 * MS,
];
const PUBLISH: &[u64] = &[100 * US, 500 * US, MS, 5 * MS, 10 * MS, 50 * MS, 100 * MS, 500 * MS, S];

pub(super) static REQUESTS: Family =
    counter("outrigger_http_requests_total", "Requests, counted when their response has ended.");
pub(super) static REQUEST_DURATION: Family = histogram(
    "outrigger_http_request_duration_seconds",
    REQUEST,
    "Time from the first byte of the request to the last byte of the response.",
);
pub(super) static TIME_TO_FIRST_BYTE: Family = histogram(
    "outrigger_http_time_to_first_byte_seconds",
    REQUEST,
    "Time from the first byte of the request to the first byte of the response.",
);
pub(super) static OVERHEAD_DURATION: Family = histogram(
    "outrigger_proxy_overhead_seconds",
    OVERHEAD,
    "Time a request spent in the proxy itself, the wait for the upstream excluded.",
);
pub(super) static IN_FLIGHT: Family =
    gauge("outrigger_http_requests_in_flight", "Requests whose response has not ended yet.");
pub(super) static REQUEST_BYTES: Family =
    counter("outrigger_http_request_body_bytes_total", "Bytes of request bodies that were passed on.");
pub(super) static RESPONSE_BYTES: Family =
    counter("outrigger_http_response_body_bytes_total", "Bytes of response bodies that were passed on.");
pub(super) static RETRIES: Family =
    counter("outrigger_retries_total", "Attempts after the first one, by what made them necessary.");

pub(super) static ENDPOINTS: Family =
    gauge("outrigger_endpoints", "Endpoints of a service by what keeps traffic from them.");
pub(super) static ENDPOINT_EJECTIONS: Family = counter(
    "outrigger_endpoint_ejections_total",
    "Endpoints that the outlier detection put out, by what spoke against them.",
);
pub(super) static CIRCUIT_TRANSITIONS: Family =
    counter("outrigger_circuit_breaker_transitions_total", "Changes of the circuit breakers of endpoints.");
pub(super) static PANIC_MODE: Family = gauge(
    "outrigger_panic_mode",
    "1 while so few endpoints of a service are healthy that all of them are used.",
);
pub(super) static FAILOVER: Family = gauge(
    "outrigger_failover_ratio",
    "Share of the traffic of a service, 0 to 1, that goes to endpoints of a later priority than the first.",
);
pub(super) static RETRY_BUDGET: Family = gauge(
    "outrigger_retry_budget_remaining_ratio",
    "Share of the retries allowed by the budget of a service that is left, 0 to 1.",
);
pub(super) static UPSTREAM_CONNECTIONS: Family =
    gauge("outrigger_upstream_connections", "Open connections to endpoints.");
pub(super) static UPSTREAM_CONNECTS: Family =
    counter("outrigger_upstream_connects_total", "Attempts to connect to an endpoint, by their result.");
pub(super) static UPSTREAM_CONNECT_DURATION: Family = histogram(
    "outrigger_upstream_connect_duration_seconds",
    CONNECT,
    "Time it took to connect to an endpoint, successful attempts only.",
);
pub(super) static UPSTREAM_PENDING: Family =
    gauge("outrigger_upstream_pending_requests", "Requests that wait for a connection to an endpoint.");
pub(super) static RETRIES_DENIED: Family = counter(
    "outrigger_retries_denied_total",
    "Failed attempts that the route would have repeated but for this reason.",
);
pub(super) static HEDGES: Family =
    counter("outrigger_hedges_total", "Second attempts beside a slow first one, by what came of them.");
pub(super) static UPSTREAM_LIMIT_REJECTIONS: Family = counter(
    "outrigger_upstream_limit_rejections_total",
    "Requests that were refused because a limit of the service was reached.",
);
pub(super) static HEALTH_CHECKS: Family =
    counter("outrigger_health_checks_total", "Active health checks, by their result.");

pub(super) static DOWNSTREAM_CONNECTIONS: Family =
    gauge("outrigger_downstream_connections", "Open connections of clients.");
pub(super) static DOWNSTREAM_CONNECTIONS_TOTAL: Family = counter(
    "outrigger_downstream_connections_total",
    "Connections of clients, counted when their protocol is known or they are refused.",
);
pub(super) static TCP_BYTES: Family = counter(
    "outrigger_tcp_bytes_total",
    "Bytes of TCP connections that were passed on, received from clients or sent to them.",
);
pub(super) static TCP_CONNECTIONS: Family =
    gauge("outrigger_tcp_connections", "TCP connections of clients that are open.");
pub(super) static TCP_CONNECTIONS_TOTAL: Family =
    counter("outrigger_tcp_connections_total", "TCP connections of clients, counted when they have ended.");
pub(super) static HTTP_REJECTED: Family = counter(
    "outrigger_http_rejected_total",
    "Requests refused before routing because they were malformed, ambiguous or too large.",
);

pub(super) static PASSTHROUGH_CONNECTIONS: Family = gauge(
    "outrigger_passthrough_connections",
    "Redirected connections whose bytes are passed on unread now.",
);
pub(super) static PASSTHROUGH_CONNECTIONS_TOTAL: Family = counter(
    "outrigger_passthrough_connections_total",
    "Redirected connections that are not HTTP, by what became of them.",
);
pub(super) static PASSTHROUGH_BYTES: Family = counter(
    "outrigger_passthrough_bytes_total",
    "Bytes of redirected connections that were passed on unread.",
);

pub(super) static RELOAD_SUCCESSFUL: Family = gauge(
    "outrigger_config_last_reload_successful",
    "1 if the last attempt to load the configuration succeeded, else 0.",
);
pub(super) static RELOAD_TIMESTAMP: Family = gauge(
    "outrigger_config_last_reload_success_timestamp_seconds",
    "Unix time at which a configuration was last put to work.",
);
pub(super) static RELOADS: Family =
    counter("outrigger_config_reloads_total", "Attempts to load the configuration.");
pub(super) static CONFIG_INFO: Family =
    gauge("outrigger_config_info", "Always 1; the hash tells which configuration is running.");
pub(super) static SNAPSHOT_PUBLISH: Family = histogram(
    "outrigger_snapshot_publish_duration_seconds",
    PUBLISH,
    "Time from noticing a change to the data plane seeing it.",
);

pub(super) static ACCESS_LOG_DROPPED: Family = counter(
    "outrigger_access_log_dropped_total",
    "Access log lines that were thrown away because the sink was too slow or broken.",
);
pub(super) static SERIES_OVERFLOW: Family = counter(
    "outrigger_metrics_series_overflow_total",
    "Label sets that were folded into __overflow__ because their family was full.",
);
pub(super) static WORKERS: Family = gauge("outrigger_runtime_workers", "Data-plane threads.");
pub(super) static BUILD_INFO: Family =
    gauge("outrigger_build_info", "Always 1; the labels tell which build is running.");

pub(super) static PROCESS_CPU: Family =
    counter("process_cpu_seconds_total", "User and system CPU time spent by the process.");
pub(super) static PROCESS_RESIDENT: Family =
    gauge("process_resident_memory_bytes", "Resident memory of the process.");
pub(super) static PROCESS_OPEN_FDS: Family = gauge("process_open_fds", "Open file descriptors.");
pub(super) static PROCESS_MAX_FDS: Family =
    gauge("process_max_fds", "File descriptors the process may have open.");
pub(super) static PROCESS_START: Family =
    gauge("process_start_time_seconds", "Unix time at which the process started.");

/// Families that the recorder of the metrics crate renders and must therefore know the help of.
pub(super) static RECORDED: [&Family; 34] = [
    &REQUESTS,
    &IN_FLIGHT,
    &REQUEST_BYTES,
    &RESPONSE_BYTES,
    &RETRIES,
    &RETRIES_DENIED,
    &HEDGES,
    &ENDPOINTS,
    &ENDPOINT_EJECTIONS,
    &CIRCUIT_TRANSITIONS,
    &PANIC_MODE,
    &FAILOVER,
    &RETRY_BUDGET,
    &UPSTREAM_CONNECTIONS,
    &UPSTREAM_CONNECTS,
    &UPSTREAM_PENDING,
    &UPSTREAM_LIMIT_REJECTIONS,
    &HEALTH_CHECKS,
    &DOWNSTREAM_CONNECTIONS,
    &DOWNSTREAM_CONNECTIONS_TOTAL,
    &TCP_BYTES,
    &TCP_CONNECTIONS,
    &TCP_CONNECTIONS_TOTAL,
    &HTTP_REJECTED,
    &PASSTHROUGH_CONNECTIONS,
    &PASSTHROUGH_CONNECTIONS_TOTAL,
    &PASSTHROUGH_BYTES,
    &RELOAD_SUCCESSFUL,
    &RELOAD_TIMESTAMP,
    &RELOADS,
    &ACCESS_LOG_DROPPED,
    &SERIES_OVERFLOW,
    &WORKERS,
    &BUILD_INFO,
];
