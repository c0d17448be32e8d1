//! The slow clock of a worker: ten times a second it looks at every client connection for time limits that ran
//! out, and once a second at the pools. Requests therefore set no timers of their own for any of this.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    ListenersParams,
    flow::Flows,
    framing::{ConnState, TimeLimits},
    pool::Pools,
    secure::Standing,
};
use crate::{identity::MeshTls, rt::clock, types::Mono};

/// Precision of all limits that are not about answers.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Ticks between looks at the pools.
const POOL_TICKS: u32 = 10;

/// All client connections of one worker, and the bodies that wait in HTTP/2 streams.
#[derive(Default)]
pub(crate) struct Sweeper {
    connections: RefCell<Vec<Watched>>,
    flows: Rc<Flows>,
}

struct Watched {
    state: Weak<ConnState>,
    limits: TimeLimits,
    standing: Option<Standing>,
}

impl Sweeper {
    /// Watches a connection until it is gone. One whose caller loses its `standing` is asked to leave.
    pub(crate) fn watch(&self, state: &Rc<ConnState>, limits: &ListenersParams, standing: Option<Standing>) {
        let watched = Watched { state: Rc::downgrade(state), limits: limits.time_limits(), standing };
        self.connections.borrow_mut().push(watched);
    }

    /// The bodies that wait in HTTP/2 streams.
    pub(crate) fn flows(&self) -> &Rc<Flows> {
        &self.flows
    }

    /// Asks every connection to finish what it has begun and close.
    pub(crate) fn ask_all_to_leave(&self) {
        for watched in self.connections.borrow().iter() {
            if let Some(state) = watched.state.upgrade() {
                state.request_graceful();
            }
        }
    }

    fn sweep(&self, now: Mono, wall: SystemTime, trust: u64) {
        self.flows.sweep(now);
        self.connections.borrow_mut().retain(|watched| match watched.state.upgrade() {
            Some(state) => {
                if watched.standing.as_ref().is_some_and(|standing| standing.has_ended(wall, trust)) {
                    state.request_graceful();
                }
                if let Some(expired) = state.sweep(now, &watched.limits) {
                    tracing::debug!(limit = expired.as_str(), "connection ran into a time limit");
                }
                true
            }
            None => false,
        });
    }
}

/// Ticks for ever; ends when it is dropped with its worker.
pub(crate) async fn run(
    sweeper: Rc<Sweeper>,
    pools: Rc<Pools>,
    now: Rc<Cell<Mono>>,
    epoch: Rc<Cell<SystemTime>>,
    mesh: Option<Arc<MeshTls>>,
    alive: impl Fn(Mono),
) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut count: u32 = 0;
    loop {
        ticks.tick().await;
        now.set(clock::now());
        epoch.set(clock::epoch());
        alive(now.get());
        let trust = mesh.as_ref().map_or(0, |mesh| mesh.epoch());
        sweeper.sweep(now.get(), epoch.get() + now.get().since(Mono::ZERO), trust);
        count = count.wrapping_add(1);
        if count.is_multiple_of(POOL_TICKS) {
            pools.sweep(now.get());
        }
    }
}
