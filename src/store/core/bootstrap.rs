//! Who founds the store of a mesh: without an operator, and never two of them. Pure. Carries no messages, writes nothing
//! to a disk, starts no store: the caller does, and tells what came of it.
//!
//! **Rounds.** The lowest of enough nodes that could found a store *proposes*: it asks all members that it has in mind,
//! and all seeds, for a *promise*. With promises of all members and of a majority of the configured seeds it asks the
//! seeds to *confirm*, which is a vote; with the votes of a majority of them it founds. Every promise and every vote is
//! on the disk of whoever gives it before it is told.
//!
//! **Why there are never two.** This is Paxos for one value with the seeds as acceptors; members besides them only
//! promise. Tries are ordered by their [`Ballot`], and nobody who has promised to one votes in an earlier one. Say that
//! a majority of the seeds has voted for P in try b, and take a later try that gets as far as its vote. It has promises of
//! a majority, which has a seed in common with the one that voted. All seeds that voted for P and promised to the later
//! try did so in this order, or they would have refused to vote, and told of a vote when they promised. So there are
//! fewer promises without a vote than make a choice free, and the later try goes on with the last vote that it was told
//! of, which is of try b or later and, by induction, for P. So whatever is decided is the same members and the same
//! store. Several of the members may found it, which is no harm: it is one initial state.
//!
//! **Why a promise may be released.** A promise keeps others out only for a time, and not at all if its proposer is
//! known to be dead. That needs neither clocks nor true news of deaths to be safe: a proposer that wakes up after it was
//! passed over still needs votes for its own ballot, and those who promised to a later one refuse. Nothing is ever
//! done on the strength of promises alone. Time decides only who goes ahead.
//!
//! **What it rests on.** All nodes are configured with the same seeds ([`SeedList`] is compared), at most one node at a
//! time is taken for each of them, and no seed loses its disk before the store is founded. A store whose members were
//! voted for and are gone for good before any of them founded it is lost like one that lost all its voters.

mod acceptor;
mod attempt;
mod exchange;
mod message;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use acceptor::{Acceptor, Verdict};
use attempt::{Attempt, REPEAT};
pub use exchange::{Config, Expect, Input, Kept, Known, Me, Output};
pub use message::{
    Accepted, Ballot, Members, MembersError, Message, Promise, Proposal, Refusal, SeedList, StoreId,
};

use crate::types::Mono;

/// The part of one node.
#[derive(Debug)]
pub struct Bootstrap {
    me: Me,
    config: Config,
    rng: fastrand::Rng,
    /// When this node was started, and the latest time it was told.
    started: Mono,
    now: Mono,
    known: Vec<Known>,
    /// The store it belongs to.
    store: Option<StoreId>,
    has_conflict: bool,
    acceptor: Acceptor,
    writing: Option<Writing>,
    writings: u64,
    attempt: Option<Attempt>,
    /// The highest round that was heard of.
    round: u64,
    quiet_until: Mono,
    /// Words to oneself.
    inner: VecDeque<Message>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Writing {
    number: u64,
    to: u64,
    answer: Message,
}

impl Bootstrap {
    /// The part of node `me`, which starts at `now` with what its disk has. `rng` draws names of stores and pauses: two
    /// nodes, and two starts of one, must not draw alike.
    #[must_use]
    pub fn new(me: Me, config: Config, kept: Kept, rng: fastrand::Rng, now: Mono) -> Self {
        let round = kept.promise.ballot.round;
        let mut bootstrap = Self {
            me,
            config,
            rng,
            started: now,
            now,
            known: Vec::new(),
            store: kept.store,
            has_conflict: false,
            acceptor: Acceptor::new(kept.promise),
            writing: None,
            writings: 0,
            attempt: None,
            round,
            quiet_until: now,
            inner: VecDeque::new(),
            outputs: VecDeque::new(),
        };
        bootstrap.advance(now);
        bootstrap
    }

    /// The store this node belongs to: kept, founded or joined.
    #[must_use]
    pub fn store(&self) -> Option<StoreId> {
        self.store
    }

    /// Takes note of what has happened. Then ask [`Self::poll`].
    pub fn handle(&mut self, input: Input, now: Mono) {
        self.now = self.now.max(now);
        match input {
            Input::Known(known) => self.learn(known),
            Input::Received { from, message } if from != self.me.node => self.receive(from, message),
            Input::Received { .. } => {}
            Input::Persisted(number) => {
                if let Some(done) = self.writing.take_if(|writing| writing.number == number) {
                    self.send(done.to, done.answer);
                }
            }
        }
        self.advance(now);
    }

    /// Does what is due at `now`. Then ask [`Self::poll`].
    pub fn advance(&mut self, now: Mono) {
        self.now = self.now.max(now);
        match &mut self.attempt {
            Some(attempt) if attempt.is_over(self.now) => self.abandon(),
            Some(attempt) if attempt.repeat_at <= self.now => {
                attempt.repeat_at = self.now.after(REPEAT);
                self.speak();
            }
            Some(_) => {}
            None => self.begin(),
        }
        while let Some(message) = self.inner.pop_front() {
            self.receive(self.me.node, message);
        }
    }

    /// When [`Self::advance`] is needed next, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        if self.store.is_some() {
            return None;
        }
        if let Some(attempt) = &self.attempt {
            return Some(attempt.deadline());
        }
        let settled = self.known.iter().map(|known| known.since).chain([self.started]);
        let due = settled.map(|since| since.after(self.config.settle)).chain([self.quiet_until]);
        due.filter(|due| *due > self.now).min()
    }

    /// The next thing to do, in the order in which they are to be begun.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn learn(&mut self, mut known: Vec<Known>) {
        known.retain(|known| known.node != self.me.node);
        self.known = known;
        let mut stores: Vec<StoreId> = self.known.iter().filter_map(|known| known.founded).collect();
        stores.extend(self.store);
        stores.sort_unstable();
        // Of one store the latest epoch counts: who has an earlier one was left behind.
        let latest = stores.chunk_by(|one, next| one.is_kin(*next)).filter_map(|epochs| epochs.last());
        let stores: Vec<StoreId> = latest.copied().collect();
        match stores[..] {
            [] => {}
            [store] => self.join(store),
            [..] if self.has_conflict => {}
            [..] => {
                self.has_conflict = true;
                self.abandon();
                self.outputs.push_back(Output::Conflict(stores));
            }
        }
    }

    fn receive(&mut self, from: u64, message: Message) {
        match message {
            Message::Propose { ballot, seeds, members } => {
                let is_ineligible = members.contains(self.me.node) && !self.me.eligible;
                let refusal = is_ineligible.then_some(Refusal::Ineligible);
                if self.may_judge(from, ballot, seeds, refusal) {
                    let bound = self.acceptor.promise().ballot.proposer;
                    let is_living = bound == self.me.node || self.known.iter().any(|node| node.node == bound);
                    let verdict = self.acceptor.propose(ballot, is_living, self.now);
                    self.carry_out(from, verdict);
                }
            }
            Message::Confirm { ballot, seeds, proposal } => {
                if self.may_judge(from, ballot, seeds, None) {
                    let verdict = self.acceptor.confirm(ballot, proposal, self.now);
                    self.carry_out(from, verdict);
                }
            }
            Message::Abandon { ballot } if ballot.proposer == from => self.acceptor.abandon(ballot),
            Message::Abandon { .. } => {}
            Message::Promised { ballot, accepted } => {
                let (is_seed, now) = (self.seeds().contains(&from), self.now);
                let is_mine = from == self.me.node;
                if let Some(attempt) = self.attempt_of(ballot)
                    && (attempt.promised(from, is_seed, accepted, now) || is_mine)
                {
                    self.speak();
                }
            }
            Message::Confirmed { ballot } => self.count(from, ballot),
            Message::Refused { ballot, why } => self.heed(from, ballot, why),
            Message::Decided(proposal) => self.found(proposal),
        }
    }

    /// Whether a request is one to decide upon now. If not it is refused, or not answered at all: while a promise is
    /// being written the answer to the next request is not known, and whoever asks asks again.
    fn may_judge(&mut self, from: u64, ballot: Ballot, seeds: SeedList, refusal: Option<Refusal>) -> bool {
        if ballot.proposer != from || ballot.round > LAST_ROUND || self.writing.is_some() {
            return false;
        }
        let other = (seeds != self.config.seeds).then_some(Refusal::OtherSeeds);
        let why = self.store.map(Refusal::Founded).or(other).or(refusal);
        if let Some(why) = why {
            self.send(from, Message::Refused { ballot, why });
        }
        self.round = self.round.max(ballot.round);
        why.is_none()
    }

    fn carry_out(&mut self, to: u64, verdict: Verdict) {
        match verdict {
            Verdict::Answer(answer) => self.send(to, answer),
            Verdict::AnswerOnceWritten(answer) => {
                self.writings += 1;
                let number = self.writings;
                self.writing = Some(Writing { number, to, answer });
                self.outputs.push_back(Output::Persist { number, promise: self.acceptor.promise().clone() });
            }
        }
    }

    fn count(&mut self, from: u64, ballot: Ballot) {
        let now = self.now;
        if !self.seeds().contains(&from) {
            return;
        }
        let decided = self.attempt_of(ballot).and_then(|attempt| attempt.confirmed(from, now).cloned());
        if let Some(proposal) = decided {
            if proposal.members.contains(self.me.node) {
                self.found(proposal);
            } else {
                self.speak();
            }
        }
    }

    fn heed(&mut self, from: u64, ballot: Ballot, why: Refusal) {
        match why {
            Refusal::Founded(store) => return self.join(store),
            Refusal::Bound(bound) if bound.round <= LAST_ROUND => self.round = self.round.max(bound.round),
            Refusal::Bound(_) | Refusal::OtherSeeds | Refusal::Ineligible => {}
        }
        let seeds = self.seeds();
        if self.attempt_of(ballot).is_some_and(|attempt| attempt.refused(from, &seeds)) {
            self.abandon();
        }
    }

    fn attempt_of(&mut self, ballot: Ballot) -> Option<&mut Attempt> {
        self.attempt.as_mut().filter(|attempt| attempt.ballot == ballot)
    }

    /// Proposes, if it is for this node to do so.
    fn begin(&mut self) {
        let is_quiet = self.now < self.quiet_until || self.writing.is_some();
        if self.store.is_some() || self.has_conflict || is_quiet {
            return;
        }
        let Some(members) = self.members() else { return };
        let proposal = Proposal { members, store: StoreId::fresh(self.rng.u64(..)) };
        self.round = self.round.max(self.acceptor.promise().ballot.round) + 1;
        let ballot = Ballot { round: self.round, proposer: self.me.node };
        self.attempt = Some(Attempt::new(ballot, proposal, self.config.seeds, self.now));
        self.speak();
    }

    /// With whom this node would found a store, if it is for this node to do so.
    fn members(&self) -> Option<Members> {
        if !self.me.eligible {
            return None;
        }
        if self.is_alone() {
            return Members::new(vec![self.me.node]).ok();
        }
        // More living seeds than configured ones: their majorities need not meet.
        let seeds = self.seeds().len();
        let limits = self.config.seeds.majority()..=self.config.seeds.count as usize;
        let is_settled = |since: Mono| self.now >= since.after(self.config.settle);
        if !limits.contains(&seeds) || !is_settled(self.started) {
            return None;
        }
        let settled = self.known.iter().filter(|known| known.eligible && is_settled(known.since));
        let mut nodes: Vec<u64> = settled.map(|known| known.node).chain([self.me.node]).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let is_lowest = nodes.first() == Some(&self.me.node);
        let expect = self.config.expect.count();
        if !is_lowest || nodes.len() < expect {
            return None;
        }
        nodes.truncate(expect);
        Members::new(nodes).ok()
    }

    /// Whether nobody else has a say in it.
    fn is_alone(&self) -> bool {
        let seeds = self.config.seeds.count;
        self.config.expect == Expect::One && (seeds == 0 || (seeds == 1 && self.me.is_seed))
    }

    /// The seeds that are known. Whoever has none configured is its own.
    fn seeds(&self) -> BTreeSet<u64> {
        let me = (self.me.is_seed || self.config.seeds.count == 0).then_some(self.me.node);
        self.known.iter().filter(|known| known.is_seed).map(|known| known.node).chain(me).collect()
    }

    fn speak(&mut self) {
        let Some(attempt) = &self.attempt else { return };
        let (message, to) = attempt.words(&self.seeds());
        for node in to {
            self.send(node, message.clone());
        }
    }

    /// Gives up what it tries and lets those go who are bound by it.
    fn abandon(&mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        for node in attempt.audience(&self.seeds()) {
            self.send(node, Message::Abandon { ballot: attempt.ballot });
        }
        // By chance, so that two who hinder each other do not do so again.
        let pause = Duration::from_millis(self.rng.u64(PAUSE_MS));
        self.quiet_until = self.now.after(pause);
    }

    fn join(&mut self, store: StoreId) {
        match self.store {
            None if !self.has_conflict => {
                self.store = Some(store);
                self.abandon();
                self.outputs.push_back(Output::Join(store));
            }
            Some(own) if own.is_before(store) => {
                self.store = Some(store);
                self.outputs.push_back(Output::Superseded(store));
            }
            None | Some(_) => {}
        }
    }

    fn found(&mut self, proposal: Proposal) {
        let is_free = self.store.is_none() && !self.has_conflict;
        if is_free && proposal.members.contains(self.me.node) {
            self.store = Some(proposal.store);
            self.attempt = None;
            self.outputs.push_back(Output::Found(proposal));
        }
    }

    fn send(&mut self, to: u64, message: Message) {
        if to == self.me.node {
            self.inner.push_back(message);
        } else {
            self.outputs.push_back(Output::Send { to, message });
        }
    }
}

/// No honest node gets here, and a wrong one must not use up the numbers for all.
const LAST_ROUND: u64 = 1 << 40;

/// Between two tries of one node: some times as long as a try takes.
const PAUSE_MS: std::ops::Range<u64> = 200..2_000;

#[cfg(test)]
mod tests;
