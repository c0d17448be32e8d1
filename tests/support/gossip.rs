//! A mesh in virtual time: the real decisions of each member, a network that loses, delays and parts them, and members
//! that stall. The same seed gives the same run.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::SocketAddr,
    ops::Range,
    time::Duration,
};

use outrigger::{
    membership::{
        Facts, Health, MemberId, MemberState, MembershipView, Profile, Speaks,
        core::{
            envelope::OVERHEAD,
            machine::{Event, Machine, Output, Setup},
            packet::Knowledge,
            tuning::Tuning,
        },
    },
    types::{Mono, Tags},
};

/// What IPv4 and UDP put in front of a datagram.
const UDP: usize = 28;
/// What a comparison costs besides what is compared: TCP, the handshake of TLS with two certificates, the digests.
const CONNECTION: usize = 3500;
/// A socket keeps as many packets for a member that stalls.
const SOCKET: usize = 400;
/// Members begin within this time: less than a period of the prober.
const STAGGER: Duration = Duration::from_millis(490);

/// More happenings than this in one stretch of time are no gossip but a storm.
const STORM: usize = 2_000_000;

/// How the members behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// Lifeguard is on.
    On,
    /// Plain SWIM, whose timers come before what waits in the socket when a member wakes up.
    Off,
    /// Plain SWIM that reads the socket first.
    OffSocketFirst,
}

/// What a member that stalls does.
#[derive(Clone, Debug)]
pub(crate) struct Stall {
    /// It does nothing for a time from this range,
    pub(crate) blocked: Range<Duration>,
    /// then something for one from that.
    pub(crate) awake: Range<Duration>,
}

/// What the network does.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// Share of the packets that are lost.
    pub(crate) loss: f64,
    /// Time that one takes.
    pub(crate) delay: Range<Duration>,
}

impl Default for Network {
    fn default() -> Self {
        Self { loss: 0.0, delay: Duration::from_micros(200)..Duration::from_millis(2) }
    }
}

struct Node {
    machine: Machine,
    generation: u64,
    up: bool,
    stall: Option<Stall>,
    blocked: bool,
    /// Its timers run while it is blocked; only what it is sent and what it sends waits.
    is_numb: bool,
    backlog: Vec<(MemberId, Vec<u8>)>,
    held: Vec<(SocketAddr, Vec<u8>)>,
    wake: Option<Mono>,
    group: u32,
    sent: u64,
}

enum Happening {
    Packet { to: usize, from: usize, packet: Vec<u8> },
    Wake { node: usize },
    Block { node: usize },
    Unblock { node: usize },
    Compare { node: usize },
    Knowledge { to: usize, from: usize, knowledge: Box<Knowledge>, answer: bool },
}

/// Something that a member noticed.
#[derive(Clone, Debug)]
pub(crate) struct Noticed {
    /// When.
    pub(crate) at: Mono,
    /// Who.
    pub(crate) node: usize,
    /// What.
    pub(crate) event: Event,
}

/// A mesh in virtual time.
pub(crate) struct Mesh {
    /// The time.
    pub(crate) now: Mono,
    /// What was noticed since it was last taken.
    pub(crate) noticed: Vec<Noticed>,
    /// The network.
    pub(crate) network: Network,
    layer: Layer,
    seed: u64,
    rng: fastrand::Rng,
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(Mono, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    order: u64,
    by_address: BTreeMap<SocketAddr, usize>,
    /// Pairs whose first does not reach the second.
    pub(crate) cut: Vec<(usize, usize)>,
    /// Whom no packet reaches, though connections do.
    pub(crate) deaf: Option<usize>,
}

/// The id of a member.
pub(crate) fn id(node: usize) -> MemberId {
    // Spread out, as ids by chance are.
    MemberId((node as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn address(node: usize) -> SocketAddr {
    ([10, 0, (node >> 8) as u8, node as u8], 7946).into()
}

fn facts(node: usize) -> Facts {
    Facts {
        node: format!("node-{node}").into(),
        service: "api".into(),
        endpoint: Some(([10, 0, (node >> 8) as u8, node as u8], 15006).into()),
        speaks: Speaks::Auto,
        secured: true,
        weight: 1,
        tags: Tags::new([("zone".to_owned(), "a".to_owned()), ("version".to_owned(), "v1".to_owned())]),
        health: Health::Healthy,
        store: None,
        is_draining: false,
        load: 0,
        version: "0.1.0".into(),
        keys: vec![1],
    }
}

impl Mesh {
    /// Members that do not know each other yet.
    pub(crate) fn new(count: usize, layer: Layer, network: Network, seed: u64) -> Self {
        let mut mesh = Self {
            now: Mono::ZERO,
            noticed: Vec::new(),
            network,
            layer,
            seed,
            rng: fastrand::Rng::with_seed(seed),
            nodes: Vec::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            order: 0,
            by_address: BTreeMap::new(),
            cut: Vec::new(),
            deaf: None,
        };
        for node in 0..count {
            mesh.add(node, 1);
        }
        mesh
    }

    /// Members that all know each other and have nothing to tell.
    pub(crate) fn formed(count: usize, layer: Layer, network: Network, seed: u64) -> Self {
        let mut mesh = Self::new(count, layer, network, seed);
        let mut all = Knowledge::default();
        for node in &mesh.nodes {
            let own = node.machine.knowledge();
            all.members.extend(own.members);
            all.facts.extend(own.facts);
        }
        // In no order, and before the first of them probes: their rounds are as apart as those of processes that were
        // started at some time.
        let mut starts: Vec<(Duration, usize)> =
            (0..count).map(|node| (mesh.chance(Duration::ZERO..STAGGER), node)).collect();
        starts.sort_unstable();
        for (start, node) in starts {
            mesh.run(Mono::ZERO.after(start).since(mesh.now));
            mesh.nodes[node].machine.merge(all.clone(), id(node), mesh.now);
            mesh.after(node);
        }
        mesh.run(Duration::from_secs(20));
        mesh.noticed.clear();
        mesh.nodes.iter_mut().for_each(|node| node.sent = 0);
        mesh
    }

    fn add(&mut self, node: usize, generation: u64) {
        let lifeguard = self.layer == Layer::On;
        let setup = Setup {
            id: id(node),
            generation,
            address: address(node),
            tuning: Tuning { lifeguard, ..Tuning::of(Profile::Lan) },
            facts: facts(node),
            said_at: 0,
            needs_proof: false,
            rng: self.rng.fork(),
        };
        let machine = Machine::new(setup, self.now);
        let new = Node {
            machine,
            generation,
            up: true,
            stall: None,
            blocked: false,
            is_numb: false,
            backlog: Vec::new(),
            held: Vec::new(),
            wake: None,
            group: 0,
            sent: 0,
        };
        if node == self.nodes.len() {
            self.nodes.push(new);
        } else {
            // What was sent was sent.
            self.nodes[node] = Node { sent: self.nodes[node].sent, ..new };
        }
        self.by_address.insert(address(node), node);
        let first = self.chance(Duration::ZERO..Duration::from_secs(30));
        self.happen(first, Happening::Compare { node });
    }

    /// Adds a member that knows `seed` alone, and compares with it at once.
    pub(crate) fn join(&mut self, seed: usize) -> usize {
        let node = self.nodes.len();
        self.add(node, 1);
        self.compare(node, seed);
        node
    }

    /// A member's process is gone.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].up = false;
    }

    /// It is started again and asks `seed`.
    pub(crate) fn restart(&mut self, node: usize, seed: usize) {
        let generation = self.nodes[node].generation + 1_000_000;
        self.add(node, generation);
        self.compare(node, seed);
    }

    /// It says goodbye and is gone a second later.
    pub(crate) fn leave(&mut self, node: usize) {
        let now = self.now;
        self.nodes[node].machine.leave(now, 0);
        self.after(node);
        for _ in 0..5 {
            self.run(Duration::from_millis(200));
            let now = self.now;
            self.nodes[node].machine.leave_again(now);
            self.after(node);
        }
        self.kill(node);
    }

    /// It stalls as `stall` says from now on, or no longer.
    pub(crate) fn stall(&mut self, node: usize, stall: Option<Stall>) {
        self.nodes[node].stall = stall;
        self.happen(Duration::ZERO, Happening::Block { node });
    }

    /// Its sockets stall as `stall` says from now on, both ways, while its timers run.
    #[allow(dead_code, reason = "not everybody who includes this uses all of it")]
    pub(crate) fn numb(&mut self, node: usize, stall: Stall) {
        self.nodes[node].is_numb = true;
        self.stall(node, Some(stall));
    }

    /// It does nothing for `time`, once.
    pub(crate) fn pause(&mut self, node: usize, time: Duration) {
        self.nodes[node].blocked = true;
        self.happen(time, Happening::Unblock { node });
    }

    /// Members of different groups do not reach each other.
    pub(crate) fn part(&mut self, group_of: impl Fn(usize) -> u32) {
        self.nodes.iter_mut().enumerate().for_each(|(node, state)| state.group = group_of(node));
    }

    /// It says something else about itself.
    pub(crate) fn say(&mut self, node: usize, weight: u16) {
        let mut facts = self.nodes[node].machine.own().facts.clone();
        facts.weight = weight;
        self.nodes[node].machine.say(facts, 0);
    }

    /// What a member sees.
    pub(crate) fn view(&self, node: usize) -> MembershipView {
        self.nodes[node].machine.view(self.now)
    }

    /// What a member thinks of another.
    pub(crate) fn state(&self, node: usize, of: usize) -> Option<MemberState> {
        if node == of { Some(MemberState::Alive) } else { self.nodes[node].machine.state(id(of)) }
    }

    /// What a member has heard of another.
    pub(crate) fn facts(&self, node: usize, of: usize) -> Option<&Facts> {
        self.nodes[node].machine.facts(id(of))
    }

    /// Whether a member takes itself for cut off.
    pub(crate) fn is_isolated(&self, node: usize) -> bool {
        self.nodes[node].machine.is_isolated()
    }

    /// Members that are up.
    pub(crate) fn up(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].up)
    }

    /// Whether each member that is up takes each of these for alive, and nobody else.
    pub(crate) fn is_one_view(&self) -> bool {
        let up: Vec<usize> = self.up().collect();
        let agrees = |node: usize| {
            let machine = &self.nodes[node].machine;
            machine.others() + 1 == up.len()
                && up.iter().all(|other| {
                    let known = *other == node || machine.facts(id(*other)).is_some();
                    known && self.state(node, *other) == Some(MemberState::Alive)
                })
        };
        up.iter().all(|node| agrees(*node))
    }

    /// Bytes that each member has sent since the mesh was formed, on average.
    pub(crate) fn sent(&self) -> f64 {
        self.nodes.iter().map(|node| node.sent as f64).sum::<f64>() / self.nodes.len() as f64
    }

    /// Lets `time` pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now.after(time);
        let mut steps = 0;
        while let Some(Reverse((at, order))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            steps += 1;
            assert!(steps < STORM, "seed {}: a storm of packets", self.seed);
            self.queue.pop();
            self.now = at;
            if let Some(happening) = self.happenings.remove(&order) {
                self.happened(happening);
            }
        }
        self.now = end;
    }

    /// Lets time pass until `done`, looking each `step`; `None` if that has not come within `limit`.
    pub(crate) fn run_until(
        &mut self,
        step: Duration,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Option<Duration> {
        let begun = self.now;
        while self.now.since(begun) < limit {
            if done(self) {
                return Some(self.now.since(begun));
            }
            self.run(step);
        }
        done(self).then(|| self.now.since(begun))
    }

    /// Verdicts of death about members that are up and do not stall, each by whoever found it.
    pub(crate) fn false_deaths(&self) -> usize {
        self.noticed
            .iter()
            .filter(|noticed| match &noticed.event {
                Event::Member { id: dead, state: MemberState::Dead, by, .. } => {
                    let is_verdict = *by == id(noticed.node);
                    let healthy = |node: &usize| self.nodes[*node].up && self.nodes[*node].stall.is_none();
                    is_verdict && (0..self.nodes.len()).filter(healthy).any(|node| id(node) == *dead)
                }
                _ => false,
            })
            .count()
    }

    fn chance(&mut self, range: Range<Duration>) -> Duration {
        let span = range.end.saturating_sub(range.start);
        range.start + span.mul_f64(self.rng.f64())
    }

    fn happen(&mut self, after: Duration, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse((self.now.after(after), self.order)));
        self.happenings.insert(self.order, happening);
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        self.nodes[to].up && self.nodes[from].group == self.nodes[to].group && !self.cut.contains(&(from, to))
    }

    fn happened(&mut self, happening: Happening) {
        match happening {
            Happening::Packet { to, from, packet } => {
                if !self.nodes[to].up {
                    return;
                }
                if self.nodes[to].blocked {
                    if self.nodes[to].backlog.len() < SOCKET {
                        self.nodes[to].backlog.push((id(from), packet));
                    }
                    return;
                }
                let taken = self.nodes[to].machine.receive(id(from), &packet, self.now);
                assert_eq!(taken, Ok(()), "seed {}", self.seed);
                self.after(to);
            }
            Happening::Wake { node } => {
                if self.nodes[node].wake == Some(self.now) {
                    self.nodes[node].wake = None;
                    let state = &self.nodes[node];
                    if state.up && (!state.blocked || state.is_numb) {
                        self.nodes[node].machine.advance(self.now);
                        self.after(node);
                    }
                }
            }
            Happening::Block { node } => {
                let Some(stall) = self.nodes[node].stall.clone() else { return };
                self.nodes[node].blocked = true;
                let time = self.chance(stall.blocked);
                self.happen(time, Happening::Unblock { node });
            }
            Happening::Unblock { node } => {
                self.nodes[node].blocked = false;
                if !self.nodes[node].up {
                    return;
                }
                for (to, packet) in std::mem::take(&mut self.nodes[node].held) {
                    self.send(node, to, packet);
                }
                if self.layer == Layer::Off {
                    self.nodes[node].machine.advance(self.now);
                    self.after(node);
                }
                for (from, packet) in std::mem::take(&mut self.nodes[node].backlog) {
                    let _ = self.nodes[node].machine.receive(from, &packet, self.now);
                }
                self.nodes[node].machine.advance(self.now);
                self.after(node);
                if let Some(stall) = self.nodes[node].stall.clone() {
                    let time = self.chance(stall.awake);
                    self.happen(time, Happening::Block { node });
                }
            }
            Happening::Compare { node } => {
                if !self.nodes[node].up {
                    return;
                }
                if !self.nodes[node].blocked
                    && let Some((_, address)) = self.nodes[node].machine.companion()
                    && let Some(other) = self.by_address.get(&address).copied()
                {
                    self.compare(node, other);
                }
                let others = self.nodes[node].machine.others();
                let interval = Tuning::of(Profile::Lan).push_pull(others + 1);
                self.happen(interval, Happening::Compare { node });
            }
            Happening::Knowledge { to, from, knowledge, answer } => {
                if !self.nodes[to].up || self.nodes[to].blocked {
                    return;
                }
                let now = self.now;
                self.nodes[to].machine.merge(*knowledge, id(from), now);
                self.after(to);
                if answer {
                    self.tell(to, from, false);
                }
            }
        }
    }

    /// One member compares with another over a connection.
    fn compare(&mut self, node: usize, other: usize) {
        self.nodes[node].sent += CONNECTION as u64;
        if self.reaches(node, other)
            && self.reaches(other, node)
            && self.nodes[node].machine.digest() != self.nodes[other].machine.digest()
        {
            self.tell(node, other, true);
        }
    }

    fn tell(&mut self, from: usize, to: usize, answer: bool) {
        let knowledge = Box::new(self.nodes[from].machine.knowledge());
        self.nodes[from].sent += postcard::to_allocvec(&knowledge).unwrap().len() as u64;
        let delay = self.chance(self.network.delay.clone());
        self.happen(delay * 3, Happening::Knowledge { to, from, knowledge, answer });
    }

    fn send(&mut self, from: usize, to: SocketAddr, packet: Vec<u8>) {
        self.nodes[from].sent += (packet.len() + OVERHEAD + UDP) as u64;
        let Some(to) = self.by_address.get(&to).copied() else { return };
        if self.rng.f64() >= self.network.loss && self.reaches(from, to) && self.deaf != Some(to) {
            let delay = self.chance(self.network.delay.clone());
            self.happen(delay, Happening::Packet { to, from, packet });
        }
    }

    /// Carries out what a member wants after it has done something.
    fn after(&mut self, node: usize) {
        for output in self.nodes[node].machine.outputs() {
            match output {
                Output::Send { to, packet } => {
                    let state = &mut self.nodes[node];
                    if !(state.blocked && state.is_numb) {
                        self.send(node, to, packet);
                    } else if state.held.len() < SOCKET {
                        state.held.push((to, packet));
                    }
                }
                Output::Event(event) => self.noticed.push(Noticed { at: self.now, node, event }),
            }
        }
        let next = self.nodes[node].machine.next_deadline();
        if let Some(next) = next
            && self.nodes[node].wake.is_none_or(|wake| next < wake)
        {
            let next = next.max(self.now);
            self.nodes[node].wake = Some(next);
            self.happen(next.since(self.now), Happening::Wake { node });
        }
    }
}
