//! One data-plane thread: its runtime, its sockets, its pools. Workers share the snapshot cell, counters and
//! nothing else.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use tokio::{
    net::TcpStream,
    runtime::{Builder, LocalOptions},
    sync::mpsc,
};

use super::{
    ListenersParams, Pressure, authz, connection, overload,
    pool::Pools,
    secure::{Edge, Security},
    sweep::{self, Sweeper},
    tcp::{self, TcpListener},
};
use crate::{
    identity::{MeshTls, edge::EdgeTls},
    net::Accepting,
    rt::{DrainWatch, Phase, clock, random},
    snapshot::SnapshotCell,
    telemetry::{
        access_log::{AccessLog, AccessLogWriter},
        metrics::{ListenerMetrics, Registry},
    },
    types::{Direction, Live, Mono},
};

/// Accepted sockets on their way to another worker. When it is full the socket stays where it is.
const HANDOVER_QUEUE: usize = 128;
/// How often a draining worker looks whether its connections are gone.
const DRAIN_TICK: Duration = Duration::from_millis(20);

/// How often a worker that stopped accepting looks whether it may again.
const STOPPED_TICK: Duration = Duration::from_millis(50);

/// What a connection needs of its worker.
pub(crate) struct Worker {
    pub(crate) snapshot: SnapshotCell,
    pub(crate) limits: Arc<Live<ListenersParams>>,
    pub(crate) pools: Rc<Pools>,
    pub(crate) rng: RefCell<fastrand::Rng>,
    /// Monotonic time, as of the sweeper's last tick.
    pub(crate) clock: Rc<Cell<Mono>>,
    /// Wall-clock time at `Mono::ZERO`, as of that tick: one clock read serves for both.
    pub(crate) epoch: Rc<Cell<SystemTime>>,
    pub(crate) sweeper: Rc<Sweeper>,
    pub(crate) access_log: RefCell<AccessLogWriter>,
    pub(crate) drain: DrainWatch,
    pub(super) pressure: Arc<Pressure>,
    inbound_metrics: Arc<ListenerMetrics>,
    outbound_metrics: Arc<ListenerMetrics>,
    pub(crate) inbound_tcp: Arc<tcp::Inbound>,
    /// `None` if all traffic of the mesh is plaintext.
    pub(crate) security: Option<Rc<Security>>,
    /// `None` if clients of the outbound listener speak plaintext.
    pub(crate) edge: Option<Rc<Edge>>,
    pub(super) callers: authz::Ledger,
}

impl Worker {
    /// Wall-clock time at `at`, a recent instant.
    pub(crate) fn wall_at(&self, at: Mono) -> SystemTime {
        self.epoch.get() + at.since(Mono::ZERO)
    }

    pub(crate) fn listener_metrics(&self, side: Direction) -> &Arc<ListenerMetrics> {
        match side {
            Direction::Inbound => &self.inbound_metrics,
            Direction::Outbound => &self.outbound_metrics,
        }
    }
}

/// What all workers have in common; cloned for each.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) snapshot: SnapshotCell,
    pub(super) limits: Arc<Live<ListenersParams>>,
    pub(super) drain: DrainWatch,
    pub(super) pressure: Arc<Pressure>,
    pub(super) access_log: AccessLog,
    pub(super) inbound_metrics: Arc<ListenerMetrics>,
    pub(super) outbound_metrics: Arc<ListenerMetrics>,
    pub(super) inbound_tcp: Arc<tcp::Inbound>,
    pub(super) mesh: Option<Arc<MeshTls>>,
    pub(super) edge: Option<Arc<EdgeTls>>,
    pub(super) registry: Arc<Registry>,
    pub(super) refusals: Arc<authz::Refusals>,
    pub(super) workers: usize,
}

/// Connections of one listener: per worker, to hand new ones to whom has fewest, and in all, for the cap.
pub(super) struct Load {
    per_worker: Vec<AtomicU32>,
    all: AtomicU32,
    balance: bool,
    handovers: Vec<mpsc::Sender<Handover>>,
}

type Handover = (std::net::TcpStream, SocketAddr);

impl Load {
    /// Counters for `workers` workers, and the receiving ends of their hand-over queues.
    pub(super) fn new(workers: usize, balance: bool) -> (Arc<Self>, Vec<mpsc::Receiver<Handover>>) {
        let (handovers, receivers) = (0..workers).map(|_| mpsc::channel(HANDOVER_QUEUE)).unzip();
        let per_worker = (0..workers).map(|_| AtomicU32::new(0)).collect();
        (Arc::new(Self { per_worker, all: AtomicU32::new(0), balance, handovers }), receivers)
    }

    /// Counts a connection of `worker` until the guard is dropped; `None` at the cap.
    fn enter(self: &Arc<Self>, worker: usize, cap: u32) -> Option<Counted> {
        if self.all.fetch_add(1, Relaxed) >= cap {
            self.all.fetch_sub(1, Relaxed);
            return None;
        }
        self.per_worker[worker].fetch_add(1, Relaxed);
        Some(Counted { load: Arc::clone(self), worker })
    }

    /// The worker that should take the next connection, if that is not `own`.
    fn better(&self, own: usize) -> Option<usize> {
        if !self.balance {
            return None;
        }
        let mine = self.per_worker[own].load(Relaxed);
        let (other, fewest) = self
            .per_worker
            .iter()
            .map(|count| count.load(Relaxed))
            .enumerate()
            .min_by_key(|(_, count)| *count)?;
        (fewest < mine).then_some(other)
    }
}

/// One open connection; dropping it ends the count.
struct Counted {
    load: Arc<Load>,
    worker: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.load.all.fetch_sub(1, Relaxed);
        self.load.per_worker[self.worker].fetch_sub(1, Relaxed);
    }
}

/// What is behind a listener.
#[derive(Clone)]
pub(super) enum Behind {
    /// HTTP, unless the application of the inbound side speaks something else.
    Http(Direction),
    /// A TCP service.
    Tcp(Arc<TcpListener>),
}

/// Sockets of one worker on one side.
pub(super) struct Door {
    pub(super) behind: Behind,
    pub(super) load: Arc<Load>,
    pub(super) listener: std::net::TcpListener,
    /// The same in the other address family.
    pub(super) twin: Option<std::net::TcpListener>,
    pub(super) handed: mpsc::Receiver<Handover>,
}

/// Starts the thread of worker `index`.
///
/// # Errors
/// If the thread or its runtime cannot be made.
pub(super) fn start(index: usize, shared: Shared, doors: Vec<Door>) -> io::Result<JoinHandle<()>> {
    let runtime_ready = move || -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(run(index, shared, doors));
        Ok(())
    };
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        if let Err(error) = runtime_ready() {
            tracing::error!(%error, worker = index, "a worker could not start");
        }
    })
}

async fn run(index: usize, shared: Shared, doors: Vec<Door>) {
    let sweeper = Rc::<Sweeper>::default();
    let max_handshakes =
        shared.limits.peek().mtls.max_handshakes / u32::try_from(shared.workers).unwrap_or(1);
    let security = shared
        .mesh
        .as_ref()
        .map(|mesh| Rc::new(Security::new(Arc::clone(mesh), &shared.registry, max_handshakes)));
    let edge = shared.edge.clone().map(|edge| Rc::new(Edge::new(edge, &shared.registry, max_handshakes)));
    let worker = Rc::new(Worker {
        snapshot: Arc::clone(&shared.snapshot),
        limits: Arc::clone(&shared.limits),
        pools: Rc::new(Pools::new(shared.workers, Rc::clone(sweeper.flows()), &shared.registry)),
        rng: RefCell::new(random::seeded(index as u64)),
        clock: Rc::new(Cell::new(clock::now())),
        epoch: Rc::new(Cell::new(clock::epoch())),
        sweeper,
        access_log: RefCell::new(shared.access_log.writer(random::seeded(index as u64 + 0x1000))),
        drain: shared.drain.clone(),
        pressure: Arc::clone(&shared.pressure),
        inbound_metrics: Arc::clone(&shared.inbound_metrics),
        outbound_metrics: Arc::clone(&shared.outbound_metrics),
        inbound_tcp: Arc::clone(&shared.inbound_tcp),
        security,
        edge,
        callers: authz::Ledger::new(&shared.registry, &shared.refusals),
    });
    let open = Rc::new(Cell::new(0_usize));
    let sweeping = tokio::task::spawn_local(sweep::run(
        Rc::clone(&worker.sweeper),
        Rc::clone(&worker.pools),
        Rc::clone(&worker.clock),
        Rc::clone(&worker.epoch),
        shared.mesh.clone(),
        {
            let pressure = Arc::clone(&shared.pressure);
            move |now| pressure.tick(index, now)
        },
    ));
    let mut accepting = Vec::new();
    for door in doors {
        let entrance = Entrance {
            worker: Rc::clone(&worker),
            behind: door.behind.clone(),
            index,
            load: Arc::clone(&door.load),
            open: Rc::clone(&open),
        };
        accepting.push(tokio::task::spawn_local(entrance.accept(door)));
    }
    let mut drain = shared.drain.clone();
    drain.reached(Phase::Draining).await;
    for task in accepting {
        // They end by the same signal; a panic in one was reported by the runtime.
        let _ = task.await;
    }
    worker.sweeper.ask_all_to_leave();
    while open.get() > 0 && drain.phase() < Phase::Stopped {
        let _ = tokio::time::timeout(DRAIN_TICK, drain.reached(Phase::Stopped)).await;
    }
    if open.get() > 0 {
        tracing::warn!(
            worker = index,
            connections = open.get(),
            "drain deadline reached; connections are cut"
        );
    }
    sweeping.abort();
}

/// Where connections of one listener come into one worker.
struct Entrance {
    worker: Rc<Worker>,
    behind: Behind,
    index: usize,
    load: Arc<Load>,
    open: Rc<Cell<usize>>,
}

impl Entrance {
    async fn accept(self, mut door: Door) {
        let mut accepting =
            match Accepting::new(door.listener).and_then(|accepting| accepting.beside(door.twin)) {
                Ok(accepting) => accepting,
                Err(error) => {
                    tracing::error!(%error, "a listener could not be used");
                    return;
                }
            };
        let mut drain = self.worker.drain.clone();
        loop {
            let stopped = self.worker.pressure.stops_accepting();
            tokio::select! {
                () = drain.reached(Phase::Draining) => break,
                () = tokio::time::sleep(STOPPED_TICK), if stopped => {}
                (stream, peer) = accepting.accept(), if !stopped => self.place(stream, peer),
                Some((stream, peer)) = door.handed.recv() => self.keep_handed(stream, peer),
            }
        }
        // Connections that the kernel completed before the socket closes would be reset with it.
        for (stream, peer) in accepting.into_waiting() {
            self.keep(stream, peer);
        }
        door.handed.close();
        while let Ok((stream, peer)) = door.handed.try_recv() {
            self.keep_handed(stream, peer);
        }
    }

    fn keep_handed(&self, stream: std::net::TcpStream, peer: SocketAddr) {
        match TcpStream::from_std(stream) {
            Ok(stream) => self.keep(stream, peer),
            Err(error) => tracing::debug!(%error, "a handed-over connection was lost"),
        }
    }

    /// Keeps the connection or hands it to the worker that has fewest.
    fn place(&self, stream: TcpStream, peer: SocketAddr) {
        if let Behind::Http(side) = self.behind
            && !self.worker.pressure.takes_connection(side, &self.worker.limits.peek(), clock::now())
        {
            return overload::refuse(&self.worker, stream, side);
        }
        let Some(other) = self.load.better(self.index) else { return self.keep(stream, peer) };
        let Ok(permit) = self.load.handovers[other].try_reserve() else { return self.keep(stream, peer) };
        match stream.into_std() {
            Ok(stream) => permit.send((stream, peer)),
            Err(error) => tracing::debug!(%error, "a connection was lost while it was handed over"),
        }
    }

    fn keep(&self, stream: TcpStream, peer: SocketAddr) {
        let worker = Rc::clone(&self.worker);
        let cap = match &self.behind {
            Behind::Http(_) => worker.limits.peek().max_connections,
            Behind::Tcp(listener) => listener.cap(),
        };
        let Some(counted) = self.load.enter(self.index, cap) else {
            match &self.behind {
                Behind::Http(side) => overload::refuse(&worker, stream, *side),
                Behind::Tcp(listener) => listener.refuse(stream),
            }
            return;
        };
        let guards = (counted, Open::new(&self.open));
        match &self.behind {
            &Behind::Http(side) => {
                tokio::task::spawn_local(async move {
                    let _guards = guards;
                    connection::serve(worker, stream, peer, side).await;
                });
            }
            Behind::Tcp(listener) => {
                let listener = Arc::clone(listener);
                tokio::task::spawn_local(async move {
                    let _guards = guards;
                    listener.serve(worker, stream, peer).await;
                });
            }
        }
    }
}

/// Counts the tasks of a worker that serve a connection.
struct Open(Rc<Cell<usize>>);

impl Open {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
