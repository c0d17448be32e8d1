//! CONNECT: a client asks for a tunnel to a service. Served only where a route for the method leads to a TCP
//! service; everywhere else it is answered 405. On HTTP/1.1 the connection ends with such an answer, because what
//! follows is no request; on HTTP/2 it is the stream's, and the stream ends. Extended CONNECT for WebSockets never
//! comes here (proxy/upgrade.rs), for anything else it does.

use std::{rc::Rc, sync::Arc};

use http::{Method, Response, StatusCode, Version, header, request::Parts};
use hyper::{ext, upgrade::OnUpgrade};

use super::{
    authz,
    body::ResponseBody,
    connection::Downstream,
    error::ProxyError,
    framing,
    headers::Refused,
    limits,
    record::RequestRecord,
    reply::{self, Reason},
    tcp,
    tunnel::{self, TunnelPlan, TunnelUpstream},
};
use crate::{
    policy::route::{self, RequestView, pick_target},
    snapshot::{Cluster, Destination, MeshSnapshot, Protocol, Route, RouteAction},
    telemetry::metrics::{HttpMetrics, TcpResult},
    types::Direction,
};

/// What a route for CONNECT leads to.
struct Found {
    route: Arc<Route>,
    cluster: Arc<Cluster>,
    metrics: Arc<HttpMetrics>,
}

/// Serves one CONNECT. Never fails, as `exchange::serve`.
pub(crate) async fn serve(
    downstream: &Rc<Downstream>,
    head: &mut Parts,
    snapshot: &MeshSnapshot,
    mut record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    if let Err(reason) = authz::check_tunnel(downstream, snapshot, &mut record) {
        return limits::answer_for(&snapshot.inbound.route, &closing(reason), record);
    }
    let found = check(head).and_then(|()| find(downstream, head, snapshot).ok_or(NO_ROUTE));
    let Found { route, cluster, metrics } = match found {
        Ok(found) => found,
        Err(refused) => {
            record.count_in(snapshot.unrouted.of(downstream.side));
            downstream.worker.listener_metrics(downstream.side).rejected(refused.reason);
            return reply::answer(&closing(Reason::refused(refused)), record);
        }
    };
    route.hit();
    record.routed(&route, Some(&cluster.params.name));
    record.count_in(&metrics);
    let attempted = &mut |endpoint: &_| record.attempt(endpoint);
    let connected = tcp::connect(&downstream.worker, &cluster, downstream.peer, attempted).await;
    let (stream, admission) = match connected {
        Ok(connected) => connected,
        Err(result) => return reply::answer(&closing(Reason::from(&failure(result))), record),
    };
    let upstream = TunnelUpstream::Dialed(stream);
    if head.version == Version::HTTP_2 {
        let Some(stream) = head.extensions.remove::<OnUpgrade>() else {
            return reply::answer(&Reason::from(&ProxyError::bad_upgrade()), record);
        };
        record.granted(StatusCode::OK);
        record.head_sent();
        tunnel::on_stream(downstream, stream, TunnelPlan { upstream, admission: Some(admission), record });
        return Response::new(ResponseBody::Local(None, None));
    }
    // Whoever sends before the tunnel stands may want two readers to see different things in it. On HTTP/2 nobody can:
    // what comes on the stream is the tunnel's or nobody's.
    if record.active().has_early_data() {
        downstream.worker.listener_metrics(downstream.side).rejected("early_data");
        return reply::answer(&Reason::rejected(StatusCode::BAD_REQUEST.as_u16(), "early_data"), record);
    }
    if !record.active().grant_upgrade() {
        return reply::answer(&closing(Reason::from(&ProxyError::bad_upgrade())), record);
    }
    record.granted(StatusCode::OK);
    record.head_sent();
    downstream.open_tunnel(TunnelPlan { upstream, admission: Some(admission), record });
    Response::new(ResponseBody::Local(None, None))
}

/// No route takes CONNECT to what was asked for.
const NO_ROUTE: Refused = Refused { status: StatusCode::METHOD_NOT_ALLOWED, reason: "method" };

/// Holds the head of HTTP/2 to what the guard demands of one of HTTP/1.1: one authority, with a port.
fn check(head: &Parts) -> Result<(), Refused> {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    if head.extensions.get::<ext::Protocol>().is_some() {
        return Err(Refused { status: StatusCode::NOT_IMPLEMENTED, reason: "protocol" });
    }
    if head.version != Version::HTTP_2 {
        return Ok(());
    }
    let Some(authority) = head.uri.authority() else {
        return Err(Refused { status: BAD, reason: "target" });
    };
    if authority.port().is_none() || !framing::valid_authority(authority.as_str().as_bytes()) {
        return Err(Refused { status: BAD, reason: "target" });
    }
    let agrees = |host: &[u8]| host.eq_ignore_ascii_case(authority.as_str().as_bytes());
    if !head.headers.get_all(header::HOST).iter().all(|host| agrees(host.as_bytes())) {
        return Err(Refused { status: BAD, reason: "host" });
    }
    Ok(())
}

/// The same answer, and on HTTP/1 the connection ends with it.
fn closing(mut reason: Reason) -> Reason {
    reason.close = true;
    reason
}

/// The route for the host that is asked for, if it leads to a TCP service.
fn find(downstream: &Downstream, head: &Parts, snapshot: &MeshSnapshot) -> Option<Found> {
    let authority = head.uri.authority()?;
    if downstream.side == Direction::Inbound {
        return None;
    }
    let view = RequestView {
        host: route::host_without_port(authority.as_str()),
        path: "/",
        query: None,
        method: &Method::CONNECT,
        headers: &head.headers,
    };
    let route = snapshot.table.find(&view).and_then(|index| snapshot.routes.get(index))?;
    let RouteAction::Forward(forward) = &route.action else { return None };
    let roll = downstream.worker.rng.borrow_mut().u32(0..forward.total_weight.max(1));
    let Destination { cluster, metrics, .. } =
        forward.destinations.get(pick_target(&forward.shares, roll))?;
    (cluster.params.protocol == Protocol::Tcp).then(|| Found {
        route: Arc::clone(route),
        cluster: Arc::clone(cluster),
        metrics: Arc::clone(metrics),
    })
}

fn failure(result: TcpResult) -> ProxyError {
    match result {
        TcpResult::UpstreamConnect => ProxyError::shared_dial(),
        TcpResult::UpstreamOverflow => ProxyError::overflow(),
        _ => ProxyError::no_endpoint(),
    }
}
