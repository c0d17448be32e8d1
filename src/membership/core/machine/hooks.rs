//! What stands around SWIM's engine: its timers, which distrust of oneself makes longer; its packets, with which news
//! travel; and Lifeguard's table of suspicions, which decides in its place when a member is dead.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use foca::{Header, Message, Notification, Runtime, Timer};

use super::{Event, Output, identity::Identity};
use crate::{
    membership::core::{
        broadcast::Broadcasts,
        lifeguard::{LocalHealth, Suspicion},
        packet::{self, Accusation, Item},
        tuning::{MAX_PACKET, Tuning},
        view::MemberId,
    },
    types::Mono,
};

/// Accusations of which members are remembered; when there are more, one of them is forgotten, no matter which.
const MAX_ACCUSED: usize = 1024;
/// Helpers answer that they hear nothing either after this share of the time of a probe, in percent (Lifeguard §IV-A).
const NACK_PERCENT: u32 = 80;

/// Most accusations that are answered at once, so that there is room beside SWIM's message: a quarter of what it leaves.
const MAX_REFUTED: usize = 4;

/// Something that is due at some time.
#[derive(Debug)]
pub(super) enum Due {
    /// A timer of the engine.
    Swim(Timer<Identity>),
    /// A helper says that it hears nothing either.
    Nack { to: Identity, target: MemberId, probe: u8 },
}

/// The probe that is under way.
#[derive(Debug)]
struct Probe {
    target: MemberId,
    number: u8,
    sent: Mono,
    answered: bool,
    helpers: u8,
    nacks: u8,
}

/// A suspicion that began with a probe of our own.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) suspicion: Suspicion,
    pub(super) generation: u64,
    pub(super) incarnation: u16,
    pub(super) timer: Timer<Identity>,
}

/// One life of a member since it spoke up for the how-manieth time.
pub(super) type Accused = (MemberId, u64, u16);

#[derive(Debug)]
pub(super) struct Hooks {
    pub(super) now: Mono,
    pub(super) own: MemberId,
    pub(super) tuning: Tuning,
    pub(super) members: usize,
    pub(super) health: LocalHealth,
    pub(super) timers: BTreeMap<(Mono, u64), Due>,
    order: u64,
    probe: Option<Probe>,
    pub(super) pending: BTreeMap<MemberId, Pending>,
    pub(super) accusers: BTreeMap<Accused, BTreeSet<MemberId>>,
    /// Those whom this node declared dead in this life of its own, in which life of theirs, and when.
    pub(super) judged: BTreeMap<MemberId, (u64, Mono)>,
    /// Those who are suspected, as far as this node knows: each is told with whatever is sent to it.
    pub(super) suspected: BTreeMap<MemberId, (u64, u16)>,
    pub(super) broadcasts: Broadcasts,
    /// What the sender of the packet that is being taken must hear: it says that somebody is suspected who has spoken up.
    refuted: Option<(MemberId, Vec<Item>)>,
    pub(super) round_trips: BTreeMap<MemberId, Duration>,
    pub(super) own_incarnation: u16,
    /// Members whose standing may have changed since it was looked at.
    pub(super) touched: BTreeSet<MemberId>,
    pub(super) rejoined: bool,
    pub(super) sent_swim: bool,
    pub(super) out: Vec<Output>,
}

impl Hooks {
    pub(super) fn new(own: MemberId, tuning: Tuning, now: Mono) -> Self {
        Self {
            now,
            own,
            members: 1,
            health: LocalHealth::new(tuning.max_health_score),
            tuning,
            timers: BTreeMap::new(),
            order: 0,
            probe: None,
            pending: BTreeMap::new(),
            accusers: BTreeMap::new(),
            judged: BTreeMap::new(),
            suspected: BTreeMap::new(),
            broadcasts: Broadcasts::new(own),
            refuted: None,
            round_trips: BTreeMap::new(),
            own_incarnation: 0,
            touched: BTreeSet::new(),
            rejoined: false,
            sent_swim: false,
            out: Vec::new(),
        }
    }

    pub(super) fn transmissions(&self) -> u8 {
        self.tuning.transmissions(self.members).get()
    }

    pub(super) fn schedule(&mut self, due: Due, after: Duration) {
        self.order += 1;
        self.timers.insert((self.now.after(after), self.order), due);
    }

    /// Sends a packet with `swim`, which may be empty, to `to`, and with it what is for it alone and what news there is
    /// room for.
    pub(super) fn send(&mut self, to: &Identity, swim: &[u8], private: Option<&Item>) {
        let mut packet = packet::begin(swim);
        let buddy = self.suspected.get(&to.id).filter(|(generation, _)| *generation == to.generation);
        let buddy = buddy.map(|(generation, incarnation)| Item::Suspected {
            generation: *generation,
            incarnation: *incarnation,
        });
        if self.tuning.lifeguard {
            let refuted = self.refuted.take_if(|(receiver, _)| *receiver == to.id);
            let refuted = refuted.iter().flat_map(|(_, items)| items);
            private.into_iter().chain(&buddy).chain(refuted).for_each(|item| packet.extend(item.encode()));
        }
        let room = MAX_PACKET.saturating_sub(packet.len());
        let limit = self.transmissions();
        self.broadcasts.fill(&mut packet, room, limit);
        self.out.push(Output::Send { to: to.address, packet });
    }

    /// `sender` says that `target` is suspected, which has spoken up since, for the `incarnation`th time.
    pub(super) fn refute(&mut self, sender: MemberId, target: MemberId, generation: u64, incarnation: u16) {
        let item = Item::Refuted { target, generation, incarnation };
        let (receiver, items) = self.refuted.get_or_insert_with(|| (sender, Vec::new()));
        if *receiver == sender && items.len() < MAX_REFUTED && !items.contains(&item) {
            items.push(item);
        }
    }

    /// The packet is taken: what its sender must hear and was not sent with an answer goes by itself.
    pub(super) fn correct(&mut self, sender: Option<&Identity>) {
        let Some((receiver, items)) = self.refuted.take() else { return };
        if let Some(sender) = sender.filter(|sender| sender.id == receiver && self.tuning.lifeguard) {
            // Alone: news that go along could be old to the receiver, whose answer could be old to this node, and so on.
            let mut packet = packet::begin(&[]);
            items.iter().for_each(|item| packet.extend(item.encode()));
            self.out.push(Output::Send { to: sender.address, packet });
        }
    }

    /// Another's accusation; says whether it is news.
    pub(super) fn accuse(&mut self, accusation: &Accusation) -> bool {
        let accused = (accusation.target, accusation.generation, accusation.incarnation);
        if self.accusers.len() >= MAX_ACCUSED && !self.accusers.contains_key(&accused) {
            self.accusers.pop_first();
        }
        let accusers = self.accusers.entry(accused).or_default();
        let enough = usize::from(self.tuning.confirmations) + 1;
        let is_news = accusers.len() < enough && accusers.insert(accusation.accuser);
        // One's own accusation comes back from those who passed it on. It confirms nothing.
        if accusation.accuser != self.own
            && let Some(pending) = self.pending.get_mut(&accusation.target)
            && (pending.generation, pending.incarnation) == (accusation.generation, accusation.incarnation)
        {
            pending.suspicion.confirm(accusation.accuser);
        }
        is_news
    }

    /// Nobody's accusation of a member counts any more that is of before `life`, which is its generation and incarnation.
    pub(super) fn acquit(&mut self, id: MemberId, life: (u64, u16)) {
        let of_it = (id, 0, 0)..(id, life.0, life.1);
        let accused: Vec<Accused> = self.accusers.range(of_it).map(|(accused, _)| *accused).collect();
        for accused in accused {
            self.accusers.remove(&accused);
        }
        self.broadcasts.acquit(id, life);
        let is_over = |pending: &Pending| (pending.generation, pending.incarnation) < life;
        if self.pending.get(&id).is_some_and(is_over) {
            self.pending.remove(&id);
        }
    }

    /// This node did nothing for `lag`: what is due is due so much later, as if time had stood still.
    pub(super) fn postpone(&mut self, lag: Duration) {
        let timers = std::mem::take(&mut self.timers);
        self.timers = timers.into_iter().map(|((at, order), due)| ((at.after(lag), order), due)).collect();
        self.pending.values_mut().for_each(|pending| pending.suspicion.postpone(lag));
        self.health.worse(1);
    }

    /// This node accuses nobody any more.
    pub(super) fn recant(&mut self) {
        self.pending.clear();
        self.broadcasts.recant();
    }

    /// The engine is a new one: whatever the old one wanted is of no use.
    pub(super) fn begin_again(&mut self) {
        self.timers.clear();
        self.recant();
        self.suspected.clear();
        self.accusers.clear();
        self.judged.clear();
        self.probe = None;
        self.own_incarnation = 0;
        self.members = 1;
    }

    /// When the next thing is due.
    pub(super) fn next(&self) -> Option<Mono> {
        let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
        let suspicion = self.pending.values().map(|pending| pending.suspicion.deadline()).min();
        [timer, suspicion].into_iter().flatten().min()
    }

    fn suspect(&mut self, timer: Timer<Identity>) {
        let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer else { return };
        let (id, generation, incarnation) = (member_id.id, member_id.generation, *incarnation);
        let accused = (id, generation, incarnation);
        let is_pending = self
            .pending
            .get(&id)
            .is_some_and(|pending| (pending.generation, pending.incarnation) == (generation, incarnation));
        // The engine asks again each time a probe of a suspect fails; the first time counts.
        if is_pending {
            return;
        }
        let min = self.tuning.min_suspicion(self.members);
        let max = min * self.tuning.suspicion_stretch;
        let mut accusers = self.accusers.get(&accused).cloned().unwrap_or_default();
        accusers.remove(&self.own);
        let enough = self.tuning.confirmations(self.members);
        let suspicion = Suspicion::new(self.now, min, max, enough, accusers);
        self.pending.insert(id, Pending { suspicion, generation, incarnation, timer });
        self.suspected.insert(id, (generation, incarnation));
        let accusation = Accusation { accuser: self.own, target: id, generation, incarnation };
        self.broadcasts.add(&Item::Accusation(accusation));
    }

    fn received(&mut self, header: &Header<Identity>) {
        let source = header.src.id;
        match &header.message {
            Message::Ack(number) => self.answered(source, *number),
            Message::ForwardedAck { origin, probe_number } => self.answered(origin.id, *probe_number),
            Message::PingReq { target, probe_number } => {
                let after = self.tuning.probe_timeout * NACK_PERCENT / 100;
                let due = Due::Nack { to: header.src.clone(), target: target.id, probe: *probe_number };
                if self.tuning.lifeguard {
                    self.schedule(due, after);
                }
            }
            _ => {}
        }
    }

    fn answered(&mut self, by: MemberId, number: u8) {
        let now = self.now;
        let Some(probe) = self.probe.as_mut().filter(|probe| (probe.target, probe.number) == (by, number))
        else {
            return;
        };
        if std::mem::replace(&mut probe.answered, true) {
            return;
        }
        let took = now.since(probe.sent);
        if probe.helpers == 0 {
            self.round_trips.insert(by, took);
            self.out.push(Output::Event(Event::Answered(took)));
        }
        self.health.better();
    }

    /// A helper says that it hears nothing either: so it is not we who hear nothing.
    pub(super) fn nack(&mut self, number: u8) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.number == number) {
            probe.nacks = probe.nacks.saturating_add(1);
        }
    }

    fn sent(&mut self, header: &Header<Identity>) {
        if header.src_incarnation > self.own_incarnation {
            self.health.worse(1);
            self.out.push(Output::Event(Event::SpokeUp { incarnation: header.src_incarnation }));
        }
        self.own_incarnation = header.src_incarnation;
        match &header.message {
            Message::Ping(number) => {
                self.probe = Some(Probe {
                    target: header.dst.id,
                    number: *number,
                    sent: self.now,
                    answered: false,
                    helpers: 0,
                    nacks: 0,
                });
            }
            Message::PingReq { .. } => {
                if let Some(probe) = &mut self.probe {
                    probe.helpers = probe.helpers.saturating_add(1);
                }
            }
            Message::ForwardedAck { origin, probe_number } => {
                let (asked, origin, number) = (header.dst.id, origin.id, *probe_number);
                self.timers.retain(|_, due| {
                    !matches!(due, Due::Nack { to, target, probe }
                        if to.id == asked && *target == origin && *probe == number)
                });
            }
            _ => {}
        }
    }

    fn failed(&mut self, target: &Identity) {
        // Nobody was asked: it may be us. Some were asked and did not even say that they hear nothing: it is likely us.
        let missed = self.probe.as_ref().map_or(1, |probe| match probe.helpers {
            0 => 1,
            helpers => helpers.saturating_sub(probe.nacks),
        });
        self.health.worse(missed);
        self.round_trips.remove(&target.id);
        self.touched.insert(target.id);
        self.out.push(Output::Event(Event::Unanswered(target.id)));
    }
}

impl Runtime<Identity> for Hooks {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::MemberUp(who) | Notification::MemberDown(who) => {
                self.touched.insert(who.id);
            }
            Notification::Rename(_, who) => {
                self.touched.insert(who.id);
            }
            Notification::Rejoin(_) => {
                self.own_incarnation = 0;
                self.rejoined = true;
            }
            Notification::DataReceived(header) => self.received(header),
            Notification::DataSent(header) => self.sent(header),
            Notification::ProbeFailed(_, who) => self.failed(who),
            Notification::Active | Notification::Idle | Notification::Defunct => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sent_swim = true;
        self.send(&to, data, None);
    }

    fn submit_after(&mut self, timer: Timer<Identity>, after: Duration) {
        match timer {
            // LHA-Probe: whoever distrusts itself asks more slowly and waits longer.
            Timer::ProbeRandomMember(_) | Timer::SendIndirectProbe { .. } if self.tuning.lifeguard => {
                self.schedule(Due::Swim(timer), self.health.stretched(after));
            }
            // LHA-Suspicion: the time to speak up depends on how many accuse.
            Timer::ChangeSuspectToDown { .. } if self.tuning.lifeguard => self.suspect(timer),
            other => self.schedule(Due::Swim(other), after),
        }
    }
}
