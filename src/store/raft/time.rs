//! What time it is for a replica: what a leader writes into the log, and how old what a replica has may be.

use std::{sync::PoisonError, time::Duration};

use openraft::{Instant as _, ServerState, async_runtime::WatchReceiver as _};

use super::{node::Node, types::LogId};
use crate::{
    rt::clock,
    store::{core::log_time::Clocks, embedded::wall_ms, pulse::Freshness},
    types::Mono,
};

/// A wrong clock is told of in the log so often.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// The clocks of the others, and when it was last said that they are right.
#[derive(Default)]
pub(super) struct Told {
    clocks: Clocks,
    at: Option<Mono>,
}

/// What time it is.
impl Node {
    /// The clock of another node says so. Only those of replicas count, and there are many others.
    pub(in crate::store) fn hear_clock(&self, node: u64, wall_ms: u64) {
        if !self.has_replica(node) {
            return;
        }
        let mut told = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        told.clocks.hear(node, wall_ms, clock::now());
    }

    /// What a leader writes into the log as the time: see core/log_time.rs.
    pub(in crate::store) fn log_time(&self) -> u64 {
        let (id, voters): (u64, Vec<u64>) = {
            let metrics = self.raft.metrics();
            let seen = metrics.borrow_watched();
            (seen.id, seen.membership_config.membership().voter_ids().collect())
        };
        let now = clock::now();
        let mut told = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = told.clocks.stamp(id, wall_ms(), &voters, now);
        if let Some(ahead) = stamp.ahead
            && told.at.is_none_or(|last| now.since(last) >= TOLD_AGAIN)
        {
            told.at = Some(now);
            tracing::warn!(
                node = %format_args!("{id:016x}"),
                ahead_s = ahead.as_secs(),
                "the clock of this node is far ahead of those of most voters: the store goes by theirs"
            );
        }
        stamp.at_ms
    }
}

/// How old its state may be.
impl Node {
    pub(in crate::store) fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// How long ago its state had all that was decided; `None` if that is not known.
    pub(in crate::store) fn age(&self) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let seen = metrics.borrow_watched();
        if seen.state != ServerState::Leader {
            return self.freshness.age(clock::now());
        }
        // As long as nothing of its own term is decided, a leader does not know what those before it have decided
        // (Raft dissertation §6.4); and what is not applied is not in the state.
        let of_term = |id: &Option<LogId>| {
            id.as_ref().is_some_and(|id| id.committed_leader_id().term == seen.current_term)
        };
        let is_current = of_term(&seen.local_committed) && seen.last_applied >= seen.local_committed;
        if seen.membership_config.membership().voter_ids().eq([seen.id]) {
            return is_current.then_some(Duration::ZERO);
        }
        seen.last_quorum_acked.filter(|_| is_current).map(|heard| heard.elapsed())
    }

    /// The entry up to which all was decided [`Node::age`] ago.
    pub(in crate::store) fn certain_up_to(&self) -> u64 {
        self.state.applied().log.map_or(0, |log| log.index)
    }

    /// Waits until the entry is in the state; whether it is.
    pub(in crate::store) async fn has_applied(&self, entry: u64, limit: Duration) -> bool {
        let mut applied = self.state.watch();
        let reached = applied.wait_for(|applied| applied.log.map_or(0, |log| log.index) >= entry);
        matches!(tokio::time::timeout(limit, reached).await, Ok(Ok(_)))
    }
}
