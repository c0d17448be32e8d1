//! The disk, the token, and whether nodes agree on keyspaces. What servers do together is in core/tests, and with real
//! processes in tests/process/quorum.rs.

use std::{sync::Arc, time::Duration};

use super::{
    Agreement, Keyspace, KeyspaceLevel, Keyspaces, Says, Token,
    core::{
        clock::Stamp,
        hints::Hint,
        record::Record,
        rules::{Change, Loaded, Spec},
        session::MOST_KEYS,
    },
    disk,
};
use crate::store::{
    backend::{self, Batch, Durability, Keys, Sealed, StorageBackend, Table},
    bodies,
    core::key::{Key, OpId},
};

fn backend() -> Arc<dyn StorageBackend> {
    Arc::new(Sealed::new(backend::Memory::default(), Keys::None))
}

#[test]
fn what_is_written_is_loaded_and_what_is_removed_is_not() {
    let backend = backend();
    let key = |number: usize| Key::new(&format!("space/{number}")).unwrap();
    let stamp = Stamp { ms: 5, count: 1, writer: 9 };
    let op = OpId { client: 3, sequence: 4 };
    let record = |number: usize| Record { stamp, op, value: number.is_multiple_of(2).then(|| "v".into()) };
    let hint = Hint { to: 8, key: key(1), record: record(0), at_ms: 77 };
    let mut changes: Vec<Change> =
        (0..2_500).map(|number| Change::Record(key(number), Some(record(number)))).collect();
    changes.extend([
        Change::Hint(4, Some(hint.clone())),
        Change::Hint(5, Some(hint)),
        Change::Op(op, Some((stamp, 6))),
        Change::Ring(vec![1, 2, 3]),
        Change::Together(44),
    ]);
    disk::store(&backend, changes.clone()).unwrap();
    disk::store(&backend, vec![Change::Record(key(0), None), Change::Hint(5, None)]).unwrap();
    let Loaded(loaded) = disk::load(backend.as_ref()).unwrap();
    changes.retain(|change| {
        !matches!(change, Change::Hint(5, _)) && *change != Change::Record(key(0), Some(record(0)))
    });
    assert_eq!(loaded.len(), changes.len());
    for change in changes {
        assert!(loaded.contains(&change), "{change:?}");
    }
}

#[test]
fn a_record_of_another_version_is_named_and_not_guessed_at() {
    let backend = backend();
    let mut batch = Batch::default();
    batch.put(Table::Log, b"rspace/1".to_vec(), vec![99, 1, 2]);
    backend.apply(batch, Durability::Durable).unwrap();
    let error = disk::load(backend.as_ref()).unwrap_err();
    assert!(error.to_string().contains("rspace/1"), "{error}");
}

#[test]
fn what_the_fuzzer_begins_with_is_what_servers_say_and_write() {
    let said = bodies::packet(include_bytes!("../../../tests/fuzz/seeds/store_bodies/packet")).unwrap();
    assert_eq!(said.messages.len(), 19, "one of each kind");
    for (kind, seed) in [
        (bodies::Kind::Want, &include_bytes!("../../../tests/fuzz/seeds/store_bodies/want")[..]),
        (bodies::Kind::Answered, include_bytes!("../../../tests/fuzz/seeds/store_bodies/answered")),
    ] {
        assert!(bodies::reread(kind, seed).is_some(), "{kind:?}");
    }
    for seed in [
        &include_bytes!("../../../tests/fuzz/seeds/store_quorum_disk/record")[..],
        include_bytes!("../../../tests/fuzz/seeds/store_quorum_disk/hint"),
        include_bytes!("../../../tests/fuzz/seeds/store_quorum_disk/op"),
        include_bytes!("../../../tests/fuzz/seeds/store_quorum_disk/ring"),
        include_bytes!("../../../tests/fuzz/seeds/store_quorum_disk/together"),
    ] {
        let (name, value) = seed[1..].split_at(usize::from(seed[0]));
        assert!(disk::reread(name, value).is_some(), "{}", name.escape_ascii());
    }
    let words = include_bytes!("../../../tests/fuzz/seeds/store_quorum/store_and_list");
    let first = usize::from(u16::from_le_bytes([words[1], words[2]]));
    assert_eq!(bodies::packet(&words[3..3 + first]).map(|packet| packet.messages.len()), Some(3));
}

#[test]
fn a_token_is_read_as_it_was_written_and_not_otherwise() {
    let mut token = Token::default();
    for number in 0..2 * MOST_KEYS as u64 {
        let stamp = Stamp { ms: u64::MAX, count: u32::MAX, writer: u64::MAX - number };
        token.0.saw(&Key::new(&format!("space/{number}")).unwrap(), stamp);
    }
    let text = token.text();
    assert!(text.len() < 8 * 1024, "{}", text.len());
    assert_eq!(Token::parse(&text), Ok(token));
    assert_eq!(Token::parse(&Token::default().text()), Ok(Token::default()));
    let flipped = text.replacen('7', "8", 1);
    for wrong in ["", "0", "zz", "00", &text[2..], &text[..text.len() - 2], &flipped] {
        assert!(Token::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn keyspaces_are_the_same_if_names_levels_and_numbers_are() {
    let of = |spaces: &[(&str, Keyspace)]| {
        Keyspaces::new(spaces.iter().map(|(name, space)| ((*name).to_owned(), *space)).collect()).digest()
    };
    let space = Keyspace { level: KeyspaceLevel::Quorum, spec: Spec::default() };
    let patient = Spec { read_timeout: Duration::from_secs(3), ..space.spec };
    let one = of(&[("a", space)]);
    assert_eq!(one, of(&[("a", Keyspace { spec: patient, ..space })]));
    let with = |spec| of(&[("a", Keyspace { spec, ..space })]);
    let others = [
        of(&[]),
        of(&[("b", space)]),
        of(&[("a", space), ("b", space)]),
        of(&[("a", Keyspace { level: KeyspaceLevel::Eventual, ..space })]),
        with(Spec { replicas: 5, ..space.spec }),
        with(Spec { reads: 3, ..space.spec }),
        with(Spec { writes: 3, ..space.spec }),
    ];
    for other in others {
        assert_ne!(one, other);
    }
}

#[test]
fn who_has_other_keyspaces_counts_until_it_has_the_same_or_is_gone() {
    let own = Keyspaces::default();
    let (same, other) = (own.digest(), own.digest() ^ 1);
    let mut agreement = Agreement::new(own);
    let says = |id, digest| Says { id, name: "node", digest };
    assert_eq!(agreement.compare([says(1, same), says(2, other), says(3, other)]), 2);
    assert_eq!(agreement.compare([says(1, same), says(2, same), says(3, other)]), 1);
    assert_eq!(agreement.compare([says(1, same)]), 0);
}
