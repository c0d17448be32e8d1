//! Who votes in the store, who stands by, and what the leader changes next about it. Pure: one look at the situation
//! gives at most one step; the leader carries it out and looks again a second later. Carries out nothing itself.
//!
//! The rules are those of HashiCorp's raft-autopilot, with voters replaced in one joint change instead of two: a dead
//! voter never makes the others fewer than they were, and no step leaves fewer healthy voters than a quorum.

mod situation;

use std::collections::BTreeSet;

pub use situation::{Change, Liveness, Node, Patience, Situation, Target};
use situation::{View, quorum};

use crate::types::Mono;

/// One change. All of them leave a node that ceases to vote as a learner, so that it can be removed or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A watcher becomes a standby: it gets the log, and has no vote.
    AddLearner(u64),
    /// A standby becomes a voter, in the same joint change in which another ceases to be one.
    Promote {
        /// The standby.
        add: u64,
        /// The voter that becomes a learner.
        remove: Option<u64>,
    },
    /// A voter becomes a learner, and nobody takes its place.
    Demote(u64),
    /// A learner becomes a watcher. It may come back.
    RemoveLearner(u64),
    /// A dead learner is removed and its id is tombstoned: whoever comes back with what it had on its disk comes back
    /// under another id.
    Bury(u64),
    /// The leader asks this voter to lead in its place.
    TransferLeadership(u64),
}

/// What the leader does next; nothing if all is as it should be, if a change is in flight, or if it cannot be sure that a
/// change would be committed. For the same situation at the same time the answer is the same, and a situation in which
/// nothing happens but these steps comes to rest.
#[must_use]
pub fn decide(situation: &Situation, now: Mono) -> Option<Step> {
    let view = View::new(situation, now);
    let reachable = view.voters().filter(|voter| view.is_reachable(*voter)).count();
    let may_change = situation.change == Change::None
        && situation.voters.contains(&situation.leader)
        && reachable >= quorum(situation.voters.len());
    if !may_change {
        return None;
    }
    hand_over(&view)
        .or_else(|| replace(&view))
        .or_else(|| shrink(&view))
        .or_else(|| grow(&view))
        .or_else(|| spread(&view))
        .or_else(|| dismiss_learner(&view))
        .or_else(|| add_learner(&view))
}

/// A leader that is about to go lets another lead first.
fn hand_over(view: &View<'_>) -> Option<Step> {
    if !view.is_leaving(view.leader()) {
        return None;
    }
    let sound = view.voters().filter(|voter| *voter != view.leader() && view.is_sound(*voter));
    sound.min_by_key(|voter| (view.lag(*voter), *voter)).map(Step::TransferLeadership)
}

/// Somebody takes the place of a voter that is dead or about to go. If nobody can, the dead go first and are replaced
/// later, as long as enough are left.
fn replace(view: &View<'_>) -> Option<Step> {
    let count = view.voters().count();
    if count > view.target() || removable(count) == 0 {
        return None;
    }
    let mut going: Vec<u64> =
        view.followers().filter(|voter| view.is_dead(*voter) || view.is_leaving(*voter)).collect();
    going.sort_by_key(|voter| (!view.is_dead(*voter), *voter));
    let replaced = going.iter().find_map(|remove| promote(view, Some(*remove)));
    let demoted =
        || going.into_iter().find(|voter| view.is_dead(*voter) && may_demote(view, *voter)).map(Step::Demote);
    replaced.or_else(demoted)
}

/// There are more voters than are wanted: the one that is least use ceases to be one.
fn shrink(view: &View<'_>) -> Option<Step> {
    if view.voters().count() <= view.target() {
        return None;
    }
    let mut surplus: Vec<u64> = view.followers().collect();
    surplus.sort_by_key(|voter| std::cmp::Reverse(uselessness(view, *voter)));
    surplus.into_iter().find(|voter| may_demote(view, *voter)).map(Step::Demote)
}

/// There are fewer voters than are wanted. An even number of them bears no more failures than one fewer, so it is only
/// passed through.
fn grow(view: &View<'_>) -> Option<Step> {
    let count = view.voters().count();
    let needed = if count.is_multiple_of(2) { 1 } else { 2 };
    let ready = view.learners().filter(|learner| view.is_sound(*learner)).count();
    if count < view.target() && ready >= needed { promote(view, None) } else { None }
}

/// A zone has so many voters that the failure of it would take fewer if one of another zone voted instead.
fn spread(view: &View<'_>) -> Option<Step> {
    let swaps = view.learners().filter(|learner| view.is_sound(*learner)).filter_map(|add| {
        let remove = view.relieved_by(add)?;
        let fits = holds(view, &view.voters_with(Some(add), Some(remove)));
        fits.then_some((view.crowd(add), add, remove))
    });
    swaps.min().map(|(_, add, remove)| Step::Promote { add, remove: Some(remove) })
}

/// A learner that is dead, about to go, or one too many.
fn dismiss_learner(view: &View<'_>) -> Option<Step> {
    if let Some(dead) = view.learners().find(|learner| view.is_dead(*learner)) {
        return Some(Step::Bury(dead));
    }
    if let Some(leaving) = view.learners().find(|learner| view.is_leaving(*learner)) {
        return Some(Step::RemoveLearner(leaving));
    }
    if view.learners().count() <= STANDBYS {
        return None;
    }
    let worst = view
        .learners()
        .max_by_key(|learner| (view.relieved_by(*learner).is_none(), uselessness(view, *learner)));
    worst.map(Step::RemoveLearner)
}

/// A standby is missing, or none of them could relieve a crowded zone and somebody else could.
fn add_learner(view: &View<'_>) -> Option<Step> {
    let best = |nodes: &mut dyn Iterator<Item = u64>| {
        nodes.min_by_key(|node| (view.crowd(*node), view.standbys_beside(*node), *node))
    };
    let chosen = if view.learners().count() < STANDBYS {
        best(&mut view.candidates())
    } else if view.learners().any(|learner| view.relieved_by(learner).is_some()) {
        None
    } else {
        best(&mut view.candidates().filter(|node| view.relieved_by(*node).is_some()))
    };
    chosen.map(Step::AddLearner)
}

/// The best standby becomes a voter, in place of `remove` or beside the others.
fn promote(view: &View<'_>, remove: Option<u64>) -> Option<Step> {
    let left = view.voters_with(None, remove);
    let sound = view.learners().filter(|learner| view.is_sound(*learner));
    let fitting = sound.filter(|add| holds(view, &view.voters_with(Some(*add), remove)));
    let best = fitting.min_by_key(|add| (view.crowd_among(*add, &left), view.lag(*add), *add));
    best.map(|add| Step::Promote { add, remove })
}

/// Whether `voter` may cease to be one with nobody in its place.
fn may_demote(view: &View<'_>, voter: u64) -> bool {
    let after = view.voters_with(None, Some(voter));
    after.len() >= FEWEST_VOTERS && removable(after.len() + 1) > 0 && holds(view, &after)
}

/// Whether these voters could decide at once: most of them are healthy.
fn holds(view: &View<'_>, voters: &BTreeSet<u64>) -> bool {
    voters.iter().filter(|voter| view.is_healthy(**voter)).count() >= quorum(voters.len())
}

/// How many of so many voters may be removed at once.
fn removable(voters: usize) -> usize {
    voters.saturating_sub(1) / 2
}

/// The greatest is removed first.
fn uselessness(view: &View<'_>, node: u64) -> (bool, bool, bool, usize, u64) {
    let is_healthy = view.is_healthy(node);
    (view.is_dead(node), view.is_leaving(node), !is_healthy, view.crowd(node), node)
}

/// So many learners stand by: one for the next failure, and one for a failure while that is being replaced.
const STANDBYS: usize = 2;

/// No fewer are left by this code; two voters bear no failure.
const FEWEST_VOTERS: usize = 3;

#[cfg(test)]
mod tests;
