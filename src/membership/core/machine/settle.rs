//! What is taken from a packet, and what is noted once the engine has made up its mind.

use foca::State;

use super::{
    Event, Machine, Output, config,
    identity::{Identity, is_known},
    scan::{self, Scanned},
};
use crate::membership::core::{
    packet::{FactRecord, Item, Unreadable},
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
        Ok(())
    }

    pub(super) fn take(&mut self, item: Item) {
        match item {
            Item::Fact(record) => self.learn(record, true),
            Item::Accusation(accusation) => {
                if accusation.target != self.hooks.own && self.hooks.accuse(&accusation) {
                    self.hooks.broadcasts.add(&Item::Accusation(accusation));
                }
            }
            Item::Suspected { generation, incarnation } => {
                let own = self.swim.identity().clone();
                // Of another life, or spoken up against already: saying it again would set off the same in others.
                if generation != own.generation || incarnation < self.hooks.own_incarnation {
                    return;
                }
                let suspect = foca::Member::new(own, incarnation, State::Suspect);
                let _ = self.swim.apply_many([suspect].into_iter(), false, &mut self.hooks);
            }
            Item::Nack { probe } => self.hooks.nack(probe),
        }
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
                self.hooks.acquit(id);
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

    /// Begins a life that is later than this one, and than that of `generation`.
    fn live_after(&mut self, generation: u64) {
        let own = self.swim.identity().clone();
        let next = Identity { generation: own.generation.max(generation).saturating_add(1), ..own };
        if !self.has_left && self.swim.change_identity(next, &mut self.hooks).is_ok() {
            // The new life has spoken up for nothing yet, and suspects nobody.
            self.hooks.own_incarnation = 0;
            self.hooks.pending.clear();
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
