//! The data plane as a whole: binds the listeners, starts the workers, waits for their end.

use std::{io, net::SocketAddr, sync::Arc, thread::JoinHandle};

use super::{
    ListenerParams, ListenersParams,
    worker::{self, Door, Load, Shared},
};
use crate::{
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
    /// Where requests are written down.
    pub access_log: AccessLog,
    /// Where they are counted.
    pub registry: Arc<Registry>,
}

/// The data plane could not start; nothing is left running or bound.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener.
    #[error("the {side} listener could not be opened")]
    Bind {
        /// `inbound` or `outbound`.
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
        let (inbound_load, inbound_doors, inbound) = open(listeners.inbound.as_ref(), count, "inbound")?;
        let (outbound_load, outbound_doors, outbound) = open(listeners.outbound.as_ref(), count, "outbound")?;
        let shared = Shared {
            snapshot: params.snapshot,
            limits: params.listeners,
            drain: params.drain,
            access_log: params.access_log,
            inbound_metrics: ListenerMetrics::resolve(&params.registry, Direction::Inbound),
            outbound_metrics: ListenerMetrics::resolve(&params.registry, Direction::Outbound),
            workers: count,
            inbound: inbound_load,
            outbound: outbound_load,
        };
        let workers = inbound_doors
            .into_iter()
            .zip(outbound_doors)
            .enumerate()
            .map(|(index, (inbound, outbound))| worker::start(index, shared.clone(), inbound, outbound))
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Thread)?;
        Ok(Self { inbound, outbound, workers })
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

type Opened = (Arc<Load>, Vec<Option<Door>>, Option<SocketAddr>);

fn open(listener: Option<&ListenerParams>, workers: usize, side: &'static str) -> Result<Opened, StartError> {
    let Some(listener) = listener else {
        let (load, _) = Load::new(workers, false);
        return Ok((load, (0..workers).map(|_| None).collect(), None));
    };
    let sockets = net::bind(listener.address, workers).map_err(|source| StartError::Bind { side, source })?;
    let address = sockets.first().and_then(|socket| socket.local_addr().ok());
    let (load, handed) = Load::new(workers, listener.balance_connections && workers > 1);
    let doors =
        sockets.into_iter().zip(handed).map(|(listener, handed)| Some(Door { listener, handed })).collect();
    Ok((load, doors, address))
}
