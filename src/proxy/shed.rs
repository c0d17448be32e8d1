//! Who is let in when there is too much to do: the learned limit of the application, and the pressure that the whole
//! process is under.

use http::{HeaderMap, HeaderName, StatusCode};

use super::{connection::Downstream, reply::Reason};
use crate::{
    snapshot::{ConcurrencySlot, MeshSnapshot},
    types::{Direction, Flag, Priority},
};

/// How much a request matters, by what its caller says. It travels on: every hop has its own limit.
pub(super) const PRIORITY: HeaderName = HeaderName::from_static("x-outrigger-priority");

/// Reads the class of a request.
pub(super) fn priority(headers: &HeaderMap) -> Priority {
    headers.get(PRIORITY).map_or_else(Priority::default, |value| Priority::parse(value.as_bytes()))
}

/// Lets a request in; the slot is held until its end.
///
/// # Errors
/// Why it is not let in.
pub(super) fn admit(
    downstream: &Downstream,
    snapshot: &MeshSnapshot,
    priority: Priority,
) -> Result<Option<ConcurrencySlot>, Reason> {
    let limiter = match downstream.side {
        Direction::Inbound => snapshot.inbound.concurrency.as_ref(),
        Direction::Outbound => None,
    };
    let Some(limiter) = limiter else { return Ok(None) };
    limiter.enter(priority).map(Some).ok_or_else(|| refusal("concurrency"))
}

fn refusal(details: &'static str) -> Reason {
    Reason {
        status: StatusCode::SERVICE_UNAVAILABLE,
        flag: Flag::Overload,
        token: "http_request_denied",
        details: Some(details),
        close: false,
    }
}
