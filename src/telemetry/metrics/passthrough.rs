//! What is counted of redirected connections whose bytes are passed on unread.

use std::sync::Arc;

use super::{HotCounter, HotGauge, Registry, family};
use crate::types::Direction;

/// What became of a redirected connection that is not HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassthroughResult {
    /// It was connected to where it was going.
    Ok,
    /// Nobody there took it.
    Refused,
    /// Nobody there answered in time.
    Timeout,
    /// The configuration forbids it.
    Forbidden,
}

impl PassthroughResult {
    const ALL: [Self; 4] = [Self::Ok, Self::Refused, Self::Timeout, Self::Forbidden];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Forbidden => "forbidden",
        }
    }
}

/// The numbers of one direction.
#[derive(Debug)]
pub struct PassthroughMetrics {
    open: Arc<HotGauge>,
    ended: [metrics::Counter; PassthroughResult::ALL.len()],
    sent: Arc<HotCounter>,
    received: Arc<HotCounter>,
}

impl PassthroughMetrics {
    /// Handles for this direction; they count into the same series each time.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>, direction: Direction) -> Arc<Self> {
        let label = ("direction", direction.as_str());
        let bytes = |side| registry.hot_counter(&family::PASSTHROUGH_BYTES, &[label, ("side", side)]);
        Arc::new(Self {
            open: registry.hot_gauge(&family::PASSTHROUGH_CONNECTIONS, &[label]),
            ended: PassthroughResult::ALL.map(|result| {
                let labels = [label, ("result", result.as_str())];
                registry.counter(&family::PASSTHROUGH_CONNECTIONS_TOTAL, &labels)
            }),
            sent: bytes("sent"),
            received: bytes("received"),
        })
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> &Arc<HotGauge> {
        &self.open
    }

    /// Counts a connection whose fate is known.
    pub fn decided(&self, result: PassthroughResult) {
        self.ended[result as usize].increment(1);
    }

    /// Bytes to clients.
    #[must_use]
    pub fn sent(&self) -> &Arc<HotCounter> {
        &self.sent
    }

    /// Bytes from clients to where they were going.
    #[must_use]
    pub fn received(&self) -> &Arc<HotCounter> {
        &self.received
    }
}
