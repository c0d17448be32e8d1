//! CONNECT: a client asks for a tunnel to a service. Served only where a route for the method leads to a TCP
//! service, and only over HTTP/1.1; everywhere else it is answered 405, and the connection ends, because what
//! follows such a request is no request.

use std::{rc::Rc, sync::Arc};

use http::{Method, Response, StatusCode, Version, request::Parts};

use super::{
    body::ResponseBody,
    connection::Downstream,
    error::ProxyError,
    headers::Refused,
    record::RequestRecord,
    reply::{self, Reason},
    tcp,
    tunnel::{TunnelPlan, TunnelUpstream},
};
use crate::{
    policy::route::{self, RequestView, pick_target},
    snapshot::{Cluster, Destination, MeshSnapshot, Protocol, Route, RouteAction},
    telemetry::metrics::{HttpMetrics, TcpResult},
    types::{Direction, Flag},
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
    head: &Parts,
    snapshot: &MeshSnapshot,
    mut record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    let found = if head.version == Version::HTTP_11 { find(downstream, head, snapshot) } else { None };
    let Some(Found { route, cluster, metrics }) = found else {
        record.count_in(snapshot.unrouted.of(downstream.side));
        downstream.worker.listener_metrics(downstream.side).rejected("method");
        let refused = Refused { status: StatusCode::METHOD_NOT_ALLOWED, reason: "method" };
        return reply::answer(&closing(Reason::refused(refused)), record);
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
    // Whoever sends before the tunnel stands may want two readers to see different things in it.
    if record.active().has_early_data() {
        downstream.worker.listener_metrics(downstream.side).rejected("early_data");
        return reply::answer(&Reason::rejected(StatusCode::BAD_REQUEST.as_u16(), "early_data"), record);
    }
    if !record.active().grant_upgrade() {
        return reply::answer(&closing(Reason::from(&ProxyError::bad_upgrade())), record);
    }
    record.answered(StatusCode::OK, Flag::None);
    record.head_sent();
    let upstream = TunnelUpstream::Dialed(stream);
    downstream.open_tunnel(TunnelPlan { upstream, admission: Some(admission), record });
    Response::new(ResponseBody::Local(None, None))
}

/// The same answer, and the connection ends with it.
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
