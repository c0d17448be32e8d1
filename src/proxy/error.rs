//! What can go wrong with one request, on whose side, and whether it may have been processed.

use std::{error::Error as StdError, fmt, time::Duration};

use http::StatusCode;

use super::deadline::Expired;
use crate::{
    identity::TlsRefusal,
    net::{DialError, tls::TlsError},
    policy::{classify::Outcome, retry::Failure},
    telemetry::metrics::RetryReason,
    types::Flag,
};

/// Nothing that another endpoint could do better, or too late for it.
const FINAL: Failure = Failure::Final;
/// There is no tunnel, and the endpoint did not say no in a way that could be passed on.
const UPGRADE_FAILED: &str = "http_upgrade_failed";

/// Error type of bodies that hyper carries for us.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// A request that ended without a complete answer of the endpoint. Says, when it is made, whose fault it is.
#[derive(Debug)]
pub(crate) struct ProxyError {
    pub(crate) flag: Flag,
    pub(crate) status: StatusCode,
    /// Error type of RFC 9209 §2.3.
    pub(crate) token: &'static str,
    /// What surely is, or is not, processed.
    pub(crate) failure: Failure,
    /// A pooled connection turned out to be dead before anything was written to it.
    pub(crate) was_stale: bool,
    /// When it is worth asking again.
    pub(crate) retry_after: Option<Duration>,
    source: Option<BoxError>,
}

impl ProxyError {
    fn new(flag: Flag, status: StatusCode, token: &'static str, failure: Failure) -> Self {
        Self { flag, status, token, failure, was_stale: false, retry_after: None, source: None }
    }

    fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// No connection to the endpoint; nothing was sent.
    pub(crate) fn dial(error: DialError) -> Self {
        let (status, token) = match &error {
            DialError::Refused(_) => (StatusCode::BAD_GATEWAY, "connection_refused"),
            DialError::TimedOut(_) => (StatusCode::GATEWAY_TIMEOUT, "connection_timeout"),
        };
        Self::new(Flag::UpstreamConnect, status, token, Failure::NotConnected).because(error)
    }

    /// The endpoint is not believed, or does not believe us; nothing was sent.
    pub(crate) fn tls(error: TlsError) -> Self {
        let (status, token) = match error.reason {
            TlsRefusal::Timeout => (StatusCode::GATEWAY_TIMEOUT, "connection_timeout"),
            TlsRefusal::RefusedByPeer => (StatusCode::BAD_GATEWAY, "tls_alert_received"),
            TlsRefusal::Protocol | TlsRefusal::Plaintext | TlsRefusal::Alpn | TlsRefusal::Closed => {
                (StatusCode::BAD_GATEWAY, "tls_protocol_error")
            }
            _ => (StatusCode::BAD_GATEWAY, "tls_certificate_error"),
        };
        Self::new(Flag::UpstreamConnect, status, token, Failure::NotConnected).because(error)
    }

    /// The service can have no identity, so nobody can prove to be it; nothing was sent.
    pub(crate) fn no_identity() -> Self {
        let (status, token) = (StatusCode::BAD_GATEWAY, "tls_certificate_error");
        Self::new(Flag::UpstreamConnect, status, token, Failure::NotConnected)
    }

    /// The connection was made, but HTTP could not be started on it; nothing was sent.
    pub(crate) fn handshake(error: hyper::Error) -> Self {
        let status = StatusCode::BAD_GATEWAY;
        Self::new(Flag::UpstreamConnect, status, "connection_terminated", Failure::NotConnected)
            .because(error)
    }

    /// Someone else's attempt to connect, which this request waited for, failed.
    pub(crate) fn shared_dial() -> Self {
        let status = StatusCode::BAD_GATEWAY;
        Self::new(Flag::UpstreamConnect, status, "connection_refused", Failure::NotConnected)
    }

    /// The pool is full, and so is its queue, or the wait in it was too long.
    pub(crate) fn overflow() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(Flag::UpstreamOverflow, status, "connection_limit_reached", FINAL)
    }

    /// No endpoint that may be used.
    pub(crate) fn no_endpoint() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(Flag::NoHealthyEndpoint, status, "destination_unavailable", FINAL)
    }

    /// Every endpoint that could be used has failed too often lately; the first is tried again after `wait`.
    pub(crate) fn circuit_open(wait: Duration) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let made = Self::new(Flag::CircuitOpen, status, "destination_unavailable", FINAL);
        Self { retry_after: Some(wait), ..made }
    }

    /// The exchange failed before a response head came; `unsent` if hyper gave the request back untouched.
    pub(crate) fn exchange(error: hyper::Error, unsent: bool, reused: bool) -> Self {
        let refusal = refusal(&error);
        let failure = match (unsent, refusal) {
            (true, _) => Failure::NothingSent,
            (false, Some(_)) => Failure::Unprocessed,
            (false, None) => Failure::NoResponseByte,
        };
        let token = if error.is_parse() || error.is_parse_status() || error.is_parse_too_large() {
            "http_protocol_error"
        } else {
            "connection_terminated"
        };
        // What came back and could not be read is an answer: the request has been processed.
        let failure = if token == "http_protocol_error" { FINAL } else { failure };
        let mut made = Self::new(Flag::UpstreamReset, StatusCode::BAD_GATEWAY, token, failure).because(error);
        // An endpoint that takes its leave is well: it may have renewed whom it trusts. What was on its way to it then is
        // many requests at once, and all of them together must not open its circuit.
        made.was_stale = reused && (unsent || refusal == Some(Refusal::Leaving));
        made
    }

    /// Some time is up.
    pub(crate) fn timeout(expired: Expired) -> Self {
        let (flag, failure) = match expired {
            Expired::Try => (Flag::UpstreamTimeout, Failure::TryTimedOut),
            Expired::Caller => (Flag::Deadline, FINAL),
            Expired::Request | Expired::Idle | Expired::Upload => (Flag::UpstreamTimeout, FINAL),
        };
        Self::new(flag, StatusCode::GATEWAY_TIMEOUT, "http_response_timeout", failure)
    }

    /// Whether it was the time that the caller allowed.
    pub(crate) fn is_callers_deadline(&self) -> bool {
        self.flag == Flag::Deadline
    }

    /// Whether it was the time that was up.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self.flag, Flag::UpstreamTimeout | Flag::Deadline)
    }

    /// The endpoint switched protocols in a way that was not asked for.
    pub(crate) fn bad_upgrade() -> Self {
        let status = StatusCode::BAD_GATEWAY;
        Self::new(Flag::UpstreamReset, status, UPGRADE_FAILED, FINAL)
    }

    /// The same for an endpoint of HTTP/2 that was asked to upgrade in the words of HTTP/1.1, because it takes no
    /// others: that it does not know them either is no fault of its.
    pub(crate) fn of_upgrade(mut self) -> Self {
        if self.flag == Flag::UpstreamReset {
            self.token = UPGRADE_FAILED;
        }
        self
    }

    /// The rewritten target or host cannot be sent.
    pub(crate) fn bad_rewrite(error: impl Into<BoxError>) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(Flag::Internal, status, "proxy_configuration_error", FINAL).because(error)
    }
}

impl ProxyError {
    /// What the failed attempt says about the endpoint; `None` if it says nothing: its own limits were reached,
    /// or it was not the endpoint's fault.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self.flag {
            _ if self.was_stale || self.token == UPGRADE_FAILED => None,
            Flag::UpstreamConnect | Flag::UpstreamReset | Flag::UpstreamTimeout => Some(Outcome::LocalOrigin),
            _ => None,
        }
    }

    /// Why another attempt follows, for the metric.
    pub(crate) fn retry_reason(&self) -> RetryReason {
        match (self.flag, self.failure) {
            (Flag::UpstreamConnect, _) => RetryReason::Connect,
            (_, Failure::Unprocessed) => RetryReason::Refused,
            (_, Failure::TryTimedOut) => RetryReason::Timeout,
            _ => RetryReason::Reset,
        }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token)?;
        let mut cause = self.source.as_ref().map(|source| &**source as &dyn StdError);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// How an endpoint promises that it processed nothing of a request (RFC 9113 §8.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// It does not want this one: RST_STREAM with REFUSED_STREAM.
    Stream,
    /// It ends the connection in good order: GOAWAY below the stream, without an error.
    Leaving,
}

fn refusal(error: &hyper::Error) -> Option<Refusal> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let is_leaving =
                error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
            return match error.reason() {
                Some(h2::Reason::REFUSED_STREAM) => Some(Refusal::Stream),
                _ => is_leaving.then_some(Refusal::Leaving),
            };
        }
        cause = error.source();
    }
    None
}
