//! What a member keeps over restarts, in its data directory: who it is, which start this is, and its keyring. Two processes
//! cannot use one directory at a time.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{
    GossipKey, MemberId,
    core::{
        envelope::{Keyring, MAX_KEYS},
        packet::MAX_LIFE,
    },
};
use crate::identity::{
    FileError,
    bounded_file::{self, Readers},
    ca::replace_private,
};

const LOCK: &str = "lock";
const NODE: &str = "node";
const KEYS: &str = "keyring";

/// The data directory cannot be used; nothing in it has changed.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Somebody else uses it.
    #[error("{0} is in use by another process: each sidecar needs a `mesh.data_dir` of its own")]
    InUse(PathBuf),
    /// It cannot be made or written.
    #[error("cannot use {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file in it cannot be read, or by too many.
    #[error(transparent)]
    Read(#[from] FileError),
    /// A file in it is not what was written there.
    #[error("{0} is damaged: remove it, and this node begins as a new one")]
    Damaged(PathBuf),
}

/// Where a member keeps what it is, if anywhere.
#[derive(Debug)]
pub(super) struct Home(Option<Kept>);

#[derive(Debug)]
struct Kept {
    directory: PathBuf,
    /// Held as long as this lives.
    _lock: File,
    /// The life that is written there, held by whoever writes: of two that come at once the later one stays.
    written: Mutex<u64>,
}

/// Who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) id: MemberId,
    pub(super) generation: u64,
}

impl Home {
    /// Takes `directory`, and makes it if it is not there. Blocks.
    pub(super) fn open(directory: Option<&Path>) -> Result<Self, HomeError> {
        let Some(directory) = directory else { return Ok(Self(None)) };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| HomeError::File { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory))?;
        let path = directory.join(LOCK);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self(Some(Kept {
                directory: directory.to_owned(),
                _lock: lock,
                written: Mutex::default(),
            }))),
            Err(fs::TryLockError::WouldBlock) => Err(HomeError::InUse(directory.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(HomeError::File { path, source }),
        }
    }

    /// Who this is: as before if that was kept, with a start later than all before; else somebody new, who is `fresh`.
    /// `now` is the time in microseconds since 1970. Blocks.
    ///
    /// If a life was kept after which there is only the last or none ([`MAX_LIFE`]), somebody forged it: the node begins with
    /// the time of day, as who it was. It starts, so that its application is served, whoever is asleep; it tells what to do if
    /// others do not listen yet; and it takes no other id, since its part in the store is under this one.
    pub(super) fn node(&self, fresh: MemberId, now: u64) -> Result<Node, HomeError> {
        let now = now.min(MAX_LIFE);
        let Some(kept) = &self.0 else { return Ok(Node { id: fresh, generation: now }) };
        let path = kept.directory.join(NODE);
        let node = match read(&path)? {
            Some(text) => {
                let mut words = text.split_whitespace();
                let id = words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
                let last = words.next().and_then(|word| word.parse::<u64>().ok());
                let (Some(id), Some(last)) = (id, last) else { return Err(HomeError::Damaged(path)) };
                let later = last.saturating_add(1);
                if later >= MAX_LIFE {
                    tracing::error!(
                        path = %path.display(),
                        "somebody with a gossip key has forged a life of this node that no other can follow; it begins with \
                         the time of day. Change the gossip key. If others take this node for dead, they listen to it a day \
                         after they heard of that life last, or at once if this file is deleted, which makes it a new member"
                    );
                }
                let generation = if later < MAX_LIFE { now.max(later) } else { now };
                Node { id: MemberId(id), generation }
            }
            None => Node { id: fresh, generation: now },
        };
        self.remember(node)?;
        Ok(node)
    }

    /// Keeps which life it is. Blocks.
    pub(super) fn remember(&self, node: Node) -> Result<(), HomeError> {
        let Some(kept) = &self.0 else { return Ok(()) };
        let mut written = kept.written.lock().unwrap_or_else(PoisonError::into_inner);
        if node.generation <= *written {
            return Ok(());
        }
        replace(&kept.directory.join(NODE), &format!("{} {}\n", node.id, node.generation))?;
        *written = node.generation;
        Ok(())
    }

    /// The keyring: as it was kept, whatever is configured since; `configured` alone if none was. Blocks.
    pub(super) fn keyring(&self, configured: &GossipKey) -> Result<Keyring, HomeError> {
        let Some(kept) = &self.0 else { return Ok(Keyring::new(configured.clone())) };
        let path = kept.directory.join(KEYS);
        let Some(text) = read(&path)? else { return Ok(Keyring::new(configured.clone())) };
        let keys: Result<Vec<GossipKey>, _> = text.lines().map(GossipKey::parse).collect();
        let keys = keys.map_err(|_| HomeError::Damaged(path.clone()))?;
        let (first, rest) = keys.split_first().ok_or_else(|| HomeError::Damaged(path.clone()))?;
        if rest.len() >= MAX_KEYS {
            return Err(HomeError::Damaged(path));
        }
        let mut keyring = Keyring::new(first.clone());
        rest.iter().for_each(|key| {
            keyring.install(key);
        });
        Ok(keyring)
    }

    /// Keeps the keyring; says whether there is anywhere to keep it. Blocks.
    pub(super) fn keep(&self, keyring: &Keyring) -> Result<bool, HomeError> {
        let Some(kept) = &self.0 else { return Ok(false) };
        let text: String = keyring.keys().map(|(_, key)| format!("{}\n", key.expose())).collect();
        let _turn = kept.written.lock().unwrap_or_else(PoisonError::into_inner);
        replace(&kept.directory.join(KEYS), &text).map(|()| true)
    }
}

/// Who the member in `directory` is, if one ever was there. Blocks; changes nothing.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn kept_id(directory: &Path) -> Result<Option<MemberId>, HomeError> {
    let path = directory.join(NODE);
    let Some(text) = read(&path)? else { return Ok(None) };
    let id = text.split_whitespace().next().and_then(|word| u64::from_str_radix(word, 16).ok());
    id.map(|id| Some(MemberId(id))).ok_or(HomeError::Damaged(path))
}

fn read(path: &Path) -> Result<Option<String>, HomeError> {
    match bounded_file::read(path, Readers::OwnerAndGroup) {
        Ok(content) => String::from_utf8(content).map(Some).map_err(|_| HomeError::Damaged(path.to_owned())),
        Err(FileError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HomeError::Read(error)),
    }
}

fn replace(path: &Path, text: &str) -> Result<(), HomeError> {
    let failed = |source| HomeError::File { path: path.to_owned(), source };
    replace_private(path, text.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("outrigger-home-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        fn open(&self) -> Home {
            Home::open(Some(&self.0)).unwrap()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn key(digit: &str) -> GossipKey {
        GossipKey::parse(&digit.repeat(64)).unwrap()
    }

    #[test]
    fn a_node_stays_who_it_is_and_each_start_is_later_even_if_the_clock_goes_back() {
        let directory = Directory::new("node");
        let first = directory.open().node(MemberId(1), 100).unwrap();
        let second = directory.open().node(MemberId(2), 50).unwrap();
        let third = directory.open().node(MemberId(3), 1000).unwrap();
        assert_eq!((first.id, second.id, third.id), (MemberId(1), MemberId(1), MemberId(1)));
        assert_eq!((first.generation, second.generation, third.generation), (100, 101, 1000));
    }

    #[test]
    fn after_a_forged_last_life_a_node_begins_with_the_time_of_day_as_who_it_was() {
        let directory = Directory::new("forged");
        let home = directory.open();
        for forged in [MAX_LIFE - 1, MAX_LIFE, u64::MAX] {
            replace(&directory.0.join(NODE), &format!("{} {forged}\n", MemberId(1))).unwrap();
            let begun = home.node(MemberId(2), 100).unwrap();
            assert_eq!(begun, Node { id: MemberId(1), generation: 100 }, "{forged}");
        }
        replace(&directory.0.join(NODE), &format!("{} {}\n", MemberId(1), MAX_LIFE - 2)).unwrap();
        assert_eq!(home.node(MemberId(2), 100).unwrap().generation, MAX_LIFE - 1);
    }

    #[test]
    fn of_two_lives_the_later_one_is_kept_whichever_is_written_last() {
        let directory = Directory::new("lives");
        let home = directory.open();
        let Node { id, .. } = home.node(MemberId(1), 100).unwrap();
        home.remember(Node { id, generation: 300 }).unwrap();
        home.remember(Node { id, generation: 200 }).unwrap();
        drop(home);
        assert_eq!(directory.open().node(MemberId(2), 0).unwrap().generation, 301);
    }

    #[test]
    fn without_a_directory_each_start_is_somebody_new() {
        let home = Home::open(None).unwrap();
        assert_eq!(home.node(MemberId(1), 5).unwrap(), Node { id: MemberId(1), generation: 5 });
        assert!(!home.keep(&Keyring::new(key("a"))).unwrap());
    }

    #[test]
    fn one_directory_is_for_one_process() {
        let directory = Directory::new("lock");
        let _home = directory.open();
        assert!(matches!(Home::open(Some(&directory.0)), Err(HomeError::InUse(_))));
    }

    #[test]
    fn a_kept_keyring_wins_over_the_configured_key() {
        let directory = Directory::new("keys");
        let home = directory.open();
        let mut keyring = home.keyring(&key("a")).unwrap();
        assert!(keyring.install(&key("b")) && keyring.promote(super::super::KeyMark::of(&key("b"))));
        assert!(home.keep(&keyring).unwrap());
        let marks = |keyring: &Keyring| keyring.keys().map(|(mark, _)| mark).collect::<Vec<_>>();
        assert_eq!(marks(&home.keyring(&key("a")).unwrap()), marks(&keyring));
        let mode = fs::metadata(directory.0.join(KEYS)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_damaged_or_open_to_all_is_refused() {
        let directory = Directory::new("damaged");
        let home = directory.open();
        for text in ["", "zz 1", "12", "12 x"] {
            replace(&directory.0.join(NODE), text).unwrap();
            assert!(matches!(home.node(MemberId(1), 1), Err(HomeError::Damaged(_))), "{text}");
        }
        for text in ["", "abc\n", &format!("{}\n", "a".repeat(63))] {
            replace(&directory.0.join(KEYS), text).unwrap();
            assert!(matches!(home.keyring(&key("a")), Err(HomeError::Damaged(_))), "{text}");
        }
        replace(&directory.0.join(KEYS), &"a".repeat(64)).unwrap();
        fs::set_permissions(directory.0.join(KEYS), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(home.keyring(&key("a")), Err(HomeError::Read(FileError::Exposed(_)))));
    }
}
