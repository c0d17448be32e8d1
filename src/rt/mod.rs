//! The only reader of the clock, the only seeder of randomness, the drain signal, named tasks and workers.

use std::time::Duration;

/// How the process ends after SIGTERM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownParams {
    /// Readiness already fails, everything is still served: time for load balancers to look elsewhere.
    pub grace: Duration,
    /// Then listeners close, and what is in flight has this long to finish.
    pub drain_timeout: Duration,
}
