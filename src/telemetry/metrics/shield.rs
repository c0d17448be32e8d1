//! What is counted of limits, faults and copies. Families and handles stand together: nothing else uses them.

use std::sync::Arc;

use super::{
    HotCounter, Registry,
    family::{Family, Kind},
};

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

/// Families that the recorder renders.
pub(super) static RECORDED: [&Family; 4] = [&RATE_LIMIT_DECISIONS, &RATE_LIMIT_KEYS, &FAULTS, &MIRRORED];

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
