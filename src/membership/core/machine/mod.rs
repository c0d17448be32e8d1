//! One member's part in the protocol: packets and time go in, packets and events come out. SWIM's engine is foca; what is
//! around it is Lifeguard, the news that travel along, and what is compared over TCP. Nothing else in the tree names foca.

mod hooks;
mod identity;

use std::{collections::BTreeSet, net::SocketAddr, num::NonZeroUsize, time::Duration};

use foca::{Config, Foca, Header, Message, NoCustomBroadcast, PeriodicParams, PostcardCodec, State, Timer};

use self::{
    hooks::{Due, Hooks},
    identity::{Chance, Identity, is_known},
};
use super::{
    fact::Facts,
    packet::{self, FactRecord, Item, Knowledge, Seen, Standing, Unreadable},
    roster::{Roster, Sight},
    tuning::{MAX_SWIM, REAP_AFTER, Tuning},
    view::{MemberId, MemberState, MembershipView},
};
use crate::types::Mono;

/// What a member begins with.
#[derive(Debug)]
pub struct Setup {
    /// Who it is.
    pub id: MemberId,
    /// Which start of it: greater than that of any earlier one.
    pub generation: u64,
    /// Where others reach it.
    pub address: SocketAddr,
    /// How patient it is.
    pub tuning: Tuning,
    /// What it says about itself.
    pub facts: Facts,
    /// When by its own clock, in microseconds since 1970.
    pub said_at: u64,
    /// Whether members must prove who they are before they are sent requests.
    pub needs_proof: bool,
    /// Its chance.
    pub rng: fastrand::Rng,
}

/// What comes out.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// To be sealed and sent.
    Send {
        /// Where to.
        to: SocketAddr,
        /// What.
        packet: Vec<u8>,
    },
    /// To be written down and counted.
    Event(Event),
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// What is thought of a member has changed.
    Member {
        /// Of whom.
        id: MemberId,
        /// To what.
        state: MemberState,
        /// Who said so: the sender of the packet, or this node itself.
        by: MemberId,
        /// Who accuses it, if it is suspected or dead.
        accusers: Vec<MemberId>,
    },
    /// News of a member about itself, that it said so long ago by its clock and ours, as far as they agree.
    Fact {
        /// Who.
        id: MemberId,
        /// When it said so, in microseconds since 1970.
        said_at: u64,
    },
    /// A probe was answered directly within that time.
    Answered(Duration),
    /// A probe was not answered, neither to us nor to those we asked.
    Unanswered(MemberId),
    /// This node was suspected and has said that it is there.
    SpokeUp {
        /// For the how-manieth time.
        incarnation: u16,
    },
    /// This node was declared dead and has begun another life.
    Returned {
        /// Which.
        generation: u64,
    },
    /// This node did nothing for so long; what it should have heard meanwhile is waited for again.
    Lagged(Duration),
    /// Somebody else says to be this node: its data directory was copied.
    Impostor(SocketAddr),
    /// Most members were lost at once, or enough of them are back.
    Isolated(bool),
}

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
        if self.roster.sight(sender).is_some_and(|sight| sight.state == MemberState::Dead) {
            self.begin_again();
        }
        for item in items {
            self.take(item);
        }
        if !swim.is_empty() {
            // Other errors are of messages to another life, or about this node itself: there is nothing to be done.
            if let Err(foca::Error::Decode(_) | foca::Error::MalformedPacket | foca::Error::DataTooBig) =
                self.swim.handle_data(swim, &mut self.hooks)
            {
                return Err(Unreadable);
            }
        }
        self.settle(sender);
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
        let _ = self.swim.gossip(&mut self.hooks);
        self.whisper();
    }

    /// How often this node spoke up in this life.
    #[must_use]
    pub fn incarnation(&self) -> u16 {
        self.hooks.own_incarnation
    }

    /// Where those gossip that are not gone.
    pub fn living(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.swim.iter_members().map(|member| member.id().address)
    }

    /// How many others there are that are not gone.
    #[must_use]
    pub fn others(&self) -> usize {
        self.swim.num_members()
    }

    /// All that this node knows, for another to compare.
    #[must_use]
    pub fn knowledge(&self) -> Knowledge {
        let own = self.swim.identity();
        let own = Seen {
            id: own.id,
            generation: own.generation,
            address: own.address,
            incarnation: self.hooks.own_incarnation,
            standing: if self.has_left { Standing::Down } else { Standing::Alive },
        };
        let others = self.swim.iter_membership_state().filter(|member| member.id().id != self.hooks.own);
        let members = others.map(|member| Seen {
            id: member.id().id,
            generation: member.id().generation,
            address: member.id().address,
            incarnation: member.incarnation(),
            standing: match member.state() {
                State::Alive => Standing::Alive,
                State::Suspect => Standing::Suspect,
                State::Down => Standing::Down,
            },
        });
        let facts = self.roster.records().chain([&self.own]).cloned();
        Knowledge { members: [own].into_iter().chain(members).collect(), facts: facts.collect() }
    }

    /// Stands for all that this node knows that lasts: two members with the same one need not compare.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let own = self.swim.identity();
        let alive = self.swim.iter_members().filter(|member| member.id().id != own.id).map(|member| {
            let sequence = self.roster.record(member.id().id).map_or(0, |record| record.sequence);
            (member.id().id.0, member.id().generation, sequence)
        });
        // In no order: a sum of what is mixed well.
        let mix = |what: (u64, u64, u32)| {
            let mut hash = rustc_hash::FxHasher::default();
            std::hash::Hash::hash(&what, &mut hash);
            std::hash::Hasher::finish(&hash)
        };
        alive.chain([(own.id.0, own.generation, self.own.sequence)]).map(mix).fold(0, u64::wrapping_add)
    }

    /// Takes what another knows, who is `from`.
    pub fn merge(&mut self, knowledge: Knowledge, from: MemberId, now: Mono) {
        self.hooks.now = now;
        self.begin_again();
        // Whoever comes in learns what all others know already; telling it again would be a storm.
        let is_news = self.others() > 0;
        let (own, generation) = (self.hooks.own, self.swim.identity().generation);
        // The dead that this node does not know it need not know: somebody may be about to forget them.
        let is_known = |id: MemberId| self.roster.sight(id).is_some() || id == own;
        let wanted: Vec<Seen> = knowledge
            .members
            .into_iter()
            .filter(|seen| seen.standing != Standing::Down || is_known(seen.id))
            .collect();
        let ids: BTreeSet<MemberId> = wanted.iter().map(|seen| seen.id).collect();
        for record in knowledge.facts.into_iter().filter(|record| ids.contains(&record.id)) {
            self.learn(record, is_news);
        }
        let updates: Vec<foca::Member<Identity>> = wanted
            .into_iter()
            .filter(|seen| seen.id != own || seen.standing != Standing::Alive || seen.generation > generation)
            .map(|seen| {
                self.hooks.touched.insert(seen.id);
                let state = match seen.standing {
                    Standing::Alive => State::Alive,
                    Standing::Suspect => State::Suspect,
                    Standing::Down => State::Down,
                };
                let identity = Identity { id: seen.id, generation: seen.generation, address: seen.address };
                foca::Member::new(identity, seen.incarnation, state)
            })
            .collect();
        let _ = self.swim.apply_many(updates.into_iter(), is_news, &mut self.hooks);
        self.settle(from);
    }

    /// Takes it that another member is there, since it was talked to.
    pub fn meet(&mut self, seen: &Seen, record: FactRecord, now: Mono) {
        let knowledge = Knowledge { members: vec![seen.clone()], facts: vec![record] };
        self.merge(knowledge, seen.id, now);
    }

    /// A member has proved to be who its facts say.
    pub fn confirm(&mut self, id: MemberId, now: Mono) {
        self.roster.confirm(id, now);
    }

    /// Declares a member dead that is known to be: another has taken its address.
    pub fn bury(&mut self, id: MemberId, now: Mono) {
        self.hooks.now = now;
        let found = self.swim.iter_membership_state().find(|member| member.id().id == id);
        let Some(down) =
            found.map(|member| foca::Member::new(member.id().clone(), member.incarnation(), State::Down))
        else {
            return;
        };
        self.hooks.touched.insert(id);
        let _ = self.swim.apply_many([down].into_iter(), true, &mut self.hooks);
        self.settle(self.hooks.own);
    }

    /// The mesh as this node sees it.
    #[must_use]
    pub fn view(&self, now: Mono) -> MembershipView {
        let identity = self.swim.identity();
        let own = Sight {
            generation: identity.generation,
            incarnation: self.hooks.own_incarnation,
            address: identity.address,
            state: if self.has_left { MemberState::Left } else { MemberState::Alive },
            since: Mono::ZERO,
        };
        let accusers = |id: MemberId| {
            let (generation, incarnation) = *self.hooks.suspected.get(&id)?;
            self.hooks.accusers.get(&(id, generation, incarnation)).cloned()
        };
        let mut view = self.roster.view(&own, &self.own, &accusers, &self.hooks.round_trips, now);
        view.health_score = self.hooks.health.score();
        view
    }

    /// What is thought of a member.
    #[must_use]
    pub fn state(&self, id: MemberId) -> Option<MemberState> {
        self.roster.sight(id).map(|sight| sight.state)
    }

    /// Whether this node is more likely cut off than most others are dead.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.roster.is_isolated()
    }

    /// Members that have not proved who they are, though they say to take requests.
    pub fn unconfirmed(&self) -> impl Iterator<Item = (MemberId, SocketAddr, &Facts)> {
        self.roster.unconfirmed()
    }

    /// Where those gossip that are dead: when all are lost they are asked as well.
    pub fn lost(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.roster.lost()
    }

    /// Somebody alive at random, with its address and facts, for a comparison.
    pub fn companion(&mut self) -> Option<(MemberId, SocketAddr)> {
        let all: Vec<&Identity> = self.swim.iter_members().map(foca::Member::id).collect();
        let chosen = (!all.is_empty()).then(|| all[self.rng.usize(..all.len())])?;
        Some((chosen.id, chosen.address))
    }

    /// The facts of a member.
    #[must_use]
    pub fn facts(&self, id: MemberId) -> Option<&Facts> {
        self.roster.record(id).map(|record| &record.facts)
    }

    /// A living member with this name that is not `but`.
    #[must_use]
    pub fn named(&self, node: &str, but: MemberId) -> Option<(MemberId, SocketAddr)> {
        if &*self.own.facts.node == node && self.own.id != but {
            return Some((self.own.id, self.swim.identity().address));
        }
        self.roster.named(node, but)
    }

    fn fire(&mut self, timer: Timer<Identity>) {
        if let Timer::RemoveDown(identity) = &timer {
            self.roster.forget(identity.id, identity.generation);
        }
        let is_gossip = matches!(timer, Timer::PeriodicGossip(_));
        self.hooks.sent_swim = false;
        // What the engine reports here is about itself: a probe that was cut short by another life.
        let _ = self.swim.handle_timer(timer, &mut self.hooks);
        if is_gossip && !self.hooks.sent_swim && !self.hooks.broadcasts.is_empty() {
            self.whisper();
        }
    }

    /// Whoever has lost all others and hears of one again was cut off, more likely than that all were dead. It takes none of
    /// its verdicts for true any more: to the engine death is final, and all others would have to begin another life.
    fn begin_again(&mut self) {
        if self.has_left || self.others() > 0 || self.roster.lost().next().is_none() {
            return;
        }
        let own = self.swim.identity().clone();
        let next = Identity { generation: own.generation.saturating_add(1), ..own };
        let config = config(&self.hooks.tuning, 1);
        self.swim = Foca::new(next, config, Chance(self.rng.fork()), PostcardCodec);
        self.hooks.begin_again();
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
            let _ = self.swim.handle_timer(pending.timer, &mut self.hooks);
        }
    }

    /// Looks at the head of a message: it must be of whoever has sealed it. Also notes whom it is about.
    fn expect(&mut self, sender: MemberId, swim: &[u8]) -> Result<(), Unreadable> {
        let (header, rest) = postcard::take_from_bytes::<Header<Identity>>(swim).map_err(|_| Unreadable)?;
        if header.src.id != sender {
            return Err(Unreadable);
        }
        let known = self.roster.sight(sender);
        let is_known = known.is_some_and(|known| {
            (known.generation, known.incarnation) == (header.src.generation, header.src_incarnation)
                && known.state == MemberState::Alive
        });
        if !is_known {
            self.hooks.touched.insert(sender);
        }
        if matches!(header.message, Message::Broadcast | Message::Announce) {
            return Ok(());
        }
        let Some((count, mut rest)) = rest.split_first_chunk::<2>() else { return Ok(()) };
        for _ in 0..u16::from_be_bytes(*count) {
            let (member, left) =
                postcard::take_from_bytes::<foca::Member<Identity>>(rest).map_err(|_| Unreadable)?;
            rest = left;
            // Most of what is told is known: then there is nothing to look at afterwards.
            let known = self.roster.sight(member.id().id);
            if !known.is_some_and(|known| is_known(known, &member)) {
                self.hooks.touched.insert(member.id().id);
            }
        }
        Ok(())
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Fact(record) => self.learn(record, true),
            Item::Accusation(accusation) => {
                if accusation.target != self.hooks.own && self.hooks.accuse(&accusation) {
                    self.hooks.broadcasts.add(&Item::Accusation(accusation));
                }
            }
            Item::Suspected { generation, incarnation } => {
                let own = self.swim.identity().clone();
                // Of an earlier life, or spoken up against already: saying it again would set off the same in others.
                if (generation, incarnation) < (own.generation, self.hooks.own_incarnation) {
                    return;
                }
                let suspect = foca::Member::new(own, incarnation, State::Suspect);
                let _ = self.swim.apply_many([suspect].into_iter(), false, &mut self.hooks);
            }
            Item::Nack { probe } => self.hooks.nack(probe),
        }
    }

    fn learn(&mut self, record: FactRecord, is_news: bool) {
        if record.id == self.hooks.own {
            return;
        }
        let (id, said_at) = (record.id, record.said_at);
        if self.roster.learn(&record) {
            self.hooks.out.push(Output::Event(Event::Fact { id, said_at }));
            // Another key, name or goodbye: what is thought of it may be shown otherwise.
            self.hooks.touched.insert(id);
            self.follow(&record);
            if is_news {
                self.hooks.broadcasts.add(&Item::Fact(record));
            }
        }
    }

    /// Whoever speaks of a later life lives it. Two that do not know each other's would never hear each other: what is sent
    /// to an earlier life is not taken.
    fn follow(&mut self, record: &FactRecord) {
        let Some(sight) = self.roster.sight(record.id) else { return };
        if record.has_left || record.generation <= sight.generation {
            return;
        }
        let identity = Identity { id: record.id, generation: record.generation, address: sight.address };
        let alive = foca::Member::alive(identity);
        let _ = self.swim.apply_many([alive].into_iter(), true, &mut self.hooks);
    }

    fn tell(&mut self, said_at: u64) {
        self.own.generation = self.swim.identity().generation;
        self.own.sequence += 1;
        self.own.said_at = said_at;
        self.hooks.broadcasts.add(&Item::Fact(self.own.clone()));
    }

    /// Takes note of what the engine did with those it was told about.
    fn settle(&mut self, by: MemberId) {
        if std::mem::take(&mut self.hooks.rejoined) {
            self.hooks.pending.clear();
            let said_at = self.own.said_at;
            self.tell(said_at);
            let generation = self.own.generation;
            self.hooks.out.push(Output::Event(Event::Returned { generation }));
        }
        if self.hooks.touched.is_empty() {
            return;
        }
        let touched = std::mem::take(&mut self.hooks.touched);
        if touched.contains(&self.hooks.own) {
            self.outlive();
        }
        let now = self.hooks.now;
        let mut changed = false;
        for member in self.swim.iter_membership_state() {
            let identity = member.id();
            if !touched.contains(&identity.id) || identity.id == self.hooks.own {
                continue;
            }
            let has_left = self
                .roster
                .record(identity.id)
                .is_some_and(|record| record.has_left && record.generation == identity.generation);
            let state = match member.state() {
                State::Alive => MemberState::Alive,
                State::Suspect => MemberState::Suspect,
                State::Down if has_left => MemberState::Left,
                State::Down => MemberState::Dead,
            };
            let sight = Sight {
                generation: identity.generation,
                incarnation: member.incarnation(),
                address: identity.address,
                state,
                since: now,
            };
            let id = identity.id;
            let before = self.roster.sight(id).map(|before| before.state);
            self.roster.see(id, sight, now);
            if before == Some(state) {
                continue;
            }
            changed = true;
            let accused = (id, identity.generation, member.incarnation());
            let accusers = self.hooks.accusers.get(&accused);
            let accusers = accusers.into_iter().flatten().copied().collect();
            self.hooks.out.push(Output::Event(Event::Member { id, state, by, accusers }));
            if state == MemberState::Suspect {
                self.hooks.suspected.insert(id, (identity.generation, member.incarnation()));
            } else {
                self.hooks.suspected.remove(&id);
                self.hooks.pending.remove(&id);
                self.hooks.accusers.retain(|(target, ..), _| *target != id);
            }
            if state != MemberState::Alive {
                self.hooks.round_trips.remove(&id);
            }
        }
        if changed {
            self.resize();
            if let Some(isolated) = self.roster.judge_isolation() {
                self.hooks.out.push(Output::Event(Event::Isolated(isolated)));
            }
        }
    }

    /// If others know a later life of this node, it must begin another one: they would not listen to this one.
    fn outlive(&mut self) {
        let own = self.swim.identity().clone();
        let later = self
            .swim
            .iter_membership_state()
            .map(foca::Member::id)
            .filter(|other| other.id == own.id && other.generation >= own.generation && **other != own)
            .max_by_key(|other| other.generation)
            .cloned();
        let Some(later) = later else { return };
        if later.address != own.address {
            self.hooks.out.push(Output::Event(Event::Impostor(later.address)));
        }
        let next = Identity { generation: later.generation.saturating_add(1), ..own };
        if self.swim.change_identity(next, &mut self.hooks).is_ok() {
            let said_at = self.own.said_at;
            self.tell(said_at);
        }
    }

    /// Fits what depends on the number of members.
    fn resize(&mut self) {
        let members = self.swim.num_members() + 1;
        if members != self.hooks.members {
            self.hooks.members = members;
            let _ = self.swim.set_config(config(&self.hooks.tuning, members));
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

fn config(tuning: &Tuning, members: usize) -> Config {
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
