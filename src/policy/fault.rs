//! Which requests of a route meet a fault on purpose, and which fault. Waiting and answering is the data plane's.

use std::time::Duration;

use http::StatusCode;

/// Faults of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultParams {
    /// The request waits this long before anything is sent.
    pub delay: Option<Duration>,
    /// It is answered with this status and not sent at all.
    pub abort: Option<StatusCode>,
    /// Share of the requests that `delay` and `abort` meet, 0 to 100.
    pub percent: u8,
    /// Whether a client may ask for a fault in a header. What it asks for does not depend on `percent`.
    pub headers: bool,
}

/// What a client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskedFault {
    /// In `x-outrigger-fault-delay`.
    pub delay: Option<Duration>,
    /// In `x-outrigger-fault-abort`.
    pub abort: Option<StatusCode>,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// It waits first.
    pub delay: Option<Duration>,
    /// Then it is answered with this status.
    pub abort: Option<StatusCode>,
}

/// Longest wait that a header can ask for.
pub const LONGEST_ASKED_DELAY: Duration = Duration::from_secs(60);

impl FaultParams {
    /// The fault of a request for which `roll`, uniform from 0 to 99, was drawn. A client that asks gets what it
    /// asks for, if it may ask.
    #[must_use]
    pub fn decide(&self, asked: AskedFault, roll: u8) -> Fault {
        let hit = roll < self.percent;
        let asked = if self.headers { asked } else { AskedFault::default() };
        Fault {
            delay: asked.delay.or(self.delay.filter(|_| hit)),
            abort: asked.abort.or(self.abort.filter(|_| hit)),
        }
    }
}

/// Reads `x-outrigger-fault-delay`: milliseconds, at most [`LONGEST_ASKED_DELAY`].
#[must_use]
pub fn parse_delay(value: &[u8]) -> Option<Duration> {
    let millis: u64 = std::str::from_utf8(value).ok()?.trim().parse().ok()?;
    Some(Duration::from_millis(millis).min(LONGEST_ASKED_DELAY))
}

/// Reads `x-outrigger-fault-abort`: a status from 400 to 599.
#[must_use]
pub fn parse_abort(value: &[u8]) -> Option<StatusCode> {
    let status = StatusCode::from_bytes(value.trim_ascii()).ok()?;
    (status.is_client_error() || status.is_server_error()).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Option<Duration> = Some(Duration::from_millis(200));
    const ABORT: Option<StatusCode> = Some(StatusCode::SERVICE_UNAVAILABLE);

    #[test]
    fn the_percentage_of_the_draws_meets_the_configured_fault() {
        let params = FaultParams { delay: DELAY, abort: ABORT, percent: 7, headers: false };
        let met = (0..100).filter(|roll| params.decide(AskedFault::default(), *roll).abort == ABORT).count();
        assert_eq!(met, 7);
        assert_eq!(params.decide(AskedFault::default(), 7), Fault::default());
    }

    #[test]
    fn a_header_is_heard_only_where_it_is_allowed() {
        let asked = AskedFault { delay: None, abort: Some(StatusCode::BAD_GATEWAY) };
        let closed = FaultParams { delay: DELAY, abort: None, percent: 0, headers: false };
        assert_eq!(closed.decide(asked, 0), Fault::default());
        let open = FaultParams { headers: true, ..closed };
        assert_eq!(open.decide(asked, 99), Fault { delay: None, abort: Some(StatusCode::BAD_GATEWAY) });
    }

    #[test]
    fn headers_of_faults_are_bounded_and_nonsense_is_ignored() {
        assert_eq!(parse_delay(b"250"), Some(Duration::from_millis(250)));
        assert_eq!(parse_delay(b"99999999"), Some(LONGEST_ASKED_DELAY));
        for nonsense in [&b""[..], b"-1", b"1s", b"\xff"] {
            assert_eq!(parse_delay(nonsense), None);
            assert_eq!(parse_abort(nonsense), None);
        }
        assert_eq!(parse_abort(b"503"), ABORT);
        assert_eq!(parse_abort(b"200"), None);
    }
}
