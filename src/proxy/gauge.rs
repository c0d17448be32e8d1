//! Gauges that fall by themselves.

use std::{cell::Cell, sync::Arc};

use crate::telemetry::metrics::{ClusterMetrics, ConnectionProtocol, ConnectionState, HotGauge};

/// A gauge that is one higher until this is dropped.
#[derive(Debug)]
pub(crate) struct Raised(Arc<HotGauge>);

impl Raised {
    pub(crate) fn new(gauge: &Arc<HotGauge>) -> Self {
        gauge.increment();
        Self(Arc::clone(gauge))
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.decrement();
    }
}

/// An upstream connection as the gauges show it: active or idle until this is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionGauge {
    active: Arc<HotGauge>,
    idle: Arc<HotGauge>,
    is_idle: Cell<bool>,
}

impl ConnectionGauge {
    /// A new connection, active.
    pub(crate) fn new(metrics: &ClusterMetrics, protocol: ConnectionProtocol) -> Self {
        let active = Arc::clone(metrics.connections(ConnectionState::Active, protocol));
        let idle = Arc::clone(metrics.connections(ConnectionState::Idle, protocol));
        active.increment();
        Self { active, idle, is_idle: Cell::new(false) }
    }

    /// Says what the connection is now.
    pub(crate) fn set_idle(&self, idle: bool) {
        if self.is_idle.replace(idle) == idle {
            return;
        }
        if idle {
            self.active.decrement();
            self.idle.increment();
        } else {
            self.idle.decrement();
            self.active.increment();
        }
    }
}

impl Drop for ConnectionGauge {
    fn drop(&mut self) {
        if self.is_idle.get() { self.idle.decrement() } else { self.active.decrement() }
    }
}
