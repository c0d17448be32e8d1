//! Files that are there whole or not at all, and the lock that lets one process at a time change them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::error::CaError;
use crate::identity::bounded_file;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::identity) enum Mode {
    /// Its owner, who may also write it.
    Private,
    /// Everybody.
    Public,
}

/// Replaces a file: whoever reads it, and whoever finds it after a crash, sees the old content or the new one. Leaves
/// the old one if it fails.
pub(in crate::identity) fn write(path: &Path, content: &[u8], mode: Mode) -> Result<(), CaError> {
    replace(path, content, mode).map_err(|source| failed("write", path, source))
}

fn replace(path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
    let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
    let parent = parent(path);
    let draft = parent.join(format!(".{}.draft", name.to_string_lossy()));
    // What a crash left behind. `create_new` below follows no link that somebody put there in between.
    remove_if_there(&draft)?;
    let bits = match mode {
        Mode::Private => 0o600,
        Mode::Public => 0o644,
    };
    let written =
        OpenOptions::new().write(true).create_new(true).mode(bits).open(&draft).and_then(|mut file| {
            file.write_all(content)?;
            // The name must not become durable before the bytes are.
            file.sync_all()
        });
    let renamed = written.and_then(|()| fs::rename(&draft, path));
    if renamed.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&draft);
    }
    renamed?;
    File::open(parent)?.sync_all()
}

/// Replaces a file that only its owner can read. Blocks.
///
/// # Errors
/// What the kernel says; the old file is still there.
pub(crate) fn replace_private(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, Mode::Private)
}

/// Makes a file that only its owner can read, and fails if there is one by that name.
pub(super) fn create(path: &Path, content: &[u8]) -> Result<(), CaError> {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = created.map_err(|source| failed("create", path, source))?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if written.is_err() {
        // Ours, and of no use. The first error is the one to tell.
        let _ = fs::remove_file(path);
    }
    written.map_err(|source| failed("write", path, source))?;
    File::open(parent(path))
        .and_then(|directory| directory.sync_all())
        .map_err(|source| failed("write", path, source))
}

/// The content of a file of at most `most` bytes.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, CaError> {
    let (file, _) = open(path)?;
    read_open(file, path, most)
}

/// A file that is there, and its permission bits.
pub(super) fn open(path: &Path) -> Result<(File, u32), CaError> {
    bounded_file::open(path).map_err(|source| failed("read", path, source))
}

/// The content of an open file of at most `most` bytes. `path` is for the error.
pub(super) fn read_open(file: File, path: &Path, most: u64) -> Result<Vec<u8>, CaError> {
    let mut content = Vec::new();
    file.take(most + 1).read_to_end(&mut content).map_err(|source| failed("read", path, source))?;
    if content.len() as u64 > most {
        return Err(CaError::Damaged {
            path: path.to_owned(),
            why: format!("it is longer than {most} bytes"),
        });
    }
    Ok(content)
}

/// Removes a file, and is content if there is none.
pub(super) fn remove(path: &Path) -> Result<(), CaError> {
    remove_if_there(path).map_err(|source| failed("remove", path, source))
}

/// The directory that a file is in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Makes a directory that only its owner can enter, and those above it that are missing.
pub(in crate::identity) fn make_directory(path: &Path) -> Result<(), CaError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| failed("create", path, source))
}

/// The names in a directory.
pub(in crate::identity) fn names(path: &Path) -> Result<Vec<String>, CaError> {
    let names = fs::read_dir(path).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    });
    names.map_err(|source| failed("read", path, source))
}

/// Held while a process changes the directory; let go when dropped, and by the kernel when the process ends.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for another process for at most [`TRIES`] times [`PAUSE`].
    pub(super) fn take(directory: &Path) -> Result<Self, CaError> {
        let path = directory.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| failed("open", &path, source))?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => thread::sleep(PAUSE),
                Err(TryLockError::Error(source)) => return Err(failed("lock", &path, source)),
            }
        }
        Err(CaError::Busy(directory.to_owned()))
    }
}

pub(super) fn failed(action: &'static str, path: &Path, source: io::Error) -> CaError {
    CaError::File { action, path: PathBuf::from(path), source }
}

/// A change takes milliseconds, so ten seconds are a process that hangs.
const TRIES: u32 = 400;
const PAUSE: Duration = Duration::from_millis(25);
