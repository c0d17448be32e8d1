//! What is counted of the state that all sidecars share.

use std::{sync::Arc, time::Duration};

use super::{
    Registry,
    family::{Family, Kind},
};

static STALENESS: Family = Family {
    name: "outrigger_store_staleness_seconds",
    kind: Kind::Gauge,
    help: "Time since this sidecar last heard from a leader of the store that has a quorum; since its start if never",
};
static RECORDS: Family = Family {
    name: "outrigger_shared_records",
    kind: Kind::Gauge,
    help: "Routes and intentions of the store, by what became of them here",
};

/// Families of this file that the recorder renders.
pub(super) static RECORDED: [&Family; 2] = [&STALENESS, &RECORDS];

/// The numbers of what is shared.
#[derive(Clone, Debug)]
pub struct SharedMetrics(Arc<Registry>);

impl SharedMetrics {
    /// The handle; any number of them show the same numbers.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>) -> Self {
        Self(Arc::clone(registry))
    }

    /// How old what the sidecar knows may be.
    pub fn staleness(&self, age: Duration) {
        self.0.gauge(&STALENESS, &[]).set(age.as_secs_f64());
    }

    /// How many records are in force, are about other services, and are left out.
    pub fn records(&self, applied: usize, elsewhere: usize, quarantined: usize) {
        for (state, count) in [("applied", applied), ("elsewhere", elsewhere), ("quarantined", quarantined)] {
            self.0.gauge(&RECORDS, &[("state", state)]).set(count as f64);
        }
    }
}
