//! What the store answers, in JSON. Values that are text are `value`, others are `value_base64`.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::{
    admin::{API, base64},
    store::core::{
        command::Operation,
        key::{Key, Revision},
        outcome::{self, OperationResult, Page, Versioned},
    },
};

/// One key.
pub(super) fn entry(key: &Key, found: &Versioned) -> Value {
    let mut told = json!({ "apiVersion": API, "kind": "KeyValue" });
    extend(&mut told, item(key, found));
    told
}

/// Some keys; `next` is what `after` must be for those that follow.
pub(super) fn page(page: &Page) -> Value {
    json!({
        "apiVersion": API,
        "kind": "KeyValueList",
        "revision": page.revision,
        "items": page.entries.iter().map(|(key, found)| item(key, found)).collect::<Vec<_>>(),
        "next": page.next.as_ref().map(Key::as_str),
    })
}

/// Changes, and the revision after which to ask for the next ones: `seen`, or that of the last one told. If their values
/// are many bytes, the rest is left for the next time.
pub(super) fn changes(changes: &[outcome::Change], seen: Revision) -> Value {
    let told = &changes[..fitting(changes)];
    let revision = if told.len() == changes.len() { Some(seen) } else { None };
    let last = told.last().map(|change| change.revision);
    json!({
        "apiVersion": API,
        "kind": "ChangeList",
        "revision": revision.max(last).unwrap_or_default(),
        "items": told.iter().map(change).collect::<Vec<_>>(),
    })
}

/// How many of the changes are told at once: whole revisions, and the first one always.
fn fitting(changes: &[outcome::Change]) -> usize {
    let (mut end, mut bytes) = (0, 0);
    for one_revision in changes.chunk_by(|one, next| one.revision == next.revision) {
        let values = one_revision.iter().filter_map(|change| change.after.as_ref());
        bytes += values.map(|after| after.value.len()).sum::<usize>();
        if end > 0 && bytes > MOST_BYTES {
            break;
        }
        end += one_revision.len();
    }
    end
}

/// A key was set.
pub(super) fn put(revision: Revision) -> Value {
    json!({ "apiVersion": API, "kind": "Write", "revision": revision })
}

/// A key was removed, or was not there.
pub(super) fn deleted(revision: Revision, deleted: bool) -> Value {
    json!({ "apiVersion": API, "kind": "Write", "revision": revision, "deleted": deleted })
}

/// What became of a transaction whose `operations` were done.
pub(super) fn transaction(
    revision: Revision,
    held: bool,
    operations: &[Operation],
    results: &[OperationResult],
) -> Value {
    json!({
        "apiVersion": API,
        "kind": "Transaction",
        "revision": revision,
        "held": held,
        "results": operations.iter().zip(results).map(|(one, result)| done(one, result)).collect::<Vec<_>>(),
    })
}

fn done(operation: &Operation, result: &OperationResult) -> Value {
    let mut told = match operation {
        Operation::Get(key) => json!({ "get": key }),
        Operation::Put { key, .. } => json!({ "put": key }),
        Operation::Delete(key) => json!({ "delete": key }),
        Operation::DeletePrefix(prefix) => json!({ "delete_prefix": prefix }),
    };
    match result {
        OperationResult::Got(found) => {
            told["found"] = found.as_ref().map_or(Value::Null, |found| Value::Object(of_key(found)));
        }
        OperationResult::Put => {}
        OperationResult::Deleted(keys) => told["deleted"] = (*keys).into(),
    }
    told
}

fn change(change: &outcome::Change) -> Value {
    let mut told = json!({
        "change": if change.after.is_some() { "put" } else { "delete" },
        "key": change.key,
        "revision": change.revision,
        "at": time(change.at_ms),
        "author": change.author,
        "previous": change.before.as_ref().map(|before| before.modified),
    });
    if let Some(after) = &change.after {
        extend(&mut told, Value::Object(of_key(after)));
    }
    told
}

/// A time of the log.
pub(in crate::admin) fn time(at_ms: u64) -> Option<String> {
    // Later than the year 9999 is no date that can be written, and no time at which anything has happened.
    let at_ms = Some(at_ms).filter(|at_ms| *at_ms < 253_402_300_800_000)?;
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(at_ms))?;
    Some(humantime::format_rfc3339_millis(at).to_string())
}

pub(in crate::admin) fn item(key: &Key, found: &Versioned) -> Value {
    let mut told = json!({ "key": key });
    extend(&mut told, Value::Object(of_key(found)));
    told
}

pub(in crate::admin) fn of_key(found: &Versioned) -> Map<String, Value> {
    let (name, value) = match std::str::from_utf8(&found.value) {
        Ok(text) => ("value", text.to_owned()),
        Err(_) => ("value_base64", base64::encode(&found.value)),
    };
    let mut told = Map::new();
    told.insert(name.to_owned(), value.into());
    told.insert("revision".to_owned(), found.modified.0.into());
    told.insert("created".to_owned(), found.created.0.into());
    told.insert("version".to_owned(), found.version.into());
    told.insert("lease".to_owned(), found.lease.map(|lease| lease.0).into());
    told
}

fn extend(told: &mut Value, more: Value) {
    if let (Value::Object(told), Value::Object(more)) = (told, more) {
        told.extend(more);
    }
}

/// Bytes of values in one answer to a watch, if they are of several revisions.
const MOST_BYTES: usize = 4 << 20;
