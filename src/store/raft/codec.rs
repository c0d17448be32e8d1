//! How the records of the log and of the snapshot are written: a byte for the format, then postcard.

use std::io;

use serde::{Serialize, de::DeserializeOwned};

use crate::store::backend::Table;

/// `value` as a record.
pub(super) fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_extend(value, vec![FORMAT]).map_err(io::Error::other)
}

/// The value of the record `key` of `table`.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`], naming the record, if it is of another format or no such value, or has bytes left.
pub(super) fn decode<T: DeserializeOwned>(table: Table, key: &[u8], bytes: &[u8]) -> io::Result<T> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            Ok(_) => Err(damaged(table, key, "it is longer than what it says")),
            Err(error) => Err(damaged(table, key, &error.to_string())),
        },
        Some((other, _)) => {
            Err(damaged(table, key, &format!("it has format {other}; this version reads {FORMAT}")))
        }
        None => Err(damaged(table, key, "it is empty")),
    }
}

/// A record is not what it has to be.
pub(super) fn damaged(table: Table, key: &[u8], why: &str) -> io::Error {
    let key = match <[u8; 8]>::try_from(key) {
        Ok(index) if table == Table::Log => u64::from_be_bytes(index).to_string(),
        Ok(_) | Err(_) => key.escape_ascii().to_string(),
    };
    io::Error::new(io::ErrorKind::InvalidData, format!("record {key} of table {table}: {why}"))
}

/// The same error once more: [`io::Error`] cannot be cloned.
pub(super) fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// Changes with openraft's types, which are alpha, and with ours.
const FORMAT: u8 = 1;
