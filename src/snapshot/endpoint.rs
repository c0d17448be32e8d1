//! One endpoint of a service, and its live numbers.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use super::{
    Admission, ClusterLive,
    absence::{Absence, Thought},
    strikes::Strikes,
};
use crate::{
    policy::{
        affinity::SessionId,
        balance::Candidate,
        breaker::{Admit, Breaker, BreakerParams, Transition},
        classify::{Outcome, Sample},
        ewma::PeakEwma,
        outlier::ConsecutiveParams,
        slow_start,
    },
    telemetry::metrics::ClusterMetrics,
    types::{Circuit, EjectionCause, EndpointAddress, EndpointState, Mono, Tags, TripCause},
};

/// Identifies one endpoint of one service for the life of the process; survives reloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointId(pub u64);

/// Numbers that change while requests run. One instance per (service, address), shared by all snapshots that
/// contain the endpoint, so that a reload forgets nothing.
#[derive(Debug)]
pub struct EndpointLive {
    id: EndpointId,
    /// Whether the checks of this sidecar find it well.
    healthy: AtomicBool,
    /// Whether the checks of its own sidecar do not.
    reported_unhealthy: AtomicBool,
    /// Whether some member of the mesh got no answer from its sidecar.
    suspected: AtomicBool,
    /// Why the outlier detection put it out, plus one; 0 while it did not.
    ejected: AtomicU8,
    /// What checks and the mesh kept from it.
    absence: Absence,
    /// Whether it is still getting its share little by little, and since when; 0 if not.
    warming_since: AtomicU64,
    breaker: Breaker,
    strikes: Strikes,
    /// When it was put out; for people.
    ejected_at: AtomicU64,
    /// Set when no snapshot contains the endpoint any more, so that pools let go of it.
    retired: AtomicBool,
    in_flight: AtomicU32,
    /// Attempts settled since the endpoint is known, by [`Outcome`].
    outcomes: [AtomicU64; Outcome::ALL.len()],
    latency: PeakEwma,
    /// For people; never read by requests.
    verdicts: Mutex<Verdicts>,
}

/// What the mesh says of an endpoint, beside its address and weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its own sidecar finds the application unhealthy.
    pub is_unhealthy: bool,
    /// Its sidecar did not answer some member, and has not spoken up yet.
    pub is_suspected: bool,
}

/// Who decided what.
#[derive(Debug, Default)]
struct Verdicts {
    own: Verdict,
    /// Since when its own sidecar finds it unhealthy.
    reported_since: Option<SystemTime>,
}

/// What checks last decided.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Why the endpoint is unhealthy.
    pub reason: Option<String>,
    /// Since when it is what it is; `None` if no check has decided yet.
    pub since: Option<SystemTime>,
}

impl EndpointLive {
    /// A new endpoint. `healthy` is its state until the first check says otherwise; `seed` decides the jitter of its
    /// circuit breaker, and should be another one in each process.
    #[must_use]
    pub fn new(healthy: bool, seed: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = EndpointId(NEXT.fetch_add(1, Relaxed));
        Self {
            id,
            healthy: AtomicBool::new(healthy),
            reported_unhealthy: AtomicBool::new(false),
            suspected: AtomicBool::new(false),
            ejected: AtomicU8::new(0),
            absence: Absence::default(),
            warming_since: AtomicU64::new(0),
            breaker: Breaker::new(seed ^ id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            strikes: Strikes::default(),
            ejected_at: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            outcomes: Default::default(),
            latency: PeakEwma::default(),
            verdicts: Mutex::default(),
        }
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Whether all active checks find it well: those of this sidecar, and those of its own.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.passes_checks() && !self.reported_unhealthy.load(Relaxed)
    }

    /// Whether the active checks of this sidecar find it well.
    #[must_use]
    pub fn passes_checks(&self) -> bool {
        self.healthy.load(Relaxed)
    }

    /// Whether its sidecar owes some member of the mesh an answer.
    #[must_use]
    pub fn is_suspected(&self) -> bool {
        self.suspected.load(Relaxed)
    }

    /// Records the verdict of the active checks of this sidecar, made at `at`.
    pub fn judge(&self, healthy: bool, reason: Option<String>, at: SystemTime) {
        self.healthy.store(healthy, Relaxed);
        self.lock().own = Verdict { reason, since: Some(at) };
    }

    /// This sidecar does not check the endpoint any more: as far as it is concerned, it counts as healthy.
    pub fn trust(&self) {
        if !self.healthy.swap(true, Relaxed) {
            self.lock().own = Verdict::default();
        }
    }

    /// Records what the mesh says of it since `at`; returns what it said before.
    pub fn heed(&self, standing: Standing, at: SystemTime) -> Standing {
        let Standing { is_unhealthy, is_suspected } = standing;
        let before = Standing {
            is_unhealthy: self.reported_unhealthy.swap(is_unhealthy, Relaxed),
            is_suspected: self.suspected.swap(is_suspected, Relaxed),
        };
        if before.is_unhealthy != is_unhealthy {
            self.lock().reported_since = is_unhealthy.then_some(at);
        }
        before
    }

    /// What checks last decided, for people: those of this sidecar, or where these have nothing against it, those of
    /// its own.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let verdicts = self.lock();
        match verdicts.reported_since {
            Some(since) if verdicts.own.reason.is_none() => {
                Verdict { reason: Some(REPORTED.to_owned()), since: Some(since) }
            }
            _ => verdicts.own.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Verdicts> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Its circuit breaker.
    #[must_use]
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Why the outlier detection put it out, and when; `None` while it did not.
    #[must_use]
    pub fn ejection(&self) -> Option<(EjectionCause, Mono)> {
        let index = usize::from(self.ejected.load(Relaxed)).checked_sub(1)?;
        let cause = EjectionCause::ALL.get(index).copied()?;
        Some((cause, Mono::from_nanos(self.ejected_at.load(Relaxed))))
    }

    /// Puts it out at `now`. Only the owner of the outlier detection calls this.
    pub fn eject(&self, cause: EjectionCause, now: Mono) {
        self.ejected_at.store(now.as_nanos(), Relaxed);
        self.ejected.store(cause as u8 + 1, Relaxed);
    }

    /// Takes it back at `now`; from then on it gets its share little by little. Nothing happens if it was not out.
    pub fn take_back(&self, now: Mono) {
        if self.ejected.swap(0, Relaxed) != 0 {
            self.strikes.forgive();
            self.warm_up(now);
        }
    }

    /// Too many failures in a row since the last call.
    #[must_use]
    pub fn take_accusation(&self) -> Option<EjectionCause> {
        self.strikes.take_accusation()
    }

    /// Whether it has not got any traffic yet, as far as its service was counted.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.absence.is_new()
    }

    /// An endpoint at its address had failed and was given up: once this one is well, it warms up as one that was kept
    /// out. Takes effect when its service is counted next.
    pub fn replace_failed(&self) {
        self.absence.begin();
    }

    /// Lets its share of the traffic grow from now on.
    pub fn warm_up(&self, now: Mono) {
        self.warming_since.store(now.as_nanos().max(1), Relaxed);
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(super) fn learn(&self, sample: &Sample, consecutive: &ConsecutiveParams, now: Mono) {
        self.latency.observe(sample, now);
        self.outcomes[sample.outcome as usize].fetch_add(1, Relaxed);
        if *consecutive != ConsecutiveParams::default() {
            self.strikes.count(sample.outcome, consecutive);
        }
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
    /// 0 is asked first.
    pub priority: u8,
    /// What it is called beside its address.
    pub tags: Tags,
    /// What cookies call it.
    pub session: SessionId,
    /// Its live numbers.
    pub live: Arc<EndpointLive>,
    /// Live state of the service it belongs to.
    pub cluster: Arc<ClusterLive>,
    /// Name of that service.
    pub service: Arc<str>,
    /// Metric handles of that service.
    pub metrics: Arc<ClusterMetrics>,
    /// What keeps traffic from it when it fails.
    pub safeguards: Safeguards,
}

/// What keeps traffic from an endpoint that fails, as configured.
#[derive(Clone, Debug)]
pub struct Safeguards {
    /// Its circuit breaker; `None` lets everything through.
    pub breaker: Option<BreakerParams>,
    /// Failures in a row that the outlier detection is told of.
    pub consecutive: ConsecutiveParams,
    /// How long it takes to get its full share; zero: the built-in time after it was kept out, none when it is new.
    pub slow_start: Duration,
}

/// How long an endpoint that was kept out takes to get its full share, where no slow start is configured.
const RECOVERY: Duration = Duration::from_secs(10);
/// Share of the traffic for one that is suspected: as much as slow start begins with. Most that are suspected live, and
/// what is sent there and fails is sent again elsewhere. Policies that compare costs take it for ten times as costly; with
/// those that hash, keys stay where they are, since a suspicion lasts for seconds and a moved key is a cold cache.
const SUSPECTED: f32 = 0.1;
/// Why an endpoint is unhealthy that this sidecar has nothing against.
const REPORTED: &str = "its own sidecar finds it unhealthy";

impl Endpoint {
    /// Lets an attempt in, which began at `now`, and counts it as in flight until the admission is dropped.
    /// `None` if the endpoint takes none at this moment: between the choice and this, somebody else was faster.
    #[must_use]
    pub fn admit(self: &Arc<Self>, now: Mono) -> Option<Admission> {
        let Some(params) = &self.safeguards.breaker else {
            return Some(Admission::new(Arc::clone(self), None, now));
        };
        match self.live.breaker.admit(params, now) {
            Admit::Yes(ticket) => Some(Admission::new(Arc::clone(self), Some(ticket), now)),
            Admit::Probe { ticket, first } => {
                if first {
                    self.metrics.circuit_changed(Circuit::HalfOpen);
                    tracing::info!(service = %self.service, endpoint = %self.label, "circuit is half-open; probing");
                }
                Some(Admission::new(Arc::clone(self), Some(ticket), now))
            }
            Admit::No { retry_at, hung } => {
                if hung {
                    self.note(Transition::Opened { cause: TripCause::ProbeHung, until: retry_at }, now);
                }
                None
            }
        }
    }

    /// Whether neither active checks nor the outlier detection speak against it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.live.is_healthy() && self.live.ejected.load(Relaxed) == 0
    }

    /// When its circuit breaker is worth asking again; `None`: now.
    #[must_use]
    pub fn retry_at(&self, now: Mono) -> Option<Mono> {
        self.safeguards.breaker.as_ref().and_then(|params| self.live.breaker.retry_at(params, now))
    }

    /// What its circuit breaker does with requests at `now`.
    #[must_use]
    pub fn circuit(&self, now: Mono) -> Circuit {
        self.safeguards.breaker.map_or(Circuit::Closed, |_| self.live.breaker.circuit(now))
    }

    /// What keeps it from its share of the traffic.
    #[must_use]
    pub fn state(&self, now: Mono) -> EndpointState {
        if !self.live.is_healthy() {
            return EndpointState::Unhealthy;
        }
        if self.live.ejection().is_some() {
            return EndpointState::Ejected;
        }
        match self.circuit(now) {
            Circuit::Closed => EndpointState::Healthy,
            Circuit::Open => EndpointState::Open,
            Circuit::HalfOpen => EndpointState::HalfOpen,
        }
    }

    /// Tells of a change of the circuit, and draws the consequence.
    pub(super) fn note(&self, transition: Transition, now: Mono) {
        let (service, endpoint) = (&self.service, &self.label);
        match transition {
            Transition::Closed => {
                self.live.warm_up(now);
                self.metrics.circuit_changed(Circuit::Closed);
                tracing::info!(%service, %endpoint, "circuit is closed; the endpoint takes requests again");
            }
            Transition::Opened { cause, until } => {
                self.metrics.circuit_changed(Circuit::Open);
                let (reason, open_for) = (cause.as_str(), until.since(now));
                tracing::warn!(%service, %endpoint, reason, ?open_for, "circuit is open; the endpoint fails");
            }
        }
    }
}

impl Candidate for Arc<Endpoint> {
    /// Panic overrides what checks and the outlier detection say, never an open circuit (ADR 0008).
    fn eligible(&self, now: Mono) -> bool {
        (self.is_usable() || self.cluster.panics_at(self.priority))
            && self.safeguards.breaker.as_ref().is_none_or(|params| self.live.breaker.may_admit(params, now))
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

    fn ramp(&self, now: Mono) -> f32 {
        let share = self.warmth(now);
        if self.live.is_suspected() { share.min(SUSPECTED) } else { share }
    }
}

impl Endpoint {
    /// Lets it warm up if it is back at `now`. To be called whenever a verdict may have changed, after it was decided
    /// whether its service panics.
    pub(super) fn follow(&self, now: Mono) {
        let thought = Thought {
            is_healthy: self.live.is_healthy(),
            is_suspected: self.live.is_suspected(),
            in_panic: self.cluster.panics_at(self.priority),
        };
        if self.live.absence.ends(thought, self.recovery(), now) {
            self.live.warm_up(now);
        }
    }

    /// How long it takes to warm up.
    fn recovery(&self) -> Duration {
        let own = self.safeguards.slow_start;
        if own.is_zero() { RECOVERY } else { own }
    }

    /// Share of its usual traffic that it is given while it warms up, above 0 and at most 1.
    fn warmth(&self, now: Mono) -> f32 {
        let since = self.live.warming_since.load(Relaxed);
        if since == 0 {
            return 1.0;
        }
        let share = slow_start::share(now.since(Mono::from_nanos(since)), self.recovery());
        if share >= 1.0 {
            // Warm: the next look is cheap. Whoever began to warm up again meanwhile is left alone.
            let _ = self.live.warming_since.compare_exchange(since, 0, Relaxed, Relaxed);
        }
        share
    }
}
