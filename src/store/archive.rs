//! A copy of the whole store in one file: saved from a server that runs, looked at, and put in the place of a log. It proves
//! itself by a digest of all of it, and is not encrypted: whoever keeps it keeps what is in it.

use std::{io, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    EmbeddedStore, Level, Readable as _, Scan, StoreError, StoreKeys,
    backend::digest,
    core::{bootstrap::StoreId, key::Revision, kv::Kv},
    embedded::{Parts, wall_ms},
    files,
    founding::Memory,
    raft::{self, Label, Place, Voter},
    recover::{Renewed, Whose, look, next_epoch},
    status::shown,
};

/// What a file begins with; the number is its format.
const MAGIC: &[u8] = b"outrigger store 1\n";

/// Bytes of the digest at the end: hexadecimal digits, as other programs write them.
const DIGEST: usize = 64;

/// For the replica of this node to get as far as the leader.
const LIMIT: Duration = Duration::from_secs(3);

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) cluster: String,
    pub(super) store: StoreId,
    pub(super) last: Place,
    /// Milliseconds since 1970.
    pub(super) taken_ms: u64,
}

/// What is in a file.
#[derive(Clone, Debug, Serialize)]
pub struct Archive {
    /// The mesh that it is of.
    pub cluster: String,
    /// The store, and its epoch.
    pub store: String,
    /// See `store`.
    pub epoch: u64,
    /// The last entry of the log that is in it.
    pub last_term: u64,
    /// See `last_term`.
    pub last_index: u64,
    /// The revision of the state.
    pub revision: Revision,
    /// Its keys, and their bytes with their values.
    pub keys: usize,
    /// See `keys`.
    pub bytes: usize,
    /// When it was taken, in milliseconds since 1970, by the clock of the server.
    pub taken_ms: u64,
    /// SHA-256 of the file before its own end.
    pub digest: String,
    #[serde(skip)]
    place: Place,
    #[serde(skip)]
    number: StoreId,
    #[serde(skip)]
    kv: Kv,
}

/// Bytes are no copy of a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// They are something else.
    #[error("it is no snapshot of a store, or of a later version of this program")]
    Foreign,
    /// They are not as they were written.
    #[error("it is cut short or damaged: its digest does not match")]
    Damaged,
    /// They were written so, but no state is like that.
    #[error("it cannot be read: {0}")]
    Contradiction(String),
}

/// The file of a state.
pub(super) fn written(head: &Head, kv: &Kv) -> Vec<u8> {
    // Writing to memory does not fail; if it did, the bytes would be read as damaged.
    let mut bytes = postcard::to_extend(head, MAGIC.to_vec()).unwrap_or_default();
    bytes.extend_from_slice(&kv.to_bytes());
    let digest = digest(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    bytes
}

impl Archive {
    /// What is in a file.
    ///
    /// # Errors
    /// See [`ArchiveError`]. No bytes make it panic.
    pub fn read(bytes: &[u8]) -> Result<Self, ArchiveError> {
        if !bytes.starts_with(MAGIC) {
            return Err(ArchiveError::Foreign);
        }
        let (whole, found) = bytes.split_last_chunk::<DIGEST>().ok_or(ArchiveError::Damaged)?;
        let digest = digest(whole);
        if digest.as_bytes() != found {
            return Err(ArchiveError::Damaged);
        }
        let body = whole.get(MAGIC.len()..).unwrap_or_default();
        let contradiction = |error: &dyn std::fmt::Display| ArchiveError::Contradiction(error.to_string());
        let (head, state) = postcard::take_from_bytes::<Head>(body).map_err(|error| contradiction(&error))?;
        let kv = Kv::from_bytes(state).map_err(|error| contradiction(&error))?;
        Ok(Self {
            cluster: head.cluster,
            store: shown(head.store.0),
            epoch: head.store.epoch(),
            last_term: head.last.term(),
            last_index: head.last.index(),
            revision: kv.revision(),
            keys: kv.len(),
            bytes: kv.bytes(),
            taken_ms: head.taken_ms,
            digest,
            place: head.last,
            number: head.store,
            kv,
        })
    }
}

impl EmbeddedStore {
    /// The file of the whole state, as the replica of this node has it: with [`Level::Eventual`] as it is, otherwise with all
    /// that was written before.
    ///
    /// # Errors
    /// There is no quorum, or this node has no replica.
    pub async fn archive(&self, level: Level) -> Result<Vec<u8>, StoreError> {
        let Parts { node, fence, cluster, .. } = self.parts();
        let (Some(node), Some(store)) = (node, fence.replica().filter(|_| fence.superseded().is_none()))
        else {
            return Err(StoreError::Level(
                "a snapshot (ask a server that has the log, outrigger raft members)",
            ));
        };
        if level != Level::Eventual {
            let all = Scan { limit: 1, ..Scan::default() };
            let revision = self.scan(&all, level).await?.revision;
            node.reached(revision, LIMIT).await.result()?;
        }
        let (cluster, taken_ms) = (cluster.as_ref().to_owned(), wall_ms());
        let archived =
            node.archived(move |kv, last| written(&Head { cluster, store, last, taken_ms }, kv)).await;
        let archived = archived.map_err(|error| StoreError::Failed(error.to_string()))?;
        archived.ok_or_else(|| StoreError::Failed("this server has no log yet".to_owned()))
    }
}

/// Whether there is a log in `directory` that would be put aside. Blocks.
///
/// # Errors
/// It cannot be seen.
pub fn has_log(directory: &Path) -> io::Result<bool> {
    files::log(directory).try_exists()
}

/// Has the store go on with what is in `archive`, in an epoch later than that of the log in `directory`, and than that of the
/// archive, with `whose` node as the one voter. Blocks. Nobody may have the log open.
///
/// # Errors
/// As [`super::recover`]; and [`io::ErrorKind::InvalidData`] if it is of another mesh.
pub fn restore(
    directory: &Path,
    keys: &StoreKeys,
    whose: Whose<'_>,
    archive: &Archive,
) -> io::Result<Renewed> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    if archive.cluster != whose.cluster {
        let why = format!(
            "the snapshot is of the mesh `{}`, and this sidecar is configured for the mesh `{}` (mesh.cluster)",
            archive.cluster, whose.cluster
        );
        return Err(refused(&why));
    }
    let found = if has_log(directory)? { Some(look(directory, keys)?) } else { None };
    let mut memory = Memory::open(Some(directory), whose.id)?;
    let mut own = memory.store().map(StoreId);
    let mut floor = archive.revision;
    if let Some((label, salvage)) = &found {
        if let Some(label) = label {
            files::belongs(label, whose.cluster, whose.id)?;
            own = own.max(label.store);
        }
        floor = floor.max(salvage.kv.revision());
    }
    let latest = match own {
        Some(own) if own.is_before(archive.number) => archive.number,
        Some(own) => own,
        None => archive.number,
    };
    let (next, kv) = next_epoch(latest, &archive.kv, floor)?;
    let own = found.iter().flat_map(|(_, salvage)| salvage.voters.iter().chain(&salvage.learners));
    let own = own.filter(|(id, _)| *id == whose.id).map(|(_, voter)| voter.clone()).next();
    let own = Voter { name: whose.node.to_owned(), ..own.unwrap_or_default() };
    let label = Label { cluster: whose.cluster.to_owned(), node: whose.id, store: Some(next) };
    let kept = files::replace(directory, &files::keys(keys), |fresh| {
        raft::begin(fresh, &kv, archive.place, (whose.id, own))?;
        label.write(fresh)
    })?;
    memory.remember(next)?;
    Ok(Renewed { store: shown(next.0), epoch: next.epoch(), revision: kv.revision(), keys: kv.len(), kept })
}

#[cfg(test)]
mod tests;
