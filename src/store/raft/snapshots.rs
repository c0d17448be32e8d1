//! The newest snapshot as records: pieces, and then one record that says which pieces they are. That record changes from
//! one snapshot to the next at one moment, so there is always a whole one.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

use super::{codec, types::SnapshotMeta};
use crate::store::backend::{Batch, Durability, Span, StorageBackend, Table};

/// Keeps the newest snapshot.
#[derive(Debug)]
pub(super) struct Snapshots {
    backend: Arc<dyn StorageBackend>,
    /// Held by whoever writes one: openraft may build one while it takes another from the leader.
    writing: Mutex<()>,
}

/// Which snapshot takes the place of the one that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Any: the leader knows better.
    Always,
    /// One that goes at least as far; another is dropped, which is no error.
    Newer,
}

/// Says what the pieces are.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// Tells its pieces from those of others.
    number: u64,
    length: u64,
    checksum: u64,
    meta: SnapshotMeta,
}

impl Snapshots {
    pub(super) fn new(backend: &Arc<dyn StorageBackend>) -> Self {
        Self { backend: Arc::clone(backend), writing: Mutex::new(()) }
    }

    /// Keeps a snapshot instead of the one before. If it fails, the one before is still kept.
    pub(super) fn store(&self, meta: &SnapshotMeta, bytes: &[u8], which: Which) -> io::Result<()> {
        // It guards no value, so there is nothing that a panic could have left half done.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.head()?;
        let is_older = before.as_ref().is_some_and(|before| before.meta.last_log_id > meta.last_log_id);
        if which == Which::Newer && is_older {
            return Ok(());
        }
        let number = before.map_or(0, |before| before.number) + 1;
        // Pieces of one that was not finished may have the same number.
        let mut clear = Batch::default();
        clear.delete_span(Table::Snapshot, Span { from: &piece_key(number, 0), before: None });
        self.backend.apply(clear, Durability::Relaxed)?;
        for (piece, index) in bytes.chunks(PIECE).zip(0..) {
            let mut batch = Batch::default();
            batch.put(Table::Snapshot, piece_key(number, index), piece);
            // One commit each, so that the log's writes get their turn between them.
            self.backend.apply(batch, Durability::Durable)?;
        }
        let head = Head { number, length: bytes.len() as u64, checksum: xxh64(bytes, 0), meta: meta.clone() };
        let mut batch = Batch::default();
        batch.put(Table::Meta, HEAD, codec::encode(&head)?);
        batch.delete_span(Table::Snapshot, Span { from: &[], before: Some(&piece_key(number, 0)) });
        self.backend.apply(batch, Durability::Durable)
    }

    /// The snapshot that is kept.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if it is damaged or not whole.
    pub(super) fn load(&self) -> io::Result<Option<(SnapshotMeta, Vec<u8>)>> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(head) = self.head()? else { return Ok(None) };
        let mut bytes = Vec::new();
        for index in 0.. {
            if bytes.len() as u64 >= head.length {
                break;
            }
            let key = piece_key(head.number, index);
            let piece = self.backend.get(Table::Snapshot, &key)?.filter(|piece| !piece.is_empty());
            let piece = piece
                .ok_or_else(|| codec::damaged(Table::Snapshot, &key, "a piece of the snapshot is missing"))?;
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() as u64 != head.length || xxh64(&bytes, 0) != head.checksum {
            return Err(codec::damaged(Table::Meta, HEAD, "the snapshot is not as it was written"));
        }
        Ok(Some((head.meta, bytes)))
    }

    fn head(&self) -> io::Result<Option<Head>> {
        let record = self.backend.get(Table::Meta, HEAD)?;
        record.map(|bytes| codec::decode(Table::Meta, HEAD, &bytes)).transpose()
    }
}

fn piece_key(number: u64, index: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}

const HEAD: &[u8] = b"snapshot";

/// Bytes of a piece: small enough that a write of the log does not wait long for its turn.
const PIECE: usize = 1024 * 1024;
