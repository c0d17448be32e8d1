//! Decides whether a failed attempt is repeated on another endpoint, and after which wait. Knows nothing of
//! sockets; whoever saw the failure says how far the request had come. The loop is in proxy/tries.rs.

mod backoff;
mod budget;
mod conditions;

pub use backoff::{Backoff, LONGEST_RETRY_AFTER, pushback, retry_after};
pub use budget::{BudgetParams, RetryBudget};
pub use conditions::{Condition, RetryOn};

use std::time::Duration;

use http::{Method, StatusCode};

use crate::types::RetryDenied as Denied;

/// Most attempts of one request, the first included.
pub const MAX_ATTEMPTS: usize = 11;

/// How a route repeats failed attempts.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryParams {
    /// Attempts after the first one, 0 to 10; 0 repeats nothing.
    pub attempts: u32,
    /// What is worth another attempt.
    pub retry_on: RetryOn,
    /// Longest wait for the head of the answer to one attempt, from the moment the request is complete. `None`:
    /// only the limit of the whole request.
    pub per_try_timeout: Option<Duration>,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// Request bodies up to this many bytes are kept until the answer begins, to be sent again.
    pub max_body: u32,
    /// Also repeats POST, PATCH and methods unknown to us that may have been processed.
    pub retry_non_idempotent: bool,
    /// A second attempt beside a slow first one.
    pub hedge: Option<HedgeParams>,
}

/// When a second attempt is made while the first is still under way ("The Tail at Scale", Dean & Barroso 2013).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HedgeParams {
    /// Percentile of the latency of the service after which the first attempt counts as slow, 50 to 99.
    pub percentile: u8,
    /// Never sooner than this; also the wait while too little is known of the service.
    pub min_delay: Duration,
}

/// How far a failed attempt had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection to the endpoint could be made; no byte of the request left.
    NotConnected,
    /// There was a connection, but it broke before a byte of the request was written to it.
    NothingSent,
    /// The endpoint said that it did not process the request: REFUSED_STREAM, or a GOAWAY that leaves it out.
    Unprocessed,
    /// Some of the request was sent and the connection broke before the first byte of a response.
    NoResponseByte,
    /// The endpoint took longer than one attempt may.
    TryTimedOut,
    /// The endpoint answered with this status, and nothing of it has gone down yet.
    Answered(StatusCode),
    /// The endpoint answered a gRPC call with this code (below 64) and no message.
    AnsweredGrpc(u8),
    /// Nothing another endpoint could do better, or too late for it: a response has begun, the time for the
    /// whole request is over, a limit of our own was reached, or the client went away.
    Final,
}

impl Failure {
    /// The request surely was not processed.
    #[must_use]
    pub const fn is_unprocessed(self) -> bool {
        matches!(self, Self::NotConnected | Self::NothingSent | Self::Unprocessed)
    }
}

impl RetryParams {
    /// Repeats nothing.
    #[must_use]
    pub fn none() -> Self {
        Self {
            attempts: 0,
            retry_on: RetryOn::default(),
            per_try_timeout: None,
            backoff: Backoff { base: Duration::ZERO, max: Duration::ZERO },
            max_body: 0,
            retry_non_idempotent: false,
            hedge: None,
        }
    }

    /// Whether the route repeats an attempt that failed like this. `attempts` counts those made so far, the
    /// failed one included; `whole` says that the whole body can still be sent: there is none, it is kept, or
    /// nothing was taken from the client yet.
    ///
    /// What surely was not processed is repeated whatever its method. What may have been processed only if doing
    /// it twice is doing it once (RFC 9110 §9.2.2), or if the route says so. Naming a code of gRPC is saying so, since
    /// every call is a POST.
    ///
    /// # Errors
    /// `None` if the failure is none that the route repeats, else the reason that stands against it.
    pub fn judge(
        &self,
        failure: Failure,
        method: &Method,
        whole: bool,
        attempts: u32,
    ) -> Result<(), Option<Denied>> {
        if self.attempts == 0 || !self.retry_on.holds(failure) {
            return Err(None);
        }
        let safe = failure.is_unprocessed()
            || matches!(failure, Failure::AnsweredGrpc(_))
            || method.is_idempotent()
            || self.retry_non_idempotent;
        if !safe {
            return Err(Some(Denied::NotIdempotent));
        }
        if !whole {
            return Err(Some(Denied::Body));
        }
        if attempts > self.attempts {
            return Err(Some(Denied::Attempts));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
