//! Records that prove themselves: encrypted with AES-256-GCM, or, without a key, with a checksum. Either is bound to its
//! table and key, so that a record that was changed, torn or put elsewhere is refused. A record that is gone, or is an
//! older one of the same key, is not noticed here.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, rand,
};
use xxhash_rust::xxh64::Xxh64;

use super::{Batch, Durability, Records, Span, StorageBackend, Table};

/// Bytes of a key.
pub const KEY_LENGTH: usize = 32;

/// SHA-256 of `bytes`, in hexadecimal digits: by which people compare what two disks have.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key and the number by which records name it.
#[derive(Clone)]
pub struct SealKey {
    id: u8,
    key: Arc<LessSafeKey>,
}

impl SealKey {
    /// The key `bytes`, called `id` in the records that are sealed with it; 0 is not an id. A key must not have the id of
    /// another one as long as a record of either is left.
    #[must_use]
    pub fn new(id: u8, bytes: &[u8; KEY_LENGTH]) -> Option<Self> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).ok()?;
        (id != PLAIN).then(|| Self { id, key: Arc::new(LessSafeKey::new(key)) })
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SealKey({}, ***)", self.id)
    }
}

/// What records are sealed and opened with. Nonces are drawn by chance, so a key should seal at most 2^32 records (NIST
/// SP 800-38D, §8.3): years of writing, after which it is replaced.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Records are not encrypted, and have a checksum against accidents. Encrypted ones are not read.
    None,
    /// Records are encrypted.
    Some {
        /// What new records are sealed with.
        newest: SealKey,
        /// With what older ones may have been sealed.
        older: Vec<SealKey>,
        /// Whether those without encryption are read.
        plain: Plain,
    },
}

/// Whether a store with keys reads records that are not encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// It does: until all records are encrypted, after encryption was turned on. Whoever can write the file can then put
    /// records in it.
    Accepted,
    /// It does not.
    Refused,
}

/// `Inner` with records that prove themselves.
#[derive(Debug)]
pub struct Sealed<Inner> {
    inner: Inner,
    keys: Keys,
    /// Held by whoever writes: what is sealed anew must not come back after it was removed.
    order: Mutex<()>,
}

/// What became of a part of a table that was sealed anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Where to go on; `None` at the end of the table.
    pub next: Option<Vec<u8>>,
    /// Records that an older key was needed for, and is no more.
    pub records: u64,
    /// Bytes that were written.
    pub bytes: usize,
}

impl<Inner: StorageBackend> Sealed<Inner> {
    /// Records of `inner`, sealed and opened with `keys`.
    pub fn new(inner: Inner, keys: Keys) -> Self {
        Self { inner, keys, order: Mutex::default() }
    }

    /// Whether records may be there that need an older key, or none.
    #[must_use]
    pub fn may_have_older(&self) -> bool {
        match &self.keys {
            Keys::None => false,
            Keys::Some { older, plain, .. } => !older.is_empty() || *plain == Plain::Accepted,
        }
    }

    /// Seals with the newest key what is not sealed so of the first `limit` records from `from` on, and of no more than
    /// about a mebibyte of them. What it writes outlives a loss of power once a later batch does.
    ///
    /// # Errors
    /// If a record cannot be read, is damaged, or not be written; those before it may have been sealed anew.
    pub fn reseal(&self, table: Table, from: &[u8], limit: usize) -> io::Result<Resealed> {
        let Keys::Some { newest, .. } = &self.keys else { return Ok(Resealed::default()) };
        let mut done = Resealed::default();
        // It guards no value, so there is nothing that a panic could have left half done.
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut batch, mut looked) = (Batch::default(), 0);
        let mut next = Some(from.to_vec());
        while looked < limit
            && batch.bytes() < MAX_RESEALED
            && let Some(at) = next.take()
        {
            // One by one: a few of the largest records are more than should be held at once.
            let found = self.inner.range(table, Span { from: &at, before: None }, 1)?.pop();
            let Some((key, sealed)) = found else { break };
            looked += 1;
            if sealed.first() != Some(&newest.id) {
                let value = self.seal(table, &key, self.open(table, &key, &sealed)?)?;
                batch.put(table, key.clone(), value);
                done.records += 1;
            }
            // The key after this one.
            next = Some([&key[..], &[0]].concat());
        }
        done.bytes = batch.bytes();
        done.next = next;
        if !batch.is_empty() {
            self.inner.apply(batch, Durability::Relaxed)?;
        }
        Ok(done)
    }

    fn seal(&self, table: Table, key: &[u8], mut value: Vec<u8>) -> io::Result<Vec<u8>> {
        match &self.keys {
            Keys::None => {
                let checksum = checksum(table, key, &value);
                let mut sealed = Vec::with_capacity(1 + value.len() + CHECKSUM);
                sealed.push(PLAIN);
                sealed.append(&mut value);
                sealed.extend_from_slice(&checksum);
                Ok(sealed)
            }
            Keys::Some { newest, .. } => {
                let failed = |_| io::Error::other("sealing a record failed");
                let mut nonce = [0; NONCE_LEN];
                rand::fill(&mut nonce).map_err(failed)?;
                let associated = Aad::from(place(table, key, newest.id));
                let nonce_used = Nonce::assume_unique_for_key(nonce);
                newest.key.seal_in_place_append_tag(nonce_used, associated, &mut value).map_err(failed)?;
                let mut sealed = Vec::with_capacity(1 + NONCE_LEN + value.len());
                sealed.push(newest.id);
                sealed.extend_from_slice(&nonce);
                sealed.append(&mut value);
                Ok(sealed)
            }
        }
    }

    fn open(&self, table: Table, key: &[u8], sealed: &[u8]) -> io::Result<Vec<u8>> {
        self.try_open(table, key, sealed).map_err(|why| {
            let message = format!("record {} of table {table}: {why}", key.escape_ascii());
            io::Error::new(io::ErrorKind::InvalidData, message)
        })
    }

    fn try_open(&self, table: Table, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Refused> {
        let (id, rest) = sealed.split_first().ok_or(Refused::Short)?;
        match (&self.keys, *id) {
            (Keys::None | Keys::Some { plain: Plain::Accepted, .. }, PLAIN) => {
                let (value, found) = rest.split_last_chunk::<CHECKSUM>().ok_or(Refused::Short)?;
                if *found == checksum(table, key, value) {
                    Ok(value.to_vec())
                } else {
                    Err(Refused::Checksum)
                }
            }
            (Keys::Some { plain: Plain::Refused, .. }, PLAIN) => Err(Refused::Plain),
            (Keys::None, id) => Err(Refused::Key(id)),
            (Keys::Some { newest, older, .. }, id) => {
                let known = std::iter::once(newest).chain(older).find(|known| known.id == id);
                let known = known.ok_or(Refused::Key(id))?;
                let (nonce, value) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Refused::Short)?;
                let mut value = value.to_vec();
                let associated = Aad::from(place(table, key, id));
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let opened = known.key.open_in_place(nonce, associated, &mut value);
                let length = opened.map_err(|_| Refused::Seal)?.len();
                value.truncate(length);
                Ok(value)
            }
        }
    }
}

impl<Inner: StorageBackend> StorageBackend for Sealed<Inner> {
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.inner.get(table, key)?.map(|sealed| self.open(table, key, &sealed)).transpose()
    }

    fn range(&self, table: Table, span: Span<'_>, limit: usize) -> io::Result<Records> {
        let mut records = self.inner.range(table, span, limit)?;
        for (key, value) in &mut records {
            *value = self.open(table, key, value)?;
        }
        Ok(records)
    }

    fn last_key(&self, table: Table) -> io::Result<Option<Vec<u8>>> {
        self.inner.last_key(table)
    }

    fn apply(&self, batch: Batch, durability: Durability) -> io::Result<()> {
        let sealed = batch.try_map(|table, key, value| self.seal(table, key, value))?;
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.apply(sealed, durability)
    }
}

/// Why a record is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("it is cut short")]
    Short,
    #[error("its checksum does not match")]
    Checksum,
    #[error("it was changed, or sealed with another key of the same number")]
    Seal,
    #[error("it is sealed with key {0}, which this store was not given")]
    Key(u8),
    #[error("it is not encrypted, as the records of this store have to be")]
    Plain,
}

/// What a record is bound to. The table has a fixed length, so no two places look the same.
fn place(table: Table, key: &[u8], id: u8) -> Vec<u8> {
    let mut place = Vec::with_capacity(2 + key.len());
    place.push(id);
    place.push(number(table));
    place.extend_from_slice(key);
    place
}

fn checksum(table: Table, key: &[u8], value: &[u8]) -> [u8; CHECKSUM] {
    let mut hash = Xxh64::new(0);
    hash.update(&place(table, key, PLAIN));
    // The length of the key keeps its end apart from the value's begin.
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(value);
    hash.digest().to_le_bytes()
}

/// Part of what is on disk.
const fn number(table: Table) -> u8 {
    match table {
        Table::Log => 1,
        Table::Meta => 2,
        Table::Snapshot => 3,
    }
}

/// The id of no key: a record that is not encrypted.
const PLAIN: u8 = 0;

const CHECKSUM: usize = 8;

/// Bytes that are sealed anew at once: the writers of the log wait for so much.
const MAX_RESEALED: usize = 1024 * 1024;
