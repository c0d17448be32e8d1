//! What became of each record, for people and for the metrics.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Map, Value};

use super::{SharedRecords, Stored, told};
use crate::{
    config::{RecordKind, Standing},
    store::core::key::Revision,
    telemetry::metrics::SharedMetrics,
};

/// What is shared, and what became of it here.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedView {
    /// The revision of the store that it is of.
    pub(crate) revision: Revision,
    /// By key.
    pub(crate) records: Vec<SharedRecord>,
}

/// One record.
#[derive(Clone, Debug)]
pub(crate) struct SharedRecord {
    pub(crate) kind: RecordKind,
    pub(crate) name: Arc<str>,
    pub(crate) revision: Revision,
    /// Whose callers a rule is about, if it says so.
    pub(crate) destination: Option<String>,
    /// Which keys it has.
    pub(crate) keys: Vec<String>,
    /// What else of it is shown where it is not in force.
    pub(crate) document: Map<String, Value>,
    pub(crate) state: State,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    Applied,
    /// It is about the callers of other services.
    Elsewhere,
    Quarantined {
        /// In a line.
        reason: String,
        /// All of it, as `outrigger check` has it.
        findings: Value,
    },
}

impl State {
    /// The value of the metric label `state`.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Elsewhere => "elsewhere",
            Self::Quarantined { .. } => "quarantined",
        }
    }
}

impl SharedView {
    /// `standings` are those of `records`, in their order.
    pub(crate) fn new(records: &SharedRecords, standings: &[Standing]) -> Self {
        let item = |(stored, standing): (&Stored, &Standing)| SharedRecord {
            kind: stored.record.kind,
            name: Arc::clone(&stored.record.name),
            revision: stored.revision,
            destination: stored.record.field("destination"),
            keys: stored.record.keys(),
            document: told::shown(&stored.record),
            state: match standing {
                Standing::Applied(_) => State::Applied,
                Standing::Elsewhere => State::Elsewhere,
                Standing::Quarantined(findings) => State::Quarantined {
                    reason: standing.reason().unwrap_or_default(),
                    findings: findings.to_json(),
                },
            },
        };
        Self { revision: records.revision, records: records.items.iter().zip(standings).map(item).collect() }
    }

    /// The record that is in force under this name.
    pub(crate) fn applied(&self, kind: RecordKind, name: &str) -> Option<&SharedRecord> {
        self.find(kind, name).filter(|record| record.state == State::Applied)
    }

    /// The record of this name.
    pub(crate) fn find(&self, kind: RecordKind, name: &str) -> Option<&SharedRecord> {
        self.records.iter().find(|record| record.kind == kind && *record.name == *name)
    }

    /// Tells of each record that is left out, once for each of its revisions. `told` are those that were.
    pub(crate) fn tell(&self, told: &mut HashSet<(String, Revision)>, metrics: &SharedMetrics) {
        let mut now = HashSet::new();
        let mut counts = [0_usize; 3];
        for record in &self.records {
            let at = match &record.state {
                State::Applied => 0,
                State::Elsewhere => 1,
                State::Quarantined { reason, .. } => {
                    let key = format!("{}{}", record.kind.prefix(), record.name);
                    let mark = (key, record.revision);
                    if !told.contains(&mark) {
                        tracing::error!(
                            key = %mark.0, revision = mark.1.0, %reason,
                            "this entry of the store is left out; the others are served"
                        );
                    }
                    now.insert(mark);
                    2
                }
            };
            counts[at] += 1;
        }
        *told = now;
        let [applied, elsewhere, quarantined] = counts;
        metrics.records(applied, elsewhere, quarantined);
    }
}
