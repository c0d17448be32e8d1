//! `store.keyspaces`: what is kept by quorum, and which numbers go together.

use std::time::Duration;

use outrigger::{
    config,
    store::{Keyspace, KeyspaceLevel, Spec},
};

use super::{found, valid, with};

/// A server whose keyspaces begin in column 14 of line 6.
fn text(spaces: &str) -> String {
    let key = "0123456789abcdef".repeat(4);
    with(&format!(
        "mesh: {{ node: web-1, gossip_key: {key}, data_dir: none }}\nstore: {{ mode: server, bind: '127.0.0.1:0', data_dir: none,\n  keyspaces: {spaces} }}\n"
    ))
}

fn space(text: &str, name: &str) -> Option<Keyspace> {
    let store = valid(text).store?;
    store.keyspaces.of(&format!("{name}/key")).map(|(_, space)| space)
}

#[test]
fn a_quorum_is_most_of_the_replicas_unless_the_file_says_otherwise() {
    let second = Duration::from_secs(1);
    let three = Spec { replicas: 3, reads: 2, writes: 2, read_timeout: second, write_timeout: second };
    let usual = Keyspace { level: KeyspaceLevel::Quorum, spec: three };
    assert_eq!(space(&text("{ a: {} }"), "a"), Some(usual));
    let five = space(&text("{ a: { replicas: 5, level: session, read_timeout: 50ms } }"), "a").unwrap();
    assert_eq!((five.spec.reads, five.spec.writes, five.level), (3, 3, KeyspaceLevel::Session));
    assert_eq!(five.spec.read_timeout, Duration::from_millis(50));
    let uneven = text("{ a: { quorum_reads: 3, quorum_writes: 1, level: eventual } }");
    let uneven = space(&uneven, "a").unwrap();
    assert_eq!((uneven.spec.reads, uneven.spec.writes), (3, 1));
    // Only what comes before a slash is a keyspace.
    let store = valid(&text("{ a: {} }")).store.expect("it is there");
    assert!(store.keyspaces.of("a").is_none() && store.keyspaces.of("ab/c").is_none());
}

#[test]
fn what_is_shown_is_read_as_the_same() {
    let text = text("{ a: { replicas: 5, quorum_writes: 4, write_timeout: 2s }, b: { level: eventual } }");
    let bundle = valid(&text);
    let shown = config::effective_yaml(&bundle);
    let key = "0123456789abcdef".repeat(4);
    let again = valid(&shown.replace("gossip_key: '***'", &format!("gossip_key: {key}")));
    assert_eq!(again.store.map(|store| store.keyspaces), bundle.store.map(|store| store.keyspaces));
}

#[test]
fn numbers_that_do_not_go_together_are_refused_where_they_stand() {
    for (spaces, codes) in [
        ("{ a: { quorum_reads: 1 } }", &["OR112"][..]),
        ("{ a: { quorum_writes: 1 } }", &["OR112"]),
        ("{ a: { replicas: 2, quorum_writes: 3 } }", &["OR112"]),
        ("{ a: { level: strong } }", &["OR109"]),
        ("{ a: { level: weak } }", &["OR109"]),
        ("{ a: { replicas: 8 } }", &["OR111"]),
        ("{ a: { read_timeout: 4s } }", &["OR111"]),
        ("{ routes: {} }", &["OR112"]),
        ("{ 'a b': {} }", &["OR112"]),
        ("{ a: { n: 3 } }", &["OR104"]),
    ] {
        let said: Vec<String> = found(&text(spaces));
        let said: Vec<&str> = said.iter().filter_map(|one| one.split(' ').next()).collect();
        assert_eq!(said, codes, "{spaces}");
    }
}
