//! The directory of a certificate authority: what lies where, how it is opened, and how one change becomes one rename.
//!
//! | file | what it is |
//! |---|---|
//! | `ca.state` | the truth: everything but the keys, as JSON behind a line that authenticates it |
//! | `root-N.key` | the private key of root N, encrypted |
//! | `root-N.pem`, `bundle.pem`, `crl.pem` | copies for others out of the state; never read back |
//! | `copy.state` | which copy of it was last kept elsewhere (copy.rs) |
//! | `lock` | locked by the process that changes something |
//!
//! A key is written before the state that needs it and removed after the state that does not. Copies are written after
//! it. So a crash leaves at most a key that nobody needs or an old copy, and the next change puts that right.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{Issuer, KeyPair};

use super::{
    Stamp, copy, crl,
    error::CaError,
    files::{self, Lock, Mode, failed},
    root,
    seal::{Keys, MasterKey},
    state::{Crl, Root, State},
};
use crate::types::TrustDomain;

/// What is decided when an authority is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// Whose identities it signs.
    pub trust_domain: TrustDomain,
    /// Lifetime of a leaf unless an order says another: from a minute to that of a root.
    pub leaf_ttl: Duration,
    /// Lifetime of a root: from an hour to fifty years.
    pub root_ttl: Duration,
    /// How long a list of revoked certificates is good for: from an hour to a year.
    pub crl_ttl: Duration,
}

/// A certificate authority in a directory. Holds no state between calls: each reads what is there, so that several
/// processes may work on one authority, and each change waits for its turn.
pub struct Authority {
    directory: PathBuf,
    keys: Keys,
    trust_domain: TrustDomain,
}

impl Authority {
    /// Whether there is one in this directory. Says nothing about its condition.
    #[must_use]
    pub fn is_in(directory: &Path) -> bool {
        directory.join(STATE).exists()
    }

    /// Makes one, with its first root, in a directory that is empty or does not exist. An attempt that was interrupted
    /// may be repeated.
    ///
    /// # Errors
    /// [`CaError::Exists`] if there is one, [`CaError::NotEmpty`], [`CaError::Lifetime`], and whatever goes wrong with
    /// files.
    pub fn init(
        directory: &Path,
        master: &MasterKey,
        params: &Params,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let now = Stamp::from(now);
        check_lifetime("root", params.root_ttl, HOUR, 50 * YEAR)?;
        check_lifetime("certificate", params.leaf_ttl, MINUTE, params.root_ttl)?;
        check_lifetime("list of revoked certificates", params.crl_ttl, HOUR, YEAR)?;
        let (_lock, authority) = Self::begin(directory, Keys::derive(master)?, &params.trust_domain)?;
        let first = authority.make_root(1, params.root_ttl, now)?;
        let state = State {
            trust_domain: params.trust_domain.clone(),
            leaf_ttl_s: params.leaf_ttl.as_secs(),
            root_ttl_s: params.root_ttl.as_secs(),
            crl_ttl_s: params.crl_ttl.as_secs(),
            signing: first.generation,
            roots: vec![first],
            crl: Crl::none(),
            leaves: Vec::new(),
            tokens: Vec::new(),
        };
        authority.commit(None, state, now)?;
        Ok(authority)
    }

    /// A directory for one that has no state yet.
    pub(super) fn begin(
        directory: &Path,
        keys: Keys,
        trust_domain: &TrustDomain,
    ) -> Result<(Lock, Self), CaError> {
        files::make_directory(directory)?;
        if files::names(directory)?.iter().any(|name| !is_ours(name)) {
            return Err(CaError::NotEmpty(directory.to_owned()));
        }
        let lock = Lock::take(directory)?;
        if Self::is_in(directory) {
            return Err(CaError::Exists(directory.to_owned()));
        }
        // Of an attempt to restore another one, perhaps.
        files::remove(&directory.join(copy::NOTE))?;
        fs::set_permissions(directory, Permissions::from_mode(0o700))
            .map_err(|source| failed("protect", directory, source))?;
        Ok((lock, Self { directory: directory.to_owned(), keys, trust_domain: trust_domain.clone() }))
    }

    /// Opens one, and reads its state once to find out whether that can be done.
    ///
    /// # Errors
    /// [`CaError::Absent`], [`CaError::WrongKey`], [`CaError::Damaged`], [`CaError::File`].
    pub fn open(directory: &Path, master: &MasterKey) -> Result<Self, CaError> {
        if !Self::is_in(directory) {
            return Err(CaError::Absent(directory.to_owned()));
        }
        let keys = Keys::derive(master)?;
        let trust_domain = load(directory, &keys)?.trust_domain;
        Ok(Self { directory: directory.to_owned(), keys, trust_domain })
    }

    /// Whose identities it signs.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The certificates of all trusted roots, in PEM: what peers verify each other against.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn bundle(&self) -> Result<String, CaError> {
        Ok(self.state()?.bundle())
    }

    /// The state as it is now. Needs no lock, since it is replaced as a whole.
    pub(super) fn state(&self) -> Result<State, CaError> {
        load(&self.directory, &self.keys)
    }

    /// Changes the state, as one step: what `change` returns counts only if all was written. An error of `change` leaves
    /// everything as it was. Returns the state that is in force then.
    pub(super) fn change<T>(
        &self,
        now: Stamp,
        change: impl FnOnce(&mut State) -> Result<T, CaError>,
    ) -> Result<(T, State), CaError> {
        let _lock = self.lock()?;
        self.is_holder()?;
        let before = self.state()?;
        let mut state = before.clone();
        let value = change(&mut state)?;
        state.prune(now);
        let state = self.commit(Some(&before), state, now)?;
        Ok((value, state))
    }

    /// Makes a root and writes its key. Until a state names it, it is nothing but a file that will be overwritten.
    pub(super) fn make_root(&self, generation: u32, ttl: Duration, now: Stamp) -> Result<Root, CaError> {
        let (root, key) = root::make(&self.trust_domain, generation, ttl, now)?;
        let sealed = self.keys.seal(&key_purpose(generation), key.serialized_der())?;
        self.write_key(generation, &sealed)?;
        Ok(root)
    }

    /// Writes the key of a root, encrypted as it is kept.
    pub(super) fn write_key(&self, generation: u32, sealed: &[u8]) -> Result<(), CaError> {
        files::write(&self.key_path(generation), sealed, Mode::Private)
    }

    /// The key of a root, encrypted as it is kept.
    pub(super) fn sealed_key(&self, generation: u32) -> Result<Vec<u8>, CaError> {
        files::read(&self.key_path(generation), MAX_KEY_FILE)
    }

    /// The root with its key, to sign with.
    pub(super) fn issuer(&self, root: &Root) -> Result<Issuer<'static, KeyPair>, CaError> {
        open_issuer(&self.keys, root, &self.sealed_key(root.generation)?, &self.key_path(root.generation))
    }

    /// Copies for others that are not what the state says.
    pub(super) fn stale_copies(&self, state: &State) -> Vec<PathBuf> {
        let copies = self.copies(state).into_iter();
        copies.filter(|(path, content)| !is_content(path, content)).map(|(path, _)| path).collect()
    }

    pub(super) fn state_file(&self) -> PathBuf {
        self.directory.join(STATE)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Waits for the turn to change something.
    pub(super) fn lock(&self) -> Result<Lock, CaError> {
        Lock::take(&self.directory)
    }

    /// Writes `state`, and what follows from it, if it is another than `before`. For whoever holds the lock.
    pub(super) fn commit(
        &self,
        before: Option<&State>,
        mut state: State,
        now: Stamp,
    ) -> Result<State, CaError> {
        if let Some(crl) = crl::due(&state, |root| self.issuer(root), now)? {
            state.crl = crl;
        }
        for (what, count) in [("certificates", state.leaves.len()), ("join tokens", state.tokens.len())] {
            if count > MOST {
                return Err(CaError::Full { what, most: MOST });
            }
        }
        if before != Some(&state) {
            let path = self.directory.join(STATE);
            let body =
                serde_json::to_vec_pretty(&state).map_err(|source| failed("write", &path, source.into()))?;
            files::write(&path, &self.keys.sign(STATE_MAGIC, &body), Mode::Private)?;
        }
        for (path, content) in self.copies(&state) {
            if !is_content(&path, &content) {
                files::write(&path, content.as_bytes(), Mode::Private)?;
            }
        }
        for name in files::names(&self.directory)? {
            let is_needed = |generation: u32| state.roots.iter().any(|root| root.generation == generation);
            if root_of(&name).is_some_and(|generation| !is_needed(generation)) {
                files::remove(&self.directory.join(name))?;
            }
        }
        Ok(state)
    }

    fn copies(&self, state: &State) -> Vec<(PathBuf, String)> {
        let file = |name: &str| self.directory.join(name);
        let roots = state.roots.iter();
        let roots =
            roots.map(|root| (file(&format!("root-{}.pem", root.generation)), root.certificate.clone()));
        let others = [(file("bundle.pem"), state.bundle()), (file("crl.pem"), state.crl.pem.clone())];
        roots.chain(others).collect()
    }

    fn key_path(&self, generation: u32) -> PathBuf {
        self.directory.join(format!("root-{generation}.key"))
    }
}

/// A root with its key as it is kept. `path` is where the key was read, for the error.
pub(super) fn open_issuer(
    keys: &Keys,
    root: &Root,
    sealed: &[u8],
    path: &Path,
) -> Result<Issuer<'static, KeyPair>, CaError> {
    root::issuer(root, &keys.open(&key_purpose(root.generation), sealed, path)?, path)
}

fn key_purpose(generation: u32) -> String {
    format!("private key of root {generation}")
}

fn load(directory: &Path, keys: &Keys) -> Result<State, CaError> {
    let path = directory.join(STATE);
    let file = files::read(&path, MAX_STATE)?;
    let body = keys.verify(STATE_MAGIC, &file, &path)?;
    let damaged = |why: String| CaError::Damaged { path: path.clone(), why };
    let state: State = serde_json::from_slice(body)
        .map_err(|error| damaged(format!("it is of another version: {error}")))?;
    state.check().map_err(|why| damaged(why.to_owned()))?;
    Ok(state)
}

pub(super) fn check_lifetime(
    of: &'static str,
    ttl: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), CaError> {
    if (least..=most).contains(&ttl) {
        return Ok(());
    }
    let [least, most] = [least, most].map(humantime::format_duration);
    Err(CaError::Lifetime { of, least, most })
}

fn is_content(path: &Path, content: &str) -> bool {
    files::read(path, MAX_STATE).is_ok_and(|found| found == content.as_bytes())
}

/// What an authority, or an attempt to make one, leaves in its directory.
fn is_ours(name: &str) -> bool {
    let name = name.strip_prefix('.').and_then(|name| name.strip_suffix(".draft")).unwrap_or(name);
    [STATE, copy::NOTE, "lock", "bundle.pem", "crl.pem"].contains(&name) || root_of(name).is_some()
}

/// The generation of the root that a file belongs to.
fn root_of(name: &str) -> Option<u32> {
    let stem = name.strip_prefix("root-")?;
    stem.strip_suffix(".key").or_else(|| stem.strip_suffix(".pem"))?.parse().ok()
}

const STATE: &str = "ca.state";
const STATE_MAGIC: &str = "outrigger-ca-state 1 hmac-sha256";
/// Three times what [`MOST`] certificates take.
const MAX_STATE: u64 = 128 * 1024 * 1024;
/// A sealed key of P-256 has 250 bytes.
const MAX_KEY_FILE: u64 = 16 * 1024;
/// Certificates that have not ended, and as many tokens. The state is written anew with each one.
const MOST: usize = 100_000;

pub(super) const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
