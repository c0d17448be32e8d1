//! What this node knows about the members: how they stand, what they say about themselves, who has proved to be who it
//! says. Makes the view of it, and decides who may be sent requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use super::{
    fact::Facts,
    packet::{FactRecord, MAX_MEMBERS},
    view::{Member, MemberId, MemberState, MembershipView, Routable},
};
use crate::types::Mono;

/// Losing members within this time is losing them at once.
const AT_ONCE: Duration = Duration::from_secs(20);
/// What each return from the dead costs; a member with more than [`DAMPED`] is used sparingly. As routes that flap are
/// damped (RFC 2439).
const FLAP: f64 = 1000.0;
/// Three returns within a minute.
const DAMPED: f64 = 2500.0;
/// Half of the cost is forgotten in this time.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// How a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Which life.
    pub generation: u64,
    /// Since it spoke up for the how-manieth time.
    pub incarnation: u16,
    /// Where it gossips.
    pub address: SocketAddr,
    /// What is thought of it.
    pub state: MemberState,
    /// Since when.
    pub since: Mono,
}

/// What a member has proved: the bearer of the identity of `service` at `address` says to take requests at `endpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proof {
    address: SocketAddr,
    service: Arc<str>,
    endpoint: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Penalty {
    cost: f64,
    at: Mono,
}

impl Penalty {
    fn now(self, now: Mono) -> f64 {
        self.cost * 0.5_f64.powf(now.since(self.at).as_secs_f64() / FORGOTTEN.as_secs_f64())
    }
}

/// What this node knows about the others.
#[derive(Debug)]
pub struct Roster {
    own: MemberId,
    needs_proof: bool,
    sights: BTreeMap<MemberId, Sight>,
    records: BTreeMap<MemberId, FactRecord>,
    /// The same, shared with each view.
    told: BTreeMap<MemberId, Arc<Facts>>,
    proofs: BTreeMap<MemberId, Proof>,
    penalties: BTreeMap<MemberId, Penalty>,
    /// Those who died at once: lately, or since this node has heard anything.
    recent: Vec<(MemberId, Mono)>,
    /// When anybody was heard last.
    heard: Mono,
    /// Those whose death was taken back.
    doubted: BTreeSet<MemberId>,
    /// Those who were lost when most were lost at once.
    lost: Option<BTreeSet<MemberId>>,
}

impl Roster {
    /// Nobody yet.
    #[must_use]
    pub fn new(own: MemberId, needs_proof: bool) -> Self {
        Self {
            own,
            needs_proof,
            sights: BTreeMap::new(),
            records: BTreeMap::new(),
            told: BTreeMap::new(),
            proofs: BTreeMap::new(),
            penalties: BTreeMap::new(),
            recent: Vec::new(),
            heard: Mono::ZERO,
            doubted: BTreeSet::new(),
            lost: None,
        }
    }

    /// How a member stands.
    #[must_use]
    pub fn sight(&self, id: MemberId) -> Option<&Sight> {
        self.sights.get(&id)
    }

    /// What a member says about itself.
    #[must_use]
    pub fn record(&self, id: MemberId) -> Option<&FactRecord> {
        self.records.get(&id)
    }

    /// What all say about themselves.
    pub fn records(&self) -> impl Iterator<Item = &FactRecord> {
        self.records.values()
    }

    /// Takes what a member says about itself; says whether that is news.
    pub fn learn(&mut self, record: &FactRecord) -> bool {
        let is_news = match self.records.get(&record.id) {
            Some(known) => record.is_newer_than(known),
            None => self.records.len() < MAX_MEMBERS,
        };
        if is_news {
            self.records.insert(record.id, record.clone());
            self.told.insert(record.id, Arc::new(record.facts.clone()));
        }
        is_news
    }

    /// Gives up what is said of those who are not known otherwise.
    pub fn drop_orphans(&mut self) {
        let sights = &self.sights;
        self.records.retain(|id, _| sights.contains_key(id));
        self.told.retain(|id, _| sights.contains_key(id));
    }

    /// Those were given up wrongly, perhaps: if they are again, nobody was lost by that.
    pub fn doubt(&mut self, ids: impl Iterator<Item = MemberId>) {
        self.doubted.extend(ids);
    }

    /// A member stands so since `now`.
    pub fn see(&mut self, id: MemberId, sight: Sight, now: Mono) {
        let before = self.sights.get(&id).copied();
        let since = before.filter(|before| before.state == sight.state).map_or(now, |before| before.since);
        if self.room() > 0 || before.is_some() {
            self.sights.insert(id, Sight { since, ..sight });
        }
        let was = before.map(|before| before.state);
        let is_loss = sight.state == MemberState::Dead
            && matches!(was, Some(MemberState::Alive | MemberState::Suspect));
        let was_doubted = sight.state != MemberState::Suspect && self.doubted.remove(&id);
        if is_loss && !was_doubted {
            self.recent.push((id, now));
        }
        if was == Some(MemberState::Dead) && sight.state == MemberState::Alive {
            let cost = self.penalties.get(&id).map_or(0.0, |penalty| penalty.now(now)) + FLAP;
            self.penalties.insert(id, Penalty { cost, at: now });
        }
        // Whoever is cut off distrusts itself, and gives the others up one by one, the more slowly the more there are of them.
        let heard = self.heard;
        self.recent.retain(|(_, at)| *at >= heard || now.since(*at) <= AT_ONCE);
    }

    /// Somebody was heard.
    pub fn hear(&mut self, now: Mono) {
        self.heard = now;
    }

    /// Those who are dead or have left, and are remembered.
    pub fn gone(&self) -> impl Iterator<Item = (MemberId, &Sight)> {
        let gone = [MemberState::Dead, MemberState::Left];
        self.sights
            .iter()
            .filter(move |(_, sight)| gone.contains(&sight.state))
            .map(|(id, sight)| (*id, sight))
    }

    /// How many more can be remembered: with this node there are never more than one comparison may name.
    #[must_use]
    pub fn room(&self) -> usize {
        (MAX_MEMBERS - 1).saturating_sub(self.sights.len())
    }

    /// A member is remembered no longer, unless it has begun another life.
    pub fn forget(&mut self, id: MemberId, generation: u64) {
        if self.sights.get(&id).is_some_and(|sight| sight.generation == generation) {
            self.sights.remove(&id);
            self.records.remove(&id);
            self.told.remove(&id);
            self.proofs.remove(&id);
            self.penalties.remove(&id);
            self.doubted.remove(&id);
        }
    }

    /// A member that gossips at `address` has proved to be who `record` says. That alone is proved: what came by gossip
    /// meanwhile, even if it is newer, may be anybody's.
    pub fn confirm(&mut self, address: SocketAddr, record: &FactRecord, now: Mono) {
        if self.proofs.len() < MAX_MEMBERS || self.proofs.contains_key(&record.id) {
            let (service, endpoint) = (Arc::clone(&record.facts.service), record.facts.endpoint);
            self.proofs.insert(record.id, Proof { address, service, endpoint });
        }
        self.penalties.retain(|_, penalty| penalty.now(now) > 1.0);
    }

    fn is_confirmed(&self, id: MemberId) -> bool {
        if !self.needs_proof {
            return true;
        }
        let (Some(proof), Some(sight), Some(record)) =
            (self.proofs.get(&id), self.sights.get(&id), self.records.get(&id))
        else {
            return false;
        };
        proof.address == sight.address
            && proof.service == record.facts.service
            && proof.endpoint == record.facts.endpoint
    }

    /// Those that say to take requests, or calls for the store, are there, and have not proved who they are.
    pub fn unconfirmed(&self) -> impl Iterator<Item = (MemberId, SocketAddr, &Facts)> {
        self.sights.iter().filter_map(|(id, sight)| {
            let facts = &self.records.get(id)?.facts;
            let is_wanted = matches!(sight.state, MemberState::Alive | MemberState::Suspect)
                && (facts.endpoint.is_some() || facts.store.is_some())
                && !self.is_confirmed(*id);
            is_wanted.then_some((*id, sight.address, facts))
        })
    }

    /// Where those gossip that are dead.
    pub fn lost(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.sights.values().filter(|sight| sight.state == MemberState::Dead).map(|sight| sight.address)
    }

    /// A living member with this name that is not `but`.
    #[must_use]
    pub fn named(&self, node: &str, but: MemberId) -> Option<(MemberId, SocketAddr)> {
        self.records
            .iter()
            .filter(|(id, record)| **id != but && &*record.facts.node == node)
            .filter_map(|(id, _)| Some((*id, self.sights.get(id)?)))
            .find(|(_, sight)| sight.state == MemberState::Alive)
            .map(|(id, sight)| (id, sight.address))
    }

    /// Whether this node is more likely cut off than most others are dead; `Some` when that changes.
    pub fn judge_isolation(&mut self) -> Option<bool> {
        if self.recent.is_empty() && self.lost.is_none() {
            return None;
        }
        let is_in = |id: &MemberId, states: &[MemberState]| {
            self.sights.get(id).is_some_and(|sight| states.contains(&sight.state))
        };
        let there = [MemberState::Alive, MemberState::Suspect];
        let alive = self.sights.keys().filter(|id| is_in(id, &there)).count();
        let died = self.recent.iter().map(|(id, _)| *id).filter(|id| is_in(id, &[MemberState::Dead]));
        let mut lost: BTreeSet<MemberId> = died.collect();
        let was_isolated = self.lost.is_some();
        if let Some(before) = &self.lost {
            lost.extend(before.iter().filter(|id| is_in(id, &[MemberState::Dead])));
        }
        let is_isolated = lost.len() > alive && (was_isolated || lost.len() > 1);
        self.lost = is_isolated.then_some(lost);
        (was_isolated != is_isolated).then_some(is_isolated)
    }

    /// Whether that is so.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.lost.is_some()
    }

    fn routable(&self, id: MemberId, sight: &Sight, now: Mono) -> Routable {
        let Some(record) = self.records.get(&id) else { return Routable::No };
        if record.facts.endpoint.is_none()
            || record.facts.is_draining
            || record.has_left
            || !self.is_confirmed(id)
        {
            return Routable::No;
        }
        match sight.state {
            MemberState::Alive => {
                let is_damped = self.penalties.get(&id).is_some_and(|penalty| penalty.now(now) > DAMPED);
                if is_damped { Routable::Thinned } else { Routable::Yes }
            }
            MemberState::Suspect => Routable::Thinned,
            MemberState::Dead if self.lost.as_ref().is_some_and(|lost| lost.contains(&id)) => {
                Routable::LastResort
            }
            MemberState::Dead | MemberState::Left => Routable::No,
        }
    }

    /// The mesh as this node sees it, which stands as `own` and says `record` about itself.
    #[must_use]
    pub fn view(
        &self,
        own: &Sight,
        record: &FactRecord,
        accusers: &dyn Fn(MemberId) -> Option<BTreeSet<MemberId>>,
        round_trips: &BTreeMap<MemberId, Duration>,
        now: Mono,
    ) -> MembershipView {
        let own_routable = if record.facts.endpoint.is_some() && !record.facts.is_draining {
            Routable::Yes
        } else {
            Routable::No
        };
        let member = |id: MemberId, sight: &Sight, facts: Option<Arc<Facts>>, routable| {
            let accusers = accusers(id).into_iter().flatten().collect();
            Arc::new(Member {
                id,
                generation: sight.generation,
                incarnation: sight.incarnation.into(),
                address: sight.address,
                state: sight.state,
                since: sight.since,
                is_confirmed: id == self.own || self.is_confirmed(id),
                routable,
                facts,
                accusers,
                round_trip: round_trips.get(&id).copied(),
            })
        };
        let mut members: Vec<Arc<Member>> = self
            .sights
            .iter()
            .map(|(id, sight)| member(*id, sight, self.told.get(id).cloned(), self.routable(*id, sight, now)))
            .collect();
        members.push(member(self.own, own, Some(Arc::new(record.facts.clone())), own_routable));
        members.sort_unstable_by_key(|member| member.id);
        MembershipView {
            revision: 0,
            own: Some(self.own),
            members,
            health_score: 0,
            is_isolated: self.lost.is_some(),
        }
    }
}

#[cfg(test)]
mod tests;
