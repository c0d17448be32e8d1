//! Reads files that other programs write: certificates, keys, secrets. Bounded in size, and secrets only if no
//! stranger on the machine can read them too. Writes nothing.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Longest file that is read. The certificates of all public authorities together are a fifth of it.
pub(crate) const MAX_FILE: u64 = 1024 * 1024;

/// Permission bits of those who neither own a file nor belong to its group.
const OTHERS: u32 = 0o007;

/// Linux's on the architectures of the releases (x86-64, AArch64): asm-generic/fcntl.h.
const O_NONBLOCK: i32 = 0o4000;

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
    let (file, mode) = open(path).map_err(unreadable)?;
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

/// A regular file, open for reading, and its permission bits. Whatever the name leads to, it does not wait: a pipe without
/// a writer would keep whoever opens it for ever.
///
/// # Errors
/// What the kernel says, and [`io::ErrorKind::InvalidInput`] if it is no regular file.
pub(super) fn open(path: &Path) -> io::Result<(File, u32)> {
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    // Of the file that is open: the name may lead to another one by now.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, metadata.permissions().mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command, sync::mpsc, thread, time::Duration};

    use super::*;

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
        let folder = std::env::temp_dir().join(format!("outrigger-pipe-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let pipe = folder.join("tls.key");
        assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap().success());
        let (send, receive) = mpsc::channel();
        let at = pipe.clone();
        // Past the end of the test if it waits after all.
        thread::spawn(move || send.send((open(&at).map(|_| ()), read(&at, Readers::OwnerAndGroup))));
        let answered = receive.recv_timeout(Duration::from_secs(30));
        fs::remove_dir_all(&folder).unwrap();
        let (opened, read) = answered.unwrap();
        assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(matches!(read, Err(FileError::Unreadable { .. })), "{read:?}");
    }
}
