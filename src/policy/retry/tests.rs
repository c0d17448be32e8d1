//! What is repeated, what is not, and which reason is given.

use super::*;

const UNPROCESSED: [Failure; 3] = [Failure::NotConnected, Failure::NothingSent, Failure::Unprocessed];
const AMBIGUOUS: [Failure; 2] = [Failure::NoResponseByte, Failure::TryTimedOut];

fn params(words: &[&str]) -> RetryParams {
    let mut retry_on = RetryOn::default();
    for word in words {
        match word.parse::<u16>() {
            Ok(status) => retry_on.add_status(StatusCode::from_u16(status).unwrap()),
            Err(_) => retry_on.add(Condition::WORDS.iter().find(|(name, _)| name == word).unwrap().1),
        }
    }
    RetryParams {
        attempts: 2,
        retry_on,
        per_try_timeout: None,
        backoff: Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) },
        max_body: 65_536,
        retry_non_idempotent: false,
        hedge: None,
    }
}

fn builtin() -> RetryParams {
    RetryParams { retry_on: RetryOn::builtin(), ..params(&[]) }
}

fn answered(status: u16) -> Failure {
    Failure::Answered(StatusCode::from_u16(status).unwrap())
}

#[test]
fn what_was_not_processed_is_repeated_whatever_its_method() {
    for method in [Method::GET, Method::POST, Method::PATCH, Method::CONNECT, "PURGE".parse().unwrap()] {
        for failure in UNPROCESSED {
            assert_eq!(builtin().judge(failure, &method, true, 1), Ok(()), "{method} {failure:?}");
        }
    }
}

#[test]
fn what_may_have_been_processed_is_repeated_only_if_that_is_harmless() {
    for failure in AMBIGUOUS {
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"] {
            assert_eq!(builtin().judge(failure, &method.parse().unwrap(), true, 1), Ok(()), "{method}");
        }
        for method in ["POST", "PATCH", "CONNECT", "PURGE"] {
            let method = method.parse().unwrap();
            assert_eq!(
                builtin().judge(failure, &method, true, 1),
                Err(Some(Denied::NotIdempotent)),
                "{method}"
            );
            let bold = RetryParams { retry_non_idempotent: true, ..builtin() };
            assert_eq!(bold.judge(failure, &method, true, 1), Ok(()), "{method}");
        }
    }
}

#[test]
fn statuses_are_repeated_only_where_the_route_names_them() {
    let cases: [(&[&str], u16, bool); 9] = [
        (&["connect-failure", "reset"], 503, false),
        (&["gateway-error"], 503, true),
        (&["gateway-error"], 500, false),
        (&["5xx"], 500, true),
        (&["5xx"], 404, false),
        (&["retriable-4xx"], 409, true),
        (&["retriable-4xx"], 404, false),
        (&["429"], 429, true),
        (&["429"], 503, false),
    ];
    for (words, status, repeated) in cases {
        let verdict = params(words).judge(answered(status), &Method::GET, true, 1);
        assert_eq!(verdict, if repeated { Ok(()) } else { Err(None) }, "{words:?} {status}");
    }
    assert_eq!(
        params(&["5xx"]).judge(answered(500), &Method::POST, true, 1),
        Err(Some(Denied::NotIdempotent)),
        "an error may come after the work was done"
    );
}

#[test]
fn gateway_error_and_5xx_hold_for_no_answer_too() {
    for word in ["gateway-error", "5xx"] {
        for failure in UNPROCESSED.into_iter().chain(AMBIGUOUS) {
            assert_eq!(params(&[word]).judge(failure, &Method::GET, true, 1), Ok(()), "{word} {failure:?}");
        }
    }
}

#[test]
fn naming_a_code_of_grpc_is_the_statement_that_a_call_may_be_repeated() {
    let named = params(&["unavailable"]);
    assert_eq!(named.judge(Failure::AnsweredGrpc(14), &Method::POST, true, 1), Ok(()));
    assert_eq!(named.judge(Failure::AnsweredGrpc(13), &Method::POST, true, 1), Err(None));
    assert_eq!(builtin().judge(Failure::AnsweredGrpc(14), &Method::POST, true, 1), Err(None));
}

#[test]
fn reasons_against_are_told_apart_and_what_is_not_configured_has_none() {
    let get = Method::GET;
    assert_eq!(builtin().judge(Failure::NotConnected, &get, false, 1), Err(Some(Denied::Body)));
    assert_eq!(builtin().judge(Failure::NotConnected, &get, true, 3), Err(Some(Denied::Attempts)));
    assert_eq!(builtin().judge(Failure::NotConnected, &get, true, 2), Ok(()));
    assert_eq!(builtin().judge(Failure::Final, &get, true, 1), Err(None));
    let never = RetryParams { attempts: 0, ..builtin() };
    assert_eq!(never.judge(Failure::NotConnected, &get, true, 1), Err(None));
}

#[test]
fn the_words_are_shown_as_they_were_written() {
    let shown = params(&["reset", "connect-failure", "unavailable", "429"]).retry_on.words();
    assert_eq!(shown, ["connect-failure", "reset", "unavailable", "429"]);
}
