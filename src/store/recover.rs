//! Looks at the disk of a server that does not run, and has the store go on from it when most voters are gone for good. The
//! disk becomes the one voter of the next epoch of the store; what it has is kept, the old log as well. Who may order that,
//! and whether the other voters are really gone, is asked elsewhere.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    StoreKeys,
    backend::digest,
    core::{bootstrap::StoreId, key::Revision, kv::Kv},
    files,
    founding::Memory,
    raft::{self, Label, Place, Salvage, Voter},
    status::shown,
};

/// How far the replica on a disk is.
#[derive(Clone, Debug, Serialize)]
pub struct Position {
    /// The mesh that it belongs to; nothing if it has never said.
    pub cluster: Option<String>,
    /// Whose it is.
    pub id: Option<String>,
    /// The store, and its epoch.
    pub store: Option<String>,
    /// See `store`.
    pub epoch: Option<u64>,
    /// The term in which it voted last.
    pub vote_term: u64,
    /// For whom.
    pub voted_for: Option<String>,
    /// The term and the index of its last entry. Of several replicas that one has most which has the greatest term here,
    /// and among those of one term the greatest index.
    pub last_term: u64,
    /// See `last_term`.
    pub last_index: u64,
    /// The last entry that it knew to be decided.
    pub committed: u64,
    /// The last entry of its snapshot.
    pub snapshot: u64,
    /// The revision of its state, with all entries.
    pub revision: Revision,
    /// Its keys, and their bytes with their values.
    pub keys: usize,
    /// See `keys`.
    pub bytes: usize,
    /// SHA-256 of the state: two replicas with the same last entry have the same.
    pub digest: String,
    /// Who voted, as far as it knows.
    pub voters: Vec<Seat>,
    /// Who stood by.
    pub standbys: Vec<Seat>,
}

/// A replica of the log, as another one remembers it.
#[derive(Clone, Debug, Serialize)]
pub struct Seat {
    /// Which node.
    pub id: String,
    /// Its name.
    pub node: String,
    /// Where it was when it was taken in.
    pub address: SocketAddr,
    /// The same as `id`.
    #[serde(skip)]
    pub number: u64,
}

/// Whose disk it has to be.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// The mesh.
    pub cluster: &'a str,
    /// The number of the node in it.
    pub id: u64,
    /// Its name.
    pub node: &'a str,
}

/// What the store goes on with.
#[derive(Clone, Debug, Serialize)]
pub struct Renewed {
    /// The store, and its epoch.
    pub store: String,
    /// See `store`.
    pub epoch: u64,
    /// The revision that it goes on after.
    pub revision: Revision,
    /// Its keys.
    pub keys: usize,
    /// Where the log of before is; nothing if there was none.
    pub kept: Option<PathBuf>,
}

/// How far the replica in `directory` is. Blocks. Changes nothing.
///
/// # Errors
/// - [`io::ErrorKind::NotFound`] if there is none.
/// - [`io::ErrorKind::ResourceBusy`] if a process has it open.
/// - [`io::ErrorKind::InvalidData`] if it is damaged, or encrypted with a key that is not among `keys`.
pub fn inspect(directory: &Path, keys: &StoreKeys) -> io::Result<Position> {
    let (label, salvage) = look(directory, keys)?;
    Ok(position(label.as_ref(), &salvage))
}

/// Has the store go on from the replica in `directory`, in its next epoch, with its node as the one voter. Blocks.
///
/// # Errors
/// As [`inspect`]; and [`io::ErrorKind::InvalidData`] if it is not whose it has to be, or has no part in a store. The old log
/// is still there then, and in force unless the error came after the new one was.
pub fn recover(directory: &Path, keys: &StoreKeys, whose: Whose<'_>) -> io::Result<Renewed> {
    let (label, salvage) = look(directory, keys)?;
    let store = belongs(directory, label.as_ref(), whose)?;
    let (Some(store), Some(last)) = (store, salvage.last) else {
        return Err(refused("there is nothing to go on from: this server never had a part in a store"));
    };
    renew(directory, keys, whose, store, last, &salvage)
}

pub(super) fn look(directory: &Path, keys: &StoreKeys) -> io::Result<(Option<Label>, Salvage)> {
    let path = files::log(directory);
    if !path.try_exists()? {
        let why = format!("{} is not there: no server keeps its log in this directory", path.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    let backend = files::open_log(&path, files::keys(keys))?;
    Ok((Label::read(&backend)?, raft::read(&backend)?))
}

/// The store that the disk has a part in, if it is that of `whose`.
fn belongs(directory: &Path, label: Option<&Label>, whose: Whose<'_>) -> io::Result<Option<StoreId>> {
    if let Some(label) = label {
        files::belongs(label, whose.cluster, whose.id)?;
    }
    let known = Memory::open(Some(directory), whose.id)?.store().map(StoreId);
    let own = label.and_then(|label| label.store);
    match (own, known) {
        (Some(own), Some(known)) if own.is_before(known) => Err(refused(&format!(
            "the store is in epoch {} already, and this log is of epoch {}: it was left behind. Start the sidecar, and it joins \
             the others",
            known.epoch(),
            own.epoch()
        ))),
        (Some(own), _) => Ok(Some(own)),
        (None, known) => Ok(known),
    }
}

fn renew(
    directory: &Path,
    keys: &StoreKeys,
    whose: Whose<'_>,
    store: StoreId,
    last: Place,
    salvage: &Salvage,
) -> io::Result<Renewed> {
    let (next, kv) = next_epoch(store, &salvage.kv, salvage.kv.revision())?;
    let seats = salvage.voters.iter().chain(&salvage.learners);
    let own = seats.into_iter().find(|(id, _)| *id == whose.id).map(|(_, voter)| voter.clone());
    let own = Voter { name: whose.node.to_owned(), ..own.unwrap_or_default() };
    let label = Label { cluster: whose.cluster.to_owned(), node: whose.id, store: Some(next) };
    let kept = files::replace(directory, &files::keys(keys), |fresh| {
        raft::begin(fresh, &kv, last, (whose.id, own))?;
        label.write(fresh)
    })?;
    // Were it not written, the next start would: the log is what counts.
    Memory::open(Some(directory), whose.id)?.remember(next)?;
    Ok(Renewed { store: shown(next.0), epoch: next.epoch(), revision: kv.revision(), keys: kv.len(), kept })
}

/// What comes after `store`, and with what it begins: no revision up to `told` is told again.
pub(super) fn next_epoch(store: StoreId, kv: &Kv, told: Revision) -> io::Result<(StoreId, Kv)> {
    let next = store.next_epoch().ok_or_else(|| refused("the store has had all its epochs"))?;
    let kv = kv.clone().renewed(told).ok_or_else(|| refused("the store has no revisions left"))?;
    Ok((next, kv))
}

fn position(label: Option<&Label>, salvage: &Salvage) -> Position {
    let store = label.and_then(|label| label.store);
    let seats = |seats: &[(u64, Voter)]| seats.iter().map(seat).collect();
    Position {
        cluster: label.map(|label| label.cluster.clone()),
        id: label.map(|label| shown(label.node)),
        store: store.map(|store| shown(store.0)),
        epoch: store.map(StoreId::epoch),
        vote_term: salvage.vote.map_or(0, |(term, _)| term),
        voted_for: salvage.vote.map(|(_, node)| shown(node)),
        last_term: salvage.last.map_or(0, Place::term),
        last_index: salvage.last.map_or(0, Place::index),
        committed: salvage.committed,
        snapshot: salvage.snapshot,
        revision: salvage.kv.revision(),
        keys: salvage.kv.len(),
        bytes: salvage.kv.bytes(),
        digest: digest(&salvage.kv.to_bytes()),
        voters: seats(&salvage.voters),
        standbys: seats(&salvage.learners),
    }
}

fn seat((id, voter): &(u64, Voter)) -> Seat {
    Seat { id: shown(*id), node: voter.name.clone(), address: voter.address, number: *id }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
pub(super) mod tests;
