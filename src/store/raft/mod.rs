//! The log that all replicas have: openraft, and what it wants of us. The only place that names openraft, so that it can
//! be replaced. Who founds the log, and who shall vote, is decided in `core`.

mod codec;
mod label;
mod log;
mod machine;
mod network;
mod node;
mod salvage;
mod shorten;
mod snapshots;
mod state;
#[cfg(test)]
mod tests;
mod time;
mod types;

use std::{io, sync::Arc};

pub(in crate::store) use self::{
    label::Label,
    network::{Network, Part},
    node::{Ballot, Certainty, Handover, Node, Status, read_append},
    salvage::{Place, Salvage, begin, read},
    shorten::Shortened,
};
pub use self::{
    log::{LogReader, LogStore},
    machine::{SnapshotBuilder, StateMachine},
    state::{Applied, State},
    types::{
        Entry, LogId, Membership, Outcomes, Proposal, SnapshotData, SnapshotMeta, StoredMembership,
        TypeConfig, Vote, Voter,
    },
};
use crate::store::backend::StorageBackend;

/// Opens what `backend` keeps of a member of the strong tier, or begins with nothing. Blocks while it reads all of it: a
/// record that is damaged is met now and not later.
///
/// The first two go to `openraft::Raft::new`, which repeats what was committed after the snapshot. [`State`] is for
/// readers and those who wait. Nobody else may write to `backend` meanwhile. The log has a thread, which ends, with all
/// that was asked of it written, when [`LogStore`] is dropped; drop that before `backend` is opened again.
///
/// # Errors
/// - [`io::ErrorKind::InvalidData`] if a record is damaged, missing, or of a later version; the error says which.
/// - Otherwise why `backend` cannot be read, or the thread not be started.
pub fn open(backend: &Arc<dyn StorageBackend>) -> io::Result<(LogStore, StateMachine, Arc<State>)> {
    let machine = StateMachine::open(backend)?;
    let state = machine.state();
    Ok((LogStore::open(backend)?, machine, state))
}
