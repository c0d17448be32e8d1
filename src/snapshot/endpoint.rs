//! One endpoint of a service, and its live numbers.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use super::ClusterLive;
use crate::{
    policy::{
        balance::Candidate,
        classify::{Outcome, Sample},
        ewma::PeakEwma,
    },
    types::{EndpointAddress, Mono},
};

/// Identifies one endpoint of one service for the life of the process; survives reloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointId(pub u64);

/// Numbers that change while requests run. One instance per (service, address), shared by all snapshots that
/// contain the endpoint, so that a reload forgets nothing.
#[derive(Debug)]
pub struct EndpointLive {
    id: EndpointId,
    healthy: AtomicBool,
    /// Set when no snapshot contains the endpoint any more, so that pools let go of it.
    retired: AtomicBool,
    in_flight: AtomicU32,
    /// Attempts settled since the endpoint is known, by [`Outcome`].
    outcomes: [AtomicU64; Outcome::ALL.len()],
    latency: PeakEwma,
    /// For people; never read by requests.
    verdict: Mutex<Verdict>,
}

/// What the active checks last decided.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Why the endpoint is unhealthy.
    pub reason: Option<String>,
    /// Since when it is what it is; `None` if no check has decided yet.
    pub since: Option<SystemTime>,
}

impl EndpointLive {
    /// A new endpoint. `healthy` is its state until the first check says otherwise.
    #[must_use]
    pub fn new(healthy: bool) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: EndpointId(NEXT.fetch_add(1, Relaxed)),
            healthy: AtomicBool::new(healthy),
            retired: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            outcomes: Default::default(),
            latency: PeakEwma::default(),
            verdict: Mutex::default(),
        }
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Whether active checks find it well.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Relaxed)
    }

    /// Records the verdict of the active checks, made at `at`.
    pub fn judge(&self, healthy: bool, reason: Option<String>, at: SystemTime) {
        self.healthy.store(healthy, Relaxed);
        *self.lock() = Verdict { reason, since: Some(at) };
    }

    /// Nobody checks the endpoint any more: it counts as healthy.
    pub fn trust(&self) {
        if !self.healthy.swap(true, Relaxed) {
            *self.lock() = Verdict::default();
        }
    }

    /// What the checks last decided, for people.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Verdict> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the endpoint left the configuration.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Marks it as gone from, or back in, the configuration.
    pub fn set_retired(&self, retired: bool) {
        self.retired.store(retired, Relaxed);
    }

    /// Requests that this process has in flight to it.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Attempts that ended with `outcome`; only grows.
    #[must_use]
    pub fn outcomes(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Relaxed)
    }

    /// Its latency as its callers feel it.
    #[must_use]
    pub fn latency(&self) -> &PeakEwma {
        &self.latency
    }

    fn learn(&self, sample: &Sample, now: Mono) {
        self.latency.observe(sample, now);
        self.outcomes[sample.outcome as usize].fetch_add(1, Relaxed);
    }
}

/// One endpoint as a snapshot has it.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: EndpointAddress,
    /// Address of the other family under the same name, for a second attempt to connect.
    pub alternate: Option<EndpointAddress>,
    /// `address` as text, made once.
    pub label: Arc<str>,
    /// 1 to 1000.
    pub weight: u32,
    /// Its live numbers.
    pub live: Arc<EndpointLive>,
    /// Live state of the service it belongs to.
    pub cluster: Arc<ClusterLive>,
}

impl Endpoint {
    /// Lets an attempt in, which began at `now`, and counts it as in flight until the admission is dropped.
    /// `None` if the endpoint takes none at this moment: between the choice and this, somebody else was faster.
    #[must_use]
    pub fn admit(&self, now: Mono) -> Option<Admission> {
        self.live.in_flight.fetch_add(1, Relaxed);
        Some(Admission { live: Arc::clone(&self.live), began: now, settled: false })
    }
}

impl Candidate for Arc<Endpoint> {
    fn eligible(&self, _now: Mono) -> bool {
        self.live.is_healthy() || self.cluster.in_panic()
    }

    fn weight(&self) -> u32 {
        self.weight
    }

    fn in_flight(&self) -> u32 {
        self.live.in_flight()
    }

    fn cost(&self, now: Mono) -> f32 {
        self.live.latency.cost(self.live.in_flight(), now)
    }

    fn hash_identity(&self) -> &str {
        &self.label
    }
}

/// An attempt in flight to an endpoint. It is settled once, when its outcome is known (the head of the answer, or
/// the failure), and goes on counting as in flight until it is dropped. Dropped unsettled, it was cancelled:
/// nothing is learned from it.
#[derive(Debug)]
pub struct Admission {
    live: Arc<EndpointLive>,
    began: Mono,
    settled: bool,
}

impl Admission {
    /// Tells the endpoint's policies what came of the attempt. Only the first call counts.
    pub fn settle(&mut self, outcome: Outcome, retry_after: Option<Duration>, now: Mono) {
        if !std::mem::replace(&mut self.settled, true) {
            self.live.learn(&Sample { outcome, latency: now.since(self.began), retry_after }, now);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.live.in_flight.fetch_sub(1, Relaxed);
    }
}
