//! Asks another service whether a request that comes in may pass: by its head alone, before anything of it is sent to
//! the application. What cannot be asked is refused, unless the configuration says otherwise.

use std::{future::poll_fn, pin::Pin, rc::Rc, sync::Arc, task::Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, request::Parts, response};
use http_body::Body;
use hyper::body::Incoming;

use super::{
    attempt::{self, Answer, Outgoing},
    body::{Lease, RequestBody, ResponseBody},
    connection::Downstream,
    deadline::{Deadline, Limits, SpareTimer},
    error::ProxyError,
    headers::{self, RequestFacts},
    limits,
    record::RequestRecord,
    reply::{self, Reason},
};
use crate::{
    policy::classify::Outcome,
    rt::clock,
    snapshot::{ExtAuthz, MeshSnapshot, Route, SelectionId},
    telemetry::metrics::ExtAuthzResult,
    types::{Direction, Flag},
};

/// Longest part of a refusal's body that the client gets.
const MAX_BODY: usize = 64 * 1024;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// What the service said.
enum Verdict {
    Allow(HeaderMap),
    Deny(response::Parts, Bytes),
}

/// Lets a request through, perhaps with headers of the service's; an answer instead if it may not pass. Dropping the
/// future (the client went away) ends the question.
pub(super) async fn check(
    downstream: &Rc<Downstream>,
    snapshot: &MeshSnapshot,
    route: &Arc<Route>,
    head: &mut Parts,
    facts: &RequestFacts,
    record: Box<RequestRecord>,
) -> Result<Box<RequestRecord>, Response<ResponseBody>> {
    let authz = snapshot.inbound.ext_authz.as_ref().filter(|_| downstream.side == Direction::Inbound);
    let Some(authz) = authz else { return Ok(record) };
    let answered = ask(downstream, authz, head, facts).await;
    // Also if the service says nothing: what the client sent is not what the service said.
    headers::remove_alike(&mut head.headers, &authz.params.upstream_headers);
    match answered {
        Ok(Verdict::Allow(said)) => {
            authz.metrics.checked(ExtAuthzResult::Allow);
            for name in &authz.params.upstream_headers {
                for value in said.get_all(name) {
                    head.headers.append(name, value.clone());
                }
            }
            Ok(record)
        }
        Ok(Verdict::Deny(answer, body)) => {
            authz.metrics.checked(ExtAuthzResult::Deny);
            Err(refuse(authz, route, &answer, body, record))
        }
        Err(error) if authz.params.fail_open => {
            authz.metrics.checked(ExtAuthzResult::FailedOpen);
            tracing::debug!(service = %authz.params.service, %error, "a request passes without having been asked for");
            Ok(record)
        }
        Err(error) => {
            let timed_out = error.is_timeout();
            authz.metrics.checked(if timed_out { ExtAuthzResult::Timeout } else { ExtAuthzResult::Error });
            tracing::debug!(service = %authz.params.service, %error, "a request could not be asked for");
            Err(limits::answer_for(route, &denied(StatusCode::FORBIDDEN), record))
        }
    }
}

fn denied(status: StatusCode) -> Reason {
    Reason {
        status,
        flag: Flag::Denied,
        token: "http_request_denied",
        details: None,
        close: false,
        retry_after: None,
    }
}

async fn ask(
    downstream: &Rc<Downstream>,
    authz: &ExtAuthz,
    head: &Parts,
    facts: &RequestFacts,
) -> Result<Verdict, ProxyError> {
    let cluster = &authz.cluster;
    let worker = &downstream.worker;
    let began = clock::now();
    let Some(_active) = cluster.enter() else { return Err(ProxyError::overflow()) };
    let picked = {
        let rng = &mut *worker.rng.borrow_mut();
        cluster.pick(SelectionId::ALL, &[], None, began, rng)
    };
    let chosen = picked.and_then(|index| Some((index, cluster.endpoints[index].admit(began)?)));
    let Some((index, mut admission)) = chosen else { return Err(ProxyError::no_endpoint()) };
    let pool = worker.pools.of(&cluster.endpoints[index], cluster);
    let limit = authz.params.timeout;
    let limits = Limits { request: Some(limit), caller: None, idle: limit, upload: None };
    let mut deadline = Deadline::new(limits, began, None, Rc::clone(&worker.clock), SpareTimer::default());
    let mut outgoing = question(downstream, authz, head, facts)?;
    let mut result = attempt::run(&pool, cluster, &mut outgoing, &mut deadline).await;
    if result.as_ref().is_err_and(|error| error.was_stale) {
        // A pooled connection that had died in silence: nothing was sent.
        result = attempt::run(&pool, cluster, &mut outgoing, &mut deadline).await;
    }
    match result {
        Ok(answer) => {
            let outcome = Outcome::of_response(answer.response.status(), answer.response.headers());
            admission.settle(outcome, None, answer.head_came);
            understand(answer, &mut deadline).await
        }
        Err(error) => {
            if let Some(outcome) = error.outcome() {
                admission.settle(outcome, None, clock::now());
            }
            Err(error)
        }
    }
}

/// The question: the same method, path and host, the headers that are listed, no body, and what we know of the caller.
fn question(
    downstream: &Downstream,
    authz: &ExtAuthz,
    head: &Parts,
    facts: &RequestFacts,
) -> Result<Outgoing, ProxyError> {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let target = if target == "*" { "/" } else { target };
    // A request that changes its protocol is asked for as what it would be without that.
    let method = head.method.clone();
    let mut request = Request::builder()
        .method(method.clone())
        .uri(format!("{}{target}", authz.params.path))
        .body(())
        .map_err(ProxyError::bad_rewrite)?;
    let fields = request.headers_mut();
    for name in &authz.params.request_headers {
        for value in head.headers.get_all(name) {
            fields.append(name, value.clone());
        }
    }
    // Who the caller is, if it proved that: what clients say of it was taken from the head.
    if let Some(caller) = head.headers.get(headers::FORWARDED_CLIENT_CERT) {
        fields.insert(headers::FORWARDED_CLIENT_CERT, caller.clone());
    }
    // These are ours: nobody may say them by way of `request_headers`.
    let text = |text: &str| HeaderValue::from_str(text).map_err(ProxyError::bad_rewrite);
    fields.insert(FORWARDED_FOR, text(&downstream.peer.ip().to_string())?);
    fields.insert(FORWARDED_HOST, facts.authority.clone());
    fields.insert(FORWARDED_METHOD, text(method.as_str())?);
    fields.insert(FORWARDED_URI, text(target)?);
    let (head, ()) = request.into_parts();
    Ok(Outgoing {
        head,
        method,
        body: Some(RequestBody::Empty),
        authority: facts.authority.clone(),
        upgrade: None,
        wants_trailers: false,
        // What the client speaks is nothing to the service: HTTP/1.1, unless it is configured for HTTP/2.
        from_http2: false,
        keep: false,
        grpc: false,
        attempt: 1,
    })
}

/// 2xx lets through, 5xx is a service that is broken, and anything else refuses.
async fn understand(answer: Answer, deadline: &mut Deadline) -> Result<Verdict, ProxyError> {
    let Answer { response, lease, .. } = answer;
    let (mut head, mut incoming) = response.into_parts();
    headers::clean_response(&mut head, false);
    let (body, whole) = collect(&mut incoming, deadline).await?;
    if let (true, Lease::Http1(lease, limits)) = (whole, lease) {
        lease.release(&limits, clock::now());
    }
    match head.status {
        status if status.is_success() => Ok(Verdict::Allow(head.headers)),
        status if status.is_server_error() || status.is_informational() => Err(ProxyError::no_endpoint()),
        _ => Ok(Verdict::Deny(head, body)),
    }
}

/// At most [`MAX_BODY`] of a body, and whether that is all of it.
async fn collect(incoming: &mut Incoming, deadline: &mut Deadline) -> Result<(Bytes, bool), ProxyError> {
    let mut body = BytesMut::new();
    poll_fn(|cx| {
        loop {
            match Pin::new(&mut *incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    deadline.progress();
                    if let Ok(data) = frame.into_data() {
                        let room = MAX_BODY - body.len();
                        body.extend_from_slice(&data[..data.len().min(room)]);
                        if data.len() > room {
                            return Poll::Ready(Ok(false));
                        }
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(ProxyError::exchange(error, false, false)));
                }
                Poll::Ready(None) => return Poll::Ready(Ok(true)),
                Poll::Pending => return deadline.poll(cx).map(|expired| Err(ProxyError::timeout(expired))),
            }
        }
    })
    .await
    .map(|whole| (body.freeze(), whole))
}

/// The refusal as the service worded it. Callers of gRPC get its status alone.
fn refuse(
    authz: &ExtAuthz,
    route: &Arc<Route>,
    answer: &response::Parts,
    body: Bytes,
    record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    let grpc = record.is_grpc();
    let mut response = limits::answer_for(route, &denied(answer.status), record);
    for name in &authz.params.client_headers {
        if grpc && *name == http::header::CONTENT_TYPE {
            continue;
        }
        if answer.headers.contains_key(name) {
            response.headers_mut().remove(name);
        }
        for value in answer.headers.get_all(name) {
            response.headers_mut().append(name, value.clone());
        }
    }
    if grpc { response } else { reply::with_body(response, body) }
}
