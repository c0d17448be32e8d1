//! The values of keys that are not given. config/reference.yaml shows the same ones; a test compares them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::policy::{
    balance::BalanceParams,
    breaker::{BreakerParams, ErrorRate},
    concurrency::{ConcurrencyMode, ConcurrencyParams},
    locality::ZoneParams,
    outlier::{ConsecutiveParams, FailurePercentageParams, OutlierParams, SuccessRateParams},
    overload::OverloadParams,
    retry::{Backoff, BudgetParams, RetryOn, RetryParams},
};
use crate::{
    proxy::{MtlsMode, MtlsParams},
    snapshot::UpstreamTlsParams,
    store::Timing,
};

pub(super) const INBOUND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15006);
pub(super) const OUTBOUND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15001);
pub(super) const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);
pub(super) const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15020);

/// Envoy's and Consul's limit of a whole request.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Below the keep-alive of common servers (60 s), so that we close first and never race them.
pub(super) const UPSTREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A handshake takes a millisecond of work; the rest is for slow networks, and the time that others wait. Half a
/// megabyte of memory is what a thousand unfinished ones cost.
pub(super) const MTLS: MtlsParams =
    MtlsParams { mode: MtlsMode::Disabled, handshake_timeout: Duration::from_secs(5), max_handshakes: 1024 };
/// A day: short enough that a stolen one is soon of no use, long enough for an authority that is away over night.
pub(super) const LEAF_TTL: Duration = Duration::from_secs(24 * 3600);
pub(super) const IDENTITY_DIR: &str = "/var/lib/outrigger/identity";
pub(super) const AUTHORITY_DIR: &str = "/var/lib/outrigger/ca";
pub(super) const AUTHORITY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15012);
/// serf's port, which Consul has as well.
pub(super) const MESH_BIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7946);
pub(super) const MESH_CLUSTER: &str = "default";
pub(super) const MESH_WEIGHT: u16 = 1;
pub(super) const STORE_BIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7947);
pub(super) const STORE_EXPECT: usize = 3;
/// The Raft paper's 150 to 300 ms, with room for three heartbeats (§5.6 and §9.3: broadcast time ≪ election timeout).
pub(super) const STORE_TIMING: Timing =
    Timing { heartbeat: Duration::from_millis(50), election_timeout: Duration::from_millis(150) };
pub(super) const ETCD_TIMEOUT: Duration = Duration::from_secs(3);
/// Far more than servers of one mesh take, and short beside what whoever asks waits.
pub(super) const KEYSPACE_TIMEOUT: Duration = Duration::from_secs(1);
pub(super) const STORE_SHORTEST_HEARTBEAT: Duration = Duration::from_millis(10);
/// Shorter, and a process that is started again would have been replaced.
pub(super) const STORE_LEAST_DEAD_AFTER: Duration = Duration::from_secs(2);
pub(super) const STORE_LEAST_STABLE_AFTER: Duration = Duration::from_secs(1);
pub(super) const STORE_LONGEST_PATIENCE: Duration = Duration::from_secs(60 * 60);
/// What RFC 7519 §4.1.4 calls "no more than a few minutes".
pub(super) const JWT_LEEWAY: Duration = Duration::from_secs(60);
/// Twice what web servers take as one header.
pub(super) const JWT_MAX_TOKEN: u32 = 16 * 1024;
/// Envoy's.
pub(super) const EXT_AUTHZ_TIMEOUT: Duration = Duration::from_millis(200);
/// Envoy's time between two looks at a remote key set.
pub(super) const JWKS_REFRESH: Duration = Duration::from_secs(300);

pub(super) const MAX_LISTENER_CONNECTIONS: u32 = 10_000;
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const DOWNSTREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// What Envoy and HAProxy's documentation give TCP connections.
pub(super) const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// With redirected connections only: Istio's wait for protocols in which the server speaks first.
pub(super) const DETECT_TIMEOUT: Duration = Duration::from_millis(100);
pub(super) const MAX_HEADER_BYTES: u32 = 60 * 1024;
pub(super) const MAX_HEADERS: u32 = 100;

/// Envoy's bound of requests in flight.
pub(super) const MAX_REQUESTS: u32 = 1024;
/// The budget bounds how many retries there are over time; this, how many at once.
pub(super) const MAX_RETRIES: u32 = 128;
/// Finagle's share, and enough for a service with little traffic.
pub(super) const RETRY_BUDGET: BudgetParams = BudgetParams { percent: 20, min_per_second: 3 };
/// linkerd2-proxy's limit.
const MAX_RETRY_BODY: u32 = 64 * 1024;
/// A few megabytes at most.
pub(super) const MAX_RATE_LIMIT_KEYS: u32 = 100_000;
/// Envoy's advice for the edge: shrink at 95 %, refuse at 98 %.
pub(super) const OVERLOAD: OverloadParams = OverloadParams {
    enabled: true,
    max_memory: None,
    max_lag: Duration::from_secs(1),
    thresholds: [95, 95, 98, 99],
};
/// Learned and shown, but nobody is refused before somebody has looked at it.
pub(super) const CONCURRENCY: ConcurrencyParams =
    ConcurrencyParams { mode: ConcurrencyMode::Observe, min: 20, max: 1000 };
pub(super) const MAX_CONNECTIONS: u32 = 1024;
pub(super) const MAX_PENDING_REQUESTS: u32 = 1024;
pub(super) const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);
/// linkerd2-proxy's failures in a row; half of twenty is Hystrix's rate.
pub(super) const CIRCUIT_BREAKER: BreakerParams = BreakerParams {
    consecutive_errors: 7,
    error_rate: Some(ErrorRate { percent: ERROR_PERCENT }),
    slow_calls: None,
    window: Duration::from_secs(10),
    min_requests: 20,
    open_time: Duration::from_secs(1),
    max_open_time: Duration::from_secs(60),
    half_open_requests: 1,
    // Twice the limit of a whole request: a probe is nearly always ended by that.
    probe_timeout: Duration::from_secs(30),
};
pub(super) const ERROR_PERCENT: u32 = 50;
pub(super) const SLOW_PERCENT: u32 = 80;
/// Envoy's values, but for the cap (ADR 0008), and for failures in a row, which are the circuit breaker's.
pub(super) const OUTLIER_DETECTION: OutlierParams = OutlierParams {
    consecutive: ConsecutiveParams { any_5xx: 0, gateway_failure: 0, local_origin_failure: 0 },
    interval: Duration::from_secs(10),
    base_ejection_time: Duration::from_secs(30),
    max_ejection_time: Duration::from_secs(300),
    max_ejection_time_jitter: Duration::ZERO,
    max_ejection_percent: 30,
    success_rate: Some(SUCCESS_RATE),
    failure_percentage: Some(FAILURE_PERCENTAGE),
};
pub(super) const SUCCESS_RATE: SuccessRateParams =
    SuccessRateParams { minimum_hosts: 5, request_volume: 100, stdev_factor: 1900 };
pub(super) const FAILURE_PERCENTAGE: FailurePercentageParams =
    FailurePercentageParams { threshold: 85, minimum_hosts: 5, request_volume: 50 };
pub(super) const PANIC_THRESHOLD_PERCENT: u8 = 50;
/// A short TTL is honoured down to here; Envoy refreshes names at this rate.
pub(super) const DNS_REFRESH: Duration = Duration::from_secs(5);
/// Envoy's bound of zone aware routing.
pub(super) const ZONES_MIN_ENDPOINTS: u32 = 6;

pub(super) const HEALTH_INTERVAL: Duration = Duration::from_secs(10);
/// The application is next door and its state is announced to others, so it is asked more often.
pub(super) const LOCAL_HEALTH_INTERVAL: Duration = Duration::from_secs(5);
pub(super) const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
pub(super) const HEALTHY_THRESHOLD: u32 = 2;
pub(super) const UNHEALTHY_THRESHOLD: u32 = 3;

pub(super) const LOG_LEVEL: &str = "info";
pub(super) const SLOW: Duration = Duration::from_secs(1);
pub(super) const MAX_SERIES: usize = 2000;

pub(super) const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
pub(super) const GRACE: Duration = Duration::from_secs(5);
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What routes and services take over from `defaults`.
#[derive(Clone, Debug)]
pub(super) struct Inherited {
    pub(super) timeout: Option<Duration>,
    pub(super) connect_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) balance: BalanceParams,
    pub(super) retry: RetryParams,
    pub(super) retry_budget: BudgetParams,
    pub(super) circuit_breaker: Option<BreakerParams>,
    pub(super) outlier_detection: Option<OutlierParams>,
    pub(super) slow_start: Duration,
    pub(super) zones: ZoneParams,
    pub(super) tls: UpstreamTlsParams,
}

impl Inherited {
    /// What they take over when `defaults` says nothing.
    pub(super) fn builtin() -> Self {
        Self {
            timeout: Some(TIMEOUT),
            connect_timeout: CONNECT_TIMEOUT,
            idle_timeout: UPSTREAM_IDLE_TIMEOUT,
            balance: BalanceParams::PeakEwma,
            retry: RetryParams {
                attempts: 1,
                retry_on: RetryOn::builtin(),
                per_try_timeout: None,
                backoff: Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) },
                max_body: MAX_RETRY_BODY,
                retry_non_idempotent: false,
                hedge: None,
            },
            retry_budget: RETRY_BUDGET,
            circuit_breaker: Some(CIRCUIT_BREAKER),
            outlier_detection: Some(OUTLIER_DETECTION),
            slow_start: Duration::ZERO,
            zones: ZoneParams::None,
            tls: UpstreamTlsParams::Disabled,
        }
    }
}
