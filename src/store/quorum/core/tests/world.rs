//! Servers, disks and a network in virtual time. What is lost, late, cut off, stopped or wrong is drawn by chance; who
//! uses it and what must hold is in simulation.rs.

use std::{collections::BTreeMap, time::Duration};

use super::super::{
    machine::Machine,
    message::Packet,
    rules::{Answer, Change, Counts, Input, Level, Loaded, Now, Output, Reach, Rules, Spec, Specs, Want},
};
use super::*;

pub(super) const STEP: u64 = 25;
/// The wall clock when everything begins.
const BEGIN: u64 = 1_700_000_000_000;
/// So long gossip takes to call a server gone.
const GOSSIP: u64 = 1_500;

/// A day in the life of these servers takes 20 seconds.
pub(super) fn rules() -> Rules {
    let ms = Duration::from_millis;
    Rules {
        tick: ms(200),
        compare: ms(1_000),
        again: ms(300),
        contact: ms(3_000),
        handover: ms(3_000),
        hint_ttl: ms(5_000),
        hint_room: 100_000,
        tombstone_age: ms(20_000),
        ring_stable: ms(2_000),
        op_age: ms(10_000),
        room: 1 << 20,
        planted: None,
    }
}

pub(super) struct Server {
    pub(super) id: u64,
    pub(super) machine: Option<Machine>,
    pub(super) disk: Disk,
    writing: Option<(u64, Vec<Change>)>,
    life: u64,
    skew: i64,
    /// Who was last heard of when, by gossip.
    heard: BTreeMap<u64, u64>,
    counted: Counts,
}

/// What outlives a crash.
#[derive(Clone, Default)]
pub(super) struct Disk {
    pub(super) records: BTreeMap<Key, Record>,
    hints: BTreeMap<u64, Hint>,
    ops: BTreeMap<OpId, (Stamp, u64)>,
    ring: Vec<u64>,
    together: Option<u64>,
}

impl Disk {
    fn apply(&mut self, changes: Vec<Change>) {
        fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
            match value {
                Some(value) => drop(map.insert(key, value)),
                None => drop(map.remove(&key)),
            }
        }
        for change in changes {
            match change {
                Change::Record(key, record) => set(&mut self.records, key, record),
                Change::Hint(number, hint) => set(&mut self.hints, number, hint),
                Change::Op(op, seen) => set(&mut self.ops, op, seen),
                Change::Ring(members) => self.ring = members,
                Change::Together(ms) => self.together = Some(ms),
            }
        }
    }

    fn load(&self) -> Loaded {
        let records =
            self.records.iter().map(|(key, record)| Change::Record(key.clone(), Some(record.clone())));
        let hints = self.hints.iter().map(|(number, hint)| Change::Hint(*number, Some(hint.clone())));
        let ops = self.ops.iter().map(|(op, seen)| Change::Op(*op, Some(*seen)));
        let ring = Some(Change::Ring(self.ring.clone())).filter(|_| !self.ring.is_empty());
        let rest = ring.into_iter().chain(self.together.map(Change::Together));
        Loaded(records.chain(hints).chain(ops).chain(rest).collect())
    }
}

enum Event {
    Deliver { to: usize, from: u64, packet: Packet },
    Written { at: usize, life: u64, number: u64 },
}

pub(super) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) now: u64,
    pub(super) servers: Vec<Server>,
    /// Which part of the network each is in.
    pub(super) part: Vec<u8>,
    pub(super) loss: f64,
    pub(super) slowest: u64,
    pub(super) rules: Rules,
    pub(super) answers: Vec<(u64, Answer)>,
    /// Who starts knows nobody yet, rather than everybody.
    is_growing: bool,
    specs: Specs,
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
}

impl World {
    pub(super) fn new(seed: u64, count: usize, rules: Rules) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let spec = Spec {
            read_timeout: Duration::from_millis(600),
            write_timeout: Duration::from_millis(800),
            ..Spec::default()
        };
        let specs = ["shared", "grave"].map(|name| (name.to_owned(), spec)).into();
        let servers = (0..count).map(|at| Server {
            id: 100 + at as u64,
            machine: None,
            disk: Disk::default(),
            writing: None,
            life: 0,
            skew: rng.i64(-200..=200),
            heard: BTreeMap::new(),
            counted: Counts::default(),
        });
        let servers: Vec<Server> = servers.collect();
        let mut world = Self {
            part: vec![0; count],
            loss: [0.0, 0.02, 0.15][rng.usize(..3)],
            slowest: [20, 100, 300][rng.usize(..3)],
            rng,
            now: 0,
            servers,
            rules,
            answers: Vec::new(),
            is_growing: false,
            specs,
            events: BTreeMap::new(),
            count: 0,
        };
        (0..count).for_each(|at| world.start(at));
        world
    }

    /// The same before any of them has started.
    pub(super) fn growing(seed: u64, count: usize, rules: Rules) -> Self {
        let mut world = Self::new(seed, count, rules);
        (world.is_growing, world.loss) = (true, 0.0);
        for server in &mut world.servers {
            (server.machine, server.writing, server.disk) = (None, None, Disk::default());
            server.heard.clear();
        }
        world.events.clear();
        world
    }

    fn time(&self, at: usize) -> Now {
        let wall_ms = (BEGIN + self.now).saturating_add_signed(self.servers[at].skew);
        Now { mono: Mono::ZERO.after(Duration::from_millis(self.now)), wall_ms }
    }

    pub(super) fn start(&mut self, at: usize) {
        let now = self.time(at);
        let writer = self.rng.u64(..);
        let everybody = self.servers.iter().filter(|_| !self.is_growing);
        let everybody: Vec<(u64, u64)> = everybody.map(|server| (server.id, self.now)).collect();
        let server = &mut self.servers[at];
        server.life += 1;
        server.heard = everybody.into_iter().collect();
        let loaded = server.disk.load();
        server.machine =
            Some(Machine::new(server.id, writer, self.rules.clone(), self.specs.clone(), loaded, now));
        self.gossip(at);
    }

    /// It ends at once. What was being written is there or not.
    pub(super) fn crash(&mut self, at: usize) {
        let is_lost = self.rng.bool();
        let server = &mut self.servers[at];
        if let Some(machine) = server.machine.take() {
            server.counted = sum(server.counted, machine.counts());
        }
        if let Some((_, changes)) = server.writing.take().filter(|_| !is_lost) {
            server.disk.apply(changes);
        }
    }

    pub(super) fn is_up(&self, at: usize) -> bool {
        self.servers[at].machine.is_some()
    }

    pub(super) fn counts(&self) -> Counts {
        self.servers.iter().fold(Counts::default(), |all, server| {
            let all = sum(all, server.counted);
            server.machine.as_ref().map_or(all, |machine| sum(all, machine.counts()))
        })
    }

    fn gossip(&mut self, at: usize) {
        for other in 0..self.servers.len() {
            if self.is_up(other) && self.part[at] == self.part[other] {
                let id = self.servers[other].id;
                self.servers[at].heard.insert(id, self.now);
            }
        }
        let reach = |heard: u64| if self.now - heard > GOSSIP { Reach::Gone } else { Reach::There };
        let peers = self.servers[at].heard.iter().map(|(id, heard)| (*id, reach(*heard))).collect();
        self.put_in(at, Input::Peers(peers));
    }

    pub(super) fn ask(&mut self, at: usize, request: u64, want: Want, level: Level) {
        self.put_in(at, Input::Asked(request, want, level));
    }

    fn put_in(&mut self, at: usize, input: Input) {
        let now = self.time(at);
        if let Some(machine) = &mut self.servers[at].machine {
            machine.handle(input, now);
        }
        self.take_out(at);
    }

    fn take_out(&mut self, at: usize) {
        loop {
            let server = &mut self.servers[at];
            let Some(output) = server.machine.as_mut().and_then(Machine::poll) else { break };
            match output {
                Output::Answer(request, answer) => self.answers.push((request, answer)),
                Output::Send(to, packet) => self.send(at, to, &packet),
            }
        }
        let server = &mut self.servers[at];
        if server.writing.is_none()
            && let Some((number, changes)) = server.machine.as_mut().and_then(Machine::batch)
        {
            server.writing = Some((number, changes));
            let life = server.life;
            let wait = self.rng.u64(1..40);
            self.later(wait, Event::Written { at, life, number });
        }
    }

    fn send(&mut self, at: usize, to: u64, packet: &Packet) {
        // As on the wire.
        let bytes = postcard::to_allocvec(packet).unwrap();
        let packet: Packet = postcard::from_bytes(&bytes).unwrap();
        let Some(to) = self.servers.iter().position(|server| server.id == to) else { return };
        let copies = if self.rng.u8(..50) == 0 { 2 } else { 1 };
        for _ in 0..copies {
            if self.rng.f64() < self.loss {
                continue;
            }
            let wait = self.rng.u64(1..=self.slowest);
            let from = self.servers[at].id;
            self.later(wait, Event::Deliver { to, from, packet: packet.clone() });
        }
    }

    fn later(&mut self, wait: u64, event: Event) {
        self.count += 1;
        self.events.insert((self.now + wait, self.count), event);
    }

    pub(super) fn step(&mut self) {
        self.now += STEP;
        while let Some(event) = self.events.first_entry().filter(|event| event.key().0 <= self.now) {
            match event.remove() {
                Event::Deliver { to, from, packet } => {
                    let sender = self.servers.iter().position(|server| server.id == from).unwrap();
                    if self.part[to] == self.part[sender] {
                        self.put_in(to, Input::Received(from, packet));
                    }
                }
                Event::Written { at, life, number } => {
                    if self.servers[at].life == life
                        && let Some((_, changes)) = self.servers[at].writing.take()
                    {
                        self.servers[at].disk.apply(changes);
                        self.put_in(at, Input::Synced(number));
                    }
                }
            }
        }
        for at in 0..self.servers.len() {
            if self.now.is_multiple_of(400) && self.is_up(at) {
                self.gossip(at);
            }
            let now = self.time(at);
            if let Some(machine) = self.servers[at].machine.as_mut()
                && machine.next_deadline() <= now.mono
            {
                machine.advance(now);
                assert!(machine.next_deadline() > now.mono, "a deadline that never passes");
                self.take_out(at);
            }
        }
    }

    /// How many of those who keep `key` have it on their disks, no older than `stamp`.
    pub(super) fn on_disk(&self, key: &Key, stamp: Stamp) -> usize {
        let ring = Ring::new(self.servers.iter().map(|server| server.id));
        let owners = ring.replicas(key.as_str(), 3);
        let has = |server: &&Server| {
            (self.is_growing || owners.contains(&server.id))
                && server.disk.records.get(key).is_some_and(|had| had.stamp >= stamp)
        };
        self.servers.iter().filter(has).count()
    }
}

fn sum(one: Counts, other: Counts) -> Counts {
    Counts {
        read_repairs: one.read_repairs + other.read_repairs,
        hints_queued: one.hints_queued + other.hints_queued,
        hints_replayed: one.hints_replayed + other.hints_replayed,
        hints_dropped: one.hints_dropped + other.hints_dropped,
        differences: one.differences + other.differences,
        tombstones_collected: one.tombstones_collected + other.tombstones_collected,
        clock_refusals: one.clock_refusals + other.clock_refusals,
        purges: one.purges + other.purges,
    }
}
