//! What is counted of limits, faults and copies. Families and handles stand together: nothing else uses them.

use std::sync::Arc;

use super::{
    HotCounter, HotGauge, Registry,
    family::{Family, Kind},
};
use crate::types::Priority;

static RATE_LIMIT_DECISIONS: Family = Family {
    name: "outrigger_rate_limit_decisions_total",
    kind: Kind::Counter,
    help: "Requests that a rate limit decided on. overflow: refused by the bucket that new keys share when there \
           is no room for more; would_deny: let through because the limit is in shadow mode.",
};
static RATE_LIMIT_KEYS: Family = Family {
    name: "outrigger_rate_limit_keys",
    kind: Kind::Gauge,
    help: "Keys that a rate limit remembers.",
};
static FAULTS: Family = Family {
    name: "outrigger_faults_injected_total",
    kind: Kind::Counter,
    help: "Requests that were delayed or aborted on purpose.",
};
static MIRRORED: Family = Family {
    name: "outrigger_mirrored_requests_total",
    kind: Kind::Counter,
    help: "Copies of requests for another service, by what came of them.",
};

static CONCURRENCY_LIMIT: Family = Family {
    name: "outrigger_concurrency_limit",
    kind: Kind::Gauge,
    help: "Requests that the application can take at once, as learned from its latency.",
};
static CONCURRENCY_IN_FLIGHT: Family = Family {
    name: "outrigger_concurrency_in_flight",
    kind: Kind::Gauge,
    help: "Requests that the application has in flight.",
};
static CONCURRENCY_BEYOND: Family = Family {
    name: "outrigger_concurrency_rejections_total",
    kind: Kind::Counter,
    help: "Requests beyond the learned limit. would_reject: let in because the limit is only observed.",
};

static OVERLOAD_PRESSURE: Family = Family {
    name: "outrigger_overload_pressure",
    kind: Kind::Gauge,
    help: "Share of a resource of the process that is used; 1 is all of it.",
};
static OVERLOAD_ACTIVE: Family = Family {
    name: "outrigger_overload_active",
    kind: Kind::Gauge,
    help: "1 while the process does this because it runs out of something.",
};
static OVERLOAD_SHEDS: Family = Family {
    name: "outrigger_overload_sheds_total",
    kind: Kind::Counter,
    help: "Requests refused because the process runs out of something.",
};

/// Families that the recorder renders.
pub(super) static RECORDED: [&Family; 10] = [
    &RATE_LIMIT_DECISIONS,
    &RATE_LIMIT_KEYS,
    &FAULTS,
    &MIRRORED,
    &CONCURRENCY_LIMIT,
    &CONCURRENCY_IN_FLIGHT,
    &CONCURRENCY_BEYOND,
    &OVERLOAD_PRESSURE,
    &OVERLOAD_ACTIVE,
    &OVERLOAD_SHEDS,
];

/// What became of a request at a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitDecision {
    /// Let through.
    Allow,
    /// Refused.
    Deny,
    /// Refused, by the bucket that keys share for which there is no room.
    Overflow,
    /// Let through, though the rate is exceeded: the limit is in shadow mode.
    WouldDeny,
}

impl LimitDecision {
    const ALL: [Self; 4] = [Self::Allow, Self::Deny, Self::Overflow, Self::WouldDeny];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Overflow => "overflow",
            Self::WouldDeny => "would_deny",
        }
    }
}

/// The numbers of one rate limit.
#[derive(Debug)]
pub struct RateLimitMetrics {
    decisions: [Arc<HotCounter>; LimitDecision::ALL.len()],
    keys: metrics::Gauge,
}

impl RateLimitMetrics {
    /// Those of the limit called `limit`: the same ones each time.
    #[must_use]
    pub fn resolve(registry: &Registry, limit: &str) -> Arc<Self> {
        let limit = ("limit", limit);
        let decision = |decision: LimitDecision| {
            registry.hot_counter(&RATE_LIMIT_DECISIONS, &[limit, ("decision", decision.as_str())])
        };
        let decisions = LimitDecision::ALL.map(decision);
        Arc::new(Self { decisions, keys: registry.gauge(&RATE_LIMIT_KEYS, &[limit]) })
    }

    /// Counts a request.
    pub fn decided(&self, decision: LimitDecision) {
        self.decisions[decision as usize].add(1);
    }

    /// Tells how many keys there are.
    pub fn set_keys(&self, keys: usize) {
        self.keys.set(keys as f64);
    }
}

/// The faults of one route.
#[derive(Debug)]
pub struct FaultMetrics {
    delays: metrics::Counter,
    aborts: metrics::Counter,
}

impl FaultMetrics {
    /// Those of the route called `route`.
    #[must_use]
    pub fn resolve(registry: &Registry, route: &str) -> Arc<Self> {
        let fault = |kind| registry.counter(&FAULTS, &[("route", route), ("kind", kind)]);
        Arc::new(Self { delays: fault("delay"), aborts: fault("abort") })
    }

    /// Counts a request that was held up.
    pub fn delayed(&self) {
        self.delays.increment(1);
    }

    /// Counts a request that was answered with a fault.
    pub fn aborted(&self) {
        self.aborts.increment(1);
    }
}

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorOutcome {
    /// It was answered, with whatever status.
    Answered,
    /// It failed, or took too long.
    Failed,
    /// It was not sent: as many as are allowed were under way.
    Overflow,
    /// It was not sent: the body is too long to be kept, or did not come to its end.
    Body,
}

impl MirrorOutcome {
    const ALL: [Self; 4] = [Self::Answered, Self::Failed, Self::Overflow, Self::Body];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Overflow => "overflow",
            Self::Body => "body",
        }
    }
}

/// The copies that one service gets.
#[derive(Debug)]
pub struct MirrorMetrics([metrics::Counter; MirrorOutcome::ALL.len()]);

impl MirrorMetrics {
    /// Those of the service called `service`.
    #[must_use]
    pub fn resolve(registry: &Registry, service: &str) -> Arc<Self> {
        let outcome = |outcome: MirrorOutcome| {
            registry.counter(&MIRRORED, &[("service", service), ("outcome", outcome.as_str())])
        };
        Arc::new(Self(MirrorOutcome::ALL.map(outcome)))
    }

    /// Counts a copy.
    pub fn mirrored(&self, outcome: MirrorOutcome) {
        self.0[outcome as usize].increment(1);
    }
}

/// The learned limit of the application.
#[derive(Debug)]
pub struct ConcurrencyMetrics {
    limit: metrics::Gauge,
    in_flight: Arc<HotGauge>,
    /// By priority, then by whether it was refused.
    beyond: [[metrics::Counter; 2]; Priority::ALL.len()],
}

impl ConcurrencyMetrics {
    /// The handle: the same one each time.
    #[must_use]
    pub fn resolve(registry: &Registry) -> Arc<Self> {
        let beyond = |priority: Priority| {
            ["would_reject", "rejected"].map(|outcome| {
                registry
                    .counter(&CONCURRENCY_BEYOND, &[("priority", priority.as_str()), ("outcome", outcome)])
            })
        };
        Arc::new(Self {
            limit: registry.gauge(&CONCURRENCY_LIMIT, &[]),
            in_flight: registry.hot_gauge(&CONCURRENCY_IN_FLIGHT, &[]),
            beyond: Priority::ALL.map(beyond),
        })
    }

    /// Tells the limit.
    pub fn set_limit(&self, limit: u32) {
        self.limit.set(f64::from(limit));
    }

    /// Requests inside the limit.
    #[must_use]
    pub fn in_flight(&self) -> &Arc<HotGauge> {
        &self.in_flight
    }

    /// Counts a request beyond the limit.
    pub fn beyond(&self, priority: Priority, refused: bool) {
        self.beyond[priority as usize][usize::from(refused)].increment(1);
    }
}

/// How the process copes with running out of something. Indices are those of `policy::overload`, which telemetry
/// cannot name.
#[derive(Clone, Debug)]
pub struct OverloadMetrics {
    pressure: [metrics::Gauge; 3],
    active: [metrics::Gauge; 4],
    sheds: [metrics::Counter; 4],
}

const RESOURCES: [&str; 3] = ["memory", "descriptors", "loop_lag"];
const ACTIONS: [&str; 4] = ["stop_keep_alive", "shed_low_priority", "refuse_requests", "stop_accepting"];

impl OverloadMetrics {
    /// The handles: the same ones each time.
    #[must_use]
    pub fn resolve(registry: &Registry) -> Self {
        Self {
            pressure: RESOURCES.map(|resource| registry.gauge(&OVERLOAD_PRESSURE, &[("resource", resource)])),
            active: ACTIONS.map(|action| registry.gauge(&OVERLOAD_ACTIVE, &[("action", action)])),
            sheds: ACTIONS.map(|action| registry.counter(&OVERLOAD_SHEDS, &[("action", action)])),
        }
    }

    /// Tells what is used of a resource.
    pub fn set_pressure(&self, resource: usize, used: f64) {
        self.pressure[resource].set(used);
    }

    /// Tells whether an action is in force.
    pub fn set_active(&self, action: usize, active: bool) {
        self.active[action].set(f64::from(u8::from(active)));
    }

    /// Counts a request that an action refused.
    pub fn shed(&self, action: usize) {
        self.sheds[action].increment(1);
    }
}
