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
    items.extend(elsewhere(view, RecordKind::Intention, &["source", "action"]));
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

/// How services are called, key by key, then policies about services that nothing here calls.
pub(crate) fn policies(bundle: &Bundle, view: &SharedView) -> Value {
    let Value::Object(services) = config::effective_json(bundle)["services"].take() else {
        return Value::Null;
    };
    let item = |(name, service): (String, Value)| {
        let keys = match service {
            Value::Object(keys) => keys.into_iter().filter(|(key, _)| config::is_policy(key)).collect(),
            _ => Map::new(),
        };
        let mut item = json!({ "name": name, "policy": keys, "state": State::Applied.as_str() });
        mark(&mut item, view, RecordKind::Policy, &name);
        let record = view.applied(RecordKind::Policy, &name);
        item["shared"] = record.map_or(Value::Null, |record| record.keys.clone().into());
        item
    };
    let mut items: Vec<Value> = services.into_iter().map(item).collect();
    items.extend(elsewhere(view, RecordKind::Policy, &[]));
    json!({
        "apiVersion": API,
        "kind": "PolicyList",
        "store_revision": view.revision,
        "items": items,
        "quarantined": quarantined(view, RecordKind::Policy),
    })
}

/// Rate limits of this service, then those of others.
pub(crate) fn rate_limits(bundle: &Bundle, view: &SharedView) -> Value {
    let mut all = config::effective_json(bundle)["service"]["rate_limit"].take();
    let limits = &bundle.directory.local.traffic.limits;
    let mut items: Vec<Value> = Vec::with_capacity(limits.len());
    for (item, limit) in all.as_array_mut().into_iter().flatten().zip(limits) {
        let mut item = item.take();
        item["name"] = (&*limit.name).into();
        item["state"] = State::Applied.as_str().into();
        mark(&mut item, view, RecordKind::Limit, &limit.name);
        let record = view.applied(RecordKind::Limit, &limit.name);
        item["destination"] = match record {
            Some(record) => record.destination.as_deref().unwrap_or("*").into(),
            None => (&*bundle.directory.local.name).into(),
        };
        items.push(item);
    }
    items.extend(elsewhere(view, RecordKind::Limit, &["rate"]));
    json!({
        "apiVersion": API,
        "kind": "RateLimitList",
        "service": &*bundle.directory.local.name,
        "store_revision": view.revision,
        "items": items,
        "quarantined": quarantined(view, RecordKind::Limit),
    })
}

/// Records of a kind that are not about this sidecar, with some of their keys.
fn elsewhere<'v>(
    view: &'v SharedView,
    kind: RecordKind,
    keys: &'v [&'v str],
) -> impl Iterator<Item = Value> + 'v {
    let is_it = move |record: &&SharedRecord| record.kind == kind && record.state == State::Elsewhere;
    view.records.iter().filter(is_it).map(move |record| {
        let mut item = json!({
            "name": &*record.name,
            "destination": record.destination,
            "from": "store",
            "revision": record.revision,
            "state": record.state.as_str(),
        });
        for key in keys {
            item[*key] = record.document.get(*key).cloned().unwrap_or_default();
        }
        item
    })
}

/// What of a record is shown where it is not in force.
pub(super) fn shown(record: &Record) -> Map<String, Value> {
    let field = |key: &str| Some((key.to_owned(), record.field(key)?.into()));
    ["source", "action", "rate"].into_iter().filter_map(field).collect()
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
    fn policies_and_limits_are_told_with_what_of_them_is_shared() {
        let (bundle, view) = laid(&[
            ("policies/api", "{ slow_start: 9s }"),
            ("policies/far", "{ slow_start: 9s }"),
            ("ratelimits/all", "{ rate: 5/s }"),
            ("ratelimits/far", "{ rate: 6/s, destination: shop }"),
            ("ratelimits/bad", "{ rate: 6 }"),
        ]);
        let told = policies(&bundle, &view);
        let api = &told["items"][0];
        assert_eq!(
            (&api["name"], &api["from"], &api["revision"]),
            (&json!("api"), &json!("store"), &json!(1))
        );
        assert_eq!((&api["policy"]["slow_start"], &api["shared"]), (&json!("9s"), &json!(["slow_start"])));
        assert_eq!(api["policy"]["endpoints"], Value::Null);
        assert_eq!(
            (&told["items"][1]["name"], &told["items"][1]["state"]),
            (&json!("far"), &json!("elsewhere"))
        );
        let told = rate_limits(&bundle, &view);
        let short: Vec<String> = told["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| {
                let word = |key: &str| item[key].as_str().unwrap_or("-").to_owned();
                ["name", "rate", "destination", "from", "state"].map(word).join(" ")
            })
            .collect();
        assert_eq!(short, ["all 5/s * store applied", "far 6/s shop store elsewhere"]);
        assert_eq!(told["quarantined"][0]["name"], "bad");
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
