//! The token: who has it, how slowly others may guess, and what the log hears of them. Which requests need it is
//! decided by the dispatcher.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};

use super::{
    Problem,
    answer::{Answer, Detail},
    server::Caller,
};
use crate::{
    rt::clock,
    types::{Mono, Secret},
};

/// Between two answers to requests without the token, whoever sends them. Five guesses a second are none, and the log
/// cannot be filled either.
const PACE: Duration = Duration::from_millis(200);
/// Between two lines about them.
const QUIET: Duration = Duration::from_secs(10);

/// Why a request does not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// It has no token.
    Missing,
    /// It has one that is wrong, or several.
    Wrong,
}

impl Denied {
    fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "the request has no token; send `Authorization: Bearer TOKEN`",
            Self::Wrong => "the token is wrong",
        }
    }
}

/// One listener's door.
#[derive(Debug)]
pub(super) struct Gate {
    token: Option<Secret>,
    failures: Mutex<Failures>,
}

impl Gate {
    /// One that opens to `token`, or to everybody.
    pub(super) fn new(token: Option<Secret>) -> Self {
        Self { token, failures: Mutex::default() }
    }

    /// Whether whoever is in has the token.
    pub(super) fn asks(&self) -> bool {
        self.token.is_some()
    }

    /// Lets a request in.
    ///
    /// # Errors
    /// The answer to one without the token. It comes late: one after the other, for all connections together.
    pub(super) async fn admit(&self, headers: &HeaderMap, caller: &Caller) -> Result<(), Answer> {
        let Err(denied) = check(self.token.as_ref(), headers) else { return Ok(()) };
        // Numbers only, which a panic in between leaves as good as they were.
        let turn = self.failures.lock().unwrap_or_else(PoisonError::into_inner).note(clock::now());
        if let Some(left_out) = turn.say {
            tracing::warn!(peer = %caller, reason = denied.as_str(), left_out, "a request to the admin API was denied");
        }
        tokio::time::sleep(turn.wait).await;
        Err(answer(denied))
    }
}

fn check(token: Option<&Secret>, headers: &HeaderMap) -> Result<(), Denied> {
    let Some(token) = token else { return Ok(()) };
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let field = fields.next().ok_or(Denied::Missing)?;
    if fields.next().is_some() {
        return Err(Denied::Wrong);
    }
    let (scheme, offered) = field.as_bytes().split_at_checked(SCHEME.len()).ok_or(Denied::Wrong)?;
    let is_right = scheme.eq_ignore_ascii_case(SCHEME) && token.matches(offered.trim_ascii());
    if is_right { Ok(()) } else { Err(Denied::Wrong) }
}

const SCHEME: &[u8] = b"Bearer ";

fn answer(denied: Denied) -> Answer {
    let mut answer = Problem::new(StatusCode::UNAUTHORIZED, denied.as_str()).answer();
    // RFC 6750 §3.1: without a token there is no error to tell.
    let challenge = match denied {
        Denied::Missing => "Bearer realm=\"outrigger\"",
        Denied::Wrong => "Bearer realm=\"outrigger\", error=\"invalid_token\"",
    };
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    answer.extensions_mut().insert(Detail(denied.as_str().to_owned()));
    answer
}

/// When the next one is answered, and when the last one was logged.
#[derive(Debug, Default)]
struct Failures {
    next: Mono,
    logged: Option<Mono>,
    left_out: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Turn {
    wait: Duration,
    /// A line is due, and so many were left out since the last one.
    say: Option<u64>,
}

impl Failures {
    fn note(&mut self, now: Mono) -> Turn {
        let turn = self.next.max(now.after(PACE));
        self.next = turn.after(PACE);
        let say = if self.logged.is_none_or(|last| now.since(last) >= QUIET) {
            self.logged = Some(now);
            Some(std::mem::take(&mut self.left_out))
        } else {
            self.left_out += 1;
            None
        };
        Turn { wait: turn.since(now), say }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(values: &[&'static str]) -> Result<(), Denied> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        check(Some(&Secret::new("0123456789abcdef")), &headers)
    }

    #[test]
    fn only_the_one_token_opens() {
        for right in ["Bearer 0123456789abcdef", "bearer 0123456789abcdef", "BEARER  0123456789abcdef "] {
            assert_eq!(offered(&[right]), Ok(()), "{right}");
        }
        for wrong in
            ["", "Bearer", "Bearer ", "Bearer 0123456789abcde", "Basic 0123456789abcdef", "0123456789abcdef"]
        {
            assert_eq!(offered(&[wrong]), Err(Denied::Wrong), "{wrong}");
        }
        assert_eq!(offered(&[]), Err(Denied::Missing));
    }

    #[test]
    fn two_tokens_are_none() {
        let right = "Bearer 0123456789abcdef";
        assert_eq!(offered(&[right, right]), Err(Denied::Wrong));
    }

    #[test]
    fn where_no_token_is_set_none_is_asked_for() {
        assert_eq!(check(None, &HeaderMap::new()), Ok(()));
    }

    #[test]
    fn failures_are_answered_one_after_the_other_at_a_fixed_pace() {
        let mut failures = Failures::default();
        let now = Mono::from_nanos(7_000_000_000);
        let waits: Vec<Duration> = (0..4).map(|_| failures.note(now).wait).collect();
        assert_eq!(waits, [PACE, 2 * PACE, 3 * PACE, 4 * PACE]);
        // Once it is quiet the queue is forgotten.
        assert_eq!(failures.note(now.after(60 * PACE)).wait, PACE);
    }

    #[test]
    fn a_flood_of_failures_is_one_line_in_a_while_with_their_number() {
        let mut failures = Failures::default();
        let now = Mono::from_nanos(7_000_000_000);
        assert_eq!(failures.note(now).say, Some(0));
        assert!((0..50).all(|_| failures.note(now.after(PACE)).say.is_none()));
        assert_eq!(failures.note(now.after(QUIET)).say, Some(50));
    }
}
