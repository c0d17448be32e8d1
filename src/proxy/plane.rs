//! The data plane as a whole: binds the listeners, starts the workers, waits for their end.

use std::{io, net::SocketAddr, sync::Arc, thread::JoinHandle};

use super::{
    ListenersParams, Pressure, authz,
    tcp::{self, TcpListener},
    worker::{self, Behind, Door, Load, Shared},
};
use crate::{
    identity::{MeshTls, edge::EdgeTls},
    net::{self, BindError},
    rt::DrainWatch,
    snapshot::SnapshotCell,
    telemetry::{
        access_log::AccessLog,
        metrics::{ListenerMetrics, Registry},
    },
    types::{Direction, Live},
};

/// What the data plane needs from the rest of the process.
#[derive(Debug)]
pub struct PlaneParams {
    /// Number of worker threads, at least one.
    pub workers: usize,
    /// Listeners and limits. Limits of new connections follow the cell; addresses do not.
    pub listeners: Arc<Live<ListenersParams>>,
    /// What requests are decided by.
    pub snapshot: SnapshotCell,
    /// Told when to leave.
    pub drain: DrainWatch,
    /// What the workers are told when the process runs out of something.
    pub pressure: Arc<Pressure>,
    /// Where requests are written down.
    pub access_log: AccessLog,
    /// Where they are counted.
    pub registry: Arc<Registry>,
    /// What callers and endpoints prove themselves with; `None` if all traffic is plaintext.
    pub mesh: Option<Arc<MeshTls>>,
    /// What clients of the outbound listener are shown; `None` if they speak plaintext.
    pub edge: Option<Arc<EdgeTls>>,
}

/// The data plane could not start; nothing is left running or bound.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener.
    #[error("the {side} listener could not be opened")]
    Bind {
        /// `inbound`, `outbound` or `tcp`.
        side: &'static str,
        /// Where and why.
        #[source]
        source: BindError,
    },
    /// A thread.
    #[error("a worker thread could not be started")]
    Thread(#[source] io::Error),
}

/// A running data plane.
#[derive(Debug)]
pub struct DataPlane {
    /// Where the inbound listener listens.
    pub inbound: Option<SocketAddr>,
    /// Where the outbound listener listens.
    pub outbound: Option<SocketAddr>,
    /// Where the listeners for TCP services listen, by name.
    pub tcp: Vec<(Arc<str>, SocketAddr)>,
    workers: Vec<JoinHandle<()>>,
}

impl DataPlane {
    /// Binds the listeners and starts the workers; connections are accepted from then on.
    ///
    /// # Errors
    /// If a listener cannot be bound or a thread not be started.
    pub fn start(params: PlaneParams) -> Result<Self, StartError> {
        let listeners = params.listeners.load();
        let count = params.workers.max(1);
        let mut doors: Vec<Vec<Door>> = (0..count).map(|_| Vec::new()).collect();
        let mut inbound = None;
        if let Some(listener) = &listeners.inbound {
            let behind = Behind::Http(Direction::Inbound);
            inbound = open(listener.address, &behind, listener.balance_connections, &mut doors, "inbound")?;
            twin(inbound.filter(|_| listeners.transparent), &mut doors, "inbound")?;
        }
        let mut outbound = None;
        if let Some(listener) = &listeners.outbound {
            let behind = Behind::Http(Direction::Outbound);
            outbound = open(listener.address, &behind, listener.balance_connections, &mut doors, "outbound")?;
            twin(outbound.filter(|_| listeners.transparent), &mut doors, "outbound")?;
        }
        let mut tcp = Vec::new();
        for listener in &listeners.tcp {
            let behind = Behind::Tcp(Arc::new(TcpListener::new(listener.clone(), &params.registry)));
            // Such connections are few and long: each goes to the worker with the fewest.
            let address = open(listener.address, &behind, true, &mut doors, "tcp")?;
            tcp.extend(address.map(|address| (Arc::clone(&listener.name), address)));
        }
        let application = Arc::clone(&params.snapshot.peek().inbound.cluster.params.name);
        let shared = Shared {
            snapshot: params.snapshot,
            limits: params.listeners,
            drain: params.drain,
            pressure: params.pressure,
            access_log: params.access_log,
            inbound_metrics: ListenerMetrics::resolve(&params.registry, Direction::Inbound),
            outbound_metrics: ListenerMetrics::resolve(&params.registry, Direction::Outbound),
            inbound_tcp: Arc::new(tcp::Inbound::new(&application, &params.registry)),
            mesh: params.mesh,
            edge: params.edge,
            refusals: Arc::<authz::Refusals>::default(),
            registry: params.registry,
            workers: count,
        };
        let workers = doors
            .into_iter()
            .enumerate()
            .map(|(index, doors)| worker::start(index, shared.clone(), doors))
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Thread)?;
        Ok(Self { inbound, outbound, tcp, workers })
    }

    /// Waits for all workers to end, which they do when the drain signal says so. Blocks the calling thread.
    pub fn join(self) {
        for worker in self.workers {
            if worker.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

/// Binds one listener for every worker; says where it listens.
fn open(
    address: SocketAddr,
    behind: &Behind,
    balance: bool,
    doors: &mut [Vec<Door>],
    side: &'static str,
) -> Result<Option<SocketAddr>, StartError> {
    let workers = doors.len();
    let sockets = net::bind(address, workers).map_err(|source| StartError::Bind { side, source })?;
    let address = sockets.first().and_then(|socket| socket.local_addr().ok());
    let (load, handed) = Load::new(workers, balance && workers > 1);
    for ((doors, listener), handed) in doors.iter_mut().zip(sockets).zip(handed) {
        doors.push(Door { behind: behind.clone(), load: Arc::clone(&load), listener, twin: None, handed });
    }
    Ok(address)
}

/// Gives the doors that were opened last, at `address`, a second socket in the other address family.
fn twin(address: Option<SocketAddr>, doors: &mut [Vec<Door>], side: &'static str) -> Result<(), StartError> {
    let Some(address) = address else { return Ok(()) };
    let sockets = net::bind_twin(address, doors.len()).map_err(|source| StartError::Bind { side, source })?;
    for (door, socket) in doors.iter_mut().filter_map(|doors| doors.last_mut()).zip(sockets) {
        door.twin = Some(socket);
    }
    Ok(())
}
