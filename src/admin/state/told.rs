//! The shared state and its changes, in JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Entries, Step};
use crate::{
    admin::{API, kv::told},
    store::core::{
        key::{Key, Revision},
        outcome::Versioned,
    },
};

/// Two states of one entry; one of them is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Difference<'e> {
    pub(super) key: &'e Key,
    pub(super) before: Option<&'e Versioned>,
    pub(super) after: Option<&'e Versioned>,
}

/// All entries.
pub(super) fn state(entries: &Entries) -> Value {
    json!({
        "apiVersion": API,
        "kind": "SharedState",
        "revision": entries.revision,
        "items": entries.items.iter().map(|(key, has)| told::item(key, has)).collect::<Vec<_>>(),
    })
}

/// Each entry that has changed, with who did it; also one that was changed back.
pub(super) fn diff(before: &Entries, after: &Entries, steps: &[Step]) -> Value {
    let mut by_key: BTreeMap<&Key, Vec<Value>> = BTreeMap::new();
    for one in steps {
        by_key.entry(&one.key).or_default().push(step(one));
    }
    let items = by_key.into_iter().map(|(key, changes)| {
        let mut item =
            difference(Difference { key, before: before.items.get(key), after: after.items.get(key) });
        item["changes"] = changes.into();
        item
    });
    json!({
        "apiVersion": API,
        "kind": "SharedDiff",
        "from": before.revision,
        "to": after.revision,
        "items": items.collect::<Vec<_>>(),
    })
}

/// Changes without their values; `oldest` is the first revision that can be looked back to.
pub(super) fn log<'s>(now: Revision, oldest: Revision, steps: impl Iterator<Item = &'s Step>) -> Value {
    let item = |one: &Step| {
        let mut item = step(one);
        item["key"] = one.key.as_str().into();
        item
    };
    json!({
        "apiVersion": API,
        "kind": "SharedLog",
        "revision": now,
        "oldest": oldest,
        "items": steps.map(item).collect::<Vec<_>>(),
    })
}

/// What has become of an entry, or would.
pub(super) fn difference(Difference { key, before, after }: Difference<'_>) -> Value {
    let what = match (before, after) {
        (None, _) => "added",
        (_, None) => "removed",
        (Some(before), Some(after)) if before.value == after.value => "same",
        (Some(_), Some(_)) => "changed",
    };
    let side = |has: Option<&Versioned>| has.map(|has| Value::Object(told::of_key(has)));
    json!({ "key": key, "what": what, "before": side(before), "after": side(after) })
}

fn step(step: &Step) -> Value {
    json!({
        "revision": step.revision,
        "change": if step.is_put { "put" } else { "delete" },
        "at": told::time(step.at_ms),
        "author": step.author,
    })
}
