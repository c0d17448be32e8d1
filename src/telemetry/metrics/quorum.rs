//! What is counted of the leaderless tier of the store.

use std::sync::Arc;

use super::{
    Registry,
    family::{Family, Kind},
};

macro_rules! family {
    ($name:literal, $kind:expr, $help:literal) => {
        Family { name: concat!("outrigger_store_quorum_", $name), kind: $kind, help: $help }
    };
}

static READ_REPAIRS: Family =
    family!("read_repairs_total", Kind::Counter, "Records sent to replicas that a read found behind");
static HINTS_TOTAL: Family = family!(
    "hints_total",
    Kind::Counter,
    "Records kept for servers that could not be reached, by what became of them"
);
static DIFFERENCES: Family = family!(
    "differences_total",
    Kind::Counter,
    "Records that comparing with other servers has brought to this one"
);
static COLLECTED: Family = family!(
    "tombstones_collected_total",
    Kind::Counter,
    "Removals that are forgotten: all replicas knew of them"
);
static CLOCK_REFUSALS: Family = family!(
    "clock_refusals_total",
    Kind::Counter,
    "Records refused because their stamps were more than 500 ms ahead of this clock"
);
static PURGES: Family = family!(
    "purges_total",
    Kind::Counter,
    "How often this server has forgotten all, because it was away for more than a day"
);
static RECORDS: Family =
    family!("records", Kind::Gauge, "Records of this server, by whether they are values or removals");
static HINTS: Family = family!("hints", Kind::Gauge, "Records that wait for servers that cannot be reached");
static DISAGREEING: Family = family!(
    "keyspaces_disagreeing",
    Kind::Gauge,
    "Nodes that have other keyspaces than this one (store.keyspaces)"
);

/// Families of this file that the recorder renders.
pub(super) static RECORDED: [&Family; 9] = [
    &READ_REPAIRS,
    &HINTS_TOTAL,
    &DIFFERENCES,
    &COLLECTED,
    &CLOCK_REFUSALS,
    &PURGES,
    &RECORDS,
    &HINTS,
    &DISAGREEING,
];

/// The numbers of the leaderless tier, as its machine has counted them.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuorumNumbers {
    /// Records sent to replicas that a read found behind.
    pub read_repairs: u64,
    /// Hints kept, got there, given up.
    pub hints: [u64; 3],
    /// Records that comparing has brought here.
    pub differences: u64,
    /// Removals forgotten.
    pub collected: u64,
    /// Records refused for their stamps.
    pub clock_refusals: u64,
    /// Times that all was forgotten.
    pub purges: u64,
    /// Values, removals, and hints that there are.
    pub kept: [usize; 3],
}

/// Shows [`QuorumNumbers`].
#[derive(Clone, Debug)]
pub struct QuorumMetrics(Arc<Registry>);

impl QuorumMetrics {
    /// The handle; any number of them show the same numbers.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>) -> Self {
        Self(Arc::clone(registry))
    }

    /// So many nodes have other keyspaces than this one.
    pub fn show_disagreeing(&self, nodes: usize) {
        self.0.gauge(&DISAGREEING, &[]).set(nodes as f64);
    }

    /// These are the numbers now; none of those that only grow is less than before.
    pub fn show(&self, numbers: &QuorumNumbers) {
        let QuorumNumbers { read_repairs, hints, differences, collected, clock_refusals, purges, kept } =
            *numbers;
        let counted = [
            (&READ_REPAIRS, read_repairs),
            (&DIFFERENCES, differences),
            (&COLLECTED, collected),
            (&CLOCK_REFUSALS, clock_refusals),
            (&PURGES, purges),
        ];
        for (family, count) in counted {
            self.0.counter(family, &[]).absolute(count);
        }
        for (outcome, count) in ["queued", "replayed", "dropped"].into_iter().zip(hints) {
            self.0.counter(&HINTS_TOTAL, &[("outcome", outcome)]).absolute(count);
        }
        for (kind, count) in ["value", "removal"].into_iter().zip(kept) {
            self.0.gauge(&RECORDS, &[("kind", kind)]).set(count as f64);
        }
        self.0.gauge(&HINTS, &[]).set(kept[2] as f64);
    }
}
