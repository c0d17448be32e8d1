//! One service as the data plane sees it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering::Relaxed},
};

use super::{ClusterParams, Endpoint, Selection, SelectionId, SubsetFallback, UpstreamTls};
use crate::{
    policy::{affinity::SessionId, balance::Candidate, latency::Latencies, retry::RetryBudget},
    telemetry::metrics::ClusterMetrics,
    types::{Mono, Tags},
};

/// State of a service that outlives snapshots.
#[derive(Debug, Default)]
pub struct ClusterLive {
    /// One bit for each priority.
    panic: AtomicU16,
    failing_over: AtomicBool,
    requests: AtomicU32,
    retries: AtomicU32,
    budget: RetryBudget,
    latencies: Latencies,
}

impl ClusterLive {
    /// Whether so few endpoints of some priority are healthy that all of them are used.
    #[must_use]
    pub fn in_panic(&self) -> bool {
        self.panic.load(Relaxed) != 0
    }

    /// The same, of one priority.
    #[must_use]
    pub fn panics_at(&self, priority: u8) -> bool {
        self.panic.load(Relaxed) & (1 << priority) != 0
    }

    /// Switches panic routing for each priority; returns whether that begins or ends it for the service.
    fn set_panic(&self, priorities: u16) -> bool {
        (self.panic.swap(priorities, Relaxed) != 0) != (priorities != 0)
    }

    fn set_failing_over(&self, failing_over: bool) -> bool {
        self.failing_over.swap(failing_over, Relaxed) != failing_over
    }

    /// Requests that this process has in flight to the service, those that wait between two attempts included.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests.load(Relaxed)
    }

    /// Requests that are being repeated at this moment.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.retries.load(Relaxed)
    }

    /// Counts a request as being repeated until the guard is dropped.
    #[must_use]
    pub fn begin_retrying(self: &Arc<Self>) -> Retrying {
        self.retries.fetch_add(1, Relaxed);
        Retrying(Arc::clone(self))
    }

    /// What retries are paid from.
    #[must_use]
    pub fn budget(&self) -> &RetryBudget {
        &self.budget
    }

    /// How long its endpoints took to answer lately.
    #[must_use]
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }
}

/// A request in flight to a service; dropping it ends the count.
#[derive(Debug)]
pub struct ActiveRequest(Arc<ClusterLive>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

/// A request that is being repeated; dropping it ends the count.
#[derive(Debug)]
pub struct Retrying(Arc<ClusterLive>);

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Relaxed);
    }
}

impl Cluster {
    /// Counts a request as in flight until the guard is dropped; `None`, and nothing is counted, if as many as are
    /// allowed already are.
    #[must_use]
    pub fn enter(&self) -> Option<ActiveRequest> {
        // Counted first and looked at then: of two that see the last place, one must not get it.
        let before = self.live.requests.fetch_add(1, Relaxed);
        let place = ActiveRequest(Arc::clone(&self.live));
        (before < self.params.limits.max_requests).then_some(place)
    }
}

impl Cluster {
    /// Index of the endpoint of `selection` for the next attempt: eligible and not among `tried`; `None` only if there
    /// is no such endpoint. Takes no lock and does not allocate.
    pub fn pick(
        &self,
        selection: SelectionId,
        tried: &[usize],
        key: Option<u64>,
        now: Mono,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        self.selection(selection).pick(tried, key, now, rng)
    }

    /// Index of the endpoint of `selection` that a client is to come back to, if it may be chosen at `now`.
    #[must_use]
    pub fn find(&self, selection: SelectionId, session: SessionId, now: Mono) -> Option<usize> {
        let tags = &self.selection(selection).tags;
        let fits = |endpoint: &Arc<Endpoint>| endpoint.session == session && endpoint.tags.contain(tags);
        self.endpoints.iter().position(fits).filter(|index| self.endpoints[*index].eligible(now))
    }

    /// The endpoints that a request with `id` may go to. One of another snapshot stands for all.
    #[must_use]
    pub fn selection(&self, id: SelectionId) -> &Selection {
        self.selections.get(id.0).unwrap_or(&self.selections.0)
    }

    /// The selection for a route that asks for `tags`; all endpoints if it asks for none, or if it finds nobody and
    /// the service allows that.
    #[must_use]
    pub fn subset(&self, tags: &Tags) -> SelectionId {
        let found = self.selections.iter().position(|selection| selection.tags == *tags);
        let usable = |index: &usize| {
            self.params.subset_fallback == SubsetFallback::None
                || !self.selection(SelectionId(*index)).is_empty()
        };
        found.filter(usable).map_or(SelectionId::ALL, SelectionId)
    }

    /// When the first circuit breaker of `selection` lets an attempt through again; `None` if no breaker keeps any
    /// away at `now`.
    #[must_use]
    pub fn earliest_probe(&self, selection: SelectionId, now: Mono) -> Option<Mono> {
        let may = |endpoint: &&Arc<Endpoint>| endpoint.is_usable() || self.live.panics_at(endpoint.priority);
        let usable = self.selection(selection).endpoints().filter(may);
        usable.filter_map(|endpoint| endpoint.retry_at(now)).min()
    }

    /// Divides the traffic anew by what the endpoints are like at `now`, and decides on panic routing. Only the
    /// control runtime calls this.
    pub fn divide(&self, now: Mono) -> Changes {
        let mut panic = 0;
        for (index, selection) in self.selections.iter().enumerate() {
            let in_panic = selection.divide(&self.params, self.zone.as_deref(), now);
            if index == SelectionId::ALL.0 {
                panic = in_panic;
            }
        }
        let all = self.selection(SelectionId::ALL);
        Changes {
            panic: self.live.set_panic(panic),
            failover: self.live.set_failing_over(all.failover() > 0.0),
        }
    }
}

/// What [`Cluster::divide`] began or ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Whether all endpoints are used because too few are healthy.
    pub panic: bool,
    /// Whether traffic goes to later priorities than the first.
    pub failover: bool,
}

/// One service: its policy, its endpoints, its metrics.
#[derive(Debug)]
pub struct Cluster {
    /// As configured.
    pub params: ClusterParams,
    /// What discovery found, in a stable order (by address).
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Which of `endpoints` a request may go to: all, and the subsets that routes ask for.
    pub selections: Selections,
    /// What its endpoints prove themselves with.
    pub tls: UpstreamTls,
    /// Where this sidecar is.
    pub zone: Option<Arc<str>>,
    /// Live state.
    pub live: Arc<ClusterLive>,
    /// Metric handles.
    pub metrics: Arc<ClusterMetrics>,
}

/// All endpoints of a service, and its subsets.
#[derive(Debug)]
pub struct Selections(Selection, Vec<Selection>);

impl Selections {
    /// `subsets` are the tags that routes ask for, none of them empty. `seed` is that of
    /// [`Balancer::new`](crate::policy::balance::Balancer::new).
    #[must_use]
    pub fn new(params: &ClusterParams, subsets: &[Tags], endpoints: &[Arc<Endpoint>], seed: u64) -> Self {
        let select = |tags: &Tags| Selection::new(params, tags.clone(), endpoints, seed);
        Self(select(&Tags::default()), subsets.iter().map(select).collect())
    }

    /// All, beginning with that of all endpoints.
    pub fn iter(&self) -> impl Iterator<Item = &Selection> {
        std::iter::once(&self.0).chain(&self.1)
    }

    fn get(&self, index: usize) -> Option<&Selection> {
        index.checked_sub(1).map_or(Some(&self.0), |index| self.1.get(index))
    }
}
