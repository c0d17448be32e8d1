//! One attempt in flight to an endpoint: what it occupies, and what is learned from it.

use std::{sync::Arc, time::Duration};

use super::Endpoint;
use crate::{
    policy::{
        breaker::Ticket,
        classify::{Outcome, Sample},
    },
    types::Mono,
};

/// An attempt in flight to an endpoint. It is settled once, when its outcome is known (the head of the answer, or
/// the failure), and goes on counting as in flight until it is dropped. Dropped unsettled, it was cancelled:
/// nothing is learned from it.
#[derive(Debug)]
pub struct Admission {
    endpoint: Arc<Endpoint>,
    /// Goes back to the circuit breaker with the outcome, or without one.
    ticket: Option<Ticket>,
    began: Mono,
    settled: bool,
}

impl Admission {
    pub(super) fn new(endpoint: Arc<Endpoint>, ticket: Option<Ticket>, now: Mono) -> Self {
        endpoint.live.begin();
        Self { endpoint, ticket, began: now, settled: false }
    }

    /// Whose attempt it is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Tells the endpoint's policies what came of the attempt. Only the first call counts.
    pub fn settle(&mut self, outcome: Outcome, retry_after: Option<Duration>, now: Mono) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let endpoint = &*self.endpoint;
        let sample = Sample { outcome, latency: now.since(self.began), retry_after };
        endpoint.live.learn(&sample, &endpoint.safeguards.consecutive, now);
        let (Some(params), Some(ticket)) = (&endpoint.safeguards.breaker, self.ticket.take()) else { return };
        if let Some(transition) = endpoint.live.breaker().settle(ticket, &sample, params, now) {
            endpoint.note(transition, now);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.endpoint.live.breaker().cancel(ticket);
        }
        self.endpoint.live.end();
    }
}
