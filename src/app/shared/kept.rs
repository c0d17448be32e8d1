//! The copy of what is shared in the data directory: a sidecar that starts without a quorum serves what it served last.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{SharedRecords, Stored};
use crate::{
    config::{Bundle, MAX_RECORD_BYTES, MAX_RECORDS, Record},
    identity::ca::replace_private,
    rt::{DrainWatch, Phase},
    store::core::key::Revision,
};

/// The newest records, as soon as they are in force; `None` before there are any.
pub(super) type Newest = watch::Receiver<Option<Arc<SharedRecords>>>;

/// The form of the file. Another one is not read.
const FORMAT: u32 = 1;
const NAME: &str = "shared.json";
/// Longest file that is read: each byte of the records may be an escape of six.
const MAX_FILE: u64 = 8 * MAX_RECORD_BYTES as u64;

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    revision: Revision,
    records: Vec<KeptRecord>,
}

#[derive(Serialize, Deserialize)]
struct KeptRecord {
    key: String,
    value: String,
    revision: Revision,
}

/// Where a sidecar with this configuration keeps it; `None` if it shares nothing, or remembers nothing.
pub(super) fn place(bundle: &Bundle) -> Option<PathBuf> {
    let store = bundle.store.as_ref()?;
    let mesh = bundle.mesh.as_ref().and_then(|mesh| mesh.data_dir.as_ref());
    Some(mesh.or(store.data_dir.as_ref())?.join(NAME))
}

/// What is kept; `None` if nothing is, or nothing that can be read. Blocks.
pub(super) fn read(place: &Path) -> Option<SharedRecords> {
    let unreadable = |why: String| {
        tracing::error!(file = %place.display(), error = %why, "what was shared cannot be read; the file alone is served");
        None
    };
    let mut text = String::new();
    match File::open(place).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return unreadable(error.to_string()),
        Ok(_) => {}
    }
    match serde_json::from_str::<Kept>(&text) {
        Ok(kept) if kept.format == FORMAT => Some(kept.into()),
        Ok(kept) => unreadable(format!("its form is {}, and {FORMAT} is known", kept.format)),
        Err(error) => unreadable(error.to_string()),
    }
}

impl From<Kept> for SharedRecords {
    fn from(kept: Kept) -> Self {
        let record = |KeptRecord { key, value, revision }| {
            let record = Record::of_key(&key, Bytes::from(value))?;
            Some(Stored { record, revision })
        };
        Self { revision: kept.revision, items: kept.records.into_iter().filter_map(record).collect() }
    }
}

/// The text of the file. What is beyond the bounds, or no text, would not be applied either.
fn written(records: &SharedRecords) -> serde_json::Result<Vec<u8>> {
    let mut size = 0;
    let kept = |Stored { record, revision }: &Stored| {
        let key = record.key();
        size += key.len() + record.text.len();
        let value =
            std::str::from_utf8(&record.text).ok().filter(|_| size <= MAX_RECORD_BYTES + MAX_FILE_KEYS)?;
        Some(KeptRecord { key, value: value.to_owned(), revision: *revision })
    };
    let records_kept = records.items.iter().take(MAX_RECORDS).filter_map(kept).collect();
    serde_json::to_vec(&Kept { format: FORMAT, revision: records.revision, records: records_kept })
}

/// The bound counts names, not keys.
const MAX_FILE_KEYS: usize = MAX_RECORDS * "ratelimits/".len();

/// Writes what is newest, each time that there is something newer, until the process leaves.
pub(super) async fn run(place: PathBuf, mut newest: Newest, mut drain: DrainWatch) {
    let mut is_told = false;
    loop {
        tokio::select! {
            () = drain.reached(Phase::Stopped) => return,
            changed = newest.changed() => if changed.is_err() { return },
        }
        let Some(records) = newest.borrow_and_update().clone() else { continue };
        let target = place.clone();
        let write = move || {
            written(&records).map_err(io::Error::from).and_then(|text| replace_private(&target, &text))
        };
        let done = tokio::task::spawn_blocking(write).await.map_err(io::Error::other).and_then(|done| done);
        match done {
            Ok(()) => is_told = false,
            // Each change would tell the same.
            Err(_) if is_told => {}
            Err(error) => {
                tracing::error!(
                    file = %place.display(), %error,
                    "what is shared cannot be kept: after a start without a quorum, older routes would be served"
                );
                is_told = true;
            }
        }
    }
}
