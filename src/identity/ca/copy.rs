//! Copies of an authority that are kept elsewhere: what is in one, which may take the place of which, and a directory made
//! of one. Who carries them, and where to, is not known here.
//!
//! A copy has a number and a mark that is drawn by chance; the directory notes both before the copy leaves it. The next one
//! has the next number, and there is none before the last was seen where it belongs. Who makes a directory out of a copy
//! begins a term: its numbers come after all of the terms before. So a copy of this authority that is found there and was
//! not made here says who holds it: with an earlier number it is an old one that somebody put back, and any other one was
//! made by a directory that has taken over, or that this one is an old backup of. ADR 0035.

use std::{
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::{
    Stamp,
    authority::{Authority, open_issuer},
    error::CaError,
    files::{self, Mode, failed},
    hex,
    names::{random, sha256},
    seal::{Keys, MasterKey},
    state::{Crl, State},
};

/// The key under which the store of a mesh keeps the copy.
pub const COPY_KEY: &str = "outrigger/authority";

/// What is to be done with the copy that is kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextCopy {
    /// Nothing: it is of the state as it is.
    UpToDate,
    /// This is to take its place, if it is still the one that was told.
    Put(Vec<u8>),
}

/// What a copy is called. Later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CopyNumber {
    /// How often the authority was restored.
    pub term: u64,
    /// Counts from 1 over the life of the authority.
    pub number: u64,
}

impl fmt::Display for CopyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.number)
    }
}

/// Which copy of an authority was made last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyStatus {
    /// The copy.
    pub last: CopyNumber,
    /// Whether it was seen where it belongs.
    pub is_kept: bool,
    /// Whether it is of the state as it is.
    pub is_current: bool,
    /// The copy by which this directory was found not to hold the authority.
    pub superseded_by: Option<CopyNumber>,
}

/// What a directory was made of.
pub struct Restored {
    /// The authority.
    pub authority: Authority,
    /// When the copy was made.
    pub made_at: Stamp,
}

impl Authority {
    /// What is to be kept elsewhere in the place of `found`, which is what is kept there now. What is there and is no copy at
    /// all is replaced; so is an earlier copy of this authority that somebody has put back.
    ///
    /// # Errors
    /// [`CaError::Superseded`] if another directory has taken over, or this one is older than what is there: from then on it
    /// refuses all changes, also after a restart. [`CaError::WrongKey`], [`CaError::OtherAuthority`] and
    /// [`CaError::OtherVersion`] if there is a copy that nothing is to take the place of. And as [`Authority::open`].
    pub fn next_copy(&self, found: Option<&[u8]>, now: SystemTime) -> Result<NextCopy, CaError> {
        let _lock = self.lock()?;
        self.is_holder()?;
        let noted = self.note()?.unwrap_or_default();
        let state = self.state()?;
        let digest = digest(&state)?;
        let next = match self.found(found)? {
            Some(copy) if !copy.is_of(&state) => return Err(CaError::OtherAuthority(copy.number)),
            Some(copy) if copy.number == noted.number && copy.mark == noted.mark => {
                let kept =
                    Note { is_kept: true, restored_from: None, digest: copy.digest.clone(), ..noted.clone() };
                if kept != noted {
                    self.write_note(&kept)?;
                }
                if copy.digest == digest {
                    return Ok(NextCopy::UpToDate);
                }
                kept.following(digest)?
            }
            Some(copy) if copy.number >= noted.number => {
                self.write_note(&Note { superseded_by: Some(copy.number), ..noted })?;
                return Err(self.superseded(copy.number));
            }
            Some(copy) if noted.restored_from.is_some_and(|from| copy.number > from) => {
                tracing::warn!(
                    there = %copy.number,
                    "the store has a later copy of the authority than the one that this directory was made of: what was \
                     issued and revoked in between is not known here"
                );
                Note { digest, ..noted }
            }
            // Until the last one was seen there, whatever takes its place is the same one: if it were the next, another
            // directory could have made one with the number of the last.
            Some(_) | None if !noted.is_kept && noted.number.number > 0 => Note { digest, ..noted },
            Some(_) | None => noted.following(digest)?,
        };
        let copy = self.copy(&next, &state, now.into())?;
        self.write_note(&next)?;
        Ok(NextCopy::Put(copy))
    }

    /// Makes a directory out of a copy: it holds the authority as soon as its first copy is where the one that it is made of
    /// was; the one that held it before refuses all changes when it learns of that. The directory must be empty or not
    /// exist; an attempt that was interrupted may be repeated.
    ///
    /// # Errors
    /// [`CaError::Damaged`], [`CaError::OtherVersion`] and [`CaError::WrongKey`] for the copy; nothing was made then.
    /// [`CaError::Exists`], [`CaError::NotEmpty`], and whatever goes wrong with files.
    pub fn restore(
        directory: &Path,
        master: &MasterKey,
        copy: &[u8],
        now: SystemTime,
    ) -> Result<Restored, CaError> {
        let keys = Keys::derive(master)?;
        let body = keys.verify(COPY_MAGIC, copy, &place())?;
        let Content { label, mut state, keys: sealed } =
            serde_json::from_slice(body).map_err(other_version)?;
        state.check().map_err(other_version)?;
        let key_of = |generation: u32| {
            let key = sealed.iter().find(|key| key.root == generation);
            key.and_then(|key| hex::decode_all(&key.sealed))
                .ok_or_else(|| other_version("a key is not in it"))
        };
        let roots = state.roots.iter().map(|root| {
            let key = key_of(root.generation)?;
            open_issuer(&keys, root, &key, &place())?;
            Ok((root.generation, key))
        });
        let roots = roots.collect::<Result<Vec<_>, CaError>>()?;
        let (_lock, authority) = Self::begin(directory, keys, &state.trust_domain.clone())?;
        for (generation, key) in roots {
            authority.write_key(generation, &key)?;
        }
        let number = CopyNumber { term: label.number.term + 1, number: label.number.number };
        let first = Note { number, ..Note::default() }.following(String::new())?;
        authority.write_note(&Note { restored_from: Some(label.number), ..first })?;
        // After the copy there may have been other lists. New ones have later numbers.
        state.crl = Crl { made_at: Stamp::from_unix(0), ..state.crl };
        authority.commit(None, state, now.into())?;
        Ok(Restored { authority, made_at: Stamp::from_unix(label.made_at) })
    }

    /// Whether copies of it were made. Says nothing about their condition.
    #[must_use]
    pub fn has_copies(&self) -> bool {
        self.directory().join(NOTE).exists()
    }

    /// Which copy was made last, and how `state` is to it; `None` if there was none.
    pub(super) fn copied(&self, state: &State) -> Result<Option<CopyStatus>, CaError> {
        let Some(note) = self.note()? else { return Ok(None) };
        Ok(Some(CopyStatus {
            last: note.number,
            is_kept: note.is_kept,
            is_current: note.digest == digest(state)?,
            superseded_by: note.superseded_by,
        }))
    }

    /// Whether this directory still holds the authority, as far as it knows. Cheap enough to be asked every second.
    ///
    /// # Errors
    /// [`CaError::Superseded`] if it does not; [`CaError::File`] and [`CaError::Damaged`] if that cannot be found out.
    pub fn is_holder(&self) -> Result<(), CaError> {
        match self.note()?.and_then(|note| note.superseded_by) {
            Some(copy) => Err(self.superseded(copy)),
            None => Ok(()),
        }
    }

    /// What is known of the copy that is there; `None` if it is none.
    fn found(&self, found: Option<&[u8]>) -> Result<Option<Label>, CaError> {
        match found.map(|copy| self.keys().verify(COPY_MAGIC, copy, &place())).transpose() {
            Ok(body) => {
                let labelled =
                    body.map(|body| serde_json::from_slice::<Labelled>(body).map_err(other_version));
                Ok(labelled.transpose()?.map(|labelled| labelled.label))
            }
            Err(CaError::Damaged { why, .. }) => {
                tracing::warn!(
                    why,
                    "what is kept in the place of the authority's copy is none: it is replaced"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn copy(&self, note: &Note, state: &State, now: Stamp) -> Result<Vec<u8>, CaError> {
        let keys = state.roots.iter().map(|root| {
            let sealed = self.sealed_key(root.generation)?;
            Ok(SealedKey { root: root.generation, sealed: hex::encode(&sealed) })
        });
        let label = Label {
            number: note.number,
            mark: note.mark.clone(),
            made_at: now.unix(),
            roots: fingerprints(state).collect(),
            digest: note.digest.clone(),
        };
        let content = Content { label, keys: keys.collect::<Result<_, CaError>>()?, state: slim(state, now) };
        let body = serde_json::to_vec(&content).map_err(|source| failed("write", &place(), source.into()))?;
        Ok(self.keys().sign(COPY_MAGIC, &body))
    }

    fn superseded(&self, copy: CopyNumber) -> CaError {
        CaError::Superseded { directory: self.directory().to_owned(), copy }
    }

    fn note(&self) -> Result<Option<Note>, CaError> {
        let path = self.directory().join(NOTE);
        let file = match files::read(&path, MAX_NOTE) {
            Err(CaError::File { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let body = self.keys().verify(NOTE_MAGIC, &file, &path)?;
        let note = serde_json::from_slice(body);
        note.map(Some).map_err(|error| CaError::OtherVersion {
            what: path.display().to_string(),
            why: error.to_string(),
        })
    }

    fn write_note(&self, note: &Note) -> Result<(), CaError> {
        let path = self.directory().join(NOTE);
        let body = serde_json::to_vec(note).map_err(|source| failed("write", &path, source.into()))?;
        files::write(&path, &self.keys().sign(NOTE_MAGIC, &body), Mode::Private)
    }
}

/// What a directory knows of the copies that it made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    /// Of the last one. 0: there was none.
    number: CopyNumber,
    /// 32 hexadecimal digits.
    mark: String,
    /// Of the state that it is of.
    digest: String,
    /// It was seen where it belongs.
    is_kept: bool,
    /// The copy that the directory was made of, until its first own one was seen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    restored_from: Option<CopyNumber>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    superseded_by: Option<CopyNumber>,
}

impl Note {
    /// Of the next copy.
    fn following(&self, digest: String) -> Result<Self, CaError> {
        let CopyNumber { term, number } = self.number;
        Ok(Self {
            number: CopyNumber { term, number: number.saturating_add(1) },
            mark: hex::encode(&random::<16>()?),
            digest,
            is_kept: false,
            restored_from: None,
            superseded_by: None,
        })
    }
}

/// What of a copy every version understands: by this it is decided who holds the authority.
#[derive(Debug, Serialize, Deserialize)]
struct Label {
    number: CopyNumber,
    mark: String,
    /// Seconds since 1970.
    made_at: u64,
    /// Fingerprints of the roots.
    roots: Vec<String>,
    /// Of the state that it was made of, all of it.
    digest: String,
}

impl Label {
    /// Whether it is a copy of the authority that has this state. One whose roots were all changed since is not known
    /// again; nobody believes it any more either.
    fn is_of(&self, state: &State) -> bool {
        fingerprints(state).any(|root| self.roots.contains(&root))
    }
}

/// A copy, and whatever else is in it.
#[derive(Debug, Deserialize)]
struct Labelled {
    label: Label,
}

/// What is in a copy.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    label: Label,
    state: State,
    /// One for each root.
    keys: Vec<SealedKey>,
}

/// The private key of a root, encrypted as in its file.
#[derive(Debug, Serialize, Deserialize)]
struct SealedKey {
    root: u32,
    /// Hexadecimal digits.
    sealed: String,
}

/// What is worth a place in a copy: nothing that has ended, and no lists, which are made anew.
fn slim(state: &State, now: Stamp) -> State {
    let mut slim = state.clone();
    slim.leaves.retain(|leaf| leaf.not_after > now);
    slim.tokens.retain(|token| token.is_usable(now));
    slim.crl.pem.clear();
    slim.crl.revoked.clear();
    slim
}

fn digest(state: &State) -> Result<String, CaError> {
    let body = serde_json::to_vec(state).map_err(|source| failed("write", &place(), source.into()))?;
    Ok(hex::encode(&sha256(&body)))
}

fn fingerprints(state: &State) -> impl Iterator<Item = String> {
    state.roots.iter().map(|root| root.fingerprint.to_string())
}

fn other_version(why: impl fmt::Display) -> CaError {
    CaError::OtherVersion { what: place().display().to_string(), why: why.to_string() }
}

/// Stands for the path of a file in errors.
fn place() -> PathBuf {
    PathBuf::from("the copy of the authority")
}

/// The file with the [`Note`].
pub(super) const NOTE: &str = "copy.state";
const NOTE_MAGIC: &str = "outrigger-ca-copied 1 hmac-sha256";
const COPY_MAGIC: &str = "outrigger-ca-copy 1 hmac-sha256";
/// A note has less than 500 bytes.
const MAX_NOTE: u64 = 4096;
