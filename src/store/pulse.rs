//! How old what a node has may be: it asks the leader now and then how far the log is decided, and remembers when it had
//! all of that. A read that bears some age needs nobody then. What is asked for in a read itself is in embedded.rs.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    Role,
    embedded::EmbeddedStore,
    protocol::{self, Answer},
    raft::Node,
};
use crate::{
    peer::rpc::{Call, Refusal},
    rt::clock,
    types::Mono,
};

/// Asks for a [`Pulse`]: answered with `Answer<Pulse>`.
pub(super) const PULSE: &str = "store/pulse";
/// How often a replica asks, and how often a node without one does: there are many of those.
const EVERY: Duration = Duration::from_millis(500);
const SELDOM: Duration = Duration::from_secs(2);
/// For the answer, and for the state to get as far as it says.
const LIMIT: Duration = Duration::from_secs(1);

/// How far the log was decided, and when that was certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pulse {
    /// All that was decided before then is up to this entry of the log.
    pub(super) committed: u64,
    /// How long ago a quorum said that nobody else leads, when this was answered.
    pub(super) age_ms: u64,
}

/// Since when what this node has may be out of date.
#[derive(Debug, Default)]
pub(super) struct Freshness(AtomicU64);

impl Freshness {
    /// All that was decided before `at` is here. An earlier moment than the last one says nothing new.
    pub(super) fn confirm(&self, at: Mono) {
        self.0.fetch_max(at.as_nanos(), Relaxed);
    }

    /// How old what is here may be; `None` if that was never known.
    pub(super) fn age(&self, now: Mono) -> Option<Duration> {
        let at = self.0.load(Relaxed);
        (at != 0).then(|| now.since(Mono::from_nanos(at)))
    }
}

/// What this replica says if it is asked. Whoever asks says what its clock says.
pub(super) fn answer(node: &Node, call: &Call) -> Result<Bytes, Refusal> {
    let unread = || Refusal::new(StatusCode::BAD_REQUEST, "this version does not know what is asked");
    node.hear_clock(call.from, protocol::read(&call.body).ok_or_else(unread)?);
    let pulse = match node.age() {
        Some(age) => Answer::Done(Pulse {
            committed: node.certain_up_to(),
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX).saturating_add(1),
        }),
        None => Answer::NoQuorum,
    };
    Ok(protocol::write(&pulse))
}

/// Keeps what is known about the age of what this node has. Never returns.
pub(super) async fn keep(store: EmbeddedStore) {
    let every = if store.replica().is_some() { EVERY } else { SELDOM };
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Who leads knows by itself.
        if store.replica().is_some_and(|node| matches!(node.role(), Role::Leader | Role::Searching)) {
            continue;
        }
        let asked = clock::now();
        let Ok(Answer::Done(pulse)) = timeout(LIMIT, Box::pin(store.ask_for_pulse())).await else { continue };
        let Some(at) = certain_at(asked, &pulse) else { continue };
        match store.replica() {
            Some(node) if node.has_applied(pulse.committed, LIMIT).await => node.freshness().confirm(at),
            Some(_) => {}
            None => store.heard_at(at),
        }
    }
}

/// When it was certain what `pulse` says: it was answered after it was asked for, so no later than this counts. `None` if
/// that was before this process began.
fn certain_at(asked: Mono, pulse: &Pulse) -> Option<Mono> {
    let age = Duration::from_millis(pulse.age_ms);
    let since_start = asked.since(Mono::ZERO);
    (age < since_start).then(|| Mono::ZERO.after(since_start - age))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono::ZERO.after(Duration::from_secs(seconds))
    }

    #[test]
    fn what_is_certain_counts_from_before_it_was_asked() {
        let pulse = |age_ms| Pulse { committed: 7, age_ms };
        assert_eq!(certain_at(at(10), &pulse(2000)), Some(at(8)));
        assert_eq!(certain_at(at(1), &pulse(2000)), None);
        assert_eq!(certain_at(at(1), &pulse(u64::MAX)), None);
    }

    #[test]
    fn an_answer_that_comes_late_makes_nothing_older() {
        let freshness = Freshness::default();
        assert_eq!(freshness.age(at(5)), None);
        freshness.confirm(at(8));
        freshness.confirm(at(6));
        assert_eq!(freshness.age(at(10)), Some(Duration::from_secs(2)));
    }
}
