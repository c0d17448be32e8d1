//! What a request has to pass before it is sent anywhere: the size that its route allows, the rate limits of its route,
//! and the faults that the route injects.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};

use super::{
    body::ResponseBody,
    connection::Downstream,
    fault,
    headers::RequestFacts,
    record::RequestRecord,
    reply::{self, Reason},
};
use crate::{
    policy::limit::RateLimitParams,
    rt::clock,
    snapshot::{Limited, Route, RouteAction},
    types::Flag,
};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Lets a request through, perhaps late; an answer instead if it may not be sent. Dropping the future (the client
/// went away) ends the wait.
pub(super) async fn guard(
    downstream: &Rc<Downstream>,
    route: &Arc<Route>,
    head: &Parts,
    facts: &RequestFacts,
    record: Box<RequestRecord>,
) -> Result<Box<RequestRecord>, Response<ResponseBody>> {
    if announces_more(&head.headers, route.traffic.max_request_bytes) {
        return Err(answer_for(route, &Reason::body_too_large(), record));
    }
    let now = clock::now();
    for limit in &route.traffic.limits {
        if let Err(limited) = limit.check(&head.headers, downstream.peer.ip(), now) {
            return Err(refuse(route, &limit.params, limited, record));
        }
    }
    match &route.traffic.fault {
        Some(fault) => fault::inject(downstream, route, fault, head, facts, record).await,
        None => Ok(record),
    }
}

/// Whether a body is announced that is larger than `most`; zero is no limit. One that is not announced is counted as it
/// comes.
fn announces_more(headers: &HeaderMap, most: u64) -> bool {
    let length = || headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok();
    most > 0 && length().is_some_and(|length| length > most)
}

fn refuse(
    route: &Arc<Route>,
    limit: &RateLimitParams,
    limited: Limited,
    record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    let reason = Reason {
        status: StatusCode::TOO_MANY_REQUESTS,
        flag: Flag::RateLimited,
        token: "http_request_denied",
        details: Some("rate_limit"),
        close: false,
        retry_after: None,
    };
    let mut response = answer_for(route, &reason, record);
    let seconds = whole_seconds(limited.wait);
    // draft-ietf-httpapi-ratelimit-headers: quota and window, then what is left of it and when there is more.
    let policy = format!("\"{}\";q={};w={}", limit.name, limit.burst, whole_seconds(limit.window()));
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    for (name, value) in
        [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, format!("\"{}\";r=0;t={seconds}", limit.name))]
    {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    response
}

/// At least one: a client that is told zero comes back at once.
fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

/// An answer of the proxy's own to a request that has its route but was not sent: it counts for the route's first
/// service.
pub(super) fn answer_for(
    route: &Arc<Route>,
    reason: &Reason,
    mut record: Box<RequestRecord>,
) -> Response<ResponseBody> {
    match &route.action {
        RouteAction::Forward(forward) => {
            let first = forward.destinations.first();
            record.routed(route, first.map(|first| &first.cluster.params.name));
            if let Some(first) = first {
                record.count_in(&first.metrics);
            }
        }
        RouteAction::Direct(_, metrics) | RouteAction::Redirect(_, metrics) => {
            record.routed(route, None);
            record.count_in(metrics);
        }
    }
    reply::answer(reason, record)
}
