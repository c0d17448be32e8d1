//! What the admin API tells of what is shared.

use serde_json::{Map, Value, json};

use super::view::{SharedRecord, SharedView, State};
use crate::{
    admin::API,
    config::{self, Bundle, Record, RecordKind},
};

/// Says of an item that is in force where it came from.
pub(crate) fn mark(item: &mut Value, view: &SharedView, kind: RecordKind, name: &str) {
    match view.applied(kind, name) {
        Some(record) => {
            item["from"] = "store".into();
            item["revision"] = record.revision.0.into();
        }
        None => item["from"] = "file".into(),
    }
}

/// The records of a kind that are left out, with the reasons.
pub(crate) fn quarantined(view: &SharedView, kind: RecordKind) -> Value {
    let left_out = |record: &SharedRecord| match &record.state {
        State::Quarantined { reason, findings } if record.kind == kind => Some(json!({
            "name": &*record.name,
            "revision": record.revision,
            "reason": reason,
            "findings": findings,
        })),
        State::Quarantined { .. } | State::Applied | State::Elsewhere => None,
    };
    view.records.iter().filter_map(left_out).collect()
}

/// Rules about callers: those in force, then those about the callers of others.
pub(crate) fn intentions(bundle: &Bundle, view: &SharedView) -> Value {
    let mut section = config::effective_json(bundle)["intentions"].take();
    let mut items = match section["rules"].take() {
        Value::Array(rules) => rules,
        _ => Vec::new(),
    };
    for item in &mut items {
        let name = item["name"].as_str().unwrap_or_default().to_owned();
        mark(item, view, RecordKind::Intention, &name);
        let record = view.applied(RecordKind::Intention, &name);
        let destination = record.and_then(|record| record.destination.as_deref());
        item["destination"] = match record {
            Some(_) => destination.unwrap_or("*").into(),
            None => (&*bundle.directory.local.name).into(),
        };
        item["state"] = State::Applied.as_str().into();
    }
    let elsewhere = view
        .records
        .iter()
        .filter(|record| record.kind == RecordKind::Intention && record.state == State::Elsewhere);
    items.extend(elsewhere.map(|record| {
        let text = |key: &str| record.document.get(key).and_then(Value::as_str);
        json!({
            "name": &*record.name,
            "source": text("source"),
            "action": text("action"),
            "destination": record.destination,
            "from": "store",
            "revision": record.revision,
            "state": record.state.as_str(),
        })
    }));
    json!({
        "apiVersion": API,
        "kind": "IntentionList",
        "service": &*bundle.directory.local.name,
        "mode": section["mode"],
        "default_action": section["default_action"],
        "store_revision": view.revision,
        "items": items,
        "quarantined": quarantined(view, RecordKind::Intention),
    })
}

/// What of a rule is shown where it is not in force.
pub(super) fn shown(record: &Record) -> Map<String, Value> {
    let field = |key: &str| Some((key.to_owned(), record.field(key)?.into()));
    ["source", "action"].into_iter().filter_map(field).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        app::shared::{SharedRecords, Stored},
        config::{Base, ProcessEnvironment, Text},
        store::core::key::Revision,
    };

    const FILE: &str = "
version: 1
service: { name: web, address: 127.0.0.1:8080 }
mtls: { mode: disabled }
services: { api: { endpoints: [127.0.0.1:9000] } }
routes: [{ name: first, service: api }]
intentions: { rules: [{ name: own, source: shop, action: allow }] }
";

    fn laid(items: &[(&str, &str)]) -> (Bundle, SharedView) {
        let text = Text::read("outrigger.yaml", FILE.as_bytes()).unwrap();
        let base = Base::load(&text, &ProcessEnvironment).unwrap();
        let items = items.iter().zip(1..).map(|((key, text), revision)| {
            let record = Record::of_key(key, Bytes::copy_from_slice(text.as_bytes())).unwrap();
            Stored { record, revision: Revision(revision) }
        });
        let records = SharedRecords { revision: Revision(9), items: items.collect() };
        let overlaid = base.overlay(&records.records());
        (overlaid.bundle, SharedView::new(&records, &overlaid.standings))
    }

    #[test]
    fn rules_are_told_with_where_they_are_from_and_for_whom() {
        let (bundle, view) = laid(&[
            ("intentions/a", "{ source: x, action: deny }"),
            ("intentions/b", "{ source: y, action: allow, destination: shop }"),
            ("intentions/c", "{ source: y, action: perhaps }"),
        ]);
        let told = intentions(&bundle, &view);
        let short: Vec<String> = told["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| {
                let word = |key: &str| item[key].as_str().unwrap_or("-").to_owned();
                ["name", "source", "action", "destination", "from", "state"].map(word).join(" ")
            })
            .collect();
        assert_eq!(
            short,
            ["own shop allow web file applied", "a x deny * store applied", "b y allow shop store elsewhere"]
        );
        assert_eq!((&told["items"][1]["revision"], &told["store_revision"]), (&json!(1), &json!(9)));
        let left = &told["quarantined"][0];
        assert_eq!((&left["name"], &left["revision"]), (&json!("c"), &json!(3)));
        assert!(left["reason"].as_str().unwrap().starts_with("OR"), "{left}");
    }

    #[test]
    fn a_route_of_the_file_that_was_replaced_is_from_the_store() {
        let (_, view) =
            laid(&[("routes/first", "{ service: api }"), ("routes/second", "{ service: nobody }")]);
        let mut item = json!({ "name": "first" });
        mark(&mut item, &view, RecordKind::Route, "first");
        assert_eq!(item, json!({ "name": "first", "from": "store", "revision": 1 }));
        let mut item = json!({ "name": "second" });
        mark(&mut item, &view, RecordKind::Route, "second");
        assert_eq!(item["from"], "file");
        assert_eq!(quarantined(&view, RecordKind::Route)[0]["name"], "second");
    }
}
