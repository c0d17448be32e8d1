//! One member's part in the protocol: packets and time go in, packets and events come out. SWIM's engine is foca; what is
//! around it is Lifeguard, the news that travel along, and what is compared over TCP. Nothing else in the tree names foca.

mod event;
mod hooks;
mod identity;
mod knowledge;
mod scan;
mod settle;

use std::{num::NonZeroUsize, time::Duration};

use foca::{Config, Foca, NoCustomBroadcast, PeriodicParams, PostcardCodec, Timer};

pub use self::event::{Event, Output, Setup};
use self::{
    hooks::{Due, Hooks},
    identity::{Chance, Identity},
};
use super::{
    fact::Facts,
    packet::{self, FactRecord, Item, MAX_LIFE, Unreadable},
    roster::Roster,
    tuning::{MAX_SWIM, REAP_AFTER, Tuning},
    view::{MemberId, MemberState},
};
use crate::types::Mono;

/// Verdicts older than this stand: a member that hears nobody is given up by all others much sooner.
const LATELY: Duration = Duration::from_secs(300);

/// One member's part in the protocol.
pub struct Machine {
    swim: Foca<Identity, PostcardCodec, Chance, NoCustomBroadcast>,
    hooks: Hooks,
    roster: Roster,
    own: FactRecord,
    rng: fastrand::Rng,
    has_left: bool,
}

impl Machine {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(setup: Setup, now: Mono) -> Self {
        let Setup { id, generation, address, tuning, facts, said_at, needs_proof, mut rng } = setup;
        let identity = Identity { id, generation, address };
        let chance = Chance(rng.fork());
        let config = config(&tuning, 1);
        let own = FactRecord { id, generation, sequence: 1, has_left: false, said_at, facts };
        Self {
            swim: Foca::new(identity, config, chance, PostcardCodec),
            hooks: Hooks::new(id, tuning, now),
            roster: Roster::new(id, needs_proof),
            own,
            rng,
            has_left: false,
        }
    }

    /// Takes a packet that `sender` has sealed.
    ///
    /// # Errors
    /// It cannot be read, or says to be of somebody else; then nothing of it counts.
    pub fn receive(&mut self, sender: MemberId, bytes: &[u8], now: Mono) -> Result<(), Unreadable> {
        self.hooks.now = now;
        let (swim, items) = packet::read(bytes)?;
        if !swim.is_empty() {
            self.expect(sender, swim)?;
        }
        self.roster.hear(now);
        if self.roster.sight(sender).is_some_and(|sight| sight.state == MemberState::Dead) {
            self.begin_again();
        }
        for item in items {
            self.take(sender, item);
        }
        if !swim.is_empty() {
            // Other errors are of messages to another life, or about this node itself: there is nothing to be done.
            if let Err(foca::Error::Decode(_) | foca::Error::MalformedPacket | foca::Error::DataTooBig) =
                self.swim.handle_data(swim, &mut self.hooks)
            {
                self.hooks.correct(None);
                return Err(Unreadable);
            }
        }
        self.settle(sender);
        self.correct(sender);
        Ok(())
    }

    /// Does what is due at `now`. All packets that have come should be taken before.
    pub fn advance(&mut self, now: Mono) {
        self.hooks.now = now;
        let lag = self.hooks.next().map_or(Duration::ZERO, |due| now.since(due));
        if self.hooks.tuning.lifeguard && lag > self.hooks.tuning.probe_timeout {
            self.hooks.postpone(lag);
            self.hooks.out.push(Output::Event(Event::Lagged(lag)));
        }
        while let Some(entry) = self.hooks.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            match entry.remove() {
                Due::Swim(timer) => self.fire(timer),
                Due::Nack { to, probe, .. } => self.hooks.send(&to, &[], Some(&Item::Nack { probe })),
            }
        }
        self.judge();
        self.settle(self.hooks.own);
    }

    /// When [`Machine::advance`] has something to do next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        self.hooks.next()
    }

    /// What has come out since the last time.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.hooks.out)
    }

    /// Says something else about this node from now on; `said_at` is the time by its clock.
    pub fn say(&mut self, facts: Facts, said_at: u64) {
        if self.own.facts != facts {
            self.own.facts = facts;
            self.tell(said_at);
        }
    }

    /// What this node says about itself.
    #[must_use]
    pub fn own(&self) -> &FactRecord {
        &self.own
    }

    /// Which life of this node it is.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.swim.identity().generation
    }

    /// Whether this node can begin another life. If not, the first who takes it for dead is right: the engine takes no part
    /// any more then (foca: defunct).
    #[must_use]
    pub fn has_later_life(&self) -> bool {
        self.generation() < MAX_LIFE
    }

    /// Says goodbye. Whatever is sent afterwards says so as well.
    pub fn leave(&mut self, now: Mono, said_at: u64) {
        self.hooks.now = now;
        self.own.has_left = true;
        self.own.facts.is_draining = true;
        self.tell(said_at);
        self.has_left = true;
        // The engine sends to some only, and then nothing any more; those whom it tells send it on.
        let _ = self.swim.leave_cluster(&mut self.hooks);
        self.whisper();
        self.settle(self.hooks.own);
    }

    /// Says goodbye once more, to others: what was sent may be lost.
    pub fn leave_again(&mut self, now: Mono) {
        self.hooks.now = now;
        // Anew each time: whoever hears that it is down, and not that it said goodbye, takes it for dead.
        self.hooks.broadcasts.add(&Item::Fact(self.own.clone()));
        let _ = self.swim.gossip(&mut self.hooks);
        self.whisper();
    }

    /// How often this node spoke up in this life.
    #[must_use]
    pub fn incarnation(&self) -> u16 {
        self.hooks.own_incarnation
    }

    /// How many others there are that are not gone.
    #[must_use]
    pub fn others(&self) -> usize {
        self.swim.num_members()
    }

    fn fire(&mut self, timer: Timer<Identity>) {
        if let Timer::RemoveDown(gone) = &timer {
            // Whoever was taken for dead may live on, in the same life: to an engine that was begun anew it is not dead; or
            // in a later one, which is not noted yet.
            let lives = |member: &foca::Member<Identity>| {
                member.id().id == gone.id && member.id().generation >= gone.generation
            };
            if !self.swim.iter_members().any(lives) {
                self.roster.forget(gone.id, gone.generation);
            }
        }
        let is_gossip = matches!(timer, Timer::PeriodicGossip(_));
        self.hooks.sent_swim = false;
        // What the engine reports here is about itself: a probe that was cut short by another life.
        let _ = self.swim.handle_timer(timer, &mut self.hooks);
        if is_gossip && !self.hooks.sent_swim && self.hooks.broadcasts.is_pressing(self.hooks.transmissions())
        {
            self.whisper();
        }
    }

    /// Whoever has lost all others and hears of one again was cut off, more likely than that all were dead. It takes none of
    /// its verdicts for true any more: to the engine death is final, and all others would have to begin another life.
    pub(super) fn begin_again(&mut self) {
        if self.has_left || self.others() > 0 || self.roster.lost().next().is_none() {
            return;
        }
        let own = self.swim.identity();
        let next = own.after(own.generation);
        let config = config(&self.hooks.tuning, 1);
        self.swim = Foca::new(next, config, Chance(self.rng.fork()), PostcardCodec);
        self.hooks.begin_again();
        self.hooks.rejoined = true;
        self.remind();
    }

    /// A new engine does not know the gone, or not since when: it is told when to forget them.
    fn remind(&mut self) {
        for (id, sight) in self.roster.gone() {
            let identity = Identity { id, generation: sight.generation, address: sight.address };
            let left = REAP_AFTER.saturating_sub(self.hooks.now.since(sight.since));
            self.hooks.schedule(Due::Swim(Timer::RemoveDown(identity)), left);
        }
    }

    /// Whoever was given up by others, and lives again, takes back what it judged lately: it may have heard nobody. Those whom
    /// it gave up are suspected, which its own probes decide, and the engine, which would spread the verdicts, is a new one.
    /// What was sent after the first `sent` outputs is not: the engine tells of its new life at once, and of the verdicts
    /// with it.
    pub(super) fn take_back(&mut self, sent: usize) {
        let mut judged = std::mem::take(&mut self.hooks.judged);
        let now = self.hooks.now;
        judged.retain(|id, (_, at)| {
            let has_left = self.roster.record(*id).is_some_and(|record| record.has_left);
            now.since(*at) <= LATELY && !has_left
        });
        if judged.is_empty() {
            return;
        }
        let mut place = 0..;
        self.hooks.out.retain(|output| {
            place.next().is_some_and(|place| place < sent) || !matches!(output, Output::Send { .. })
        });
        self.roster.doubt(judged.keys().copied());
        let own = self.swim.identity().clone();
        let is_judged = |member: &foca::Member<Identity>| {
            member.state() == foca::State::Down
                && judged.get(&member.id().id).is_some_and(|(life, _)| *life == member.id().generation)
        };
        let others = self.swim.iter_membership_state().filter(|member| member.id().id != own.id);
        let others: Vec<foca::Member<Identity>> = others
            .map(|member| {
                let state = if is_judged(member) { foca::State::Suspect } else { member.state() };
                foca::Member::new(member.id().clone(), member.incarnation(), state)
            })
            .collect();
        let (members, suspected) = (self.hooks.members, std::mem::take(&mut self.hooks.suspected));
        let config = config(&self.hooks.tuning, members);
        self.swim = Foca::new(own, config, Chance(self.rng.fork()), PostcardCodec);
        self.hooks.begin_again();
        (self.hooks.members, self.hooks.suspected) = (members, suspected);
        self.remind();
        self.hooks.touched.extend(others.iter().map(|member| member.id().id));
        // To nobody: they know it, or better.
        let _ = self.swim.apply_many(others.into_iter(), false, &mut self.hooks);
        let _ = self.swim.gossip(&mut self.hooks);
    }

    /// Forgets those who are gone, the longest gone first, until there is room for `newcomers`: in a mesh whose members come and
    /// go faster than they are reaped, the living must not be kept out by the dead.
    pub(super) fn make_room(&mut self, newcomers: usize) {
        while self.roster.room() < newcomers {
            let is_reaping = |due: &Due| matches!(due, Due::Swim(Timer::RemoveDown(_)));
            let oldest = self.hooks.timers.iter().find(|(_, due)| is_reaping(due)).map(|(key, _)| *key);
            let Some(Due::Swim(timer)) = oldest.and_then(|key| self.hooks.timers.remove(&key)) else {
                return;
            };
            self.fire(timer);
        }
    }

    /// Sends news alone to some at random.
    fn whisper(&mut self) {
        let mut all: Vec<&Identity> = self.swim.iter_members().map(foca::Member::id).collect();
        let wanted = usize::from(self.hooks.tuning.gossip_fanout).min(all.len());
        for at in 0..wanted {
            let other = self.rng.usize(at..all.len());
            all.swap(at, other);
            self.hooks.send(all[at], &[], None);
        }
    }

    /// Those whose time to speak up is over are dead.
    fn judge(&mut self) {
        let now = self.hooks.now;
        let over: Vec<MemberId> = self
            .hooks
            .pending
            .iter()
            .filter(|(_, pending)| pending.suspicion.deadline() <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            let Some(pending) = self.hooks.pending.remove(&id) else { continue };
            self.hooks.touched.insert(id);
            self.hooks.judged.retain(|_, (_, at)| now.since(*at) <= LATELY);
            self.hooks.judged.insert(id, (pending.generation, now));
            let _ = self.swim.handle_timer(pending.timer, &mut self.hooks);
        }
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("own", &self.own)
            .field("others", &self.others())
            .finish_non_exhaustive()
    }
}

pub(super) fn config(tuning: &Tuning, members: usize) -> Config {
    let some = |count: u8| NonZeroUsize::new(count.into()).unwrap_or(NonZeroUsize::MIN);
    Config {
        probe_period: tuning.probe_period,
        probe_rtt: tuning.probe_timeout,
        num_indirect_probes: some(tuning.indirect_probes),
        max_transmissions: tuning.transmissions(members),
        suspect_to_down_after: tuning.min_suspicion(members),
        remove_down_after: Some(REAP_AFTER),
        max_packet_size: NonZeroUsize::new(MAX_SWIM).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        periodic_announce: None,
        periodic_announce_to_down_members: Some(PeriodicParams {
            frequency: tuning.announce_down(members),
            num_members: some(2),
        }),
        periodic_gossip: Some(PeriodicParams {
            frequency: tuning.gossip_interval,
            num_members: some(tuning.gossip_fanout),
        }),
    }
}

#[cfg(test)]
mod tests;
