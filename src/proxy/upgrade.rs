//! Requests for another protocol, on either version of HTTP, and the way from one to the other (ADR 0018). Between
//! the two sides a request always has the form of HTTP/1.1: GET with `Upgrade`, answered by 101. A WebSocket that an
//! HTTP/2 client opens with extended CONNECT (RFC 8441) gets that form when it comes, and the endpoint that wants
//! extended CONNECT gets it when it is asked. The bytes afterwards are proxy/tunnel.rs's business.

mod handshake;
pub(super) mod stream;

use std::{rc::Rc, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    request, response,
};
use hyper::{body::Incoming, ext::Protocol, upgrade::OnUpgrade};

use self::stream::{Granter, TunnelBody};
use super::{
    attempt::{self, Answer, Outgoing},
    body::{Lease, RequestBody, ResponseBody},
    connection::Downstream,
    deadline::Deadline,
    error::ProxyError,
    headers,
    pool::{EndpointPool, H2Lease},
    record::RequestRecord,
    reply::{self, Reason},
    tunnel::{self, Opening, TunnelPlan, TunnelUpstream},
};
use crate::{
    rt::clock,
    snapshot::{Admission, Cluster, Protocol as Spoken},
};

const WEBSOCKET: &str = "websocket";

/// A request for another protocol.
#[derive(Clone, Debug)]
pub(crate) struct Upgrade {
    /// What stands in the field of that name.
    pub(crate) protocol: HeaderValue,
    /// Key of the WebSocket handshake: the client's, or ours if the client speaks HTTP/2.
    key: Option<HeaderValue>,
    /// The stream that is to become the tunnel; on HTTP/1.1 the connection becomes it.
    stream: Option<OnUpgrade>,
}

impl Upgrade {
    /// A client's request for `protocol` on its HTTP/1.1 connection.
    pub(crate) fn of_connection(protocol: HeaderValue, headers: &HeaderMap) -> Box<Self> {
        let is_websocket = protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes());
        let key = if is_websocket { headers.get(SEC_WEBSOCKET_KEY).cloned() } else { None };
        Box::new(Self { protocol, key, stream: None })
    }

    /// A client's extended CONNECT for a WebSocket; `None` if the request is no such. Afterwards `head` is that of the
    /// handshake of HTTP/1.1.
    pub(crate) fn of_stream(downstream: &Downstream, head: &mut request::Parts) -> Option<Box<Self>> {
        let asked = head.extensions.get::<Protocol>()?;
        if !asked.as_str().eq_ignore_ascii_case(WEBSOCKET) {
            return None;
        }
        let stream = head.extensions.remove::<OnUpgrade>()?;
        let key = handshake::key(&mut downstream.worker.rng.borrow_mut());
        head.method = Method::GET;
        head.headers.remove(CONTENT_LENGTH);
        head.headers.insert(SEC_WEBSOCKET_KEY, key.clone());
        head.headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
        let protocol = HeaderValue::from_static(WEBSOCKET);
        Some(Box::new(Self { protocol, key: Some(key), stream: Some(stream) }))
    }

    /// Whether `status` would tell the client that the tunnel stands, though it does not.
    pub(crate) fn is_mistaken_for_grant(&self, status: StatusCode) -> bool {
        self.stream.is_some() && status.is_success()
    }

    /// Whether a 101 with these fields answers this request.
    fn is_granted_by(&self, headers: &HeaderMap) -> bool {
        let Some(key) = &self.key else { return true };
        let websocket = headers
            .get(UPGRADE)
            .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
        websocket && headers.get(SEC_WEBSOCKET_ACCEPT) == Some(&handshake::accept(key))
    }
}

/// Why there is no tunnel, when it was not the endpoint who said no.
pub(super) fn failed(details: &'static str) -> Reason {
    Reason { details: Some(details), ..Reason::from(&ProxyError::bad_upgrade()) }
}

/// The endpoint answered 101: the client gets its tunnel, if it asked for it and the answer is right.
pub(super) fn grant(
    downstream: &Rc<Downstream>,
    upgrade: Option<&Upgrade>,
    mut head: response::Parts,
    (opening, lease): (Option<Opening>, Lease),
    admission: Option<Admission>,
    mut record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    let (Some(upgrade), Some(opening)) = (upgrade, opening) else {
        return reply::answer(&failed("unasked"), record);
    };
    if !upgrade.is_granted_by(&head.headers) {
        return reply::answer(&failed("handshake"), record);
    }
    let upstream = TunnelUpstream::Switched(opening, lease);
    match &upgrade.stream {
        Some(stream) => {
            head.status = StatusCode::OK;
            for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
                head.headers.remove(name);
            }
            record.granted(StatusCode::OK);
            tunnel::on_stream(downstream, stream.clone(), TunnelPlan { upstream, admission, record });
        }
        None if record.active().grant_upgrade() => {
            downstream.open_tunnel(TunnelPlan { upstream, admission, record });
        }
        None => return reply::answer(&failed("unasked"), record),
    }
    Response::from_parts(head, ResponseBody::Local(None, None))
}

/// Whether an attempt at this service should ask for the tunnel over HTTP/2. For other protocols than WebSocket, and
/// for requests with a body, that version has no way.
pub(super) fn prefers_http2(cluster: &Cluster, outgoing: &Outgoing) -> bool {
    cluster.params.protocol == Spoken::Http2
        && outgoing.method == Method::GET
        && outgoing.upgrade.as_ref().is_some_and(|upgrade| upgrade.key.is_some())
        && matches!(outgoing.body, Some(RequestBody::Empty))
}

/// Tries once, with extended CONNECT if the endpoint takes it, else with the handshake of HTTP/1.1 on a connection of
/// its own. Leaves `outgoing` as it is in the first case.
pub(super) async fn run(
    pool: &Rc<EndpointPool>,
    cluster: &Arc<Cluster>,
    outgoing: &mut Outgoing,
    deadline: &mut Deadline,
) -> Result<Answer, ProxyError> {
    let began = clock::now();
    let lease = attempt::within(deadline, H2Lease::checkout(pool, cluster)).await??;
    if !attempt::within(deadline, lease.takes_extended_connect()).await? {
        drop(lease);
        let answered = attempt::run_http1(pool, cluster, outgoing, deadline).await;
        return answered.map_err(ProxyError::of_upgrade);
    }
    let Some(key) = outgoing.upgrade.as_ref().and_then(|upgrade| upgrade.key.clone()) else {
        return Err(ProxyError::bad_upgrade());
    };
    let (mut head, ()) = Request::new(()).into_parts();
    head.uri = outgoing.head.uri.clone();
    head.headers = outgoing.head.headers.clone();
    headers::address_http2(&mut head, &outgoing.authority, &cluster.params.name, false)
        .map_err(ProxyError::bad_rewrite)?;
    head.method = Method::CONNECT;
    for name in [SEC_WEBSOCKET_KEY, CONTENT_LENGTH] {
        head.headers.remove(name);
    }
    head.extensions.insert(Protocol::from_static(WEBSOCKET));
    let sent_up = clock::now();
    attempt::stamp(&mut head, outgoing, deadline, sent_up);
    let granter = Granter::default();
    let body = RequestBody::Tunnel(TunnelBody(Rc::clone(&granter)));
    let sent = lease.sender().try_send_request(Request::from_parts(head, body));
    let mut response = match attempt::within(deadline, sent).await? {
        Ok(response) => response,
        Err(mut error) => {
            let untouched = error.take_message().is_some();
            return Err(ProxyError::exchange(error.into_error(), untouched, lease.is_reused()));
        }
    };
    let tunnel = take_grant(&mut response, &key).map(|stream| Opening::Stream(stream, granter));
    Ok(Answer {
        response,
        lease: Lease::Http2(lease),
        tunnel,
        admission: None,
        began,
        sent_up,
        head_came: clock::now(),
    })
}

/// Gives the answer to an extended CONNECT the form of HTTP/1.1, if it grants the tunnel.
fn take_grant(response: &mut Response<Incoming>, key: &HeaderValue) -> Option<OnUpgrade> {
    let stream = response.extensions_mut().remove::<OnUpgrade>()?;
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, handshake::accept(key));
    Some(stream)
}
