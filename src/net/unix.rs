//! A listening Unix socket that only its owner may open. Makes no directory and guesses no place.

use std::{
    fs,
    io::{self, ErrorKind},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};

/// Who may connect: whoever may write to the file.
const OWNER_ONLY: u32 = 0o600;
const BACKLOG: i32 = 128;

/// Why there is no socket at a path. Nothing has changed there then, unless a socket that nobody served was removed.
#[derive(Debug, thiserror::Error)]
pub enum UnixError {
    /// The directory is not made for it: whoever makes it decides who may enter.
    #[error("the directory of {0} does not exist")]
    NoDirectory(PathBuf),
    /// A process serves there.
    #[error("another process listens on {0}")]
    Taken(PathBuf),
    /// Something else has the name.
    #[error("{0} is there and is no socket")]
    NoSocket(PathBuf),
    /// Whatever the kernel said.
    #[error("cannot listen on {path}")]
    Kernel {
        /// Where.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// The file of a socket; dropping it removes the file, unless another has taken its name.
#[derive(Debug)]
pub struct UnixPlace {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for UnixPlace {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| found.dev() == self.device && found.ino() == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // A file that stays is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on a socket at `path` with mode 0600. One whose process is gone is replaced.
///
/// # Errors
/// See [`UnixError`].
pub fn bind_unix(path: &Path) -> Result<(UnixListener, UnixPlace), UnixError> {
    let failed = |source| UnixError::Kernel { path: path.to_owned(), source };
    let listener = match listen(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path)?;
            listen(path)
        }
        listened => listened,
    };
    let listener = listener.map_err(|error| match error.kind() {
        ErrorKind::NotFound => UnixError::NoDirectory(path.to_owned()),
        ErrorKind::AddrInUse => UnixError::Taken(path.to_owned()),
        _ => failed(error),
    })?;
    let found = fs::symlink_metadata(path).map_err(failed)?;
    let place = UnixPlace { path: path.to_owned(), device: found.dev(), inode: found.ino() };
    if found.permissions().mode() & 0o777 != OWNER_ONLY {
        fs::set_permissions(path, fs::Permissions::from_mode(OWNER_ONLY)).map_err(failed)?;
    }
    Ok((listener, place))
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    // The file gets its mode from the socket, so that it is never open to others, not even for a moment.
    let file = fs::File::from(OwnedFd::from(Socket::new(Domain::UNIX, Type::STREAM, None)?));
    file.set_permissions(fs::Permissions::from_mode(OWNER_ONLY))?;
    let socket = Socket::from(OwnedFd::from(file));
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

/// Removes a socket on which nobody listens any more.
fn remove_stale(path: &Path) -> Result<(), UnixError> {
    let failed = |source| UnixError::Kernel { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(UnixError::NoSocket(path.to_owned())),
        Ok(_) => {}
        // Its process has just ended.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    // One whose queue is full must not keep us waiting.
    probe.set_nonblocking(true).map_err(failed)?;
    match probe.connect(&SockAddr::unix(path).map_err(failed)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(failed(error)),
        Ok(()) | Err(_) => Err(UnixError::Taken(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixStream,
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;

    /// A directory that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("outrigger-unix-{}-{number}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("admin.sock")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_socket_is_its_owners_and_goes_with_its_place() {
        let folder = Folder::new();
        let (_listener, place) = bind_unix(&folder.socket()).unwrap();
        let mode = fs::metadata(folder.socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(UnixStream::connect(folder.socket()).is_ok());
        drop(place);
        assert!(!folder.socket().exists());
    }

    #[test]
    fn a_socket_that_nobody_serves_is_replaced() {
        let folder = Folder::new();
        drop(UnixListener::bind(folder.socket()).unwrap());
        assert!(folder.socket().exists());
        let (_listener, _place) = bind_unix(&folder.socket()).unwrap();
        assert!(UnixStream::connect(folder.socket()).is_ok());
    }

    #[test]
    fn a_socket_that_is_served_is_left_alone() {
        let folder = Folder::new();
        let _served = UnixListener::bind(folder.socket()).unwrap();
        assert!(matches!(bind_unix(&folder.socket()), Err(UnixError::Taken(_))));
        assert!(UnixStream::connect(folder.socket()).is_ok());
    }

    #[test]
    fn a_file_of_another_kind_is_left_alone() {
        let folder = Folder::new();
        fs::write(folder.socket(), "mine").unwrap();
        assert!(matches!(bind_unix(&folder.socket()), Err(UnixError::NoSocket(_))));
        assert_eq!(fs::read(folder.socket()).unwrap(), b"mine");
    }

    #[test]
    fn a_directory_that_is_not_there_is_not_made() {
        let folder = Folder::new();
        let path = folder.0.join("run").join("admin.sock");
        assert!(matches!(bind_unix(&path), Err(UnixError::NoDirectory(_))));
        assert!(!folder.0.join("run").exists());
    }

    #[test]
    fn the_socket_of_a_successor_is_not_removed() {
        let folder = Folder::new();
        let (_listener, place) = bind_unix(&folder.socket()).unwrap();
        fs::rename(folder.socket(), folder.0.join("moved")).unwrap();
        let (_successor, _its_place) = bind_unix(&folder.socket()).unwrap();
        drop(place);
        assert!(folder.socket().exists());
    }
}
