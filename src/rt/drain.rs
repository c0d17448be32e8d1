//! The signal by which the whole process is told, in order, to leave.

use std::time::Duration;

use tokio::sync::watch;

/// How the process ends after SIGTERM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownParams {
    /// Readiness already fails, everything is still served: time for load balancers to look elsewhere.
    pub grace: Duration,
    /// Then listeners close, and what is in flight has this long to finish.
    pub drain_timeout: Duration,
}

/// How far the end of the process has come. Phases only advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// Not ready any more, still serving as ever.
    Grace,
    /// Listeners are closed, connections finish what they have begun.
    Draining,
    /// What still runs is dropped.
    Stopped,
}

/// The sender of the signal.
#[derive(Debug)]
pub struct Drain(watch::Sender<Phase>);

/// A receiver of the signal; clones are cheap.
#[derive(Clone, Debug)]
pub struct DrainWatch(watch::Receiver<Phase>);

impl Default for Drain {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }
}

impl Drain {
    /// A receiver.
    #[must_use]
    pub fn watch(&self) -> DrainWatch {
        DrainWatch(self.0.subscribe())
    }

    /// Moves on to `phase`; going back is ignored.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let forward = phase > *current;
            if forward {
                *current = phase;
            }
            forward
        });
    }
}

impl DrainWatch {
    /// The phase right now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until at least `phase` is reached; a sender that is gone counts as [`Phase::Stopped`].
    /// Cancel-safe.
    pub async fn reached(&mut self, phase: Phase) {
        let _ = self.0.wait_for(|current| *current >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_never_goes_back() {
        let drain = Drain::default();
        let watch = drain.watch();
        drain.advance(Phase::Draining);
        drain.advance(Phase::Grace);
        assert_eq!(watch.phase(), Phase::Draining);
    }
}
