//! Who is let in when there is too much to do: the learned limit of the application, and the pressure that the whole
//! process is under.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, StatusCode};

use super::{ListenersParams, connection::Downstream, reply::Reason, sweep::TICK};
use crate::{
    policy::{
        limit::{FullAt, Verdict},
        overload::{Action, Actions},
    },
    snapshot::{ConcurrencySlot, MeshSnapshot},
    telemetry::metrics::OverloadMetrics,
    types::{Direction, Flag, Mono, Priority},
};

/// How much a request matters, by what its caller says. It travels on: every hop has its own limit.
pub(super) const PRIORITY: HeaderName = HeaderName::from_static("x-outrigger-priority");

/// Reads the class of a request.
pub(super) fn priority(headers: &HeaderMap) -> Priority {
    headers.get(PRIORITY).map_or_else(Priority::default, |value| Priority::parse(value.as_bytes()))
}

/// What a request holds from its admission to its end.
#[derive(Default)]
pub(super) struct Admitted {
    /// Its place in the learned limit of the application.
    pub(super) slot: Option<ConcurrencySlot>,
    _listener: Option<OnListener>,
}

/// Lets a request in.
///
/// # Errors
/// Why it is not let in.
pub(super) fn admit(
    downstream: &Downstream,
    snapshot: &MeshSnapshot,
    priority: Priority,
) -> Result<Admitted, Reason> {
    let pressure = &downstream.worker.pressure;
    pressure.check(downstream, priority)?;
    let _listener = pressure.enter(downstream.side, downstream.limits.max_requests)?;
    let limiter = match downstream.side {
        Direction::Inbound => snapshot.inbound.concurrency.as_ref(),
        Direction::Outbound => None,
    };
    let slot = match limiter {
        Some(limiter) => Some(limiter.enter(priority).ok_or_else(|| refusal("concurrency"))?),
        None => None,
    };
    Ok(Admitted { slot, _listener })
}

fn refusal(details: &'static str) -> Reason {
    Reason {
        status: StatusCode::SERVICE_UNAVAILABLE,
        flag: Flag::Overload,
        token: "http_request_denied",
        details: Some(details),
        close: false,
        retry_after: None,
    }
}

/// What the workers and whoever watches over the process tell each other: what not to do any more, and when each
/// worker was last seen.
#[derive(Debug)]
pub struct Pressure {
    actions: AtomicU8,
    /// Nanoseconds of [`Mono`]; zero until the worker's first tick.
    ticks: Vec<AtomicU64>,
    doors: [Door; 2],
    metrics: OverloadMetrics,
}

/// What is counted per listener, over all workers.
#[derive(Debug, Default)]
struct Door {
    requests: AtomicU32,
    rate: Mutex<Option<FullAt>>,
}

/// A request in flight on a listener; dropping it ends the count.
pub(super) struct OnListener(Arc<Pressure>, Direction);

impl Drop for OnListener {
    fn drop(&mut self) {
        self.0.door(self.1).requests.fetch_sub(1, Relaxed);
    }
}

impl Pressure {
    /// No pressure, on so many workers.
    #[must_use]
    pub fn new(workers: usize, metrics: OverloadMetrics) -> Arc<Self> {
        let ticks = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { actions: AtomicU8::new(0), ticks, doors: Default::default(), metrics })
    }

    /// Tells the workers what to do from now on.
    pub fn set(&self, actions: Actions) {
        self.actions.store(actions.bits(), Relaxed);
    }

    /// How late the slowest worker is.
    #[must_use]
    pub fn lag(&self, now: Mono) -> Duration {
        let ticks = self.ticks.iter().map(|tick| tick.load(Relaxed)).filter(|tick| *tick > 0);
        ticks.map(|tick| now.since(Mono::from_nanos(tick)).saturating_sub(TICK)).max().unwrap_or_default()
    }

    /// The worker is alive.
    pub(super) fn tick(&self, worker: usize, now: Mono) {
        if let Some(tick) = self.ticks.get(worker) {
            tick.store(now.as_nanos(), Relaxed);
        }
    }

    /// Whether new connections wait in the kernel.
    pub(super) fn stops_accepting(&self) -> bool {
        self.actions().has(Action::StopAccepting)
    }

    /// Whether a connection keeps to the rate of its listener.
    pub(super) fn takes_connection(&self, side: Direction, limits: &ListenersParams, now: Mono) -> bool {
        let Some(rate) = &limits.connection_rate else { return true };
        let mut state = self.door(side).rate.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(rate.check(&mut state, now), Verdict::Allowed { .. })
    }

    fn actions(&self) -> Actions {
        Actions::from_bits(self.actions.load(Relaxed))
    }

    fn door(&self, side: Direction) -> &Door {
        &self.doors[side as usize]
    }

    /// Refuses what must not be begun under pressure.
    fn check(&self, downstream: &Downstream, priority: Priority) -> Result<(), Reason> {
        let actions = self.actions();
        if actions.is_empty() {
            return Ok(());
        }
        if actions.has(Action::StopKeepAlive) {
            downstream.state.request_graceful();
        }
        let shed = actions.has(Action::ShedLowPriority) && priority == Priority::Sheddable;
        let action = match (actions.has(Action::RefuseRequests), shed) {
            (true, _) => Action::RefuseRequests,
            (false, true) => Action::ShedLowPriority,
            (false, false) => return Ok(()),
        };
        self.metrics.shed(action as usize);
        Err(refusal("overload"))
    }

    /// Counts a request on its listener, if there is room for one more.
    fn enter(self: &Arc<Self>, side: Direction, most: u32) -> Result<Option<OnListener>, Reason> {
        if most == 0 {
            return Ok(None);
        }
        // Counted first and looked at then: of two that see the last place, one must not get it.
        let before = self.door(side).requests.fetch_add(1, Relaxed);
        let counted = OnListener(Arc::clone(self), side);
        if before < most { Ok(Some(counted)) } else { Err(refusal("max_requests")) }
    }
}
