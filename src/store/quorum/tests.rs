//! The disk and the token. What servers do together is in core/tests, and with real processes in tests/process/quorum.rs.

use std::sync::Arc;

use super::{
    Token,
    core::{
        clock::Stamp,
        hints::Hint,
        record::Record,
        rules::{Change, Loaded},
        session::MOST_KEYS,
    },
    disk,
};
use crate::store::{
    backend::{self, Batch, Durability, Keys, Sealed, StorageBackend, Table},
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
