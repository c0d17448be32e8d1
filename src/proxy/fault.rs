//! Faults on purpose: a request waits, or is answered with an error, because its route says so or the client asked
//! where it may. Which request meets which fault is decided in policy/fault.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Response, request::Parts};

use super::{
    body::ResponseBody, connection::Downstream, exchange, headers::RequestFacts, limits,
    record::RequestRecord, reply::Reason,
};
use crate::{
    policy::fault::{AskedFault, parse_abort, parse_delay},
    rt::clock,
    snapshot::{Fault, Route},
    types::Flag,
};

const DELAY: HeaderName = HeaderName::from_static("x-outrigger-fault-delay");
const ABORT: HeaderName = HeaderName::from_static("x-outrigger-fault-abort");

/// What the client asks for; read before headers with our prefix are taken away.
pub(super) fn asked(headers: &HeaderMap) -> AskedFault {
    AskedFault {
        delay: headers.get(DELAY).and_then(|value| parse_delay(value.as_bytes())),
        abort: headers.get(ABORT).and_then(|value| parse_abort(value.as_bytes())),
    }
}

/// Lets the request meet its fault: waits, then answers or lets it go on. Dropping the future ends the wait.
pub(super) async fn inject(
    downstream: &Rc<Downstream>,
    route: &Arc<Route>,
    fault: &Fault,
    head: &Parts,
    facts: &RequestFacts,
    record: Box<RequestRecord>,
) -> Result<Box<RequestRecord>, Response<ResponseBody>> {
    let roll = downstream.worker.rng.borrow_mut().u8(0..100);
    let decided = fault.params.decide(facts.asked_fault, roll);
    if let Some(delay) = decided.delay {
        fault.metrics.delayed();
        tokio::time::sleep(delay.min(left(route, head, &record))).await;
    }
    let Some(status) = decided.abort else { return Ok(record) };
    fault.metrics.aborted();
    let reason = Reason {
        status,
        flag: Flag::Fault,
        token: "proxy_internal_response",
        details: Some("fault_injected"),
        close: false,
        retry_after: None,
    };
    Err(limits::answer_for(route, &reason, record))
}

/// What is left of the time of the request: a wait beyond it would be seen by nobody, and who runs into the end of it
/// gets the answer of a timeout from the attempts, before the first of which time is looked at.
fn left(route: &Route, head: &Parts, record: &RequestRecord) -> Duration {
    let caller = exchange::callers_deadline(head, record.is_grpc());
    let limit = [route.timeout, caller].into_iter().flatten().min().unwrap_or(Duration::MAX);
    limit.saturating_sub(clock::now().since(record.started()))
}
