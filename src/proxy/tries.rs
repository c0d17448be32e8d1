//! The loop over the attempts of one request: choose an endpoint, try it, judge what came of it, wait, try again.
//! When that is allowed is decided in policy/retry; one attempt is in proxy/attempt.rs.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::{HeaderName, HeaderValue, StatusCode, header};

use super::{
    attempt::{self, Answer, Outgoing},
    body::RequestBody,
    connection::Downstream,
    deadline::Deadline,
    error::ProxyError,
    record::RequestRecord,
    reply,
};
use crate::{
    policy::{
        classify::Outcome,
        retry::{self, Failure, HedgeParams, LONGEST_RETRY_AFTER, MAX_ATTEMPTS, RetryParams},
    },
    rt::clock,
    snapshot::{Admission, Cluster, Retrying, SelectionId},
    telemetry::metrics::{HedgeOutcome, LimitKind, RetryReason},
    types::{Flag, Mono, RetryDenied as Denied},
};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// A request on its way to one service.
pub(super) struct Tries<'a> {
    pub(super) downstream: &'a Rc<Downstream>,
    pub(super) cluster: &'a Arc<Cluster>,
    /// Which endpoints of it.
    pub(super) selection: SelectionId,
    /// The endpoint that the client is to come back to; the first attempt goes there.
    pub(super) preferred: Option<usize>,
    pub(super) policy: &'a RetryParams,
    /// For policies that hash.
    pub(super) key: Option<u64>,
    pub(super) grpc: bool,
    /// Whoever sent this is repeating it already: only one layer repeats.
    pub(super) is_repetition: bool,
}

/// What was tried so far.
struct Past {
    endpoints: [usize; MAX_ATTEMPTS],
    attempts: usize,
    /// A dead pooled connection was met once already.
    stale: bool,
}

impl Past {
    fn endpoints(&self) -> &[usize] {
        &self.endpoints[..self.attempts]
    }
}

/// What counts as long while little is known of a service.
const LONG_ANSWER: Duration = Duration::from_secs(1);

impl Tries<'_> {
    /// Tries endpoints until one answers, or trying again is not safe or not sensible. Dropping the future
    /// cancels whatever is under way.
    pub(super) async fn run(
        &self,
        outgoing: &mut Outgoing,
        deadline: &mut Deadline,
        record: &mut RequestRecord,
    ) -> Result<Answer, ProxyError> {
        let mut past = Past { endpoints: [usize::MAX; MAX_ATTEMPTS], attempts: 0, stale: false };
        let mut last = None;
        let mut retrying: Option<Retrying> = None;
        loop {
            // Nothing is sent that nobody waits for.
            if let Some(expired) = deadline.spent(clock::now()) {
                return Err(ProxyError::timeout(expired));
            }
            let Some((index, admission)) = self.choose(past.endpoints()) else {
                return Err(last.unwrap_or_else(|| self.nobody(clock::now())));
            };
            deadline.begin_try(self.policy.per_try_timeout);
            let result = match self.policy.hedge.filter(|_| past.attempts == 0 && can_hedge(outgoing)) {
                None => self.attempt(index, admission, outgoing, deadline, record).await,
                // Boxed: as a part of this future, every request would carry the room for two attempts.
                Some(hedge) => {
                    Box::pin(self.hedged(hedge, index, admission, outgoing, deadline, record)).await
                }
            };
            deadline.end_try();
            let failure = match &result {
                // A pooled connection that had died in silence costs nothing to try again, but not without end.
                Err(error) if error.was_stale && !past.stale => {
                    past.stale = true;
                    record.retried(error.retry_reason());
                    last = result.err();
                    continue;
                }
                Err(error) => error.failure,
                Ok(answer) => match judged(answer, self.grpc) {
                    Some(failure) => failure,
                    None => return result,
                },
            };
            past.endpoints[past.attempts] = index;
            past.attempts += 1;
            let wait = match self.again(failure, &result, outgoing, deadline, &past, retrying.is_some()) {
                Ok(wait) => wait,
                Err(denied) => {
                    if let Some(denied) = denied {
                        self.cluster.metrics.retry_denied(denied);
                    }
                    return result;
                }
            };
            record.retried(match &result {
                Ok(_) if failure.is_unprocessed() => RetryReason::Refused,
                Ok(_) => RetryReason::Status,
                Err(error) => error.retry_reason(),
            });
            if retrying.is_none() {
                retrying = Some(self.cluster.live.begin_retrying());
            }
            outgoing.attempt = u32::try_from(past.attempts).unwrap_or(u32::MAX) + 1;
            // An answer that is not wanted ends here, and its connection with it.
            last = result.err();
            if !wait.is_zero() {
                // What comes from the pause is only its end: `again` has seen that it fits.
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// An endpoint that was not tried yet, or else one that was: with a single endpoint, a fresh connection to it is
    /// better than nothing.
    fn choose(&self, tried: &[usize]) -> Option<(usize, Admission)> {
        self.choose_new(tried).or_else(|| if tried.is_empty() { None } else { self.choose_new(&[]) })
    }

    fn choose_new(&self, tried: &[usize]) -> Option<(usize, Admission)> {
        if let Some(index) = self.preferred.filter(|_| tried.is_empty())
            && let Some(admission) = self.cluster.endpoints[index].admit(clock::now())
        {
            return Some((index, admission));
        }
        // Endpoints that others were faster at are passed over like tried ones, a few of them.
        let mut closed = [usize::MAX; MAX_ATTEMPTS + 4];
        closed[..tried.len()].copy_from_slice(tried);
        for count in tried.len()..tried.len() + 4 {
            let now = clock::now();
            let index = {
                let rng = &mut *self.downstream.worker.rng.borrow_mut();
                self.cluster.pick(self.selection, &closed[..count], self.key, now, rng)?
            };
            if let Some(admission) = self.cluster.endpoints[index].admit(now) {
                return Some((index, admission));
            }
            closed[count] = index;
        }
        None
    }

    /// Why no endpoint can be chosen.
    fn nobody(&self, now: Mono) -> ProxyError {
        let probe = self.cluster.earliest_probe(self.selection, now);
        probe.map_or_else(ProxyError::no_endpoint, |at| ProxyError::circuit_open(at.since(now)))
    }

    async fn attempt(
        &self,
        index: usize,
        admission: Admission,
        outgoing: &mut Outgoing,
        deadline: &mut Deadline,
        record: &mut RequestRecord,
    ) -> Result<Answer, ProxyError> {
        record.attempt(&self.cluster.endpoints[index]);
        let result = self.once(index, admission, outgoing, deadline).await;
        if let Ok(answer) = &result {
            record.answered_by(&self.cluster.endpoints[index], answer);
        }
        result
    }

    /// One attempt, settled.
    async fn once(
        &self,
        index: usize,
        mut admission: Admission,
        outgoing: &mut Outgoing,
        deadline: &mut Deadline,
    ) -> Result<Answer, ProxyError> {
        let endpoint = &self.cluster.endpoints[index];
        let pool = self.downstream.worker.pools.of(endpoint, self.cluster);
        let began = clock::now();
        match attempt::run(&pool, self.cluster, outgoing, deadline).await {
            Ok(mut answer) => {
                let now = answer.head_came;
                if let Some(outcome) = self.outcome_of(&answer) {
                    if !outcome.is_failure() {
                        self.cluster.live.latencies().observe(now.since(answer.began), now);
                    }
                    admission.settle(outcome, asked_to_wait(&answer), now);
                }
                answer.admission = Some(admission);
                Ok(answer)
            }
            Err(error) => {
                let now = clock::now();
                let late = error.is_callers_deadline();
                let outlasted = || if late { self.outlasted(now.since(began)) } else { None };
                // A body that its client broke off, or keeps back, is no fault of the endpoint's: else a few of them
                // would open its circuit for everybody.
                if !deadline.waits_for_client()
                    && let Some(outcome) = error.outcome().or_else(outlasted)
                {
                    admission.settle(outcome, None, now);
                }
                Err(error)
            }
        }
    }

    /// A caller's deadline that was too short for any endpoint says nothing about this one; only if nearly every
    /// answer takes less than it waited, it is to blame.
    fn outlasted(&self, waited: Duration) -> Option<Outcome> {
        let usual = self.cluster.live.latencies().percentile(99, clock::now()).unwrap_or(LONG_ANSWER);
        (waited > usual).then_some(Outcome::LocalOrigin)
    }

    /// What an answer says about its endpoint. A sidecar that sheds load is not broken, and the deadline that it
    /// reports is the one we gave it.
    fn outcome_of(&self, answer: &Answer) -> Option<Outcome> {
        let head = &answer.response;
        match flag_of(answer) {
            Some(flag) if is(flag, Flag::Deadline) => self.outlasted(answer.head_came.since(answer.began)),
            Some(flag) if is(flag, Flag::Overload) || is(flag, Flag::Draining) => Some(Outcome::Throttled),
            _ => Some(Outcome::of_response(head.status(), head.headers())),
        }
    }

    /// Whether to try again, and after which wait.
    fn again(
        &self,
        failure: Failure,
        result: &Result<Answer, ProxyError>,
        outgoing: &Outgoing,
        deadline: &Deadline,
        past: &Past,
        retrying: bool,
    ) -> Result<Duration, Option<Denied>> {
        // What may be sent again is judged now: how much was taken from the client shows only after the attempt.
        let whole = outgoing.body.as_ref().is_some_and(RequestBody::is_whole);
        let attempts = u32::try_from(past.attempts).unwrap_or(u32::MAX);
        self.policy.judge(failure, &outgoing.method, whole, attempts)?;
        if self.is_repetition {
            return Err(Some(Denied::Attempts));
        }
        let now = clock::now();
        let wait = self.wait(failure, result, past)?;
        let needed = self.cluster.live.latencies().percentile(50, now).unwrap_or_default();
        if deadline.remaining(now).is_some_and(|left| left <= wait + needed) {
            return Err(Some(Denied::Deadline));
        }
        if !retrying && self.cluster.live.retries() >= self.cluster.params.limits.max_retries {
            self.cluster.metrics.limit_reached(LimitKind::Retries);
            return Err(Some(Denied::Overflow));
        }
        // Charged last, and before the wait.
        if self.cluster.live.budget().withdraw(self.cluster.params.retry_budget, now) {
            Ok(wait)
        } else {
            Err(Some(Denied::Budget))
        }
    }

    /// The wait before the next attempt.
    fn wait(
        &self,
        failure: Failure,
        result: &Result<Answer, ProxyError>,
        past: &Past,
    ) -> Result<Duration, Option<Denied>> {
        let others_left = past.attempts < self.cluster.selection(self.selection).len();
        let rng = &mut *self.downstream.worker.rng.borrow_mut();
        if let Ok(answer) = result {
            let headers = answer.response.headers();
            if let Some(asked) = headers.get(GRPC_PUSHBACK).filter(|_| self.grpc) {
                return retry::pushback(asked.as_bytes()).ok_or(None);
            }
            // What one endpoint asks for does not bind the others, unless it speaks of the caller's rate.
            let binds = answer.response.status() == StatusCode::TOO_MANY_REQUESTS || !others_left;
            let asked = headers.get(header::RETRY_AFTER).filter(|_| binds);
            if let Some(wait) = asked.and_then(|asked| retry::retry_after(asked.as_bytes(), rng)) {
                return Ok(wait);
            }
        }
        if failure.is_unprocessed() && others_left {
            // Nobody was burdened: another endpoint is asked at once, as Finagle's requeues are.
            return Ok(Duration::ZERO);
        }
        let retry = u32::try_from(past.attempts).unwrap_or(u32::MAX);
        Ok(self.policy.backoff.delay(retry, rng))
    }

    /// The first attempt, and a second one at another endpoint if the first is slow. The first good answer wins,
    /// and the other attempt is cancelled.
    async fn hedged(
        &self,
        hedge: HedgeParams,
        index: usize,
        admission: Admission,
        outgoing: &mut Outgoing,
        deadline: &mut Deadline,
        record: &mut RequestRecord,
    ) -> Result<Answer, ProxyError> {
        record.attempt(&self.cluster.endpoints[index]);
        let mut twin = (outgoing.twin(), deadline.twin());
        let slow = self.cluster.live.latencies().percentile(hedge.percentile, clock::now());
        let delay = slow.unwrap_or_default().max(hedge.min_delay);
        let began = clock::now();
        let mut first = pin!(self.once(index, admission, outgoing, deadline));
        if let Ok(result) = tokio::time::timeout(delay, first.as_mut()).await {
            return self.recorded(index, result, record);
        }
        let live = &self.cluster.live;
        let free = live.retries() < self.cluster.params.limits.max_retries;
        let chosen = if free { self.choose_new(&[index]) } else { None };
        let Some((other, admission)) =
            chosen.filter(|_| live.budget().withdraw(self.cluster.params.retry_budget, clock::now()))
        else {
            self.cluster.metrics.hedged(HedgeOutcome::Denied);
            return self.recorded(index, first.await, record);
        };
        let _retrying = live.begin_retrying();
        record.attempt(&self.cluster.endpoints[other]);
        let mut second = pin!(self.once(other, admission, &mut twin.0, &mut twin.1));
        let (winner, result) = self.race((index, first.as_mut()), (other, second.as_mut())).await;
        let won = winner == other;
        if won {
            // Its answer will not be seen, but that it was not there by now was.
            let now = clock::now();
            self.cluster.endpoints[index].live.latency().abandoned(now.since(began), now);
        }
        self.cluster.metrics.hedged(if won { HedgeOutcome::Won } else { HedgeOutcome::Lost });
        self.recorded(winner, result, record)
    }

    /// The first good answer of two attempts, or what the later one came to.
    async fn race<F>(
        &self,
        (one, mut first): (usize, std::pin::Pin<&mut F>),
        (other, mut second): (usize, std::pin::Pin<&mut F>),
    ) -> (usize, Result<Answer, ProxyError>)
    where
        F: Future<Output = Result<Answer, ProxyError>>,
    {
        let (mut first_failed, mut second_failed) = (false, false);
        let good = |result: &Result<Answer, ProxyError>| {
            result.as_ref().is_ok_and(|answer| judged(answer, self.grpc).is_none())
        };
        poll_fn(|cx| {
            if !first_failed && let Poll::Ready(result) = first.as_mut().poll(cx) {
                if second_failed || good(&result) {
                    return Poll::Ready((one, result));
                }
                first_failed = true;
            }
            if !second_failed && let Poll::Ready(result) = second.as_mut().poll(cx) {
                if first_failed || good(&result) {
                    return Poll::Ready((other, result));
                }
                second_failed = true;
                // The first may have failed in this very poll's turn before; it is asked again when it wakes.
            }
            Poll::Pending
        })
        .await
    }

    fn recorded(
        &self,
        index: usize,
        result: Result<Answer, ProxyError>,
        record: &mut RequestRecord,
    ) -> Result<Answer, ProxyError> {
        if let Ok(answer) = &result {
            record.answered_by(&self.cluster.endpoints[index], answer);
        }
        result
    }
}

/// A request without a body that may be sent twice at once.
fn can_hedge(outgoing: &Outgoing) -> bool {
    outgoing.keep && outgoing.upgrade.is_none() && matches!(outgoing.body, Some(RequestBody::Empty))
}

/// The answer as a failure, if a route may want to repeat it.
fn judged(answer: &Answer, grpc: bool) -> Option<Failure> {
    let status = answer.response.status();
    if is_unprocessed(answer) {
        return Some(Failure::Unprocessed);
    }
    if grpc && status == StatusCode::OK {
        // Only an answer without messages has its status here; of any other nothing can be taken back.
        let code = answer.response.headers().get(GRPC_STATUS)?.to_str().ok()?.parse().ok()?;
        return (code != 0_u8).then_some(Failure::AnsweredGrpc(code));
    }
    (status.is_client_error() || status.is_server_error()).then_some(Failure::Answered(status))
}

/// The sidecar of the endpoint says that the request did not reach its application. An application that says so
/// itself only harms itself.
fn is_unprocessed(answer: &Answer) -> bool {
    flag_of(answer).is_some_and(|flag| {
        [Flag::UpstreamConnect, Flag::NoHealthyEndpoint, Flag::Draining].iter().any(|known| is(flag, *known))
    })
}

/// Why the sidecar of the endpoint answered itself, if it did.
fn flag_of(answer: &Answer) -> Option<&HeaderValue> {
    answer.response.headers().get(reply::FLAG_HEADER)
}

fn is(said: &HeaderValue, flag: Flag) -> bool {
    said.as_bytes() == flag.as_str().as_bytes()
}

/// What the endpoint said of when to come again, for its breaker and its share of the traffic.
fn asked_to_wait(answer: &Answer) -> Option<Duration> {
    let status = answer.response.status();
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let seconds = answer.response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
}
