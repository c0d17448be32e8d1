//! Copies of an authority that are kept elsewhere: what is in one, which may take the place of which, and a directory made
//! of one. Who carries them, and where to, is not known here.
//!
//! A copy has a number and a mark that is drawn by chance; the directory notes both before the copy leaves it. The next one
//! has the next number, and there is none before the last was seen where it belongs. So a copy that is found there and was
//! not made here says who holds the authority: with an earlier number it is an old one that somebody put back, and any
//! other one was made by a directory that has taken over. ADR 0035.

use std::{
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
    names::random,
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

/// Which copy of an authority was made last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyStatus {
    /// Counts from 1 over the life of the authority, whoever holds it.
    pub number: u64,
    /// Whether it was seen where it belongs. The authority may have changed since.
    pub is_kept: bool,
    /// The copy by which another directory was found to hold the authority.
    pub superseded_by: Option<u64>,
}

impl Authority {
    /// What is to be kept elsewhere in the place of `found`, which is what is kept there now. What is there and is no copy at
    /// all is replaced; so is an earlier copy that somebody has put back.
    ///
    /// # Errors
    /// [`CaError::Superseded`] if another directory has taken over: from then on this one refuses all changes, also after
    /// a restart. [`CaError::WrongKey`] if a copy is there that another key made: nothing is to take its place. And as
    /// [`Authority::open`].
    pub fn next_copy(&self, found: Option<&[u8]>) -> Result<NextCopy, CaError> {
        let _lock = self.lock()?;
        self.is_holder()?;
        let noted = self.note()?.unwrap_or_default();
        let found = match found.map(|copy| Content::read(copy, self.keys())).transpose() {
            Err(CaError::Damaged { why, .. }) => {
                tracing::warn!(
                    why,
                    "what is kept in the place of the authority's copy is none: it is replaced"
                );
                None
            }
            found => found?,
        };
        let state = self.state()?;
        let next = match found {
            Some(copy) if copy.number == noted.number && copy.mark == noted.mark => {
                let is_same = copy.state == state;
                if !noted.is_kept {
                    self.write_note(&Note { is_kept: true, ..noted.clone() })?;
                }
                if is_same {
                    return Ok(NextCopy::UpToDate);
                }
                noted.following()?
            }
            Some(copy) if copy.number >= noted.number => {
                self.write_note(&Note { superseded_by: Some(copy.number), ..noted })?;
                return Err(self.superseded(copy.number));
            }
            // Until the last one was seen there, whatever takes its place is the same one: if it were the next, another
            // directory could have made one with the number of the last.
            Some(_) | None if !noted.is_kept && noted.number > 0 => noted,
            Some(_) | None => noted.following()?,
        };
        let keys = state.roots.iter().map(|root| {
            let sealed = self.sealed_key(root.generation)?;
            Ok(SealedKey { root: root.generation, sealed: hex::encode(&sealed) })
        });
        let keys = keys.collect::<Result<_, CaError>>()?;
        let content = Content { number: next.number, mark: next.mark.clone(), state, keys };
        let copy = content.write(self.keys())?;
        self.write_note(&next)?;
        Ok(NextCopy::Put(copy))
    }

    /// Makes a directory out of a copy: it holds the authority from then on. The one that the copy is of refuses all
    /// changes as soon as it learns of the first copy of the new one. The directory must be empty or not exist; an attempt
    /// that was interrupted may be repeated.
    ///
    /// # Errors
    /// [`CaError::Damaged`] and [`CaError::WrongKey`] for the copy; nothing was made then. [`CaError::Exists`],
    /// [`CaError::NotEmpty`], and whatever goes wrong with files.
    pub fn restore(
        directory: &Path,
        master: &MasterKey,
        copy: &[u8],
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let keys = Keys::derive(master)?;
        let Content { number, mark, mut state, keys: sealed } = Content::read(copy, &keys)?;
        let key_of = |generation: u32| {
            let key = sealed.iter().find(|key| key.root == generation);
            key.and_then(|key| hex::decode_all(&key.sealed)).ok_or_else(|| damaged("a key is not in it"))
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
        authority.write_note(&Note { number, mark, is_kept: true, superseded_by: None })?;
        // After the copy there may have been other lists. New ones have later numbers.
        state.crl = Crl { made_at: Stamp::from_unix(0), ..state.crl };
        authority.commit(None, state, now.into())?;
        Ok(authority)
    }

    /// Which copy was made last; `None` if there was none.
    pub(super) fn copied(&self) -> Result<Option<CopyStatus>, CaError> {
        let status = |note: Note| CopyStatus {
            number: note.number,
            is_kept: note.is_kept,
            superseded_by: note.superseded_by,
        };
        Ok(self.note()?.map(status))
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

    fn superseded(&self, copy: u64) -> CaError {
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
        note.map(Some)
            .map_err(|error| CaError::Damaged { path, why: format!("it is of another version: {error}") })
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
    number: u64,
    /// 32 hexadecimal digits.
    mark: String,
    /// It was seen where it belongs.
    is_kept: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    superseded_by: Option<u64>,
}

impl Note {
    /// Of the next copy.
    fn following(&self) -> Result<Self, CaError> {
        let mark = hex::encode(&random::<16>()?);
        Ok(Self { number: self.number.saturating_add(1), mark, is_kept: false, superseded_by: None })
    }
}

/// What is in a copy.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    number: u64,
    mark: String,
    state: State,
    /// One for each root.
    keys: Vec<SealedKey>,
}

/// The private key of a root, encrypted as in its file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedKey {
    root: u32,
    /// Hexadecimal digits.
    sealed: String,
}

impl Content {
    fn read(copy: &[u8], keys: &Keys) -> Result<Self, CaError> {
        let body = keys.verify(COPY_MAGIC, copy, &place())?;
        let content: Self = serde_json::from_slice(body)
            .map_err(|error| damaged(&format!("it is of another version: {error}")))?;
        content.state.check().map_err(damaged)?;
        Ok(content)
    }

    fn write(&self, keys: &Keys) -> Result<Vec<u8>, CaError> {
        let body = serde_json::to_vec(self).map_err(|source| failed("write", &place(), source.into()))?;
        Ok(keys.sign(COPY_MAGIC, &body))
    }
}

fn damaged(why: &str) -> CaError {
    CaError::Damaged { path: place(), why: why.to_owned() }
}

/// Stands for the path of a file in errors.
fn place() -> PathBuf {
    PathBuf::from("the copy of the authority")
}

/// The file with the [`Note`].
pub(super) const NOTE: &str = "copy.state";
const NOTE_MAGIC: &str = "outrigger-ca-copied 1 hmac-sha256";
const COPY_MAGIC: &str = "outrigger-ca-copy 1 hmac-sha256";
/// A note has less than 300 bytes.
const MAX_NOTE: u64 = 4096;
