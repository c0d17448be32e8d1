//! Decides whether a failed attempt may be repeated on another endpoint. Knows nothing of sockets; whoever saw
//! the failure says how far the request had come.

use http::Method;

/// Most attempts of one request, the first included.
pub const MAX_ATTEMPTS: u32 = 2;

/// How far a failed attempt had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No byte of the request left: connecting failed, no connection came free in time, or a pooled one was
    /// found dead when it was to be used.
    NothingSent,
    /// The endpoint said that it did not process the request: REFUSED_STREAM, or a GOAWAY that leaves it out.
    Unprocessed,
    /// Some of the request was sent and the connection broke before the first byte of a response.
    NoResponseByte,
    /// A response had begun.
    ResponseStarted,
    /// The time for the whole request is over.
    TimedOut,
    /// The client went away.
    ClientGone,
}

/// Whether a request that failed may be sent once more.
///
/// What surely was not processed may be, whatever its method. What may have been processed only if doing it
/// twice is doing it once (RFC 9110 §9.2.2). `attempts` counts those made so far, the failed one included;
/// there are at most [`MAX_ATTEMPTS`]. `body_replayable` says that the whole body can still be sent: there is
/// none, it is kept, or nothing was taken from the client yet.
#[must_use]
pub fn may_try_again(failure: Failure, method: &Method, body_replayable: bool, attempts: u32) -> bool {
    attempts < MAX_ATTEMPTS
        && match failure {
            // A body that was not touched needs no replay.
            Failure::NothingSent => true,
            Failure::Unprocessed => body_replayable,
            // A CONNECT or an extension method is not known to be idempotent, and a POST is known not to be.
            Failure::NoResponseByte => body_replayable && method.is_idempotent(),
            Failure::ResponseStarted | Failure::TimedOut | Failure::ClientGone => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Failure; 6] = [
        Failure::NothingSent,
        Failure::Unprocessed,
        Failure::NoResponseByte,
        Failure::ResponseStarted,
        Failure::TimedOut,
        Failure::ClientGone,
    ];

    fn retried(method: &Method, body_replayable: bool) -> Vec<Failure> {
        ALL.into_iter().filter(|failure| may_try_again(*failure, method, body_replayable, 1)).collect()
    }

    #[test]
    fn what_was_not_processed_is_tried_again_whatever_its_method() {
        for method in [Method::POST, Method::PATCH, Method::CONNECT, "PURGE".parse().unwrap()] {
            assert_eq!(retried(&method, true), [Failure::NothingSent, Failure::Unprocessed], "{method}");
            assert_eq!(retried(&method, false), [Failure::NothingSent], "{method}");
        }
    }

    #[test]
    fn what_may_have_been_processed_is_tried_again_only_if_idempotent_and_replayable() {
        for name in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"] {
            let method: Method = name.parse().unwrap();
            let expected = [Failure::NothingSent, Failure::Unprocessed, Failure::NoResponseByte];
            assert_eq!(retried(&method, true), expected, "{method}");
            assert_eq!(retried(&method, false), [Failure::NothingSent], "{method}");
        }
    }

    #[test]
    fn nothing_is_tried_a_third_time() {
        assert!(ALL.iter().all(|failure| !may_try_again(*failure, &Method::GET, true, 2)));
    }
}
