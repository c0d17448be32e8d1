//! One try of one request at one endpoint. Whether there is another is decided in proxy/exchange.rs.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
};

use http::{HeaderValue, Method, Request, Response, Version, request::Parts};
use http_body::Body;
use hyper::{body::Incoming, client::conn::TrySendError};

use super::{
    body::{Lease, RequestBody},
    deadline::Deadline,
    error::ProxyError,
    headers,
    pool::{EndpointPool, H1Lease, H2Lease},
    tunnel::Opening,
    upgrade::{self, Upgrade},
};
use crate::{
    rt::clock,
    snapshot::{Admission, Cluster, Protocol, UpstreamTls},
    types::Mono,
};

/// A request on its way up, in a form that can be sent again where that is safe.
pub(crate) struct Outgoing {
    /// Cleaned head. Taken by the last attempt that may need it.
    pub(crate) head: Parts,
    pub(crate) method: Method,
    /// Taken when it is sent; back again if it surely was not.
    pub(crate) body: Option<RequestBody>,
    pub(crate) authority: HeaderValue,
    pub(crate) upgrade: Option<Box<Upgrade>>,
    pub(crate) wants_trailers: bool,
    /// The client speaks HTTP/2.
    pub(crate) from_http2: bool,
    /// Another attempt may follow after bytes were sent: the head must be kept.
    pub(crate) keep: bool,
    /// The request is a gRPC call.
    pub(crate) grpc: bool,
    /// Which attempt this is, from 1.
    pub(crate) attempt: u32,
}

/// The head of a response, and what its body needs.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
    /// Set when the request asked to switch protocols.
    pub(crate) tunnel: Option<Opening>,
    pub(crate) admission: Option<Admission>,
    /// When the attempt began.
    pub(crate) began: Mono,
    /// When the request was handed to the connection.
    pub(crate) sent_up: Mono,
    /// When the head of the response came.
    pub(crate) head_came: Mono,
}

impl Outgoing {
    /// The same request for another endpoint at the same time. It must have no body.
    pub(crate) fn twin(&self) -> Self {
        Self {
            head: self.head.clone(),
            method: self.method.clone(),
            body: Some(RequestBody::Empty),
            authority: self.authority.clone(),
            upgrade: self.upgrade.clone(),
            wants_trailers: self.wants_trailers,
            from_http2: self.from_http2,
            keep: self.keep,
            grpc: self.grpc,
            attempt: self.attempt + 1,
        }
    }
}

/// Tries once. Dropping the future cancels the request at the endpoint.
pub(crate) async fn run(
    pool: &Rc<EndpointPool>,
    cluster: &Arc<Cluster>,
    outgoing: &mut Outgoing,
    deadline: &mut Deadline,
) -> Result<Answer, ProxyError> {
    match protocol(cluster, outgoing.upgrade.is_some(), outgoing.from_http2) {
        Version::HTTP_2 => run_http2(pool, cluster, outgoing, deadline).await,
        _ if upgrade::prefers_http2(cluster, outgoing) => {
            Box::pin(upgrade::run(pool, cluster, outgoing, deadline)).await
        }
        _ => run_http1(pool, cluster, outgoing, deadline).await,
    }
}

/// What an attempt speaks: what the service is configured for, or what the client speaks. Between sidecars of a mesh that
/// is HTTP/2 whatever the client speaks, since many requests then share a connection, its records and its system calls;
/// the other sidecar hands a request on as its client spoke it ([ADR 0022](../../docs/adr/0022-http1-travels-over-http2.md)).
pub(crate) fn protocol(cluster: &Cluster, upgrades: bool, from_http2: bool) -> Version {
    match cluster.params.protocol {
        // Switching protocols exists only in HTTP/1.1, WebSockets over HTTP/2 excepted (proxy/upgrade.rs).
        _ if upgrades => Version::HTTP_11,
        Protocol::Auto if from_http2 || carries_http1(cluster) => Version::HTTP_2,
        Protocol::Http2 => Version::HTTP_2,
        // Validation keeps requests away from services that speak no HTTP.
        Protocol::Auto | Protocol::Http1 | Protocol::Tcp => Version::HTTP_11,
    }
}

/// Whether requests of HTTP/1.1 travel to this service over HTTP/2.
fn carries_http1(cluster: &Cluster) -> bool {
    cluster.params.protocol == Protocol::Auto && matches!(cluster.tls, UpstreamTls::Mesh(_))
}

pub(super) async fn run_http1(
    pool: &Rc<EndpointPool>,
    cluster: &Arc<Cluster>,
    outgoing: &mut Outgoing,
    deadline: &mut Deadline,
) -> Result<Answer, ProxyError> {
    let began = clock::now();
    let mut lease = within(deadline, H1Lease::checkout(pool, cluster)).await??;
    let mut request = take(outgoing);
    let (mut head, body) = request.into_parts();
    let upgrade = outgoing.upgrade.as_deref();
    let service = &cluster.params.name;
    headers::address_http1(&mut head, &outgoing.authority, service, upgrade, outgoing.wants_trailers);
    if !body.is_end_stream() {
        headers::frame_http1(&mut head.headers);
    }
    let sent_up = clock::now();
    stamp(&mut head, outgoing, deadline, sent_up);
    request = Request::from_parts(head, body);
    let tunnel = outgoing.upgrade.is_some().then(|| Opening::Connection(lease.expect_tunnel()));
    let sent = lease.sender().try_send_request(request);
    let response = match within(deadline, sent).await? {
        Ok(response) => response,
        Err(error) => return Err(failed(error, outgoing, lease.is_reused())),
    };
    Ok(Answer {
        response,
        lease: Lease::Http1(lease, cluster.params.limits.clone()),
        tunnel,
        admission: None,
        began,
        sent_up,
        head_came: clock::now(),
    })
}

async fn run_http2(
    pool: &Rc<EndpointPool>,
    cluster: &Arc<Cluster>,
    outgoing: &mut Outgoing,
    deadline: &mut Deadline,
) -> Result<Answer, ProxyError> {
    let began = clock::now();
    let lease = within(deadline, H2Lease::checkout(pool, cluster)).await??;
    let (mut head, body) = take(outgoing).into_parts();
    let service = &cluster.params.name;
    headers::address_http2(&mut head, &outgoing.authority, service, outgoing.wants_trailers)
        .map_err(ProxyError::bad_rewrite)?;
    if !outgoing.from_http2 && carries_http1(cluster) {
        headers::announce_http1(&mut head.headers);
    }
    let sent_up = clock::now();
    stamp(&mut head, outgoing, deadline, sent_up);
    let sent = lease.sender().try_send_request(Request::from_parts(head, body));
    let response = match within(deadline, sent).await? {
        Ok(response) => response,
        Err(error) => return Err(failed(error, outgoing, lease.is_reused())),
    };
    Ok(Answer {
        response,
        lease: Lease::Http2(lease),
        tunnel: None,
        admission: None,
        began,
        sent_up,
        head_came: clock::now(),
    })
}

/// Tells the next hop how much time is left, and which attempt this is.
pub(super) fn stamp(head: &mut Parts, outgoing: &Outgoing, deadline: &Deadline, now: Mono) {
    if let Some(left) = deadline.left_for_upstream(now) {
        headers::announce_deadline(&mut head.headers, left, outgoing.grpc);
    }
    if outgoing.attempt > 1 {
        headers::announce_attempt(&mut head.headers, outgoing.attempt);
    }
}

fn take(outgoing: &mut Outgoing) -> Request<RequestBody> {
    let body = outgoing.body.take().unwrap_or(RequestBody::Empty);
    if !outgoing.keep {
        return Request::from_parts(std::mem::replace(&mut outgoing.head, empty_head()), body);
    }
    let sent = match &body {
        RequestBody::Again(replay) => RequestBody::Again(replay.for_attempt()),
        RequestBody::Empty | RequestBody::Once(..) | RequestBody::Tunnel(_) => RequestBody::Empty,
    };
    outgoing.body = Some(body);
    Request::from_parts(outgoing.head.clone(), sent)
}

fn failed(
    mut error: TrySendError<Request<RequestBody>>,
    outgoing: &mut Outgoing,
    reused: bool,
) -> ProxyError {
    let unsent = error.take_message();
    let untouched = unsent.is_some();
    if let Some(request) = unsent {
        let (head, body) = request.into_parts();
        outgoing.head = head;
        outgoing.body = Some(body);
    }
    ProxyError::exchange(error.into_error(), untouched, reused)
}

fn empty_head() -> Parts {
    Request::new(()).into_parts().0
}

/// Waits for `work`, at most until the request's time is up.
pub(super) async fn within<T>(
    deadline: &mut Deadline,
    work: impl Future<Output = T>,
) -> Result<T, ProxyError> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        deadline.poll(cx).map(|expired| Err(ProxyError::timeout(expired)))
    })
    .await
}
