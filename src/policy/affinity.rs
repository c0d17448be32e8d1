//! Session affinity: the cookie that brings a client back to the endpoint that answered it first.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue};

use super::balance::{cookie, hash_bytes};

/// A cookie that names an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffinityParams {
    /// Name of the cookie: a token (RFC 6265 §4.1.1).
    pub cookie: Arc<str>,
    /// How long a client keeps it; `None` until it is closed.
    pub ttl: Option<Duration>,
    /// Below which path the client sends it back.
    pub path: Arc<str>,
}

/// What an endpoint is called in the cookie: a hash of its address, so that every sidecar calls it the same and no
/// address is told to clients. Not a secret: a client that guesses one reaches an endpoint that it could reach anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(u64);

impl SessionId {
    /// That of the endpoint at `address`.
    #[must_use]
    pub fn of(address: &str) -> Self {
        Self(hash_bytes(address.as_bytes()))
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let text =
            std::str::from_utf8(text).ok().filter(|text| text.len() == 16 && !text.starts_with('+'))?;
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl AffinityParams {
    /// The endpoint that the request asks for. Anything that is no name of an endpoint is nobody.
    #[must_use]
    pub fn asked_for(&self, headers: &HeaderMap) -> Option<SessionId> {
        SessionId::parse(cookie(headers, self.cookie.as_bytes())?)
    }

    /// The `Set-Cookie` field that brings a client back to `session`. Scripts cannot read the cookie, and it is not
    /// sent along when another site leads here.
    #[must_use]
    pub fn set_cookie(&self, session: SessionId) -> Option<HeaderValue> {
        let Self { cookie, ttl, path } = self;
        let age = ttl.map(|ttl| format!("; Max-Age={}", ttl.as_secs().max(1))).unwrap_or_default();
        let field = format!("{cookie}={:016x}; Path={path}{age}; HttpOnly; SameSite=Lax", session.0);
        HeaderValue::from_str(&field).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(ttl: Option<Duration>) -> AffinityParams {
        AffinityParams { cookie: "sid".into(), ttl, path: "/".into() }
    }

    #[test]
    fn a_cookie_that_was_set_is_understood() {
        let session = SessionId::of("10.0.0.1:80");
        let field = params(Some(Duration::from_secs(60))).set_cookie(session).unwrap();
        let field = field.to_str().unwrap();
        assert_eq!(field.split_once("; ").unwrap().1, "Path=/; Max-Age=60; HttpOnly; SameSite=Lax");
        let mut headers = HeaderMap::new();
        let pair = field.split(';').next().unwrap();
        headers.insert("cookie", format!("a=b; {pair}; c=d").parse().unwrap());
        assert_eq!(params(None).asked_for(&headers), Some(session));
        assert_ne!(SessionId::of("10.0.0.2:80"), session);
    }

    #[test]
    fn other_values_name_nobody() {
        for value in
            ["", "x", "+123456789abcdef", "0123456789abcdef0", "0123456789abcdeg", "0123 56789abcdef"]
        {
            let mut headers = HeaderMap::new();
            headers.insert("cookie", format!("sid={value}").parse().unwrap());
            assert_eq!(params(None).asked_for(&headers), None, "{value}");
        }
    }
}
