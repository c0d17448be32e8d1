//! What a server of this tier keeps on its disk: a file of its own, in which each record stands under a letter and its
//! name. All of it is read at the start.

use std::{io, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use super::core::{
    clock::Stamp,
    hints::Hint,
    record::Record,
    rules::{Change, Loaded},
};
use crate::store::{
    backend::{Batch, Durability, Span, StorageBackend, Table},
    core::key::{Key, OpId},
};

/// What the file is called.
pub(crate) const FILE: &str = "quorum.redb";

const RECORD: u8 = b'r';
const HINT: u8 = b'h';
const OP: u8 = b'o';
const RING: u8 = b'm';
const TOGETHER: u8 = b't';
/// The version of what values look like.
const FORMAT: u8 = 1;
/// Records that are read at once.
const PAGE: usize = 1000;
/// `Meta` is left to what is kept about the file itself.
const TABLE: Table = Table::Log;

/// Reads all that is there. Blocks.
///
/// # Errors
/// If something cannot be read, or is damaged.
pub(super) fn load(backend: &dyn StorageBackend) -> io::Result<Loaded> {
    let mut changes = Vec::new();
    let mut from = Vec::new();
    loop {
        let page = backend.range(TABLE, Span { from: &from, before: None }, PAGE)?;
        let is_last = page.len() < PAGE;
        for (name, value) in page {
            changes.push(parse(&name, &value).ok_or_else(|| {
                let what = format!("record {} of {FILE} is not of this version", name.escape_ascii());
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?);
            from = name;
            from.push(0);
        }
        if is_last {
            return Ok(Loaded(changes));
        }
    }
}

fn parse(name: &[u8], value: &[u8]) -> Option<Change> {
    let (kind, name) = name.split_first()?;
    Some(match *kind {
        RECORD => {
            let key = Key::new(std::str::from_utf8(name).ok()?).ok()?;
            Change::Record(key, Some(decoded::<Record>(value)?))
        }
        HINT => Change::Hint(u64::from_be_bytes(name.try_into().ok()?), Some(decoded::<Hint>(value)?)),
        OP => {
            let (client, sequence) = name.split_first_chunk::<8>()?;
            let sequence = u64::from_be_bytes(sequence.try_into().ok()?);
            let op = OpId { client: u64::from_be_bytes(*client), sequence };
            Change::Op(op, Some(decoded::<(Stamp, u64)>(value)?))
        }
        RING if name.is_empty() => Change::Ring(decoded(value)?),
        TOGETHER if name.is_empty() => Change::Together(decoded(value)?),
        _ => return None,
    })
}

/// Writes all of it, durably, or nothing. Blocks.
///
/// # Errors
/// If it could not be written.
pub(super) fn store(backend: &Arc<dyn StorageBackend>, changes: Vec<Change>) -> io::Result<()> {
    let mut batch = Batch::default();
    for change in changes {
        match written(&change)? {
            (name, Some(value)) => batch.put(TABLE, name, value),
            (name, None) => batch.delete(TABLE, name),
        };
    }
    backend.apply(batch, Durability::Durable)
}

/// Its name, and its value if it has one.
fn written(change: &Change) -> io::Result<(Vec<u8>, Option<Vec<u8>>)> {
    Ok(match change {
        Change::Record(key, record) => (named(RECORD, key.as_str().as_bytes()), encoded(record.as_ref())?),
        Change::Hint(number, hint) => (named(HINT, &number.to_be_bytes()), encoded(hint.as_ref())?),
        Change::Op(op, seen) => {
            let name = [op.client.to_be_bytes(), op.sequence.to_be_bytes()].concat();
            (named(OP, &name), encoded(seen.as_ref())?)
        }
        Change::Ring(members) => (named(RING, &[]), encoded(Some(members))?),
        Change::Together(ms) => (named(TOGETHER, &[]), encoded(Some(ms))?),
    })
}

/// A record of the file, written anew; `None` if it is none. For tests, which give it any bytes.
pub(in crate::store) fn reread(name: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (name, value) = written(&parse(name, value)?).ok()?;
    Some((name, value?))
}

fn named(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind], name].concat()
}

fn encoded<T: Serialize>(value: Option<&T>) -> io::Result<Option<Vec<u8>>> {
    let value = value.map(|value| postcard::to_extend(value, vec![FORMAT]));
    value.transpose().map_err(io::Error::other)
}

fn decoded<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    let (format, rest) = value.split_first()?;
    if *format != FORMAT {
        return None;
    }
    match postcard::take_from_bytes(rest) {
        Ok((value, [])) => Some(value),
        Ok(_) | Err(_) => None,
    }
}
