//! Answers that the proxy makes itself. Each says whose fault it is: `Proxy-Status` (RFC 9209) for machines, a
//! word shared with metrics and access log for people, and gRPC's own status for gRPC.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::{
    body::{ResponseBody, UploadFault},
    error::ProxyError,
    headers::Refused,
    record::RequestRecord,
};
use crate::types::Flag;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// Which [`Flag`] an answer of the proxy's own carries.
pub(super) const FLAG_HEADER: HeaderName = HeaderName::from_static("x-outrigger-flag");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Why the proxy answers itself.
pub(crate) struct Reason {
    pub(crate) status: StatusCode,
    pub(crate) flag: Flag,
    /// Error type of RFC 9209 §2.3.
    pub(crate) token: &'static str,
    /// Word from a fixed set; safe to show to clients.
    pub(crate) details: Option<&'static str>,
    /// The connection must not be used any further.
    pub(crate) close: bool,
    /// When it is worth asking again; a refusal says a second if this does not know better.
    pub(crate) retry_after: Option<Duration>,
}

impl Reason {
    /// The request cannot be accepted.
    pub(crate) fn refused(refused: Refused) -> Self {
        Self {
            status: refused.status,
            flag: Flag::BadRequest,
            token: "http_request_error",
            details: Some(refused.reason),
            close: false,
            retry_after: None,
        }
    }

    /// The guard rejected what the client sent; what follows cannot be understood any more.
    pub(crate) fn rejected(status: u16, reason: &'static str) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        let late = status == StatusCode::REQUEST_TIMEOUT;
        Self {
            status,
            flag: if late { Flag::DownstreamTimeout } else { Flag::BadRequest },
            token: if late { "connection_read_timeout" } else { "http_request_error" },
            details: Some(reason),
            close: true,
            retry_after: None,
        }
    }

    /// The caller may not do what it asks for; `details` say by whose word.
    pub(crate) fn denied(details: &'static str) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            flag: Flag::Denied,
            token: "http_request_denied",
            details: Some(details),
            close: false,
            retry_after: None,
        }
    }

    /// No route takes the request.
    pub(crate) fn no_route() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            flag: Flag::NoRoute,
            token: "destination_not_found",
            details: None,
            close: false,
            retry_after: None,
        }
    }

    /// The client's body broke off or is malformed.
    pub(crate) fn bad_body(fault: UploadFault) -> Self {
        match fault {
            UploadFault::TimedOut => Self::rejected(StatusCode::REQUEST_TIMEOUT.as_u16(), "body_timeout"),
            UploadFault::Broken => Self::broken_body(),
            UploadFault::TooLarge => Self::body_too_large(),
        }
    }

    /// The client's body is larger than its route allows; what is left of it is not read.
    pub(crate) fn body_too_large() -> Self {
        Self::rejected(StatusCode::PAYLOAD_TOO_LARGE.as_u16(), "body_too_large")
    }

    fn broken_body() -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            flag: Flag::BadRequest,
            token: "http_request_error",
            details: Some("body"),
            close: true,
            retry_after: None,
        }
    }
}

impl From<&ProxyError> for Reason {
    fn from(error: &ProxyError) -> Self {
        Self {
            status: error.status,
            flag: error.flag,
            token: error.token,
            details: None,
            close: false,
            retry_after: error.retry_after,
        }
    }
}

/// Builds the answer and hands `record` to its body, which is recorded when the body is gone.
pub(crate) fn answer(reason: &Reason, mut record: Box<RequestRecord>) -> Response<ResponseBody> {
    record.answered(reason.status, reason.flag);
    let grpc = record.is_grpc();
    let mut response = if grpc { grpc_answer(reason) } else { http_answer(reason, &record) };
    let headers = response.headers_mut();
    let status = match reason.details {
        None => format!("outrigger; error={}", reason.token),
        Some(details) => format!("outrigger; error={}; details=\"{details}\"", reason.token),
    };
    if let Ok(status) = HeaderValue::try_from(status) {
        headers.insert(PROXY_STATUS, status);
    }
    headers.insert(FLAG_HEADER, HeaderValue::from_static(reason.flag.as_str()));
    if let Some(id) = record.request_id().and_then(|id| HeaderValue::from_bytes(id).ok()) {
        headers.insert(REQUEST_ID, id);
    }
    if reason.close && record.is_http1() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| ResponseBody::Local(body, Some(record)))
}

/// The same answer with another body.
pub(crate) fn with_body(answer: Response<ResponseBody>, body: Bytes) -> Response<ResponseBody> {
    answer.map(|old| match old {
        ResponseBody::Local(_, record) => ResponseBody::Local((!body.is_empty()).then_some(body), record),
        other => other,
    })
}

/// A redirect or a direct response: configured, hence no error and no `Proxy-Status` error.
pub(crate) fn configured(
    status: StatusCode,
    location: Option<HeaderValue>,
    body: Bytes,
    mut record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    record.answered(status, Flag::Direct);
    let mut response = Response::new(());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(PROXY_STATUS, HeaderValue::from_static("outrigger"));
    headers.insert(FLAG_HEADER, HeaderValue::from_static(Flag::Direct.as_str()));
    if let Some(location) = location {
        headers.insert(header::LOCATION, location);
    }
    if !body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    let body = (!body.is_empty()).then_some(body);
    response.map(|()| ResponseBody::Local(body, Some(record)))
}

fn http_answer(reason: &Reason, record: &RequestRecord) -> Response<Option<Bytes>> {
    let mut text = format!(
        "{} {}: {}\n",
        reason.status.as_u16(),
        reason.status.canonical_reason().unwrap_or("error"),
        reason.flag.as_str()
    );
    if let Some(id) = record.request_id().and_then(|id| std::str::from_utf8(id).ok()) {
        text.push_str("request id: ");
        text.push_str(id);
        text.push('\n');
    }
    let mut response = Response::new(Some(Bytes::from(text)));
    *response.status_mut() = reason.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if reason.status == StatusCode::METHOD_NOT_ALLOWED {
        headers
            .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"));
    }
    if reason.status == StatusCode::SERVICE_UNAVAILABLE {
        // Whole seconds, rounded up: whoever comes too early is refused again.
        let seconds = reason.retry_after.map_or(1, |wait| wait.as_millis().div_ceil(1000).max(1) as u64);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A gRPC client reads the status of the call, not of HTTP (a "trailers-only" response).
fn grpc_answer(reason: &Reason) -> Response<Option<Bytes>> {
    let mut response = Response::new(None);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from_static(grpc_status(reason.status)));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(reason.flag.as_str()));
    if let Some(wait) = reason.retry_after {
        // gRFC A6: a client that retries by itself waits for as long.
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        headers.insert(GRPC_PUSHBACK, HeaderValue::from(millis.max(1)));
    }
    response
}

/// gRPC's table of HTTP statuses, but a timeout is DEADLINE_EXCEEDED.
fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 | 405 => "12",
        408 | 504 => "4",
        429 => "8",
        502 | 503 => "14",
        _ => "2",
    }
}
