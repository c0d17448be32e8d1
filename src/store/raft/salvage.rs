//! What is on a disk, read and written by who takes no part in the log: to look at it, and to begin an epoch of the store
//! with what one disk has.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    StateMachine,
    log::LogStore,
    snapshots::{Snapshots, Which},
    types::{LogId, Membership, SnapshotMeta, StoredMembership, Voter},
};
use crate::store::{backend::StorageBackend, core::kv::Kv};

/// Entries that are applied at once.
const PAGE: u64 = 256;

/// What a disk has.
#[derive(Debug)]
pub(in crate::store) struct Salvage {
    /// The state with all entries of the log, whether it was known that they are decided or not: each of them may have
    /// been acknowledged.
    pub(in crate::store) kv: Kv,
    /// The term in which it voted last, and for whom.
    pub(in crate::store) vote: Option<(u64, u64)>,
    /// The last entry; `None` if there never was one.
    pub(in crate::store) last: Option<Place>,
    /// The last entry that was known to be decided, and the last one in the snapshot.
    pub(in crate::store) committed: u64,
    pub(in crate::store) snapshot: u64,
    pub(in crate::store) voters: Vec<(u64, Voter)>,
    pub(in crate::store) learners: Vec<(u64, Voter)>,
}

/// A place in the log. Of two replicas that which has the later one has more of what was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::store) struct Place(pub(super) LogId);

impl Place {
    pub(in crate::store) fn term(self) -> u64 {
        self.0.leader_id.term
    }

    pub(in crate::store) fn index(self) -> u64 {
        self.0.index
    }
}

/// Reads all of it. Blocks.
///
/// # Errors
/// A record cannot be read, is damaged or missing; the error says which.
pub(in crate::store) fn read(backend: &Arc<dyn StorageBackend>) -> io::Result<Salvage> {
    let machine = StateMachine::open(backend)?;
    let (state, log) = (machine.state(), LogStore::open(backend)?);
    let (vote, committed, last) = log.written();
    let snapshot = state.meta().last_log_id;
    let mut next = snapshot.map_or(0, |snapshot| snapshot.index + 1);
    let end = last.map_or(0, |last| last.index + 1);
    while next < end {
        let page = log.entries(next, end.min(next + PAGE))?;
        let first = page.first().map(|entry| entry.log_id.index);
        if first != Some(next) && (snapshot.is_some() || first.is_none()) {
            let why = format!("entry {next} of the log is missing, and no snapshot has it");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        for entry in page {
            next = entry.log_id.index + 1;
            state.apply_entry(entry);
        }
    }
    let membership = state.membership().membership().clone();
    let voting: BTreeSet<u64> = membership.voter_ids().collect();
    let nodes = membership.nodes().map(|(id, node)| (*id, node.clone()));
    let (voters, learners) = nodes.partition(|(id, _)| voting.contains(id));
    Ok(Salvage {
        kv: state.read(Kv::clone),
        vote: vote.map(|vote| (vote.leader_id.term, vote.leader_id.node_id)),
        last: last.max(snapshot).map(Place),
        committed: committed.max(snapshot).map_or(0, |committed| committed.index),
        snapshot: snapshot.map_or(0, |snapshot| snapshot.index),
        voters,
        learners,
    })
}

/// Writes into `backend`, which is empty, a log that ends at `last`, with this state, of which `own` is the one voter.
/// Blocks.
///
/// # Errors
/// It cannot be written. `backend` is of no use then.
pub(in crate::store) fn begin(
    backend: &Arc<dyn StorageBackend>,
    kv: &Kv,
    last: Place,
    own: (u64, Voter),
) -> io::Result<()> {
    let Place(last) = last;
    let (id, voter) = own;
    let membership = Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, voter)]));
    let membership = membership.map_err(io::Error::other)?;
    let last_membership = StoredMembership::new(Some(last), membership);
    let bytes = kv.to_bytes();
    // What `to_bytes` cannot write it leaves out; that must not become the only copy.
    Kv::from_bytes(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let meta = SnapshotMeta { last_log_id: Some(last), last_membership };
    Snapshots::new(backend).store(&meta, &bytes, Which::Always)?;
    LogStore::begin(backend, last, id)
}
