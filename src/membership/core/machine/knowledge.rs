//! What a member knows: for others to compare, for people to see, for whoever routes.

use std::{collections::BTreeSet, net::SocketAddr};

use foca::State;

use super::{Machine, identity::Identity};
use crate::{
    membership::core::{
        fact::Facts,
        packet::{FactRecord, Knowledge, Seen, Standing},
        roster::Sight,
        view::{MemberId, MemberState, MembershipView},
    },
    types::Mono,
};

impl Machine {
    /// Where those gossip that are not gone.
    pub fn living(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.swim.iter_members().map(|member| member.id().address)
    }

    /// Whether there are members of whom nothing is known but that they are there: what they said of themselves was lost.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        self.swim.iter_members().any(|member| self.roster.record(member.id().id).is_none())
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

    /// Takes what another knows, who is `from`. Whom it has for dead and this node has not is suspected here, and no more
    /// than that: nobody can say how old the verdict is, or whether whoever gave it hears anybody (memberlist merges so
    /// as well). One that is not dead speaks up; one that is fails a probe of this node, at the latest after a round of them.
    pub fn merge(&mut self, knowledge: Knowledge, from: MemberId, now: Mono) {
        self.hooks.now = now;
        self.roster.hear(now);
        self.begin_again();
        // Whoever comes in learns what all others know already; telling it again would be a storm.
        let is_news = self.others() > 0;
        let (own, generation) = (self.hooks.own, self.swim.identity().generation);
        // First, and for the living alone: whoever is forgotten for them must not come back with what is told here.
        let is_fresh = |seen: &&Seen| {
            seen.standing != Standing::Down && seen.id != own && self.roster.sight(seen.id).is_none()
        };
        self.make_room(knowledge.members.iter().filter(is_fresh).count());
        // The dead that this node does not know it need not know: somebody may be about to forget them.
        let is_known = |id: MemberId| self.roster.sight(id).is_some() || id == own;
        let wanted: Vec<Seen> = knowledge
            .members
            .into_iter()
            .filter(|seen| seen.standing != Standing::Down || is_known(seen.id))
            .collect();
        let ids: BTreeSet<MemberId> = wanted.iter().map(|seen| seen.id).collect();
        if self.roster.room() < ids.len() {
            self.roster.drop_orphans();
        }
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
                    Standing::Down if self.is_hearsay(&seen) => State::Suspect,
                    Standing::Down => State::Down,
                };
                let identity = Identity { id: seen.id, generation: seen.generation, address: seen.address };
                foca::Member::new(identity, seen.incarnation, state)
            })
            .collect();
        let _ = self.swim.apply_many(updates.into_iter(), is_news, &mut self.hooks);
        self.settle(from);
    }

    /// Whether another has a member for dead whom this node has not, in the same life, and who did not say goodbye.
    fn is_hearsay(&self, seen: &Seen) -> bool {
        let is_there = self.roster.sight(seen.id).is_some_and(|sight| {
            sight.generation == seen.generation
                && matches!(sight.state, MemberState::Alive | MemberState::Suspect)
        });
        let has_left = |record: &FactRecord| record.has_left && record.generation == seen.generation;
        is_there && !self.roster.record(seen.id).is_some_and(has_left)
    }

    /// Another member was talked to, and has proved to be who it says: it is there, and `record` is its own word.
    pub fn meet(&mut self, seen: &Seen, record: FactRecord, now: Mono) {
        self.roster.confirm(seen.address, &record, now);
        let knowledge = Knowledge { members: vec![seen.clone()], facts: vec![record] };
        self.merge(knowledge, seen.id, now);
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
}
