//! Judges an attempt by what came of it: which outcome the breaker, the outlier detection and the latency
//! average learn. Knows neither of them.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

/// What one attempt says about the endpoint that it went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// An answer that is not the endpoint's fault: anything below 500 but 429.
    Success,
    /// The endpoint has too much to do (429, gRPC `RESOURCE_EXHAUSTED`). Neither success nor failure: it must
    /// draw less traffic, but putting it out would only push the load on.
    Throttled,
    /// The endpoint failed (5xx other than the three below, and gRPC's `UNKNOWN`, `INTERNAL`, `DATA_LOSS`).
    ServerError,
    /// The endpoint answered for something behind it, or for not being there (502, 503, 504, gRPC
    /// `UNAVAILABLE`, `DEADLINE_EXCEEDED`).
    GatewayError,
    /// No answer: connecting failed, the connection broke, or the time was up. Envoy calls these of local
    /// origin, because it is us who saw them.
    LocalOrigin,
}

/// What is learned from one attempt when its outcome is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What came of it.
    pub outcome: Outcome,
    /// From the choice of the endpoint to its answer, or to the failure; connecting included.
    pub latency: Duration,
    /// What the endpoint said of when to come again (`Retry-After`, gRPC push-back), already bounded.
    pub retry_after: Option<Duration>,
}

impl Outcome {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 5] =
        [Self::Success, Self::Throttled, Self::ServerError, Self::GatewayError, Self::LocalOrigin];

    /// Judges an answer by its head. A gRPC answer without messages carries its status there; of any other the
    /// status comes with the trailers, too late for whoever chooses the next endpoint.
    #[must_use]
    pub fn of_response(status: StatusCode, headers: &HeaderMap) -> Self {
        match status.as_u16() {
            429 => Self::Throttled,
            502..=504 => Self::GatewayError,
            500.. => Self::ServerError,
            200 => headers.get("grpc-status").map_or(Self::Success, |code| Self::of_grpc(code.as_bytes())),
            _ => Self::Success,
        }
    }

    /// Judges the status code of a gRPC call, as it is written in `grpc-status`. A code that nobody has
    /// defined counts as `UNKNOWN`.
    #[must_use]
    pub fn of_grpc(code: &[u8]) -> Self {
        match code {
            // What the caller asked for or may not have (INVALID_ARGUMENT, NOT_FOUND, …) is an answer.
            b"0" | b"1" | b"3" | b"5" | b"6" | b"7" | b"9" | b"10" | b"11" | b"12" | b"16" => Self::Success,
            b"4" | b"14" => Self::GatewayError,
            b"8" => Self::Throttled,
            _ => Self::ServerError,
        }
    }

    /// Whether the attempt counts against the endpoint.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::ServerError | Self::GatewayError | Self::LocalOrigin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_judged_by_whose_fault_they_are() {
        let cases = [
            (200, Outcome::Success),
            (304, Outcome::Success),
            (404, Outcome::Success),
            (429, Outcome::Throttled),
            (500, Outcome::ServerError),
            (501, Outcome::ServerError),
            (502, Outcome::GatewayError),
            (503, Outcome::GatewayError),
            (504, Outcome::GatewayError),
            (507, Outcome::ServerError),
        ];
        for (status, expected) in cases {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Outcome::of_response(status, &HeaderMap::new()), expected, "{status}");
        }
    }

    #[test]
    fn a_grpc_answer_without_messages_is_judged_by_its_own_status() {
        let cases = [
            ("0", Outcome::Success),
            ("5", Outcome::Success),
            ("2", Outcome::ServerError),
            ("13", Outcome::ServerError),
            ("14", Outcome::GatewayError),
            ("8", Outcome::Throttled),
            ("99", Outcome::ServerError),
        ];
        for (code, expected) in cases {
            let headers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())]);
            assert_eq!(Outcome::of_response(StatusCode::OK, &headers), expected, "{code}");
        }
    }
}
