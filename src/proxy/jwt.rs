//! Tokens of end users on their way in: taken from the request, verified, and told to the application as headers.
//! What makes a token good is in `identity::jwt`.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};
use http_body::Frame;

use super::{
    body::ResponseBody, connection::Downstream, headers, limits, record::RequestRecord, reply::Reason,
};
use crate::{
    identity::jwt::{Refusal, Verified},
    snapshot::MeshSnapshot,
    types::{Direction, Flag},
};

/// Finds out for whom the request is made. Headers that carry claims are taken from it in any case: only we say them.
///
/// # Errors
/// The refusal of a token that is not good, or of none where one is required.
pub(super) fn authenticate(
    downstream: &Downstream,
    snapshot: &MeshSnapshot,
    head: &mut Parts,
    record: &RequestRecord,
) -> Result<Option<Arc<Verified>>, Refusal> {
    let Some(verifier) = snapshot.inbound.jwt.as_ref().filter(|_| downstream.side == Direction::Inbound)
    else {
        return Ok(None);
    };
    headers::remove_alike(&mut head.headers, verifier.reserved());
    let now = downstream.worker.wall_at(record.started());
    let verified = verifier.verify(bearer(&head.headers), now)?;
    if let Some(verified) = &verified {
        if !verified.forward_token {
            head.headers.remove(header::AUTHORIZATION);
        }
        for (name, value) in &verified.headers {
            head.headers.insert(name, value.clone());
        }
    }
    Ok(verified)
}

/// The answer to a request whose token is not good. What is wrong with it is for the log: it would tell an attacker
/// what to try next.
pub(super) fn answer(
    snapshot: &MeshSnapshot,
    refusal: Refusal,
    record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    let reason = Reason {
        status: StatusCode::UNAUTHORIZED,
        flag: Flag::Unauthenticated,
        token: "http_request_denied",
        details: None,
        close: false,
        retry_after: None,
    };
    // RFC 6750 §3.1: without a token there is no error to tell.
    let challenge = if refusal == Refusal::Missing { "Bearer" } else { "Bearer error=\"invalid_token\"" };
    let mut response = limits::answer_for(&snapshot.inbound.route, &reason, record);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

/// The token of the one `Authorization` header. Another scheme than `Bearer` is none of our business.
fn bearer(headers: &HeaderMap) -> Result<Option<&[u8]>, Refusal> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(Refusal::Malformed("there are several `Authorization` headers"));
    }
    let field = field.as_bytes();
    let Some((scheme, token)) = field.split_at_checked(SCHEME.len()) else { return Ok(None) };
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return Ok(None);
    }
    match token.split_first() {
        Some((b' ', token)) => Ok(Some(token.trim_ascii())),
        None => Err(Refusal::Malformed("there is no token")),
        // A scheme that begins alike.
        Some(_) => Ok(None),
    }
}

const SCHEME: &[u8] = b"Bearer";

/// Takes out of trailers what only others than the client may say.
pub(super) fn clean_trailers(mut frame: Frame<Bytes>, reserved: &[HeaderName]) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut().filter(|_| !reserved.is_empty()) {
        headers::remove_alike(trailers, reserved);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_token_is_what_stands_behind_the_scheme_in_any_case() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c"] {
            let fields = headers(&[("authorization", value)]);
            assert_eq!(bearer(&fields), Ok(Some(&b"a.b.c"[..])), "{value}");
        }
    }

    #[test]
    fn other_schemes_carry_no_token() {
        for value in ["", "Basic YTpi", "Bear", "BearerX a.b.c", "Digest username=\"a\""] {
            assert_eq!(bearer(&headers(&[("authorization", value)])), Ok(None), "{value}");
        }
        assert_eq!(bearer(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn two_authorization_headers_are_refused_whatever_they_are() {
        for second in ["Bearer a.b.c", "Basic YTpi", ""] {
            let fields = headers(&[("authorization", "Bearer a.b.c"), ("authorization", second)]);
            assert!(matches!(bearer(&fields), Err(Refusal::Malformed(_))), "{second}");
        }
        assert!(matches!(bearer(&headers(&[("authorization", "Bearer")])), Err(Refusal::Malformed(_))));
    }
}
