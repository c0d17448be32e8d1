//! One question to the certificate authority and its answer: who may have what. A peer that is refused hears only that; why
//! is in the log and in the metric.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Serialize;

use super::Shared;
use crate::{
    identity::{
        Facts,
        ca::{CaError, Fingerprint, JoinToken, Presented, Signed, Wish},
    },
    peer::protocol::{BUNDLE, Bundle, CERTIFICATES, IN_USE, MAX_REQUEST, SigningAnswer, SigningRequest},
    rt::clock,
    telemetry::metrics::{CaRequest, CaResult},
};

/// A minute: the least that an authority signs for.
const SHORTEST: Duration = Duration::from_secs(60);

/// Why there is no certificate.
struct Refusal {
    status: StatusCode,
    result: CaResult,
    /// For our log only.
    reason: String,
}

impl Refusal {
    fn new(status: StatusCode, result: CaResult, reason: impl Into<String>) -> Self {
        Self { status, result, reason: reason.into() }
    }

    /// Of an error with its cause.
    fn of(error: &CaError) -> Self {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let (status, result) = match error {
            CaError::Token(_) => (StatusCode::FORBIDDEN, CaResult::Token),
            CaError::Renewal(_) => (StatusCode::FORBIDDEN, CaResult::Certificate),
            CaError::Request(_) => (StatusCode::FORBIDDEN, CaResult::Csr),
            _ => (StatusCode::SERVICE_UNAVAILABLE, CaResult::Failed),
        };
        Self::new(status, result, format!("{error}{cause}"))
    }
}

/// Answers a request.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    caller: Option<&Facts>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (kind, outcome) = match (&method, path.as_str()) {
        (&Method::POST, CERTIFICATES) => certificate(shared, caller, request).await,
        (&Method::GET, BUNDLE) => (CaRequest::Bundle, bundle(shared, caller, request.uri().query()).await),
        _ => {
            let refusal = Refusal::new(StatusCode::NOT_FOUND, CaResult::Malformed, "there is nothing there");
            (CaRequest::Other, Err(refusal))
        }
    };
    let caller = caller.map_or("-", |facts| facts.id.as_str());
    let response = match outcome {
        Ok(body) => {
            shared.metrics.answered(kind, CaResult::Ok);
            respond(StatusCode::OK, body)
        }
        Err(Refusal { status, result, reason }) => {
            shared.metrics.answered(kind, result);
            tracing::warn!(%peer, caller, result = result.as_str(), reason, "the certificate authority refused");
            respond(status, Bytes::from_static(b"{}"))
        }
    };
    Ok(response)
}

fn respond(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn json<T: Serialize>(value: &T) -> Result<Bytes, Refusal> {
    let written = serde_json::to_vec(value).map(Bytes::from);
    let failed = |error: serde_json::Error| {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, CaResult::Failed, error.to_string())
    };
    written.map_err(failed)
}

/// What entitles.
enum Title {
    Token(JoinToken),
    Certificate(Presented),
}

async fn certificate(
    shared: &Arc<Shared>,
    caller: Option<&Facts>,
    request: Request<Incoming>,
) -> (CaRequest, Result<Bytes, Refusal>) {
    // Before it is known what the body says: whoever shows a certificate renews, as far as budgets go.
    let presumed = if caller.is_some() { CaRequest::Renew } else { CaRequest::Join };
    let pace = if caller.is_some() { &shared.renewals } else { &shared.joins };
    let is_in_time = pace.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take(clock::now());
    if !is_in_time {
        let refusal =
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, CaResult::Overflow, "too many requests per second");
        return (presumed, Err(refusal));
    }
    let asked = match read(request).await {
        Ok(asked) => asked,
        Err(refusal) => return (presumed, Err(refusal)),
    };
    let (kind, title) = match title(&asked, caller) {
        Ok(Title::Token(token)) => (CaRequest::Join, Title::Token(token)),
        Ok(Title::Certificate(presented)) => (CaRequest::Renew, Title::Certificate(presented)),
        Err(refusal) => return (presumed, Err(refusal)),
    };
    let signed = sign(shared, asked, title).await;
    (kind, signed.and_then(|signed| json(&SigningAnswer::from(signed))))
}

fn title(asked: &SigningRequest, caller: Option<&Facts>) -> Result<Title, Refusal> {
    let refused = |result, reason: &str| Refusal::new(StatusCode::FORBIDDEN, result, reason);
    if let Some(token) = &asked.token {
        let token =
            token.parse().map_err(|error| refused(CaResult::Token, &format!("the token: {error}")))?;
        return Ok(Title::Token(token));
    }
    let caller = caller
        .ok_or_else(|| refused(CaResult::Certificate, "neither a token nor a certificate was shown"))?;
    let presented = Presented::of(caller);
    let presented =
        presented.ok_or_else(|| refused(CaResult::Certificate, "its number is none of this authority"))?;
    Ok(Title::Certificate(presented))
}

async fn read(request: Request<Incoming>) -> Result<SigningRequest, Refusal> {
    let malformed = |reason: String| Refusal::new(StatusCode::BAD_REQUEST, CaResult::Malformed, reason);
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect().await;
    let body = match body {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let reason = format!("the body is longer than {MAX_REQUEST} bytes");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, CaResult::Malformed, reason));
        }
        Err(error) => return Err(malformed(format!("the body broke off: {error}"))),
    };
    // The message of the reader could show a part of a token.
    let read = serde_json::from_slice(&body);
    read.map_err(|error: serde_json::Error| malformed(format!("no request at byte {}", error.column())))
}

/// Signs when it is its turn. A caller that goes away does not stop what has begun.
async fn sign(shared: &Arc<Shared>, asked: SigningRequest, title: Title) -> Result<Signed, Refusal> {
    let node = asked.node.as_deref().map(str::parse).transpose().map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, CaResult::Malformed, format!("the node: {error}"))
    })?;
    let busy = |_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, CaResult::Overflow, "the queue is full");
    let place = Arc::clone(&shared.queue).try_acquire_owned().map_err(busy)?;
    let ended = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, CaResult::Failed, "the process is leaving");
    let turn = Arc::clone(&shared.turn).acquire_owned().await.map_err(|_| ended())?;
    let wished = asked.ttl_seconds.map_or(shared.leaf_ttl, Duration::from_secs);
    let ttl = Some(wished.min(shared.leaf_ttl).max(SHORTEST));
    let authority = Arc::clone(&shared.authority);
    let signing = tokio::task::spawn_blocking(move || {
        let _kept = (place, turn);
        match title {
            Title::Token(token) => authority.join(&asked.csr, &token, Wish { node, ttl }, clock::wall()),
            Title::Certificate(presented) => authority.renew(&asked.csr, &presented, ttl, clock::wall()),
        }
    });
    let signed = signing.await.map_err(|_| ended())?.map_err(|error| Refusal::of(&error))?;
    let leaf = &signed.leaf;
    let node = leaf.node.as_ref().map_or("-", |node| node.as_str());
    tracing::info!(identity = %leaf.identity, node, serial = %leaf.serial, until = %leaf.not_after, "the certificate authority signed");
    Ok(signed)
}

async fn bundle(shared: &Arc<Shared>, caller: Option<&Facts>, query: Option<&str>) -> Result<Bytes, Refusal> {
    let caller = caller.ok_or_else(|| {
        Refusal::new(StatusCode::FORBIDDEN, CaResult::Certificate, "no certificate was shown")
    })?;
    let published = shared.published.load();
    let in_use = query.and_then(|query| query.strip_prefix(IN_USE)).map(str::parse::<Fingerprint>);
    let newest = Fingerprint::of(published.bundle.as_bytes());
    if let (Some(Ok(in_use)), Some(presented)) = (in_use, Presented::of(caller))
        && in_use == newest
        && Bundle::from(&*published).phase != crate::peer::MeshPhase::Steady
    {
        let authority = Arc::clone(&shared.authority);
        let known = tokio::task::spawn_blocking(move || authority.acknowledge(&presented, clock::wall()));
        // It will say so again with its next look.
        if let Ok(Err(error)) = known.await {
            tracing::warn!(%error, "the certificate authority could not write down who knows the bundle");
        }
    }
    json(&Bundle::from(&*published))
}
