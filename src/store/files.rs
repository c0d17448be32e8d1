//! The files of a server: opened at its start, put in the place of others, and never lost. A file that counts no more is kept
//! beside the new one.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    StoreKeys,
    backend::{self, Disk, Keys, Plain, SealKey, Sealed, StorageBackend},
    core::bootstrap::StoreId,
    founding::Memory,
    meters::{Measured, Meters},
    quorum,
    raft::Label,
};

/// The file of the log and the snapshot.
const LOG: &str = "raft.redb";
/// Most files that are kept of one epoch.
const MOST_KEPT: u32 = 1000;

/// Records on the disk.
pub(super) type Kept = Sealed<Measured<Disk>>;

/// What is kept on a disk: the log, and the records of the leaderless tier.
pub(super) type AllKept = [Arc<Kept>; 2];

/// What a node begins with.
pub(super) struct Files {
    pub(super) memory: Memory,
    pub(super) backend: Arc<dyn StorageBackend>,
    /// What the leaderless tier keeps.
    pub(super) records: Arc<dyn StorageBackend>,
    /// Both, if they are on a disk.
    pub(super) kept: Option<AllKept>,
    /// What `backend` says of itself.
    pub(super) label: Label,
}

/// What records are sealed with. Each key is called by a byte that follows from it.
pub(super) fn keys(params: &StoreKeys) -> Keys {
    let mut known = params.keys.iter().filter_map(|key| SealKey::new(key.id(), &key.bytes()));
    let plain = if params.reads_plain { Plain::Accepted } else { Plain::Refused };
    match known.next() {
        Some(newest) => Keys::Some { newest, older: known.collect(), plain },
        None => Keys::None,
    }
}

/// Where the log is in `directory`.
pub(super) fn log(directory: &Path) -> PathBuf {
    directory.join(LOG)
}

/// Opens what is on the disk of node `id`, a member of `cluster`. A log that was left behind by a later epoch of its store is
/// put aside. Blocks.
///
/// # Errors
/// It cannot be read, is another's, or is gone although this node has a part in a store. Nothing has changed then.
pub(super) fn open(
    directory: Option<&Path>,
    promises: Option<&Path>,
    id: u64,
    cluster: &str,
    keys: &Keys,
    meters: &Arc<Meters>,
) -> io::Result<Files> {
    if let Some(directory) = directory {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut memory = Memory::open(promises, id)?;
    let label = Label { cluster: cluster.to_owned(), node: id, store: memory.store().map(StoreId) };
    let Some(directory) = directory else {
        let in_memory = || Arc::new(Sealed::new(backend::Memory::default(), Keys::None));
        return Ok(Files { memory, backend: in_memory(), records: in_memory(), kept: None, label });
    };
    let path = log(directory);
    if memory.store().is_some() && !path.try_exists()? {
        return Err(refused(
            "the log (raft.redb) is gone, and this server has a part in a store: without it, it could vote twice. Put it \
             back, or empty both store.data_dir and mesh.data_dir, and it comes as a new server",
        ));
    }
    // It has numbers of its own: what is measured here are writes of the log.
    let records = open_kept(&directory.join(quorum::FILE), keys.clone(), &Arc::default())?;
    let files = |memory, log: Arc<Kept>, label| {
        let leaderless: Arc<dyn StorageBackend> = Arc::clone(&records) as _;
        claim(&leaderless, &label)?;
        let backend = Arc::clone(&log) as _;
        Ok(Files { memory, backend, records: leaderless, kept: Some([log, Arc::clone(&records)]), label })
    };
    let kept = open_kept(&path, keys.clone(), meters)?;
    let backend: Arc<dyn StorageBackend> = Arc::clone(&kept) as _;
    let Some(found) = Label::read(&backend)? else {
        label.write(&backend)?;
        return files(memory, kept, label);
    };
    belongs(&found, cluster, id)?;
    match (found.store, label.store) {
        (Some(of), Some(latest)) if of.is_before(latest) => {
            drop((backend, kept));
            let aside = replace(directory, keys, |fresh| label.write(fresh))?;
            tracing::warn!(
                epoch = of.epoch(),
                latest = latest.epoch(),
                kept = %aside.unwrap_or_default().display(),
                "the store has gone on without this server: it begins anew, and its log is kept beside the new one"
            );
            let kept = open_kept(&path, keys.clone(), meters)?;
            return files(memory, kept, label);
        }
        // The log was written first.
        (Some(of), known) if known.is_none_or(|known| known.is_before(of)) => memory.remember(of)?,
        (Some(of), Some(known)) if of != known => {
            let why = format!("its log is of store {:016x}, and it belongs to store {:016x}", of.0, known.0);
            return Err(refused(&why));
        }
        (None, Some(_)) => label.write(&backend)?,
        (Some(_) | None, _) => {}
    }
    let store = memory.store().map(StoreId);
    files(memory, kept, Label { store, ..found })
}

/// Sees that the records of the leaderless tier are this node's and of its store, in whichever epoch: they outlive a log that
/// is put aside (docs/adr/0029). They say so from then on. Blocks.
fn claim(records: &Arc<dyn StorageBackend>, label: &Label) -> io::Result<()> {
    let found = Label::read(records)?;
    let of = found.as_ref().and_then(|found| found.store);
    if let Some(found) = &found {
        belongs(found, &label.cluster, label.node)?;
    }
    if let (Some(of), Some(own)) = (of, label.store)
        && !of.is_kin(own)
    {
        let why = format!(
            "what it keeps by quorum ({}) is of store {:016x}, and it belongs to store {:016x}: move that file away",
            quorum::FILE,
            of.0,
            own.0
        );
        return Err(refused(&why));
    }
    let now = Label { store: label.store.or(of), ..label.clone() };
    if found.as_ref() == Some(&now) { Ok(()) } else { now.write(records) }
}

/// Opens a log, or makes an empty one. Blocks.
pub(super) fn open_log(path: &Path, keys: Keys) -> io::Result<Arc<dyn StorageBackend>> {
    Ok(open_kept(path, keys, &Arc::default())?)
}

fn open_kept(path: &Path, keys: Keys, meters: &Arc<Meters>) -> io::Result<Arc<Kept>> {
    Ok(Arc::new(Sealed::new(Measured::new(Disk::open(path)?, meters), keys)))
}

/// Whether the files are those of node `id` of `cluster`.
pub(super) fn belongs(label: &Label, cluster: &str, id: u64) -> io::Result<()> {
    if label.cluster != cluster {
        let why = format!(
            "it holds the store of the mesh `{}`, and this sidecar is configured for the mesh `{cluster}` (mesh.cluster)",
            label.cluster
        );
        return Err(refused(&why));
    }
    if label.node != id {
        return Err(refused(
            "it holds the store of another member: `mesh.data_dir` and `store.data_dir` belong together",
        ));
    }
    Ok(())
}

/// Puts a new log, filled by `fill`, in the place of the one in `directory`; where the old one is now, if there was one. At
/// no moment is there none, or half of one. Blocks. Nobody may have the old one open.
pub(super) fn replace(
    directory: &Path,
    keys: &Keys,
    fill: impl FnOnce(&Arc<dyn StorageBackend>) -> io::Result<()>,
) -> io::Result<Option<PathBuf>> {
    let (path, fresh) = (log(directory), directory.join("raft.redb.new"));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let epoch = if path.try_exists()? {
        let old = open_log(&path, keys.clone())?;
        Some(Label::read(&old)?.and_then(|label| label.store).map_or(0, StoreId::epoch))
    } else {
        None
    };
    let backend = open_log(&fresh, keys.clone())?;
    fill(&backend)?;
    drop(backend);
    fs::File::open(&fresh)?.sync_all()?;
    let kept = epoch.map(|epoch| keep(&path, epoch)).transpose()?;
    fs::rename(&fresh, &path)?;
    fs::File::open(directory)?.sync_all()?;
    Ok(kept)
}

/// Gives the file a second name, by which it stays when the first one is another's.
fn keep(path: &Path, epoch: u64) -> io::Result<PathBuf> {
    for number in 1..=MOST_KEPT {
        let again = if number == 1 { String::new() } else { format!("-{number}") };
        let kept = path.with_extension(format!("redb.epoch-{epoch}{again}"));
        match fs::hard_link(path, &kept) {
            Ok(()) => return Ok(kept),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(refused("too many logs of earlier epochs are kept there: remove some (raft.redb.epoch-*)"))
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
