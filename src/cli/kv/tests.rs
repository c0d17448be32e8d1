//! How `kv` reads its arguments and files, and what it prints.

use std::io;

use clap::Parser as _;
use serde_json::{Value, json};

use super::{
    Failure, Held, encoded, path,
    read::{listed, text},
    set_value,
    transfer::{Imported, exported, put_all},
    watch::{line, may_pass},
    write::{transacted, value},
};
use crate::cli::{Cli, Output, admin::AskError};

fn parses(arguments: &[&str]) -> bool {
    Cli::try_parse_from([&["outrigger", "kv"], arguments].concat()).is_ok()
}

#[test]
fn verbs_take_what_their_help_says() {
    for arguments in [
        &["get", "a"][..],
        &["get", "a", "--raw", "--consistency", "eventual"],
        &["get", "a", "-o", "json", "-a", "127.0.0.1:1"],
        &["put", "a", "1", "--cas", "17", "--ttl", "30s"],
        &["put", "--ttl", "30s", "a", "-"],
        &["put", "a", "-5"],
        &["put", "--", "-a", "--b"],
        &["put", "a", "@file"],
        &["rm", "a", "--cas", "3"],
        &["ls"],
        &["ls", "p/", "--keys-only", "--consistency", "lease"],
        &["get", "a", "--consistency", "within:1m30s"],
        &["watch", "p/", "--after", "7"],
        &["watch", ""],
        &["txn", "-f", "-"],
        &["export"],
        &["export", "p/"],
        &["import"],
        &["import", "file"],
    ] {
        assert!(parses(arguments), "{arguments:?}");
    }
    for arguments in [
        &[][..],
        &["get"],
        &["get", "a", "b"],
        &["get", "a", "--raw", "-o", "json"],
        &["get", "a", "--consistency", "weak"],
        &["get", "a", "--consistency", "within:soon"],
        &["put", "a"],
        &["put", "a", "1", "--cas", "-1"],
        &["put", "a", "1", "--ttl", "soon"],
        &["ls", "--keys-only", "-o", "json"],
        &["watch"],
        &["watch", "p", "--after", "now"],
        &["txn"],
    ] {
        assert!(!parses(arguments), "{arguments:?}");
    }
}

#[test]
fn keys_stand_in_a_query_as_they_are() {
    assert_eq!(encoded("routes/web-1.2_~"), "routes/web-1.2_~");
    assert_eq!(encoded("a b&c=d+%ü"), "a%20b%26c%3Dd%2B%25%C3%BC");
    assert_eq!(path(&[("key", "a?"), ("level", "strong")]), "/v1/kv?key=a%3F&level=strong");
}

#[test]
fn a_value_is_an_argument_or_a_file() {
    assert_eq!(value("text").unwrap(), b"text");
    assert_eq!(value("").unwrap(), b"");
    let file = std::env::temp_dir().join(format!("outrigger-kv-value-{}", std::process::id()));
    std::fs::write(&file, [0, 255, 10]).unwrap();
    assert_eq!(value(&format!("@{}", file.display())).unwrap(), [0, 255, 10]);
    std::fs::write(&file, vec![0; (1 << 20) + 1]).unwrap();
    assert!(matches!(value(&format!("@{}", file.display())), Err(Failure::Here(_))));
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(value(&format!("@{}", file.display())), Err(Failure::Here(_))));
}

#[test]
fn a_value_travels_as_text_if_that_is_not_much_longer() {
    let body = |bytes: &[u8]| {
        let mut body = json!({});
        set_value(&mut body, bytes);
        body
    };
    assert_eq!(body(b"a\nb"), json!({ "value": "a\nb" }));
    assert_eq!(body(b""), json!({ "value": "" }));
    assert_eq!(body(&[0xff]), json!({ "value_base64": "/w==" }));
    // The largest value fits a request, whatever is in it.
    for byte in [0, 0xff, b'"', b'a'] {
        let body = body(&vec![byte; 512 * 1024]);
        assert!(body.to_string().len() < 900_000, "{byte}");
        assert_eq!(Held::of(&body).map(|held| held.shown(0).is_empty()), Some(false));
    }
}

#[test]
fn a_terminal_takes_no_commands_from_a_value() {
    let held = || Held::Text("a\u{1b}[2J\n\tb".to_owned());
    assert_eq!(text(held(), true).unwrap(), "a\u{fffd}[2J\n\tb\n");
    assert_eq!(text(held(), false).unwrap(), "a\u{1b}[2J\n\tb\n");
    assert!(matches!(text(Held::Bytes(vec![255]), false), Err(Failure::Here(_))));
    assert_eq!(held().shown(9), "a [2J  b");
    assert_eq!(held().shown(2), "a …");
    assert_eq!(Held::Bytes(vec![1, 2]).shown(60), "(2 bytes)");
}

#[test]
fn keys_are_a_table() {
    let items = [
        json!({ "key": "a", "revision": 7, "version": 1, "shown": "x y" }),
        json!({ "key": "routes/web\u{1b}", "revision": 12, "version": 30, "shown": "(3 bytes)" }),
    ];
    let expected = "\
KEY          REVISION  VERSION  VALUE
a            7         1        x y
routes/web   12        30       (3 bytes)
";
    assert_eq!(listed(&items), expected);
}

#[test]
fn a_change_is_a_line() {
    let put = json!({ "change": "put", "key": "a b", "revision": 7, "value": "x\ny" });
    assert_eq!(line(&put, Output::Text), "7 put a b x y");
    let removed = json!({ "change": "delete", "key": "a", "revision": 8 });
    assert_eq!(line(&removed, Output::Text), "8 delete a");
    let mut by = removed.clone();
    by["author"] = "user/alice via\u{1b} node/web-1".into();
    assert_eq!(line(&by, Output::Text), "8 delete a  by user/alice via  node/web-1");
    assert_eq!(serde_json::from_str::<Value>(&line(&put, Output::Json)).unwrap(), put);
    assert!(!line(&put, Output::Json).contains('\n'));
}

#[test]
fn a_watch_waits_out_what_passes() {
    let unreachable = AskError::Unreachable("h:1".to_owned(), io::ErrorKind::ConnectionRefused.into());
    assert!(may_pass(&unreachable));
    let refused = |status| AskError::Refused(status, String::new());
    assert!(may_pass(&refused(503)) && may_pass(&refused(504)));
    assert!(!may_pass(&refused(410)) && !may_pass(&refused(401)) && !may_pass(&refused(404)));
}

#[test]
fn a_transaction_tells_what_it_did() {
    let done = json!({ "held": true, "revision": 9, "results": [
        { "put": "a" },
        { "get": "a", "found": { "value": "1" } },
        { "get": "b", "found": null },
        { "delete": "c", "deleted": 1 },
        { "delete_prefix": "d/", "deleted": 0 },
    ] });
    let expected = "\
held: `then` was done, revision 9
put a
get a: 1
get b: not there
delete c: 1 removed
delete_prefix d/: 0 removed
";
    assert_eq!(transacted(&done), expected);
    let other = json!({ "held": false, "revision": 9, "results": [] });
    assert_eq!(transacted(&other), "did not hold: `else` was done, revision 9\n");
}

/// What is put of `lines`, up to the one for the key `bad`.
fn imported(lines: &str) -> (Vec<Value>, Imported, Option<String>) {
    let mut put = Vec::new();
    let (came, failure) = put_all(&mut lines.as_bytes(), |body| {
        if body["key"] == "bad" {
            return Err(AskError::Refused(422, "no".to_owned()));
        }
        put.push(body.clone());
        Ok(())
    });
    let failure = failure.map(|failure| match failure {
        Failure::Here(what) => what,
        Failure::Line(number, error) => format!("line {number}: {error}"),
        other => panic!("{other:?}"),
    });
    (put, came, failure)
}

#[test]
fn what_was_exported_is_imported_but_for_leases() {
    let items = [
        json!({ "key": "a", "value": "1\n", "revision": 4, "created": 4, "version": 1, "lease": null }),
        json!({ "key": "b", "value_base64": "/w==", "revision": 5, "created": 5, "version": 1, "lease": null }),
        json!({ "key": "c", "value": "x", "revision": 6, "created": 6, "version": 1, "lease": 6 }),
    ];
    let lines: String = items.iter().map(|item| exported(item).to_string() + "\n").collect();
    assert_eq!(lines.lines().count(), 3);
    let (put, came, failure) = imported(&lines);
    assert_eq!(put, [json!({ "key": "a", "value": "1\n" }), json!({ "key": "b", "value_base64": "/w==" })]);
    assert_eq!((came, failure), (Imported { put: 2, leased: 1 }, None));
}

#[test]
fn an_import_ends_at_the_first_line_that_fails_and_says_which() {
    let good = "{\"key\":\"a\",\"value\":\"1\"}\n";
    for bad in [
        "{",
        "[]",
        "{\"key\":\"a\"}",
        "{\"key\":\"a\",\"value\":1}",
        "{\"key\":\"a\",\"value_base64\":\"?\"}",
        "{\"key\":\"a\",\"value\":\"1\",\"if_revision\":0}",
    ] {
        let (put, came, failure) = imported(&format!("{good}\n{bad}\n{good}"));
        assert_eq!((put.len(), came.put), (1, 1), "{bad}");
        assert!(failure.unwrap().starts_with("line 3: "), "{bad}");
    }
    let (_, came, failure) = imported(&format!("{good}{{\"key\":\"bad\",\"value\":\"1\"}}\n{good}"));
    assert_eq!((came.put, failure.as_deref()), (1, Some("line 2: the sidecar refuses (422): no")));
    let long = format!("{{\"key\":\"a\",\"value\":\"{}\"}}", "x".repeat(5 << 20));
    assert_eq!(imported(&long).2.as_deref(), Some("line 1: longer than any key and value"));
    assert_eq!(Imported { put: 1, leased: 0 }.told(), "1 key imported");
    assert_eq!(Imported { put: 2, leased: 3 }.told(), "2 keys imported, 3 with a lease left out");
}
