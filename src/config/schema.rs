//! The keys: which may stand where, which belong to a later version, and what other tools call them.

mod access;
mod intentions;
mod locality;
mod mesh;
mod mtls;
mod resilience;
mod store;
mod traffic;

pub(super) use access::*;
pub(super) use intentions::*;
pub(super) use locality::*;
pub(super) use mesh::*;
pub(super) use mtls::*;
pub(super) use resilience::*;
pub(super) use store::*;
pub(super) use traffic::*;

/// A mapping of the configuration.
#[derive(Debug)]
pub(super) struct Section {
    /// As messages name it.
    pub(super) name: &'static str,
    /// How to write one, for messages.
    pub(super) example: &'static str,
    /// Keys that work.
    pub(super) known: &'static [&'static str],
    /// Keys of the planned format that this version refuses.
    pub(super) later: &'static [&'static str],
    /// Names that people bring from other tools, and ours.
    pub(super) aliases: &'static [(&'static str, &'static str)],
}

const NONE: &[&str] = &[];
const NO_ALIASES: &[(&str, &str)] = &[];

pub(super) static ROOT: Section = Section {
    name: "the configuration",
    example: "version: 1",
    known: &[
        "version",
        "service",
        "workers",
        "listeners",
        "defaults",
        "routes",
        "services",
        "mtls",
        "intentions",
        "mesh",
        "store",
        "admin",
        "telemetry",
        "reload",
        "overload",
        "shutdown",
    ],
    later: &["rate_limits"],
    aliases: &[
        ("clusters", "services"),
        ("upstreams", "services"),
        ("backends", "services"),
        ("threads", "workers"),
        ("concurrency", "workers"),
        ("tls", "mtls"),
        ("logging", "telemetry"),
        ("virtual_hosts", "routes"),
        ("app", "service"),
        ("gossip", "mesh"),
        ("membership", "mesh"),
        ("serf", "mesh"),
        ("rbac", "intentions"),
        ("authorization", "intentions"),
    ],
};

pub(super) static SERVICE: Section = Section {
    name: "service",
    example: "name: web, address: 127.0.0.1:8080",
    known: &[
        "name",
        "address",
        "protocol",
        "tags",
        "health_check",
        "timeout",
        "max_request_size",
        "rate_limit",
        "concurrency",
    ],
    later: NONE,
    aliases: &[("upstream", "address"), ("app", "address"), ("port", "address"), ("id", "name")],
};

pub(super) static HEALTH_CHECK: Section = Section {
    name: "health_check",
    example: "path: /healthz, interval: 10s",
    known: &[
        "path",
        "tcp",
        "grpc",
        "host",
        "headers",
        "expected_statuses",
        "interval",
        "timeout",
        "healthy_threshold",
        "unhealthy_threshold",
    ],
    later: NONE,
    aliases: &[
        ("uri", "path"),
        ("http", "path"),
        ("rise", "healthy_threshold"),
        ("fall", "unhealthy_threshold"),
        ("status", "expected_statuses"),
        ("codes", "expected_statuses"),
        ("inter", "interval"),
    ],
};

pub(super) static GRPC_CHECK: Section = Section {
    name: "grpc",
    example: "service: shop.Cart",
    known: &["service"],
    later: NONE,
    aliases: &[("service_name", "service"), ("name", "service")],
};

pub(super) static LISTENERS: Section = Section {
    name: "listeners",
    example: "inbound: { address: \"0.0.0.0:15006\" }",
    known: &[
        "inbound",
        "outbound",
        "tcp",
        "tcp_idle_timeout",
        "detect_timeout",
        "transparent",
        "max_connections",
        "connection_rate",
        "max_requests",
        "header_timeout",
        "idle_timeout",
        "request_timeout",
        "stream_idle_timeout",
        "max_header_size",
        "max_headers",
        "normalize",
    ],
    later: NONE,
    aliases: &[
        ("ingress", "inbound"),
        ("normalise", "normalize"),
        ("path_normalization", "normalize"),
        ("egress", "outbound"),
        ("request_headers_timeout", "header_timeout"),
        ("max_header_bytes", "max_header_size"),
        ("maxconn", "max_connections"),
        ("keepalive_timeout", "idle_timeout"),
        ("original_dst", "transparent"),
        ("use_original_dst", "transparent"),
        ("sniff_timeout", "detect_timeout"),
    ],
};

pub(super) static LISTENER: Section = Section {
    name: "listener",
    example: "address: \"0.0.0.0:15006\"",
    known: &["enabled", "address", "connection_balance", "proxy_protocol", "detect", "passthrough", "tls"],
    later: NONE,
    aliases: &[
        ("bind", "address"),
        ("listen", "address"),
        ("port", "address"),
        ("balance", "connection_balance"),
    ],
};

pub(super) static TCP_LISTENER: Section = Section {
    name: "tcp",
    example: "name: db, address: 127.0.0.1:15432, service: postgres",
    known: &["name", "address", "proxy_protocol", "service", "routes", "idle_timeout", "max_connections"],
    later: NONE,
    aliases: &[
        ("bind", "address"),
        ("listen", "address"),
        ("port", "address"),
        ("cluster", "service"),
        ("upstream", "service"),
        ("maxconn", "max_connections"),
        ("timeout", "idle_timeout"),
    ],
};

pub(super) static SERVER_NAME_ROUTE: Section = Section {
    name: "route by server name",
    example: "sni: [db.example], service: postgres",
    known: &["sni", "service"],
    later: NONE,
    aliases: &[("server_names", "sni"), ("hosts", "sni"), ("names", "sni"), ("cluster", "service")],
};

pub(super) static DEFAULTS: Section = Section {
    name: "defaults",
    example: "timeout: 15s",
    known: &[
        "timeout",
        "connect_timeout",
        "idle_timeout",
        "load_balancer",
        "retry",
        "retry_budget",
        "circuit_breaker",
        "outlier_detection",
        "slow_start",
        "zones",
    ],
    later: NONE,
    aliases: &[("request_timeout", "timeout"), ("lb", "load_balancer"), ("balance", "load_balancer")],
};

pub(super) static ROUTE: Section = Section {
    name: "route",
    example: "match: { path_prefix: / }, service: api",
    known: &[
        "name",
        "match",
        "service",
        "split",
        "redirect",
        "direct_response",
        "rewrite",
        "timeout",
        "retry",
        "headers",
        "rate_limit",
        "fault",
        "mirror",
        "sticky",
        "subset",
        "max_request_size",
    ],
    later: NONE,
    aliases: &[
        ("cluster", "service"),
        ("backend", "service"),
        ("upstream", "service"),
        ("max_request_bytes", "max_request_size"),
        ("client_max_body_size", "max_request_size"),
        ("max_body_size", "max_request_size"),
        ("weighted_clusters", "split"),
        ("backends", "split"),
        ("request_timeout", "timeout"),
        ("retries", "retry"),
        ("retry_policy", "retry"),
    ],
};

pub(super) static MATCH: Section = Section {
    name: "match",
    example: "path_prefix: /api",
    known: &["hosts", "path", "path_prefix", "path_regex", "methods", "headers", "query"],
    later: NONE,
    aliases: &[
        ("prefix", "path_prefix"),
        ("regex", "path_regex"),
        ("safe_regex", "path_regex"),
        ("domains", "hosts"),
        ("host", "hosts"),
        ("hostnames", "hosts"),
        ("authority", "hosts"),
        ("query_params", "query"),
        ("query_parameters", "query"),
        ("method", "methods"),
    ],
};

pub(super) static VALUE_MATCH: Section = Section {
    name: "condition",
    example: "name: x-canary, exact: \"1\"",
    known: &["name", "exact", "prefix", "regex", "present"],
    later: NONE,
    aliases: &[("value", "exact"), ("equals", "exact"), ("starts_with", "prefix"), ("exists", "present")],
};

pub(super) static SPLIT: Section = Section {
    name: "split",
    example: "service: web-v1, weight: 90",
    known: &["service", "subset", "weight"],
    later: NONE,
    aliases: &[("cluster", "service"), ("name", "service"), ("backend", "service"), ("percent", "weight")],
};

pub(super) static REDIRECT: Section = Section {
    name: "redirect",
    example: "status: 308, scheme: https",
    known: &["status", "scheme", "host", "port", "path", "path_prefix"],
    later: NONE,
    aliases: &[("code", "status"), ("hostname", "host"), ("location", "path"), ("prefix", "path_prefix")],
};

pub(super) static DIRECT_RESPONSE: Section = Section {
    name: "direct_response",
    example: "status: 200, body: ok",
    known: &["status", "body"],
    later: NONE,
    aliases: &[("code", "status"), ("content", "body")],
};

pub(super) static REWRITE: Section = Section {
    name: "rewrite",
    example: "path_prefix: /, host: api.internal",
    known: &["path", "path_prefix", "host"],
    later: NONE,
    aliases: &[
        ("prefix", "path_prefix"),
        ("prefix_rewrite", "path_prefix"),
        ("authority", "host"),
        ("uri", "path"),
    ],
};

pub(super) static HEADERS: Section = Section {
    name: "headers",
    example: "request: { remove: [x-debug] }",
    known: &["request", "response"],
    later: NONE,
    aliases: NO_ALIASES,
};

pub(super) static HEADER_EDITS: Section = Section {
    name: "header edits",
    example: "set: { x-env: prod }, remove: [x-debug]",
    known: &["set", "add", "remove"],
    later: NONE,
    aliases: &[("append", "add"), ("replace", "set"), ("delete", "remove"), ("del", "remove")],
};

pub(super) static CLUSTER: Section = Section {
    name: "service",
    example: "endpoints: [10.0.0.1:8443]",
    known: &[
        "endpoints",
        "dns",
        "dns_refresh",
        "protocol",
        "tls",
        "send_proxy_protocol",
        "load_balancer",
        "connect_timeout",
        "idle_timeout",
        "limits",
        "retry_budget",
        "health_check",
        "circuit_breaker",
        "outlier_detection",
        "slow_start",
        "panic_threshold",
        "zones",
        "subset_fallback",
        "session_affinity",
    ],
    later: NONE,
    aliases: &[
        ("servers", "endpoints"),
        ("backends", "endpoints"),
        ("hosts", "endpoints"),
        ("instances", "endpoints"),
        ("addresses", "endpoints"),
        ("circuit_breakers", "limits"),
        ("lb_policy", "load_balancer"),
        ("balance", "load_balancer"),
        ("hostname", "dns"),
        ("health_checks", "health_check"),
        ("healthy_panic_threshold", "panic_threshold"),
        ("locality", "zones"),
        ("sticky", "session_affinity"),
        ("stateful_session", "session_affinity"),
    ],
};

pub(super) static ENDPOINT: Section = Section {
    name: "endpoint",
    example: "address: 10.0.0.1:8443, weight: 2",
    known: &["address", "weight", "priority", "tags"],
    later: NONE,
    aliases: &[("url", "address"), ("host", "address"), ("metadata", "tags"), ("labels", "tags")],
};

pub(super) static LOAD_BALANCER: Section = Section {
    name: "load_balancer",
    example: "policy: round_robin",
    known: &["policy", "hash_on", "max_load", "full_scan"],
    later: NONE,
    aliases: &[("algorithm", "policy"), ("strategy", "policy"), ("type", "policy"), ("hash_key", "hash_on")],
};

pub(super) static HASH_ON: Section = Section {
    name: "hash_on",
    example: "header: x-user-id",
    known: &["header", "cookie", "path", "query", "source_address"],
    later: NONE,
    aliases: &[("source_ip", "source_address"), ("source", "source_address"), ("url", "path")],
};

pub(super) static LIMITS: Section = Section {
    name: "limits",
    example: "max_connections: 1024",
    known: &[
        "max_requests",
        "max_retries",
        "max_connections",
        "max_pending_requests",
        "queue_timeout",
        "max_requests_per_connection",
        "max_connection_age",
    ],
    later: NONE,
    aliases: &[
        ("maxconn", "max_connections"),
        ("max_pending", "max_pending_requests"),
        ("max_connection_duration", "max_connection_age"),
    ],
};

pub(super) static ADMIN: Section = Section {
    name: "admin",
    example: "address: 127.0.0.1:15000",
    known: &["address", "token", "hosts", "metrics_address"],
    later: &["dashboard"],
    aliases: &[
        ("bind", "address"),
        ("port", "address"),
        ("socket", "address"),
        ("password", "token"),
        ("allowed_hosts", "hosts"),
        ("prometheus_address", "metrics_address"),
    ],
};

pub(super) static TELEMETRY: Section = Section {
    name: "telemetry",
    example: "log: { level: info }",
    known: &["log", "access_log", "metrics", "tracing"],
    later: NONE,
    aliases: &[("logging", "log"), ("accesslog", "access_log"), ("traces", "tracing")],
};

pub(super) static LOG: Section = Section {
    name: "log",
    example: "level: info, format: json",
    known: &["level", "format"],
    later: NONE,
    aliases: NO_ALIASES,
};

pub(super) static ACCESS_LOG: Section = Section {
    name: "access_log",
    example: "enabled: true, only: errors",
    known: &["enabled", "path", "format", "sample", "only", "slow"],
    later: NONE,
    aliases: &[("file", "path"), ("filter", "only"), ("sampling", "sample")],
};

pub(super) static METRICS: Section = Section {
    name: "metrics",
    example: "max_series_per_metric: 2000",
    known: &["max_series_per_metric"],
    later: &["buckets"],
    aliases: NO_ALIASES,
};

pub(super) static TRACING: Section = Section {
    name: "tracing",
    example: "propagation: [tracecontext, b3]",
    known: &["propagation"],
    later: &["otlp_endpoint", "sample", "trust_incoming"],
    aliases: &[("propagators", "propagation")],
};

pub(super) static RELOAD: Section = Section {
    name: "reload",
    example: "watch: true, interval: 1s",
    known: &["watch", "interval"],
    later: &["strict"],
    aliases: NO_ALIASES,
};

pub(super) static SHUTDOWN: Section = Section {
    name: "shutdown",
    example: "grace: 5s, drain_timeout: 30s",
    known: &["grace", "drain_timeout"],
    later: NONE,
    aliases: &[("timeout", "drain_timeout"), ("drain", "drain_timeout"), ("grace_period", "grace")],
};

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&Section; 62] = [
        &ROOT,
        &SERVICE,
        &HEALTH_CHECK,
        &GRPC_CHECK,
        &LISTENERS,
        &LISTENER,
        &TCP_LISTENER,
        &SERVER_NAME_ROUTE,
        &DEFAULTS,
        &ROUTE,
        &MATCH,
        &VALUE_MATCH,
        &SPLIT,
        &REDIRECT,
        &DIRECT_RESPONSE,
        &REWRITE,
        &HEADERS,
        &HEADER_EDITS,
        &CLUSTER,
        &ENDPOINT,
        &LOAD_BALANCER,
        &HASH_ON,
        &LIMITS,
        &RETRY,
        &BACKOFF,
        &HEDGE,
        &RETRY_BUDGET,
        &CIRCUIT_BREAKER,
        &ERROR_RATE,
        &SLOW_CALLS,
        &OUTLIER_DETECTION,
        &MTLS,
        &CA,
        &AUTHORITY,
        &EDGE_TLS,
        &EDGE_FILES,
        &ADMIN,
        &TELEMETRY,
        &LOG,
        &ACCESS_LOG,
        &METRICS,
        &TRACING,
        &RELOAD,
        &SHUTDOWN,
        &RATE_LIMIT,
        &RATE_LIMIT_KEY,
        &FAULT,
        &MIRROR,
        &CONCURRENCY,
        &OVERLOAD,
        &ZONES,
        &SESSION_AFFINITY,
        &NORMALIZE,
        &UPSTREAM_TLS,
        &INTENTIONS,
        &RULE,
        &PERMISSION,
        &JWT,
        &EXT_AUTHZ,
        &MESH,
        &STORE,
        &KEYSPACE,
    ];

    #[test]
    fn the_reference_file_shows_every_key_and_none_of_a_later_version() {
        let reference = include_str!("../../config/reference.yaml");
        let shows = |key: &str| {
            let written = format!("{key}:");
            reference
                .match_indices(&written)
                .any(|(at, _)| reference[..at].chars().next_back().is_none_or(char::is_whitespace))
        };
        for section in ALL {
            for key in section.known {
                assert!(shows(key), "{}.{key}", section.name);
            }
        }
        for key in ALL.iter().flat_map(|section| section.later) {
            // `tls`, `retry` and others may be words of a comment, but not keys.
            let elsewhere = ALL.iter().any(|section| section.known.contains(key));
            assert!(elsewhere || !shows(key), "{key}");
        }
    }

    #[test]
    fn foreign_names_lead_to_keys_of_their_section_and_are_none_themselves() {
        for section in ALL {
            for (foreign, ours) in section.aliases {
                assert!(section.known.contains(ours) || section.later.contains(ours), "{ours}");
                assert!(!section.known.contains(foreign) && !section.later.contains(foreign), "{foreign}");
            }
        }
    }
}
