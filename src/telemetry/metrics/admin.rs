//! What is counted of the admin API: how its requests ended.

use super::{
    Registry,
    family::{Family, Kind},
};

static REQUESTS: Family = Family {
    name: "outrigger_admin_requests_total",
    kind: Kind::Counter,
    help: "Requests to the admin API, by what came of them. unauthenticated: without the token, or with a wrong one; \
           refused: by any other rule of the API; failed: by the sidecar, health that is not good included",
};

/// Families that the recorder renders.
pub(super) static RECORDED: [&Family; 1] = [&REQUESTS];

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminResult {
    /// It was answered.
    Ok,
    /// It had not the token that it needs.
    Unauthenticated,
    /// It was refused for another reason.
    Refused,
    /// The sidecar could not do it.
    Failed,
}

impl AdminResult {
    const ALL: [Self; 4] = [Self::Ok, Self::Unauthenticated, Self::Refused, Self::Failed];

    /// The value of the metric label `result`; also what the audit log says.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unauthenticated => "unauthenticated",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Requests to the admin API.
#[derive(Debug)]
pub struct AdminMetrics([metrics::Counter; AdminResult::ALL.len()]);

impl AdminMetrics {
    /// The handle: the same one each time.
    #[must_use]
    pub fn resolve(registry: &Registry) -> Self {
        Self(AdminResult::ALL.map(|result| registry.counter(&REQUESTS, &[("result", result.as_str())])))
    }

    /// Counts a request.
    pub fn answered(&self, result: AdminResult) {
        self.0[result as usize].increment(1);
    }
}
