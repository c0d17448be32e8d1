//! Records as people read them: one document, in the same form however each was written.

use serde_json::{Map, Value, json};

use super::{Record, RecordKind};
use crate::config::{
    report::Report,
    tree::{Content, Kind, Node, Scalar},
    yaml,
};

/// Records as YAML: their kinds, of each the names, and of each the entry. One that is no YAML is a text.
#[must_use]
pub fn shared_yaml(records: &[Record]) -> String {
    let kinds = RecordKind::ALL.into_iter().filter_map(|kind| {
        let of_kind = records.iter().filter(|record| record.kind == kind);
        let named: Map<String, Value> = of_kind.map(|one| (one.name.to_string(), entry(one))).collect();
        let kind = kind.prefix().trim_end_matches('/');
        (!named.is_empty()).then(|| serde_yaml::to_string(&json!({ kind: named })).ok()).flatten()
    });
    kinds.collect()
}

fn entry(record: &Record) -> Value {
    let text = String::from_utf8_lossy(&record.text);
    match yaml::read(&text, &mut Report::default()) {
        Some(node) => json(&node),
        None => text.into(),
    }
}

fn json(node: &Node) -> Value {
    match &node.content {
        Content::Scalar(Scalar { text, kind, .. }) => match kind {
            Kind::Null => Value::Null,
            Kind::Bool(flag) => (*flag).into(),
            Kind::Unsigned(number) => (*number).into(),
            Kind::Number(number) => (*number).into(),
            Kind::Text => text.as_str().into(),
        },
        Content::List(items) => items.iter().map(json).collect(),
        Content::Map(entries) => {
            entries.iter().map(|entry| (entry.key.clone(), json(&entry.value))).collect::<Map<_, _>>().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn records_are_one_document_however_they_were_written() {
        let records = [
            ("intentions/a", "{\"source\": \"web\", \"action\": \"allow\"}"),
            ("routes/b", "# one\nservice: \"7\"\ntimeout: 1s\nretry: { attempts: 2 }\n"),
            ("routes/a", "{ methods: [GET, no] }"),
            ("routes/torn", "service: [api"),
            ("policies/api", "slow_start: 1s"),
        ]
        .map(|(key, text)| Record::of_key(key, Bytes::from_static(text.as_bytes())).unwrap());
        assert_eq!(
            shared_yaml(&records),
            "routes:\n  a:\n    methods:\n    - GET\n    - no\n  b:\n    retry:\n      attempts: 2\n    service: '7'\n    \
             timeout: 1s\n  torn: 'service: [api'\nintentions:\n  a:\n    action: allow\n    source: web\npolicies:\n  api:\n    slow_start: 1s\n"
        );
    }
}
