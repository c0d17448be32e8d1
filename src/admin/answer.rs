//! Responses of the admin API. Errors are problem documents (RFC 9457); nothing may be cached.

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::Full;
use serde_json::{Map, Value, json};

/// What an answer came of, in words for the audit log.
#[derive(Clone, Debug)]
pub(super) struct Detail(pub(super) String);

/// As whom the store knows whoever asked, for the audit log.
#[derive(Clone, Debug)]
pub(super) struct Author(pub(super) String);

pub(super) type Answer = Response<Full<Bytes>>;

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    more: Map<String, Value>,
}

impl Problem {
    /// A problem of kind `status`; `detail` is a sentence for people.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), more: Map::new() }
    }

    /// Adds a member for programs. `type`, `title`, `status` and `detail` are taken.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }

    /// The sentence for people.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn answer(&self) -> Answer {
        let mut members = self.more.clone();
        members.insert("type".into(), "about:blank".into());
        members.insert("title".into(), self.status.canonical_reason().unwrap_or("Error").into());
        members.insert("status".into(), self.status.as_u16().into());
        members.insert("detail".into(), self.detail.as_str().into());
        let text = Value::Object(members).to_string() + "\n";
        let mut answer = answer(self.status, "application/problem+json", text);
        answer.extensions_mut().insert(Detail(self.detail.clone()));
        answer
    }
}

/// 405, and which methods would have been right.
pub(super) fn method_not_allowed(allowed: &str) -> Answer {
    let detail = format!("this path takes {allowed}");
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).answer();
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

pub(super) fn json(status: StatusCode, value: &Value) -> Answer {
    // Indented: half of its readers are people with curl.
    answer(status, "application/json", format!("{value:#}\n"))
}

/// A file.
pub(super) fn file(bytes: Vec<u8>) -> Answer {
    let mut response = answer(StatusCode::OK, "application/octet-stream", String::new());
    *response.body_mut() = Full::new(Bytes::from(bytes));
    response
}

pub(super) fn metrics(text: String) -> Answer {
    answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

/// Health: 200 if all checks are good, else 503 and why; the checks themselves on request.
pub(super) fn health(checks: &[super::Check], verbose: bool) -> Answer {
    let ok = checks.iter().all(|check| check.ok);
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut told = json!({ "ok": ok });
    if !ok {
        let reasons: Vec<&str> =
            checks.iter().filter(|check| !check.ok).map(|check| check.detail.as_str()).collect();
        told["reason"] = reasons.join("; ").into();
    }
    if verbose {
        told["checks"] = checks
            .iter()
            .map(|check| json!({ "name": check.name, "ok": check.ok, "detail": check.detail }))
            .collect();
    }
    json(status, &told)
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let fields: [(HeaderName, &'static str); 4] = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, "default-src 'self'; frame-ancestors 'none'"),
    ];
    for (name, value) in fields {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
