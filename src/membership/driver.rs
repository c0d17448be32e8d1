//! Drives one member: reads and writes its sockets, keeps its time, and publishes what it sees. What to do is decided in
//! core; what is said on connections is in call.rs, and who is called when in errands.rs.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval, sleep, sleep_until},
};

use super::{
    AskedOrder, Facts, Handle, HomeError, KeyHolders, KeyMark, MemberId, MembershipView, Params,
    answers::{Answered, answer},
    call::{Card, Line, Question, Seats},
    core::{
        envelope::{Keyring, MAX_SEALED, Opener, Sealer},
        machine::{Event, Machine, Output, Setup},
        packet::{Seen, Standing},
        tuning::Tuning,
    },
    errands::{Done, Errands, Lookup},
    home::{Home, Node},
    journal::Journal,
    sockets::{Sockets, advertised},
};
use crate::{
    identity::{MeshTls, NoChance, unforeseeable},
    net::{BindError, Stream},
    rt::{DrainWatch, Phase, clock, random},
    telemetry::metrics::{GossipDrop, GossipKind, GossipMetrics, GossipSide, Registry},
    types::Mono,
};

/// Packets that are read before something else has its turn.
const READ_AT_ONCE: usize = 256;
/// Questions and orders that wait for the driver; who asks then waits.
const QUEUE: usize = 64;
/// What is seen is shown at most so often: a view of all members costs as much as there are.
const PUBLISH_EVERY: Duration = Duration::from_millis(20);
/// How often it is looked at what is to be done beside the protocol; also whenever there is news of members. A mesh that
/// rests should cost next to nothing.
const TICK: Duration = Duration::from_millis(250);
/// Ticks after which round trips are shown as they are now.
const REFRESH: u32 = 4;
/// A goodbye is sent so often, with so much time in between.
const GOODBYES: u32 = 4;
const GOODBYE_PAUSE: Duration = Duration::from_millis(100);

/// A member cannot take part; nothing is bound.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its sockets.
    #[error("cannot gossip (mesh.bind)")]
    Bind(#[from] BindError),
    /// Its data directory.
    #[error("cannot use the data directory (mesh.data_dir)")]
    Home(#[from] HomeError),
    /// Nobody could reach it.
    #[error(
        "it listens on all addresses, and none leads anywhere: say where others reach it (mesh.advertise)"
    )]
    NoAddress,
    /// The machine.
    #[error(transparent)]
    Chance(#[from] NoChance),
    /// A defect of ours.
    #[error("the TLS library refuses its settings")]
    Tls,
    /// The runtime ends.
    #[error("the process is leaving")]
    Leaving,
}

/// A question that came on a connection, who has proved to be what, and where the answer is wanted.
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) service: Option<Arc<str>>,
    pub(super) answer: oneshot::Sender<super::call::Answer>,
}

/// One member, bound and not yet running.
pub struct Membership {
    params: Params,
    home: Arc<Home>,
    node: Node,
    keyring: Keyring,
    sockets: Sockets,
    address: SocketAddr,
    line: Line,
    metrics: GossipMetrics,
    lookup: Lookup,
    chance: u32,
    view: watch::Sender<Arc<MembershipView>>,
    keys: watch::Sender<Arc<Vec<KeyHolders>>>,
    orders: mpsc::Receiver<AskedOrder>,
    handle: Handle,
}

impl Membership {
    /// Binds the sockets and takes the data directory. Members prove who they are if there is a `mesh`. Names of seeds are
    /// found by `lookup`.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn bind(
        params: Params,
        mesh: Option<Arc<MeshTls>>,
        registry: &Arc<Registry>,
        lookup: Lookup,
    ) -> Result<Self, StartError> {
        let (directory, key) = (params.data_dir.clone(), params.key.clone());
        let fresh = MemberId(u64::from_be_bytes(unforeseeable()?));
        let started = micros(clock::wall());
        let opened = tokio::task::spawn_blocking(move || {
            let home = Home::open(directory.as_deref())?;
            let node = home.node(fresh, started)?;
            let keyring = home.keyring(&key)?;
            Ok::<_, HomeError>((home, node, keyring))
        });
        let (home, node, keyring) = opened.await.map_err(|_| StartError::Leaving)??;
        if keyring.find(KeyMark::of(&params.key)).is_none() {
            tracing::warn!(
                configured = %KeyMark::of(&params.key),
                primary = %keyring.primary(),
                "the key of the file (mesh.gossip_key) is not in the keyring of mesh.data_dir, which is used"
            );
        }
        let sockets = Sockets::bind(params.bind)?;
        let towards = params.join.iter().find_map(|seed| match seed {
            super::Seed::Address(address) => Some(*address),
            super::Seed::Name { .. } | super::Seed::Service { .. } => None,
        });
        let address = match params.advertise {
            Some(address) => address,
            None => advertised(sockets.local, towards).ok_or(StartError::NoAddress)?,
        };
        let anyone = mesh.as_ref().map(|mesh| mesh.anyone()).transpose().map_err(|_| StartError::Tls)?;
        let line = Line { cluster: Arc::clone(&params.cluster), mesh, anyone };
        let (view, seen) = watch::channel(Arc::new(MembershipView::default()));
        let (keys, known) = watch::channel(Arc::new(Vec::new()));
        let (asking, orders) = mpsc::channel(QUEUE);
        Ok(Self {
            params,
            home: Arc::new(home),
            node,
            keyring,
            sockets,
            address,
            line,
            metrics: GossipMetrics::resolve(registry),
            lookup,
            chance: u32::from_be_bytes(unforeseeable()?),
            view,
            keys,
            orders,
            handle: Handle::new(seen, known, asking),
        })
    }

    /// What the rest of the process may ask of it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The mesh as it is seen, as it changes.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<MembershipView>> {
        self.view.subscribe()
    }

    /// Who this node is, for as long as its data directory lives.
    #[must_use]
    pub fn id(&self) -> MemberId {
        self.node.id
    }

    /// Where others reach its gossip.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes part until the process stops, and says goodbye then. Says about itself what `own` says, except for the keys.
    pub async fn run(self, own: watch::Receiver<Facts>, drain: DrainWatch) {
        let now = clock::now();
        let rng = random::seeded(self.node.id.0);
        let tuning = Tuning::of(self.params.profile);
        let facts = own.borrow().clone();
        let facts = Facts { keys: marks(&self.keyring), ..facts };
        let setup = Setup {
            id: self.node.id,
            generation: self.node.generation,
            address: self.address,
            tuning: tuning.clone(),
            facts,
            said_at: micros(clock::wall()),
            needs_proof: self.line.mesh.is_some(),
            rng,
        };
        let (questions, asked) = mpsc::channel(QUEUE);
        let errands = Errands::new(self.line.clone(), self.lookup, &self.params, self.address, tuning);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tracing::info!(
            node = %self.params.node,
            member = %self.node.id,
            address = %self.address,
            seeds = self.params.join.len(),
            "gossiping"
        );
        let driver = Driver {
            machine: Machine::new(setup, now),
            sealer: Sealer::new(&self.params.cluster, self.node.id, self.node.generation, self.chance),
            opener: Opener::new(&self.params.cluster),
            keyring: self.keyring,
            home: self.home,
            udp: self.sockets.udp,
            journal: Journal::new(self.metrics, self.node.id),
            line: self.line,
            errands,
            sessions: JoinSet::new(),
            seats: Seats::default(),
            questions,
            own,
            draining: false,
            is_final: false,
            view: self.view,
            keys: self.keys,
            dirty: true,
            ticks: 0,
            remembered: self.node.generation,
            published: Mono::ZERO,
            accepts_from: Mono::ZERO,
        };
        driver.run(self.sockets.tcp, asked, self.orders, ticks, drain).await;
    }
}

/// One member at work.
pub(super) struct Driver {
    pub(super) machine: Machine,
    sealer: Sealer,
    opener: Opener,
    pub(super) keyring: Keyring,
    pub(super) home: Arc<Home>,
    udp: UdpSocket,
    pub(super) journal: Journal,
    line: Line,
    pub(super) errands: Errands,
    sessions: JoinSet<Answered>,
    seats: Seats,
    questions: mpsc::Sender<Asked>,
    own: watch::Receiver<Facts>,
    draining: bool,
    /// What it says about itself does not change any more.
    is_final: bool,
    view: watch::Sender<Arc<MembershipView>>,
    keys: watch::Sender<Arc<Vec<KeyHolders>>>,
    /// Something may have changed that is shown.
    pub(super) dirty: bool,
    ticks: u32,
    remembered: u64,
    published: Mono,
    accepts_from: Mono,
}

impl Driver {
    async fn run(
        mut self,
        tcp: tokio::net::TcpListener,
        mut asked: mpsc::Receiver<Asked>,
        mut orders: mpsc::Receiver<AskedOrder>,
        mut ticks: Interval,
        mut drain: DrainWatch,
    ) {
        let mut buffer = vec![0; MAX_SEALED + 1];
        let mut grace = drain.clone();
        loop {
            if self.flush() {
                self.run_errands();
            }
            // What has changed is shown soon, whatever else is due.
            let shown = self.dirty.then(|| self.published.after(PUBLISH_EVERY));
            let due = self.machine.next_deadline().into_iter().chain(shown).min();
            tokio::select! {
                () = drain.reached(Phase::Stopped) => break,
                () = grace.reached(Phase::Grace), if !self.draining => {
                    self.draining = true;
                    self.say();
                }
                _ = self.udp.readable() => self.read(&mut buffer),
                () = sleep_until(clock::instant(due.unwrap_or(Mono::ZERO))), if due.is_some() => {}
                accepted = tcp.accept(), if self.accepts_from <= clock::now() => match accepted {
                    Ok((stream, from)) => self.admit(stream, from.ip()),
                    // Out of descriptors, most likely: asking again at once would only spin.
                    Err(_) => self.accepts_from = clock::now().after(TICK),
                },
                Some(asked) = asked.recv() => {
                    let answer = self.reply(asked.question, asked.service.as_deref());
                    // Whoever asked may have gone.
                    let _ = asked.answer.send(answer);
                }
                Some(ended) = self.sessions.join_next() => if let Ok(answered) = ended {
                    self.answered(answered);
                },
                Some(done) = self.errands.tasks.join_next() => if let Ok(done) = done {
                    self.finished(done);
                },
                Some((order, answer)) = orders.recv() => self.order(&order, answer),
                changed = self.own.changed(), if !self.is_final => match changed {
                    Ok(()) => self.say(),
                    // Nobody will say anything else: what was said last holds.
                    Err(_) => self.is_final = true,
                },
                _ = ticks.tick() => self.tick(),
            }
            let now = clock::now();
            if self.machine.next_deadline().is_some_and(|due| due <= now) {
                // What has come in time must be heard before anybody is judged.
                self.read(&mut buffer);
                self.machine.advance(clock::now());
            }
        }
        self.leave(&mut buffer).await;
    }

    /// Reads what has come.
    fn read(&mut self, buffer: &mut [u8]) {
        for _ in 0..READ_AT_ONCE {
            // Errors of earlier packets come here as well (an address that nobody is at); they say nothing about this one.
            let length = match self.udp.try_recv_from(buffer) {
                Ok((length, _)) => length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            self.journal.metrics.message(GossipKind::Udp, GossipSide::Received, length);
            match self.opener.open(&buffer[..length], &self.keyring) {
                Ok((sender, packet)) => {
                    if self.machine.receive(sender, &packet, clock::now()).is_err() {
                        self.journal.metrics.dropped(GossipDrop::Decode);
                    }
                }
                Err(refused) => self.journal.dropped(refused),
            }
        }
    }

    /// Sends and writes down what has come out, and shows what has changed. Says whether there is news of members.
    fn flush(&mut self) -> bool {
        let mut is_news = false;
        for output in self.machine.outputs() {
            match output {
                Output::Send { to, packet } => {
                    let sealed = self.sealer.seal(&packet, &self.keyring);
                    // A packet that the kernel does not take is lost, as it may be on its way.
                    if self.udp.try_send_to(&sealed, to).is_ok() {
                        self.journal.metrics.message(GossipKind::Udp, GossipSide::Sent, sealed.len());
                    }
                }
                Output::Event(event) => {
                    is_news |= matches!(event, Event::Member { .. } | Event::Fact { .. });
                    self.dirty = true;
                    self.journal.note(&event, &self.machine, clock::wall());
                }
            }
        }
        let now = clock::now();
        if self.dirty && now.since(self.published) >= PUBLISH_EVERY {
            (self.dirty, self.published) = (false, now);
            self.publish();
        }
        let generation = self.machine.generation();
        if generation != self.remembered {
            self.remembered = generation;
            if !self.machine.has_later_life() {
                tracing::error!(
                    "somebody with a gossip key has forged the last life of this node, and it lives that: if others take it for \
                     dead, it cannot come back. Change the gossip key, then restart this node"
                );
            }
            let node = Node { id: self.machine.own().id, generation };
            let home = Arc::clone(&self.home);
            // A start without it would take the time of day, which is later.
            self.errands.tasks.spawn_blocking(move || {
                if let Err(error) = home.remember(node) {
                    tracing::warn!(%error, "the life of this node could not be kept");
                }
                Done::Nothing
            });
        }
        is_news
    }

    pub(super) fn publish(&mut self) {
        let mut view = self.machine.view(clock::now());
        let holders = super::rotation::holders(&self.keyring, &view);
        self.keys.send_if_modified(|keys| {
            let changed = **keys != holders;
            if changed {
                *keys = Arc::new(holders);
            }
            changed
        });
        self.view.send_if_modified(|current| {
            view.revision = current.revision;
            let changed = **current != view;
            if changed {
                view.revision += 1;
                *current = Arc::new(std::mem::take(&mut view));
            }
            changed
        });
        let current = Arc::clone(&self.view.borrow());
        self.journal.seen(&current);
    }

    /// Says about this node what is to be said now.
    pub(super) fn say(&mut self) {
        let facts = self.own.borrow_and_update().clone();
        let is_draining = facts.is_draining || self.draining;
        let facts = Facts { keys: marks(&self.keyring), is_draining, ..facts };
        self.machine.say(facts, micros(clock::wall()));
        self.dirty = true;
    }

    /// Has a call answered if there is a seat for it; else it is closed and counted.
    fn admit(&mut self, stream: tokio::net::TcpStream, from: IpAddr) {
        let Some(seat) = self.seats.take(from) else {
            self.journal.metrics.dropped(GossipDrop::Limit);
            return;
        };
        // It only costs a delay if it cannot be set.
        let _ = stream.set_nodelay(true);
        let (line, keyring, questions) = (self.line.clone(), self.keyring.clone(), self.questions.clone());
        self.sessions.spawn(async move {
            let _seat = seat;
            answer(line, Stream::Tcp(stream), keyring, questions).await
        });
    }

    /// This node's card.
    pub(super) fn card(&self) -> Card {
        let own = self.machine.own();
        Card {
            seen: Seen {
                id: own.id,
                generation: self.machine.generation(),
                address: self.errands.own_address(),
                incarnation: self.machine.incarnation(),
                standing: Standing::Alive,
            },
            record: own.clone(),
        }
    }

    fn tick(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(REFRESH) {
            self.dirty = true;
        }
        self.run_errands();
    }

    /// Says goodbye. The others are told by several, several times.
    async fn leave(&mut self, buffer: &mut [u8]) {
        self.machine.leave(clock::now(), micros(clock::wall()));
        self.flush();
        for _ in 0..GOODBYES {
            sleep(GOODBYE_PAUSE).await;
            self.read(buffer);
            self.machine.leave_again(clock::now());
            self.flush();
        }
    }
}

/// Marks of the keys, the one that is sealed with first.
pub(super) fn marks(keyring: &Keyring) -> Vec<u32> {
    keyring.keys().map(|(mark, _)| mark.0).collect()
}

/// Microseconds since 1970.
pub(super) fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
