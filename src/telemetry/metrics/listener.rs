//! What is counted per listener: connections of clients, and requests refused before they were routed.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustc_hash::FxHashMap;

use super::{HotGauge, Registry, family};
use crate::types::{Direction, Live};

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionProtocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// It ended before that was known.
    Unknown,
}

impl ConnectionProtocol {
    const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Unknown];

    /// The value of the metric label `protocol`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Unknown => "unknown",
        }
    }
}

/// What became of a connection that a client opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerOutcome {
    /// It is served.
    Accepted,
    /// It was refused: the listener is at its cap or draining.
    Refused,
    /// It failed before it could be served.
    Error,
}

impl ListenerOutcome {
    const ALL: [Self; 3] = [Self::Accepted, Self::Refused, Self::Error];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Error => "error",
        }
    }
}

/// The numbers of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    registry: Weak<Registry>,
    direction: Direction,
    open: [Arc<HotGauge>; 3],
    /// By protocol, then by outcome.
    opened: [[metrics::Counter; 3]; 3],
    rejected: Live<FxHashMap<&'static str, metrics::Counter>>,
    growing: Mutex<()>,
}

impl ListenerMetrics {
    /// The handle for this direction: the same one each time.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>, direction: Direction) -> Arc<Self> {
        if let Some(known) = registry.lock().listeners.get(&direction) {
            return Arc::clone(known);
        }
        let made = Arc::new(Self::new(registry, direction));
        Arc::clone(registry.lock().listeners.entry(direction).or_insert(made))
    }

    fn new(registry: &Arc<Registry>, direction: Direction) -> Self {
        let label = ("direction", direction.as_str());
        let open = |protocol: ConnectionProtocol| {
            registry.hot_gauge(&family::DOWNSTREAM_CONNECTIONS, &[label, ("protocol", protocol.as_str())])
        };
        let opened = |protocol: ConnectionProtocol| {
            ListenerOutcome::ALL.map(|outcome| {
                let labels = [label, ("protocol", protocol.as_str()), ("result", outcome.as_str())];
                registry.counter(&family::DOWNSTREAM_CONNECTIONS_TOTAL, &labels)
            })
        };
        Self {
            registry: Arc::downgrade(registry),
            direction,
            open: ConnectionProtocol::ALL.map(open),
            opened: ConnectionProtocol::ALL.map(opened),
            rejected: Live::new(Arc::default()),
            growing: Mutex::new(()),
        }
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self, protocol: ConnectionProtocol) -> &Arc<HotGauge> {
        &self.open[protocol as usize]
    }

    /// Counts a connection whose fate is known.
    pub fn opened(&self, protocol: ConnectionProtocol, outcome: ListenerOutcome) {
        self.opened[protocol as usize][outcome as usize].increment(1);
    }

    /// Counts a request that was refused before routing. `reason` is one of a few words fixed in the code.
    pub fn rejected(&self, reason: &'static str) {
        if let Some(counter) = self.rejected.peek().get(reason) {
            counter.increment(1);
            return;
        }
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(registry) = self.registry.upgrade() else { return };
        let labels = [("direction", self.direction.as_str()), ("reason", reason)];
        // The registry gives the same counter to everybody who lost the race for the lock.
        let counter = registry.counter(&family::HTTP_REJECTED, &labels);
        let mut grown = FxHashMap::clone(&self.rejected.load());
        counter.increment(1);
        grown.insert(reason, counter);
        self.rejected.swap(Arc::new(grown));
    }
}
