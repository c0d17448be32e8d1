//! The keyring of the mesh over HTTP: what an order looks like, how it is told of, and how keys are listed. No key is ever
//! told, only its mark.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{API, Problem};
use crate::membership::{GossipKey, KeyHolders, KeyMark, KeyringError, KeyringOrder, KeyringReport};

/// The keys, and how many members have them.
#[must_use]
pub fn key_list(keys: &[KeyHolders]) -> Value {
    let item = |key: &KeyHolders| {
        json!({
            "mark": key.mark.to_string(),
            "primary": key.is_primary,
            "holders": key.holders,
            "sealers": key.sealers,
            "members": key.members,
        })
    };
    json!({ "apiVersion": API, "kind": "KeyList", "items": keys.iter().map(item).collect::<Vec<_>>() })
}

/// What became of an order that was about the key of `mark`.
#[must_use]
pub fn keyring_report(mark: KeyMark, report: &KeyringReport) -> Value {
    let failed = report.failed.iter();
    json!({
        "apiVersion": API,
        "kind": "KeyringReport",
        "mark": mark.to_string(),
        "done": report.done.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
        "failed": failed.map(|(node, why)| json!({ "node": &**node, "reason": why })).collect::<Vec<_>>(),
    })
}

/// The key that an order is about.
#[must_use]
pub fn order_mark(order: &KeyringOrder) -> KeyMark {
    match order {
        KeyringOrder::Install(key) => KeyMark::of(key),
        KeyringOrder::Use(mark) | KeyringOrder::Remove(mark) => *mark,
    }
}

impl From<KeyringError> for Problem {
    fn from(error: KeyringError) -> Self {
        let status = match error {
            KeyringError::Unknown(_) => StatusCode::NOT_FOUND,
            KeyringError::NotEverywhere { .. } | KeyringError::InUse { .. } | KeyringError::Full(_) => {
                StatusCode::CONFLICT
            }
            KeyringError::Storage(_) => StatusCode::INTERNAL_SERVER_ERROR,
            KeyringError::Leaving => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

/// How an order is written.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Written {
    Install(String),
    Use(String),
    Remove(String),
}

/// Reads an order from the body of a request.
pub(super) fn order(body: &[u8]) -> Result<KeyringOrder, Problem> {
    // Not what the parser says: it would show what it stumbled over, and that may be a key.
    let written = serde_json::from_slice(body).map_err(|_| {
        let detail = "expected one of {\"install\": \"64 hexadecimal digits\"}, {\"use\": \"mark\"} and {\"remove\": \"mark\"}";
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })?;
    let unfit = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let mark = |text: String| text.parse::<KeyMark>().map_err(|error| unfit(error.to_string()));
    Ok(match written {
        Written::Install(key) => {
            KeyringOrder::Install(GossipKey::parse(&key).map_err(|error| unfit(error.to_string()))?)
        }
        Written::Use(text) => KeyringOrder::Use(mark(text)?),
        Written::Remove(text) => KeyringOrder::Remove(mark(text)?),
    })
}

/// An order as the audit log names it: `install 1a2b3c4d`.
pub(super) fn named(order: &KeyringOrder) -> String {
    let verb = match order {
        KeyringOrder::Install(_) => "install",
        KeyringOrder::Use(_) => "use",
        KeyringOrder::Remove(_) => "remove",
    };
    format!("{verb} {}", order_mark(order))
}

/// What came of it, in the words of the audit log.
pub(super) fn outcome(report: &Value) -> String {
    let done = report["done"].as_array().map_or(0, Vec::len);
    let nodes = report["failed"].as_array().into_iter().flatten().filter_map(|one| one["node"].as_str());
    let nodes: Vec<&str> = nodes.collect();
    match nodes.is_empty() {
        true => format!("done by {done}"),
        false => format!("done by {done}, not by {}", nodes.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn an_order_is_one_word_with_a_key_or_a_mark() {
        let key = GossipKey::parse(KEY).unwrap();
        for (body, expected) in [
            (json!({ "install": KEY }), KeyringOrder::Install(key.clone())),
            (json!({ "use": "0a1b2c3d" }), KeyringOrder::Use(KeyMark(0x0a1b_2c3d))),
            (json!({ "remove": "0a1b2c3d" }), KeyringOrder::Remove(KeyMark(0x0a1b_2c3d))),
        ] {
            assert_eq!(order(body.to_string().as_bytes()).unwrap(), expected);
        }
        assert_eq!(named(&KeyringOrder::Install(key.clone())), format!("install {}", KeyMark::of(&key)));
        assert_eq!(named(&KeyringOrder::Remove(KeyMark(7))), "remove 00000007");
    }

    #[test]
    fn what_is_no_order_is_refused_and_never_repeated() {
        let both = json!({ "install": KEY, "use": "0a1b2c3d" }).to_string();
        let (twice, short) = (json!({ "use": KEY }).to_string(), json!({ "install": &KEY[1..] }).to_string());
        let (bare, named) = (json!(KEY).to_string(), json!({ KEY: "install" }).to_string());
        for body in [
            "",
            "{}",
            "[]",
            "null",
            "{\"install\": 5}",
            "{\"use\": \"+1\"}",
            &both,
            &twice,
            &short,
            &bare,
            &named,
        ] {
            let refused = format!("{:?}", order(body.as_bytes()).unwrap_err());
            assert!(!refused.contains(&KEY[1..9]), "{refused}");
        }
    }

    #[test]
    fn a_report_names_those_who_have_not_done_it() {
        let report = KeyringReport {
            done: vec!["a".into(), "b".into()],
            failed: vec![("c".into(), "no answer".to_owned())],
        };
        let told = keyring_report(KeyMark(0xff), &report);
        assert_eq!(told["mark"], "000000ff");
        assert_eq!(told["failed"], json!([{ "node": "c", "reason": "no answer" }]));
        assert_eq!(outcome(&told), "done by 2, not by c");
        assert_eq!(outcome(&keyring_report(KeyMark(1), &KeyringReport::default())), "done by 0");
    }

    #[test]
    fn keys_are_listed_by_their_marks() {
        let key = KeyHolders { mark: KeyMark(0xabc), is_primary: true, holders: 3, sealers: 2, members: 4 };
        let item = json!({ "mark": "00000abc", "primary": true, "holders": 3, "sealers": 2, "members": 4 });
        assert_eq!(key_list(&[key])["items"], json!([item]));
    }
}
