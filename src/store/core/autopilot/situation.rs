//! What the leader sees of the nodes, and what it makes of it. Changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::types::Mono;

/// What the leader knows.
#[derive(Clone, Debug)]
pub struct Situation {
    /// The node that asks; it leads.
    pub leader: u64,
    /// Since when it leads. Acknowledgements from before are not known to it.
    pub led_since: Mono,
    /// Who votes.
    pub voters: BTreeSet<u64>,
    /// Who gets the log without a vote.
    pub learners: BTreeSet<u64>,
    /// All nodes of the mesh, with the leader. Who is missing here is dead to the membership.
    pub nodes: BTreeMap<u64, Node>,
    /// Ids that were removed for ever.
    pub tombstones: BTreeSet<u64>,
    /// What is being changed.
    pub change: Change,
    /// How many voters are wanted.
    pub target: Target,
    /// How long it is waited before anything is concluded.
    pub patience: Patience,
}

/// How long it is waited before anything is concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A node that the membership has declared dead, and that has acknowledged nothing for so long, is dead. Longer than a
    /// process takes to be started again, and than the membership to be wrong.
    pub dead_after: Duration,
    /// A node that has been alive, and has had the log, for so long may vote.
    pub stable_after: Duration,
}

impl Patience {
    /// The second one is Consul's `ServerStabilizationTime`.
    pub const USUAL: Self =
        Self { dead_after: Duration::from_secs(15), stable_after: Duration::from_secs(10) };
}

/// A node as the leader sees it.
#[derive(Clone, Debug)]
pub struct Node {
    /// What the membership says.
    pub liveness: Liveness,
    /// When it last acknowledged anything to this leader; for a learner that has not yet, when it was added.
    pub last_ack: Option<Mono>,
    /// How many entries of the log it lacks.
    pub lag: u64,
    /// Since when it has been alive without a break, and caught up if it gets the log; nothing if it is not.
    pub stable_since: Option<Mono>,
    /// Where it runs. All without a zone are in one.
    pub zone: Option<Arc<str>>,
    /// Whether it may vote. Ephemeral nodes never may.
    pub eligible: bool,
    /// Whether it is about to go.
    pub draining: bool,
}

/// What the membership says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It answers.
    Alive,
    /// It might not.
    Suspect,
    /// It does not, or has left.
    Dead,
}

/// Whether the members of the store are being changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// They are not.
    None,
    /// A change is not yet committed, or a new leader is being asked to take over.
    InFlight,
}

/// How many voters are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Five from seven nodes that could vote, three below. Five stay five down to five nodes, so that a mesh of about
    /// seven does not go to and fro.
    Auto,
    /// Three.
    Three,
    /// Five.
    Five,
}

impl Situation {
    /// How many voters are wanted at `now`: 3 or 5.
    #[must_use]
    pub fn target_voters(&self, now: Mono) -> usize {
        View::new(self, now).target()
    }

    /// Whether a member of the store is in order at `now`: alive and stable for long enough, its last acknowledgement less than
    /// 600 ms old, and at most 250 entries behind. The leader itself always is.
    #[must_use]
    pub fn is_healthy(&self, node: u64, now: Mono) -> bool {
        View::new(self, now).is_healthy(node)
    }
}

/// A situation at one time.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    situation: &'a Situation,
    now: Mono,
}

/// How many of so many voters decide.
pub(super) fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

impl<'a> View<'a> {
    pub(super) fn new(situation: &'a Situation, now: Mono) -> Self {
        Self { situation, now }
    }

    pub(super) fn leader(&self) -> u64 {
        self.situation.leader
    }

    pub(super) fn voters(&self) -> impl Iterator<Item = u64> + use<'a> {
        self.situation.voters.iter().copied()
    }

    /// The voters that do not lead.
    pub(super) fn followers(&self) -> impl Iterator<Item = u64> + use<'a> {
        let leader = self.leader();
        self.voters().filter(move |voter| *voter != leader)
    }

    pub(super) fn learners(&self) -> impl Iterator<Item = u64> + use<'a> {
        self.situation.learners.iter().copied()
    }

    /// Watchers that could stand by.
    pub(super) fn candidates(&self) -> impl Iterator<Item = u64> + use<'a> {
        let view = *self;
        let Situation { voters, learners, nodes, .. } = self.situation;
        let watchers = nodes.iter().filter(|(id, _)| !voters.contains(id) && !learners.contains(id));
        watchers
            .filter(move |(id, node)| {
                node.liveness == Liveness::Alive && view.is_stable(node) && !view.is_leaving(**id)
            })
            .map(|(id, _)| *id)
    }

    /// The voters with one more and one fewer.
    pub(super) fn voters_with(&self, add: Option<u64>, remove: Option<u64>) -> BTreeSet<u64> {
        self.voters().filter(|voter| Some(*voter) != remove).chain(add).collect()
    }

    pub(super) fn target(&self) -> usize {
        let is_fit = |(id, node): &(&u64, &Node)| {
            let is_there = node.liveness != Liveness::Dead || !self.is_silent(**id);
            is_there && !self.is_leaving(**id)
        };
        match self.situation.target {
            Target::Three => 3,
            Target::Five => 5,
            Target::Auto => {
                let fit = self.situation.nodes.iter().filter(is_fit).count();
                let are_many = self.situation.voters.len() > 3;
                if fit >= GROW_AT || (are_many && fit >= STAY_AT) { 5 } else { 3 }
            }
        }
    }

    pub(super) fn lag(&self, id: u64) -> u64 {
        self.node(id).map_or(u64::MAX, |node| node.lag)
    }

    pub(super) fn is_healthy(&self, id: u64) -> bool {
        let is_in_order =
            |node: &Node| node.liveness == Liveness::Alive && node.lag <= MAX_LAG && self.is_stable(node);
        id == self.leader() || (self.is_reachable(id) && self.node(id).is_some_and(is_in_order))
    }

    /// Whether it may become a voter, or lead.
    pub(super) fn is_sound(&self, id: u64) -> bool {
        self.is_healthy(id) && !self.is_leaving(id)
    }

    /// Whether it answers the leader, however far behind it is.
    pub(super) fn is_reachable(&self, id: u64) -> bool {
        let ack = self.node(id).and_then(|node| node.last_ack);
        id == self.leader() || ack.is_some_and(|ack| self.now.since(ack) < FRESH_ACK)
    }

    /// Whether neither the membership nor the leader has heard of it for long.
    pub(super) fn is_dead(&self, id: u64) -> bool {
        let is_gone = self.node(id).is_none_or(|node| node.liveness == Liveness::Dead);
        id != self.leader() && is_gone && self.is_silent(id)
    }

    /// Whether it ought not to be a member of the store, dead or not.
    pub(super) fn is_leaving(&self, id: u64) -> bool {
        let is_leaving = self.node(id).is_some_and(|node| node.draining || !node.eligible);
        is_leaving || self.situation.tombstones.contains(&id)
    }

    /// How many voters the zone of `id` has.
    pub(super) fn crowd(&self, id: u64) -> usize {
        self.crowd_among(id, &self.situation.voters)
    }

    /// How many standbys the zone of `id` has.
    pub(super) fn standbys_beside(&self, id: u64) -> usize {
        self.crowd_among(id, &self.situation.learners)
    }

    pub(super) fn crowd_among(&self, id: u64, members: &BTreeSet<u64>) -> usize {
        members.iter().filter(|member| self.zone(**member) == self.zone(id)).count()
    }

    /// The voter whose place `id` could take so that the zones are more even. Such a swap makes the sum of the squares of
    /// their voters less, so there is an end to it.
    pub(super) fn relieved_by(&self, id: u64) -> Option<u64> {
        let crowd = self.crowd(id);
        let crowded = self.followers().filter(|voter| self.crowd(*voter) >= crowd + 2);
        let fewest = self.situation.voters.len() >= 3;
        crowded.max_by_key(|voter| (self.crowd(*voter), !self.is_healthy(*voter), *voter)).filter(|_| fewest)
    }

    /// Whether it has not acknowledged anything for long to one who has led for long.
    fn is_silent(&self, id: u64) -> bool {
        let last = self.node(id).and_then(|node| node.last_ack).unwrap_or(self.situation.led_since);
        self.now.since(last.max(self.situation.led_since)) >= self.situation.patience.dead_after
    }

    fn is_stable(&self, node: &Node) -> bool {
        node.stable_since.is_some_and(|since| self.now.since(since) >= self.situation.patience.stable_after)
    }

    fn zone(&self, id: u64) -> Option<&'a str> {
        self.node(id).and_then(|node| node.zone.as_deref())
    }

    fn node(&self, id: u64) -> Option<&'a Node> {
        self.situation.nodes.get(&id)
    }
}

/// From so many nodes five vote.
const GROW_AT: usize = 7;
/// Down to so many five stay.
const STAY_AT: usize = 5;
/// Twelve heartbeats: who has missed them all is not to be counted on.
const FRESH_ACK: Duration = Duration::from_millis(600);
/// Consul's `MaxTrailingLogs`.
const MAX_LAG: u64 = 250;
