//! Reads files that other programs write: certificates, keys, secrets. Bounded in size, and secrets only if no
//! stranger on the machine can read them too. Writes nothing.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Longest file that is read. The certificates of all public authorities together are a fifth of it.
pub(crate) const MAX_FILE: u64 = 1024 * 1024;

/// Permission bits of those who neither own a file nor belong to its group.
const OTHERS: u32 = 0o007;

/// Who may read a file beside us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Anybody.
    Anybody,
    /// Its owner and its group.
    OwnerAndGroup,
}

/// Why a file was not read. The message names the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there, or not for us.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Longer than 1 MiB.
    #[error("{} is longer than 1 MiB", .0.display())]
    TooLong(PathBuf),
    /// A secret that every user of the machine can read or change.
    #[error("{} holds a secret, and others can read or change it: take their permissions away (chmod o-rwx)", .0.display())]
    Exposed(PathBuf),
}

/// The content of the file at `path`. Blocks.
///
/// # Errors
/// See [`FileError`].
pub(crate) fn read(path: &Path, readers: Readers) -> Result<Vec<u8>, FileError> {
    let unreadable = |source| FileError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    // Of the file that is open: the name may lead to another one by now.
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if readers == Readers::OwnerAndGroup && mode & OTHERS != 0 {
        return Err(FileError::Exposed(path.to_owned()));
    }
    let mut content = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > MAX_FILE {
        return Err(FileError::TooLong(path.to_owned()));
    }
    Ok(content)
}
