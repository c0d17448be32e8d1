//! One try to found a store: whose promises and votes it has, and what that allows. Sends nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::message::{Accepted, Ballot, Message, Proposal, SeedList};
use crate::types::Mono;

/// What was not answered is said again this often: a few round trips and writes to a slow disk.
pub(super) const REPEAT: Duration = Duration::from_millis(300);
/// A try that has not come further for this long is given up.
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) ballot: Ballot,
    /// What it founds if it is free to choose.
    own: Proposal,
    seeds: SeedList,
    promised: BTreeMap<u64, Promised>,
    /// What is voted on; nothing while promises are being collected.
    motion: Option<Proposal>,
    confirmed: BTreeSet<u64>,
    /// Who said no in this round.
    refused: BTreeSet<u64>,
    pub(super) repeat_at: Mono,
    give_up_at: Mono,
}

#[derive(Debug)]
struct Promised {
    is_seed: bool,
    accepted: Option<Accepted>,
}

impl Attempt {
    pub(super) fn new(ballot: Ballot, own: Proposal, seeds: SeedList, now: Mono) -> Self {
        Self {
            ballot,
            own,
            seeds,
            promised: BTreeMap::new(),
            motion: None,
            confirmed: BTreeSet::new(),
            refused: BTreeSet::new(),
            repeat_at: now.after(REPEAT),
            give_up_at: now.after(PATIENCE),
        }
    }

    /// A promise has come. Whether the vote begins with it.
    pub(super) fn promised(
        &mut self,
        from: u64,
        is_seed: bool,
        accepted: Option<Accepted>,
        now: Mono,
    ) -> bool {
        if self.motion.is_some() || self.promised.contains_key(&from) {
            return false;
        }
        self.promised.insert(from, Promised { is_seed, accepted });
        self.give_up_at = now.after(PATIENCE);
        let seeds = self.promised.values().filter(|promised| promised.is_seed).count();
        let has_members = self.own.members.nodes().iter().all(|member| self.promised.contains_key(member));
        if !has_members || seeds < self.seeds.majority() {
            return false;
        }
        self.motion = Some(self.choice());
        self.refused.clear();
        true
    }

    /// What may be voted on. An earlier try may have had a majority of the seeds unless so many seeds have never voted
    /// that none could: then the last vote that anybody tells of is for what it founded, and for this one to go on with.
    fn choice(&self) -> Proposal {
        let without_vote =
            self.promised.values().filter(|promised| promised.is_seed && promised.accepted.is_none()).count();
        let last_vote = self.promised.values().filter_map(|promised| promised.accepted.as_ref());
        let enough = (self.seeds.count as usize).max(1) - self.seeds.majority() + 1;
        match last_vote.max_by_key(|accepted| accepted.ballot) {
            Some(accepted) if without_vote < enough => accepted.proposal.clone(),
            Some(_) | None => self.own.clone(),
        }
    }

    /// A vote of a seed has come. What is decided with it.
    pub(super) fn confirmed(&mut self, from: u64, now: Mono) -> Option<&Proposal> {
        let motion = self.motion.as_ref()?;
        let was_decided = self.confirmed.len() >= self.seeds.majority();
        if self.confirmed.insert(from) {
            self.give_up_at = now.after(PATIENCE);
        }
        let is_decided = self.confirmed.len() >= self.seeds.majority();
        (is_decided && !was_decided).then_some(motion)
    }

    /// Somebody said no. Whether this try can no longer succeed; `seeds` are those that are known.
    pub(super) fn refused(&mut self, from: u64, seeds: &BTreeSet<u64>) -> bool {
        let has_answered = match self.motion {
            Some(_) => self.confirmed.contains(&from),
            None => self.promised.contains_key(&from),
        };
        if has_answered {
            return false;
        }
        self.refused.insert(from);
        let open = seeds.difference(&self.refused).count();
        let misses_member = self.motion.is_none() && self.own.members.contains(from);
        misses_member || open < self.seeds.majority()
    }

    pub(super) fn is_over(&self, now: Mono) -> bool {
        now >= self.give_up_at
    }

    pub(super) fn deadline(&self) -> Mono {
        self.repeat_at.min(self.give_up_at)
    }

    /// All who may have heard of it.
    pub(super) fn audience(&self, seeds: &BTreeSet<u64>) -> BTreeSet<u64> {
        seeds.iter().chain(self.own.members.nodes()).copied().collect()
    }

    /// What is to be said (again), to whom.
    pub(super) fn words(&self, seeds: &BTreeSet<u64>) -> (Message, Vec<u64>) {
        let me = self.ballot.proposer;
        let Some(proposal) = &self.motion else {
            let members = self.own.members.clone();
            let message = Message::Propose { ballot: self.ballot, seeds: self.seeds, members };
            // First to oneself, and to others once that promise is on the disk: whatever a restart forgets, it never
            // uses a ballot twice.
            if !self.promised.contains_key(&me) {
                return (message, vec![me]);
            }
            let open = self.audience(seeds).into_iter().filter(|node| !self.promised.contains_key(node));
            return (message, open.collect());
        };
        if self.confirmed.len() >= self.seeds.majority() {
            return (Message::Decided(proposal.clone()), proposal.members.nodes().to_vec());
        }
        let message = Message::Confirm { ballot: self.ballot, seeds: self.seeds, proposal: proposal.clone() };
        (message, seeds.difference(&self.confirmed).copied().collect())
    }
}
