//! One request from head to head: clean, route, choose, try, perhaps try once more, answer. The response body
//! goes on by itself (proxy/body.rs); what is written down at the end is in proxy/record.rs.

use std::{convert::Infallible, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::Body;
use hyper::body::Incoming;

use super::{
    attempt::{Answer, Outgoing},
    authz,
    body::{Replay, RequestBody, ResponseBody, Upload, UploadFault, UpstreamBody},
    connect,
    connection::Downstream,
    deadline::{Deadline, Limits},
    error::ProxyError,
    ext_authz,
    framing::REJECT_METHOD,
    headers::{self, Refused, RequestFacts},
    http10, jwt, limits, mirror,
    record::RequestRecord,
    reply::{self, Reason},
    secure, shed,
    tries::Tries,
    upgrade::{self, Upgrade},
};
use crate::{
    policy::{
        affinity::SessionId,
        balance::hash_key,
        deadline,
        route::{self, DirectResponse, Redirect, RequestOrigin, RequestView, pick_target},
    },
    rt::clock,
    snapshot::{Cluster, Destination, Forward, MeshSnapshot, Route, RouteAction},
    telemetry::{metrics::LimitKind, request_id, trace},
    types::{Direction, Mono},
};

/// [`serve`] for HTTP/1, where the head of a response is the only place to tell the client that the connection
/// ends.
pub(crate) async fn serve_http1(
    downstream: Rc<Downstream>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let state = Rc::clone(&downstream.state);
    let version = request.version();
    let mut response = serve(downstream, request).await?;
    if state.wants_graceful() {
        headers::announce_close(&mut response);
    }
    if version == Version::HTTP_10 {
        http10::settle_end(&mut response);
    }
    Ok(response)
}

/// Serves one request. Never fails: what goes wrong becomes a response that says whose fault it was. Dropping the
/// future (the client went away) cancels the request at the endpoint.
pub(crate) async fn serve(
    downstream: Rc<Downstream>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (mut head, body) = request.into_parts();
    let mut record = RequestRecord::begin(&downstream, &head, clock::now());
    if head.method.as_str() == REJECT_METHOD {
        return Ok(answer_reject(&downstream, record));
    }
    let snapshot = downstream.worker.snapshot.load();
    if let Some(reason) = secure::lapse(&downstream, record.started()) {
        record.count_in(snapshot.unrouted.of(downstream.side));
        return Ok(reply::answer(&Reason { close: true, ..reason }, record));
    }
    let mut websocket = None;
    if head.method == Method::CONNECT {
        websocket = Upgrade::of_stream(&downstream, &mut head);
        if websocket.is_none() {
            return Ok(Box::pin(connect::serve(&downstream, &mut head, &snapshot, record)).await);
        }
    }
    let facts = match headers::clean_request(&mut head, &downstream.limits.normalisation) {
        Ok(mut facts) => {
            facts.upgrade = websocket.or(facts.upgrade);
            facts
        }
        Err(refused) => {
            record.count_in(snapshot.unrouted.of(downstream.side));
            downstream.worker.listener_metrics(downstream.side).rejected(refused.reason);
            return Ok(reply::answer(&Reason::refused(refused), record));
        }
    };
    if let Some(caller) = &downstream.caller {
        headers::announce_caller(&mut head.headers, &caller.forwarded, &caller.source);
    }
    identify(&downstream, &snapshot, &mut head, &facts, &mut record);
    match jwt::authenticate(&downstream, &snapshot, &mut head, &record) {
        Ok(verified) => record.authenticated(verified),
        Err(refusal) => return Ok(jwt::answer(&snapshot, refusal, record)),
    }
    let Some(route) = find_route(&downstream, &snapshot, &head, &facts) else {
        record.count_in(snapshot.unrouted.of(downstream.side));
        return Ok(reply::answer(&Reason::no_route(), record));
    };
    route.hit();
    if let Err(reason) = authz::check(&downstream, &snapshot, &head, &mut record) {
        return Ok(limits::answer_for(&route, &reason, record));
    }
    match shed::admit(&downstream, &snapshot, facts.priority) {
        Ok(admitted) => record.admitted(admitted),
        Err(reason) => return Ok(limits::answer_for(&route, &reason, record)),
    }
    let guarded = if route.traffic.guards() {
        Box::pin(limits::guard(&downstream, &route, &head, &facts, record)).await
    } else {
        Ok(record)
    };
    let guarded = match guarded {
        // Last: whoever is limited is not asked for.
        Ok(record) if snapshot.inbound.ext_authz.is_some() => {
            Box::pin(ext_authz::check(&downstream, &snapshot, &route, &mut head, &facts, record)).await
        }
        guarded => guarded,
    };
    let mut record = match guarded {
        Ok(record) => record,
        Err(response) => return Ok(response),
    };
    match &route.action {
        RouteAction::Forward(forward) => {
            Ok(self::forward(downstream, &route, forward, head, facts, body, record).await)
        }
        RouteAction::Direct(direct, metrics) => {
            record.routed(&route, None);
            record.count_in(metrics);
            Ok(answer_directly(&route, direct, &facts, record))
        }
        RouteAction::Redirect(to, metrics) => {
            record.routed(&route, None);
            record.count_in(metrics);
            Ok(redirect(downstream.scheme(), &route, to, &head, &facts, record))
        }
    }
}

fn answer_directly(
    route: &Route,
    direct: &DirectResponse,
    facts: &RequestFacts,
    record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    if facts.upgrade.as_ref().is_some_and(|upgrade| upgrade.is_mistaken_for_grant(direct.status)) {
        return reply::answer(&upgrade::failed("status"), record);
    }
    let mut response = reply::configured(direct.status, None, direct.body.clone(), record);
    route.response_headers.apply(response.headers_mut());
    response
}

fn redirect(
    scheme: &str,
    route: &Route,
    to: &Redirect,
    head: &Parts,
    facts: &RequestFacts,
    record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    let host = String::from_utf8_lossy(facts.authority.as_bytes());
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let origin = RequestOrigin { scheme, authority: &host, path_and_query: target };
    let Ok(location) = route::redirect_location(to, &route.path, &origin) else {
        let refused = Refused { status: StatusCode::BAD_REQUEST, reason: "host" };
        return reply::answer(&Reason::refused(refused), record);
    };
    let mut response = reply::configured(to.status, Some(location), Bytes::new(), record);
    route.response_headers.apply(response.headers_mut());
    response
}

/// The guard found the request unfit and put this one in its place.
fn answer_reject(downstream: &Rc<Downstream>, mut record: Box<RequestRecord>) -> Response<ResponseBody> {
    let snapshot = downstream.worker.snapshot.load();
    record.count_in(snapshot.unrouted.of(downstream.side));
    let reject = record.active().reject();
    let (status, reason) = reject.map_or((400, "unknown"), |reject| (reject.status, reject.reason.as_str()));
    downstream.worker.listener_metrics(downstream.side).rejected(reason);
    reply::answer(&Reason::rejected(status, reason), record)
}

fn identify(
    downstream: &Downstream,
    snapshot: &MeshSnapshot,
    head: &mut Parts,
    facts: &RequestFacts,
    record: &mut RequestRecord,
) {
    let rng = &mut *downstream.worker.rng.borrow_mut();
    let id = request_id::ensure(&mut head.headers, downstream.worker.wall_at(record.started()), rng);
    let trace = trace::propagate(&mut head.headers, &snapshot.propagation, rng);
    record.identify(facts.authority.clone(), id, trace);
}

fn find_route(
    downstream: &Downstream,
    snapshot: &MeshSnapshot,
    head: &Parts,
    facts: &RequestFacts,
) -> Option<Arc<Route>> {
    match downstream.side {
        Direction::Inbound => Some(Arc::clone(&snapshot.inbound.route)),
        Direction::Outbound => {
            let view = view(head, &facts.authority);
            let found =
                snapshot.table.find(&view).and_then(|index| snapshot.routes.get(index)).map(Arc::clone);
            found.or_else(|| downstream.intercepted.as_ref()?.route(snapshot))
        }
    }
}

fn view<'a>(head: &'a Parts, authority: &'a HeaderValue) -> RequestView<'a> {
    RequestView {
        host: route::host_without_port(authority.to_str().unwrap_or_default()),
        path: head.uri.path(),
        query: head.uri.query(),
        method: &head.method,
        headers: &head.headers,
    }
}

async fn forward(
    downstream: Rc<Downstream>,
    route: &Arc<Route>,
    forward: &Forward,
    mut head: Parts,
    facts: RequestFacts,
    body: Incoming,
    mut record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    let chosen = if forward.shares.len() == 1 {
        0
    } else {
        pick_target(&forward.shares, split_roll(&downstream, route, forward, &view(&head, &facts.authority)))
    };
    let Destination { cluster, selection, metrics } = &forward.destinations[chosen];
    record.routed(route, Some(&cluster.params.name));
    record.count_in(metrics);
    let Some(active) = cluster.enter() else {
        cluster.metrics.limit_reached(LimitKind::Requests);
        return reply::answer(&Reason::from(&ProxyError::overflow()), record);
    };
    record.occupies(active);

    let hashing = cluster.params.balance.hashing();
    let key = hashing
        .and_then(|hashing| hash_key(&hashing.hash_on, &view(&head, &facts.authority), downstream.peer.ip()));
    let mut authority = facts.authority;
    if let Err(error) = rewrite(forward, route, &mut head, &mut authority) {
        return reply::answer(&Reason::from(&error), record);
    }
    route.request_headers.apply(&mut head.headers);

    // A request of HTTP/1.1 that came over HTTP/2 from another sidecar goes on as what it is.
    let restored = facts.carried_http1 && downstream.caller.is_some();
    let from_http2 = head.version == Version::HTTP_2 && !restored;
    // An HTTP/2 endpoint, or the sidecar before an endpoint, can say that it did not process a request whose bytes it
    // has: then any may be sent again, whatever its method.
    let grpc = record.is_grpc();
    let again = route.retry.attempts > 0;
    let mirrored = facts.upgrade.is_none() && mirror::wanted(&downstream, route);
    let most = if mirrored { route.retry.max_body.max(mirror::MAX_BODY) } else { route.retry.max_body };
    let (body, upload) = request_body(body, again || mirrored, most);
    if let Some(upload) = &upload {
        upload.limit_bytes(route.traffic.max_request_bytes);
        upload.reserve(&route.reserved);
        record.uploads(Rc::clone(upload));
    }
    let replayable = matches!(body, RequestBody::Empty | RequestBody::Again(_));
    let mut outgoing = Outgoing {
        keep: replayable && again,
        from_http2,
        upgrade: facts.upgrade,
        wants_trailers: facts.wants_trailers,
        method: head.method.clone(),
        grpc,
        attempt: 1,
        body: Some(body),
        authority,
        head,
    };
    outgoing.head.extensions.clear();
    let copy = if mirrored { mirror::begin(&downstream, route, &outgoing) } else { None };
    let mut deadline = deadline(&downstream, route, &outgoing, upload.clone(), record.started());
    cluster.live.budget().deposit(record.started());
    let affinity = cluster.params.affinity.as_ref();
    let asked_for = affinity.and_then(|affinity| affinity.asked_for(&outgoing.head.headers));
    let tries = Tries {
        downstream: &downstream,
        cluster,
        selection: *selection,
        preferred: asked_for.and_then(|session| cluster.find(*selection, session, record.started())),
        policy: &route.retry,
        key,
        grpc,
        is_repetition: facts.attempt > 1,
    };
    let answered = tries.run(&mut outgoing, &mut deadline, &mut record).await;
    if let Some(copy) = copy {
        copy.send();
    }
    match answered {
        Ok(mut answer) => {
            if affinity.is_some() {
                remember(cluster, asked_for, &mut answer);
            }
            deliver(&downstream, route, answer, &outgoing, deadline, record)
        }
        Err(error) => {
            tracing::debug!(service = %cluster.params.name, %error, "request failed");
            answer_failure(&downstream, &error, upload, record)
        }
    }
}

/// Tells a client which endpoint answered, if it does not know.
fn remember(cluster: &Cluster, asked_for: Option<SessionId>, answer: &mut Answer) {
    let Some(session) = answer.admission.as_ref().map(|admission| admission.endpoint().session) else {
        return;
    };
    let affinity = cluster.params.affinity.as_ref().filter(|_| asked_for != Some(session));
    if let Some(field) = affinity.and_then(|affinity| affinity.set_cookie(session)) {
        answer.response.headers_mut().append(header::SET_COOKIE, field);
    }
}

/// The number that chooses among the services of a split: chance, or what the split is to stick to.
fn split_roll(downstream: &Downstream, route: &Route, forward: &Forward, view: &RequestView<'_>) -> u32 {
    let total = forward.total_weight.max(1);
    let sticky = route.traffic.sticky.as_ref();
    match sticky.and_then(|hash_on| hash_key(hash_on, view, downstream.peer.ip())) {
        Some(key) => u32::try_from(key % u64::from(total)).unwrap_or_default(),
        None => downstream.worker.rng.borrow_mut().u32(0..total),
    }
}

/// No endpoint answered: the fault is one of theirs, ours, or the client's, if it did not send its body.
fn answer_failure(
    downstream: &Rc<Downstream>,
    error: &ProxyError,
    upload: Option<Rc<Upload>>,
    record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    let stalled =
        |upload: &Upload| (error.is_timeout() && upload.is_starved()).then_some(UploadFault::TimedOut);
    match upload.and_then(|upload| upload.fault().or_else(|| stalled(&upload))) {
        Some(fault) => answer_bad_body(downstream, fault, record),
        None => reply::answer(&Reason::from(error), record),
    }
}

fn rewrite(
    forward: &Forward,
    route: &Route,
    head: &mut Parts,
    authority: &mut HeaderValue,
) -> Result<(), ProxyError> {
    if let Some(host) = &forward.rewrite.host {
        *authority = host.clone();
    }
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let rewritten =
        route::rewrite_target(&forward.rewrite, &route.path, target).map_err(ProxyError::bad_rewrite)?;
    if let Some(target) = rewritten {
        head.uri = target.into();
    }
    Ok(())
}

fn deadline(
    downstream: &Downstream,
    route: &Route,
    outgoing: &Outgoing,
    upload: Option<Rc<Upload>>,
    began: Mono,
) -> Deadline {
    let caller = callers_deadline(&outgoing.head, outgoing.grpc).map(|left| began.after(left));
    let limits = Limits {
        request: route.timeout,
        caller,
        idle: downstream.limits.stream_idle_timeout,
        upload: downstream.limits.request_timeout,
    };
    let clock = Rc::clone(&downstream.worker.clock);
    Deadline::new(limits, began, upload, clock, Rc::clone(&downstream.timer))
}

/// How much time the caller has left, by what it says.
pub(super) fn callers_deadline(head: &Parts, grpc: bool) -> Option<Duration> {
    if grpc {
        let value = head.headers.get(deadline::GRPC_TIMEOUT)?;
        return deadline::parse_grpc_timeout(value.as_bytes());
    }
    let value = head.headers.get(deadline::REQUEST_TIMEOUT_MS)?;
    deadline::parse_timeout_ms(value.as_bytes())
}

fn request_body(body: Incoming, again: bool, limit: u32) -> (RequestBody, Option<Rc<Upload>>) {
    if body.is_end_stream() {
        return (RequestBody::Empty, None);
    }
    let upload = Rc::new(Upload::default());
    upload.begin(clock::now());
    let body = if again {
        RequestBody::Again(Replay::new(body, Rc::clone(&upload), limit))
    } else {
        RequestBody::Once(body, Rc::clone(&upload))
    };
    (body, Some(upload))
}

/// Turns the endpoint's answer into ours.
fn deliver(
    downstream: &Rc<Downstream>,
    route: &Route,
    answer: Answer,
    outgoing: &Outgoing,
    deadline: Deadline,
    mut record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    let Answer { response, lease, tunnel, admission, .. } = answer;
    let (mut head, incoming) = response.into_parts();
    let switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
    headers::clean_response(&mut head, switching);
    route.response_headers.apply(&mut head.headers);
    record.head_sent();
    let upgrade = outgoing.upgrade.as_deref();
    if switching {
        return upgrade::grant(downstream, upgrade, head, (tunnel, lease), admission, record);
    }
    if let Some(upgrade) = upgrade {
        if upgrade.is_mistaken_for_grant(head.status) {
            return reply::answer(&upgrade::failed("status"), record);
        }
        record.active().refuse_upgrade();
    }
    let expected = incoming.size_hint().exact();
    let body = UpstreamBody { incoming, expected, lease: Some(lease), record, deadline, admission };
    Response::from_parts(head, ResponseBody::Upstream(Box::new(body)))
}

/// The client's body broke off, or was malformed, before the endpoint answered.
fn answer_bad_body(
    downstream: &Rc<Downstream>,
    fault: UploadFault,
    record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    match record.active().reject() {
        Some(reject) => {
            downstream.worker.listener_metrics(downstream.side).rejected(reject.reason.as_str());
            reply::answer(&Reason::rejected(reject.status, reject.reason.as_str()), record)
        }
        None => reply::answer(&Reason::bad_body(fault), record),
    }
}
