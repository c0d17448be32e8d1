//! What is counted of the service that is asked whether requests may pass.

use super::{
    Registry,
    family::{Family, Kind},
};

static CHECKS: Family = Family {
    name: "outrigger_ext_authz_total",
    kind: Kind::Counter,
    help: "Requests that another service was asked about. error, timeout: it gave no answer, and the request was \
           refused; failed_open: it gave none, and the request was let through all the same.",
};

/// Families that the recorder renders.
pub(super) static RECORDED: [&Family; 1] = [&CHECKS];

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtAuthzResult {
    /// The request may pass.
    Allow,
    /// It may not.
    Deny,
    /// There was no answer that says; refused.
    Error,
    /// There was no answer in time; refused.
    Timeout,
    /// There was no answer; let through.
    FailedOpen,
}

impl ExtAuthzResult {
    const ALL: [Self; 5] = [Self::Allow, Self::Deny, Self::Error, Self::Timeout, Self::FailedOpen];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::FailedOpen => "failed_open",
        }
    }
}

/// The questions to that service.
#[derive(Debug)]
pub struct ExtAuthzMetrics([metrics::Counter; ExtAuthzResult::ALL.len()]);

impl ExtAuthzMetrics {
    /// The handle: the same one each time.
    #[must_use]
    pub fn resolve(registry: &Registry) -> Self {
        Self(ExtAuthzResult::ALL.map(|result| registry.counter(&CHECKS, &[("result", result.as_str())])))
    }

    /// Counts a question.
    pub fn checked(&self, result: ExtAuthzResult) {
        self.0[result as usize].increment(1);
    }
}
