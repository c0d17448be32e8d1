//! What the process knows of itself: readiness, the running configuration, the outcome of the last reload.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::shared::SharedView;
use crate::{config::Bundle, rt::DrainWatch, rt::Phase, types::Mono};

/// Shared by the reloader and the admin API.
#[derive(Debug)]
pub(crate) struct ProcessState {
    /// When the process started.
    pub(crate) started: SystemTime,
    pub(crate) started_mono: Mono,
    pub(crate) drain: DrainWatch,
    running: Mutex<Running>,
}

/// The part that changes.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) hash: String,
    pub(crate) loaded: SystemTime,
    pub(crate) generation: u64,
    /// Everything is bound and the first snapshot is live.
    pub(crate) ready: bool,
    /// Every request is refused, because the process is out of memory or a worker does not get on.
    pub(crate) overloaded: bool,
    pub(crate) inbound: Option<SocketAddr>,
    pub(crate) outbound: Option<SocketAddr>,
    pub(crate) tcp: Vec<(Arc<str>, SocketAddr)>,
    pub(crate) last_reload: Option<LastReload>,
    /// Keys of the file that wait for a restart.
    pub(crate) pending_restart: Vec<String>,
    /// What lies over the file.
    pub(crate) shared: Arc<SharedView>,
}

/// How the last reload ended.
#[derive(Clone, Debug)]
pub(crate) struct LastReload {
    pub(crate) at: SystemTime,
    pub(crate) trigger: &'static str,
    /// What was wrong, as `outrigger check` prints it; `None` if it succeeded.
    pub(crate) error: Option<String>,
}

impl ProcessState {
    pub(crate) fn new(
        bundle: Arc<Bundle>,
        hash: String,
        drain: DrainWatch,
        now: Mono,
        wall: SystemTime,
    ) -> Self {
        let running = Running {
            bundle,
            hash,
            loaded: wall,
            generation: 0,
            ready: false,
            overloaded: false,
            inbound: None,
            outbound: None,
            tcp: Vec::new(),
            last_reload: None,
            pending_restart: Vec::new(),
            shared: Arc::default(),
        };
        Self { started: wall, started_mono: now, drain, running: Mutex::new(running) }
    }

    /// A copy of what is running now.
    pub(crate) fn running(&self) -> Running {
        self.lock().clone()
    }

    /// Changes it.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Running)) {
        change(&mut self.lock());
    }

    /// Why the process is not ready; `None` if it is.
    pub(crate) fn not_ready(&self) -> Option<&'static str> {
        if self.drain.phase() > Phase::Running {
            return Some("draining");
        }
        let running = self.lock();
        match (running.ready, running.overloaded) {
            (false, _) => Some("starting"),
            (true, true) => Some("overloaded"),
            (true, false) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        // What is behind it is replaced field by field; a panic in between leaves nothing half-written.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
