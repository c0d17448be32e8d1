//! What is taken from a packet, and what is noted once the engine has made up its mind.

use foca::State;

use super::{
    Event, Machine, Output, config,
    identity::{Identity, is_known},
    scan::{self, Scanned},
};
use crate::membership::core::{
    packet::{Accusation, FactRecord, Item, Unreadable},
    roster::Sight,
    view::{MemberId, MemberState},
};

impl Machine {
    /// Looks at a message before the engine does: it must be of whoever has sealed it. Also notes whom it is about.
    pub(super) fn expect(&mut self, sender: MemberId, swim: &[u8]) -> Result<(), Unreadable> {
        let Scanned { header, about } = scan::scan(swim)?;
        if header.src.id != sender {
            return Err(Unreadable);
        }
        let known = self.roster.sight(sender);
        let is_as_known = known.is_some_and(|known| {
            (known.generation, known.incarnation) == (header.src.generation, header.src_incarnation)
                && known.state == MemberState::Alive
        });
        if !is_as_known {
            self.hooks.touched.insert(sender);
        }
        // Most of what is told is known: then there is nothing to look at afterwards.
        let news = about.iter().filter(|told| {
            let known = self.roster.sight(told.id().id);
            !known.is_some_and(|known| is_known(known, told))
        });
        self.hooks.touched.extend(news.map(|told| told.id().id));
        for told in about.iter().filter(|told| told.state() == State::Suspect) {
            self.defend(sender, told.id().id, told.id().generation, told.incarnation());
        }
        Ok(())
    }

    /// Whoever says that a member is suspected which has spoken up since is told so. The refutation is sent on a bounded number
    /// of times, and where a partition swallows half of them it may have missed just the accuser. Says whether it is so.
    fn defend(&mut self, accuser: MemberId, target: MemberId, generation: u64, incarnation: u16) -> bool {
        let known = if target == self.hooks.own {
            (self.swim.identity().generation, self.hooks.own_incarnation)
        } else {
            let is_there = |sight: &&Sight| matches!(sight.state, MemberState::Alive | MemberState::Suspect);
            let Some(sight) = self.roster.sight(target).filter(is_there) else { return false };
            (sight.generation, sight.incarnation)
        };
        if known.0 == generation && known.1 > incarnation {
            self.hooks.refute(accuser, target, generation, known.1);
        }
        known > (generation, incarnation)
    }

    /// What the sender of the packet must hear goes to it.
    pub(super) fn correct(&mut self, sender: MemberId) {
        let sight = self.roster.sight(sender).filter(|sight| sight.state != MemberState::Dead);
        let sender =
            sight.map(|sight| Identity { id: sender, generation: sight.generation, address: sight.address });
        self.hooks.correct(sender.as_ref());
    }

    pub(super) fn take(&mut self, sender: MemberId, item: Item) {
        match item {
            Item::Fact(record) => self.learn(record, true),
            Item::Accusation(accusation) => {
                let Accusation { target, generation, incarnation, .. } = accusation;
                if self.defend(sender, target, generation, incarnation) {
                    return;
                }
                if target == self.hooks.own {
                    self.speak_up(generation, incarnation);
                } else if self.hooks.accuse(&accusation) {
                    self.hooks.broadcasts.add(&Item::Accusation(accusation));
                    self.believe(target, generation, incarnation, State::Suspect);
                }
            }
            Item::Suspected { generation, incarnation } => self.speak_up(generation, incarnation),
            Item::Nack { probe } => self.hooks.nack(probe),
            Item::Refuted { target, generation, incarnation } => {
                self.believe(target, generation, incarnation, State::Alive);
            }
        }
    }

    /// This node is suspected: it is there.
    fn speak_up(&mut self, generation: u64, incarnation: u16) {
        let own = self.swim.identity().clone();
        // Of another life, or spoken up against already: saying it again would set off the same in others.
        if generation != own.generation || incarnation < self.hooks.own_incarnation {
            return;
        }
        let suspect = foca::Member::new(own, incarnation, State::Suspect);
        let _ = self.swim.apply_many([suspect].into_iter(), false, &mut self.hooks);
    }

    /// What another says of a member that this node knows, in the life that it knows; old news change nothing.
    fn believe(&mut self, target: MemberId, generation: u64, incarnation: u16, state: State) {
        let Some(known) = self.roster.sight(target).filter(|known| known.generation == generation) else {
            return;
        };
        let identity = Identity { id: target, generation, address: known.address };
        self.hooks.touched.insert(target);
        let told = foca::Member::new(identity, incarnation, state);
        let _ = self.swim.apply_many([told].into_iter(), true, &mut self.hooks);
    }

    pub(super) fn learn(&mut self, record: FactRecord, is_news: bool) {
        if record.id == self.hooks.own {
            // Others take the newest word for ours. Only a holder of a key can have forged it; a later life has the last word.
            if record.is_newer_than(&self.own) {
                self.hooks.out.push(Output::Event(Event::Misquoted));
                self.live_after(record.generation);
            }
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
    pub(super) fn follow(&mut self, record: &FactRecord) {
        let Some(sight) = self.roster.sight(record.id) else { return };
        if record.has_left || record.generation <= sight.generation {
            return;
        }
        let identity = Identity { id: record.id, generation: record.generation, address: sight.address };
        let alive = foca::Member::alive(identity);
        let _ = self.swim.apply_many([alive].into_iter(), true, &mut self.hooks);
    }

    pub(super) fn tell(&mut self, said_at: u64) {
        self.own.generation = self.swim.identity().generation;
        self.own.sequence += 1;
        self.own.said_at = said_at;
        self.hooks.broadcasts.add(&Item::Fact(self.own.clone()));
    }

    /// Takes note of what the engine did with those it was told about.
    pub(super) fn settle(&mut self, by: MemberId) {
        if std::mem::take(&mut self.hooks.rejoined) {
            self.hooks.recant();
            self.take_back(0);
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
        if self.roster.room() < touched.len() {
            let unknown = |member: &&foca::Member<Identity>| {
                let id = member.id().id;
                touched.contains(&id) && id != self.hooks.own && self.roster.sight(id).is_none()
            };
            self.make_room(self.swim.iter_membership_state().filter(unknown).count());
        }
        let now = self.hooks.now;
        let mut changed = false;
        let is_touched = |member: &&foca::Member<Identity>| touched.contains(&member.id().id);
        // Each is there once: none is left to be found after as many.
        for member in self.swim.iter_membership_state().filter(is_touched).take(touched.len()) {
            let identity = member.id();
            if identity.id == self.hooks.own {
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
            self.hooks.acquit(id, (identity.generation, member.incarnation()));
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
                self.hooks.acquit(id, (u64::MAX, u16::MAX));
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
    pub(super) fn outlive(&mut self) {
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
        self.live_after(later.generation);
    }

    /// Begins a life that is later than this one, and than that of `generation`, as far as there is any.
    fn live_after(&mut self, generation: u64) {
        let next = self.swim.identity().after(generation);
        let sent = self.hooks.out.len();
        if !self.has_left && self.swim.change_identity(next, &mut self.hooks).is_ok() {
            // The new life has spoken up for nothing yet, and suspects nobody.
            self.hooks.own_incarnation = 0;
            self.hooks.recant();
            self.take_back(sent);
            let said_at = self.own.said_at;
            self.tell(said_at);
        }
    }

    /// Fits what depends on the number of members.
    pub(super) fn resize(&mut self) {
        let members = self.swim.num_members() + 1;
        if members != self.hooks.members {
            self.hooks.members = members;
            let _ = self.swim.set_config(config(&self.hooks.tuning, members));
        }
    }
}
