//! Copies of requests for a second service. They are sent by tasks of their own, bounded in number and time, after
//! the request they copy has what it needs; nobody reads their answers, and no fault of theirs is seen by anyone but
//! the metrics.

use std::{cell::Cell, future::poll_fn, pin::Pin, rc::Rc, sync::Arc, task::Poll, time::Duration};

use http::HeaderValue;
use http_body::Body;
use hyper::body::Incoming;

use super::{
    attempt::{self, Outgoing},
    body::{Lease, RequestBody, Tap},
    connection::Downstream,
    deadline::{Deadline, Limits, SpareTimer},
    worker::Worker,
};
use crate::{
    policy::classify::Outcome,
    rt::clock,
    snapshot::{Mirror, Route, SelectionId},
    telemetry::metrics::MirrorOutcome,
};

/// Largest body that is kept for a copy.
pub(super) const MAX_BODY: u32 = 64 * 1024;
/// Copies that may be under way at once, per worker; more are not sent.
const MAX_COPIES: usize = 128;
/// Longest time a copy may take, whatever the route allows: it must not outlive its request by much.
const LIMIT: Duration = Duration::from_secs(15);

thread_local! {
    static UNDER_WAY: Cell<usize> = const { Cell::new(0) };
}

/// One of the places for copies; dropping it frees the place.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        UNDER_WAY.with(|under_way| {
            let free = under_way.get() < MAX_COPIES;
            if free {
                under_way.set(under_way.get() + 1);
            }
            free.then_some(Self)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        UNDER_WAY.with(|under_way| under_way.set(under_way.get() - 1));
    }
}

/// Whether this request is one of those that are copied. One that changes its protocol cannot be.
pub(super) fn wanted(downstream: &Downstream, route: &Route) -> bool {
    let Some(mirror) = &route.traffic.mirror else { return false };
    downstream.worker.rng.borrow_mut().u8(0..100) < mirror.percent
}

/// A copy that waits for the body of its request.
pub(super) struct Copy {
    route: Arc<Route>,
    worker: Rc<Worker>,
    outgoing: Outgoing,
    tap: Option<Tap>,
}

/// Begins a copy of `original`, as it is before its first attempt. One without a body is sent at once; for one with
/// a body the caller says when that has gone up.
pub(super) fn begin(downstream: &Downstream, route: &Arc<Route>, original: &Outgoing) -> Option<Box<Copy>> {
    let tap = match &original.body {
        Some(RequestBody::Again(replay)) => Some(replay.tap()),
        Some(RequestBody::Empty) => None,
        // Not kept: there is nothing to copy.
        Some(RequestBody::Once(..) | RequestBody::Tunnel(_)) | None => return None,
    };
    let mut outgoing = original.twin();
    outgoing.keep = false;
    outgoing.attempt = 1;
    outgoing.authority = shadow_host(&original.authority);
    let worker = Rc::clone(&downstream.worker);
    let copy = Box::new(Copy { route: Arc::clone(route), worker, outgoing, tap });
    if copy.tap.is_some() {
        return Some(copy);
    }
    copy.send();
    None
}

impl Copy {
    /// Sends the copy if all of the body came and was kept.
    pub(super) fn send(mut self: Box<Self>) {
        let Some(mirror) = &self.route.traffic.mirror else { return };
        if let Some(tap) = self.tap.take() {
            match tap.replay() {
                Some(replay) => self.outgoing.body = Some(RequestBody::Again(replay)),
                None => return mirror.metrics.mirrored(MirrorOutcome::Body),
            }
        }
        let Some(place) = Place::take() else { return mirror.metrics.mirrored(MirrorOutcome::Overflow) };
        tokio::task::spawn_local(async move {
            let _place = place;
            let route = Arc::clone(&self.route);
            if let Some(mirror) = &route.traffic.mirror {
                let outcome = self.run(mirror).await;
                mirror.metrics.mirrored(outcome);
            }
        });
    }

    async fn run(mut self: Box<Self>, mirror: &Mirror) -> MirrorOutcome {
        let cluster = &mirror.cluster;
        let began = clock::now();
        let Some(_active) = cluster.enter() else { return MirrorOutcome::Overflow };
        let picked = {
            let rng = &mut *self.worker.rng.borrow_mut();
            cluster.pick(SelectionId::ALL, &[], None, began, rng)
        };
        let chosen = picked.and_then(|index| Some((index, cluster.endpoints[index].admit(began)?)));
        let Some((index, mut admission)) = chosen else { return MirrorOutcome::Failed };
        let pool = self.worker.pools.of(&cluster.endpoints[index], cluster);
        let limit = self.route.timeout.map_or(LIMIT, |limit| limit.min(LIMIT));
        let limits = Limits { request: Some(limit), caller: None, idle: limit, upload: None };
        let mut deadline =
            Deadline::new(limits, began, None, Rc::clone(&self.worker.clock), SpareTimer::default());
        match attempt::run(&pool, cluster, &mut self.outgoing, &mut deadline).await {
            Ok(answer) => {
                let head = &answer.response;
                let outcome = Outcome::of_response(head.status(), head.headers());
                admission.settle(outcome, None, answer.head_came);
                discard(answer.response.into_body(), answer.lease, &mut deadline).await
            }
            Err(error) => {
                if let Some(outcome) = error.outcome() {
                    admission.settle(outcome, None, clock::now());
                }
                tracing::debug!(service = %cluster.params.name, %error, "a copy failed");
                MirrorOutcome::Failed
            }
        }
    }
}

/// Reads the answer to its end, so that the connection can be used again.
async fn discard(mut incoming: Incoming, lease: Lease, deadline: &mut Deadline) -> MirrorOutcome {
    let whole = poll_fn(|cx| {
        while let Poll::Ready(frame) = Pin::new(&mut incoming).poll_frame(cx) {
            match frame {
                Some(Ok(_)) => deadline.progress(),
                Some(Err(_)) => return Poll::Ready(false),
                None => return Poll::Ready(true),
            }
        }
        deadline.poll(cx).map(|_| false)
    })
    .await;
    match (whole, lease) {
        (true, Lease::Http1(lease, limits)) => lease.release(&limits, clock::now()),
        (true, Lease::Http2(_)) => {}
        (false, _) => return MirrorOutcome::Failed,
    }
    MirrorOutcome::Answered
}

/// The host of a copy, as Envoy writes it: who looks at the shadow's logs must not take it for the real service.
fn shadow_host(authority: &HeaderValue) -> HeaderValue {
    const SUFFIX: &[u8] = b"-shadow";
    let bytes = authority.as_bytes();
    // A colon inside brackets belongs to an IPv6 address.
    let port = bytes.iter().rposition(|byte| *byte == b':').filter(|at| !bytes[*at..].contains(&b']'));
    let (host, port) = bytes.split_at(port.unwrap_or(bytes.len()));
    HeaderValue::from_bytes(&[host, SUFFIX, port].concat()).unwrap_or_else(|_| authority.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_copy_has_a_suffix_before_its_port() {
        for (host, shadow) in
            [("api", "api-shadow"), ("api:80", "api-shadow:80"), ("[::1]:80", "[::1]-shadow:80")]
        {
            assert_eq!(shadow_host(&HeaderValue::from_static(host)), shadow);
        }
    }
}
