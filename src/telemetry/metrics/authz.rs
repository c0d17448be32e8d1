//! What is counted of decisions about callers. Handles are resolved when a decision of their kind is first made: most
//! callers only ever meet one or two.

use std::{cell::OnceCell, sync::Arc};

use super::{
    HotCounter, Registry,
    family::{Family, Kind},
};

static AUTHZ_DECISIONS: Family = Family {
    name: "outrigger_authz_decisions_total",
    kind: Kind::Counter,
    help: "Requests and connections of callers that it was decided about, by what decided. audit_deny: let through \
           because decisions are only audited; no_identity: refused because the caller has none and no rule allows that.",
};

/// Families that the recorder renders.
pub(super) static RECORDED: [&Family; 1] = [&AUTHZ_DECISIONS];

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthzAction {
    /// Let through.
    Allow,
    /// Refused.
    Deny,
    /// Let through, though it is denied.
    AuditDeny,
}

impl AuthzAction {
    const COUNT: usize = 3;

    const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::AuditDeny => "audit_deny",
        }
    }
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthzReason {
    /// A rule.
    Intention,
    /// No rule matched.
    Default,
    /// No rule matched, and the caller has no identity.
    NoIdentity,
}

impl AuthzReason {
    const COUNT: usize = 3;

    const fn as_str(self) -> &'static str {
        match self {
            Self::Intention => "intention",
            Self::Default => "default",
            Self::NoIdentity => "no_identity",
        }
    }
}

/// The decisions about one caller, as one thread counts them.
#[derive(Debug)]
pub struct AuthzMetrics {
    registry: Arc<Registry>,
    source: Box<str>,
    decisions: [[OnceCell<Arc<HotCounter>>; AuthzReason::COUNT]; AuthzAction::COUNT],
}

impl AuthzMetrics {
    /// Those about the caller that is called `source`: any number of them count into the same series.
    #[must_use]
    pub fn new(registry: &Arc<Registry>, source: &str) -> Self {
        Self { registry: Arc::clone(registry), source: source.into(), decisions: Default::default() }
    }

    /// Name of the caller.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Counts a decision. The first of its kind takes the registry's lock.
    pub fn decided(&self, action: AuthzAction, reason: AuthzReason) {
        let counter = self.decisions[action as usize][reason as usize].get_or_init(|| {
            let labels =
                [("source", &*self.source), ("action", action.as_str()), ("reason", reason.as_str())];
            self.registry.hot_counter(&AUTHZ_DECISIONS, &labels)
        });
        counter.add(1);
    }
}
