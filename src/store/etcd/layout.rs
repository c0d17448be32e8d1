//! What the keys of the store are called in etcd, and what is noted there beside them. Values are what they are: `etcdctl get`
//! shows them, and what it puts is read.
//!
//! - `<prefix>kv/<key>`: the value.
//! - `<prefix>op/<operation>`: that a write was done, by whom, when and with what result; written in the transaction of the
//!   write itself, and gone some time later.

use std::sync::Arc;

use bytes::Bytes;
use etcd_client::{KeyValue, proto::PbKeyValue};
use serde::{Deserialize, Serialize};

use crate::store::core::{
    key::{Key, LeaseId, OpId, Revision},
    outcome::{CommandResult, OperationResult, Outcome, Versioned},
};

/// The form of a note.
const FORMAT: u8 = 1;
/// Longest result that is noted. What a transaction has read may be long, and is seldom asked for again.
const MAX_RESULT: usize = 64 * 1024;
/// Stands for the revision that a transaction is going to make, which is not known before.
pub(super) const PENDING: Revision = Revision(u64::MAX);

/// Where the store is in etcd.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    prefix: Arc<str>,
}

/// One of the keys below the prefix.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'k> {
    /// A key of the store; it may be none that the store could have written.
    Kv(&'k [u8]),
    /// A note.
    Note,
    /// Nothing that is known.
    Other,
}

impl Layout {
    pub(super) fn new(prefix: &Arc<str>) -> Self {
        Self { prefix: Arc::clone(prefix) }
    }

    /// All that the store has in etcd begins so.
    pub(super) fn root(&self) -> Vec<u8> {
        self.prefix.as_bytes().to_vec()
    }

    /// The key of etcd for a key of the store, or for the beginning of some.
    pub(super) fn kv(&self, text: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), b"kv/", text.as_bytes()].concat()
    }

    /// The end of those that begin with `text`: the first key that does not.
    pub(super) fn end(&self, text: &str) -> Vec<u8> {
        let mut end = self.kv(text);
        // Keys are UTF-8: 0xff is in none, and `kv/` stands before it in any case.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        end
    }

    /// Where it is noted that a write was done.
    pub(super) fn note(&self, op: OpId) -> Vec<u8> {
        format!("{}op/{:016x}-{:x}", self.prefix, op.client, op.sequence).into_bytes()
    }

    /// Whether it is a key of the store.
    pub(super) fn is_kv(&self, key: &[u8]) -> bool {
        matches!(self.place(key), Place::Kv(_))
    }

    pub(super) fn place<'k>(&self, key: &'k [u8]) -> Place<'k> {
        let Some(rest) = key.strip_prefix(self.prefix.as_bytes()) else { return Place::Other };
        match (rest.strip_prefix(b"kv/"), rest.strip_prefix(b"op/")) {
            (Some(key), _) => Place::Kv(key),
            (None, Some(_)) => Place::Note,
            (None, None) => Place::Other,
        }
    }
}

/// What is noted of a write.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Note {
    /// When, in milliseconds since 1970.
    pub(super) at_ms: u64,
    /// By whom.
    pub(super) author: Arc<str>,
    /// With what result; `None` if that was too long.
    result: Option<CommandResult>,
}

impl Note {
    pub(super) fn new(at_ms: u64, author: &Arc<str>, result: &CommandResult) -> Self {
        let fits = size(result) <= MAX_RESULT;
        Self { at_ms, author: Arc::clone(author), result: fits.then(|| result.clone()) }
    }

    pub(super) fn write(&self) -> Vec<u8> {
        // Into memory, of types that can all be written.
        let body = postcard::to_allocvec(self).unwrap_or_default();
        [&[FORMAT], &*body].concat()
    }

    /// `None` if it is of another form.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [FORMAT, body @ ..] => postcard::from_bytes(body).ok(),
            _ => None,
        }
    }

    /// What the write was answered, that made `revision`; `None` if that is not known any more.
    pub(super) fn outcome(self, revision: Revision) -> Option<Outcome> {
        Some(settled(self.result?, revision))
    }
}

/// An outcome whose revision is known now.
pub(super) fn settled(mut result: CommandResult, revision: Revision) -> Outcome {
    if let CommandResult::Transacted { results, .. } = &mut result {
        for one in results {
            if let OperationResult::Got(Some(found)) = one {
                for at in [&mut found.created, &mut found.modified] {
                    if *at == PENDING {
                        *at = revision;
                    }
                }
            }
        }
    }
    Outcome { revision, result }
}

fn size(result: &CommandResult) -> usize {
    let CommandResult::Transacted { results, .. } = result else { return 0 };
    let of = |one: &OperationResult| match one {
        OperationResult::Got(Some(found)) => found.value.len() + 64,
        OperationResult::Got(None) | OperationResult::Put | OperationResult::Deleted(_) => 8,
    };
    results.iter().map(of).sum()
}

/// A revision as etcd has it. It is never negative there.
pub(super) fn revision(of: i64) -> Revision {
    Revision(u64::try_from(of).unwrap_or_default())
}

/// A number of ours as etcd takes it: what no revision can be is the greatest.
pub(super) fn number(of: u64) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

/// The key of the store that etcd has by this name; `None` if it could be none: somebody else put it there.
pub(super) fn key(bytes: &[u8]) -> Option<Key> {
    std::str::from_utf8(bytes).ok().and_then(|text| Key::new(text).ok())
}

/// What a key has.
pub(super) fn versioned(pair: KeyValue) -> Versioned {
    let PbKeyValue { value, create_revision, mod_revision, version, lease, .. } = pair.0;
    Versioned {
        value: Bytes::from(value),
        created: revision(create_revision),
        modified: revision(mod_revision),
        version: u64::try_from(version).unwrap_or_default(),
        lease: (lease != 0).then(|| LeaseId(lease.cast_unsigned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::new(&"outrigger/shop/".into())
    }

    #[test]
    fn keys_notes_and_strangers_are_told_apart() {
        let (layout, op) = (layout(), OpId { client: 7, sequence: 255 });
        assert_eq!(layout.place(&layout.kv("routes/web")), Place::Kv(b"routes/web"));
        assert_eq!(layout.place(&layout.note(op)), Place::Note);
        assert_eq!(layout.note(op), b"outrigger/shop/op/0000000000000007-ff");
        assert_eq!(layout.place(b"outrigger/shop/leader"), Place::Other);
        assert_eq!(layout.place(b"outrigger/shops/kv/a"), Place::Other);
    }

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_behind_it() {
        let layout = layout();
        for (prefix, inside, outside) in
            [("", "\u{10ffff}", ""), ("p/", "p/\u{10ffff}", "p0"), ("a", "aé", "b")]
        {
            assert!(layout.kv(inside) < layout.end(prefix), "{prefix}");
            if !outside.is_empty() {
                assert!(layout.kv(outside) >= layout.end(prefix), "{prefix}");
            }
        }
        assert!(layout.note(OpId { client: u64::MAX, sequence: 1 }) >= layout.end(""));
    }

    #[test]
    fn a_note_answers_as_the_write_was_and_forgets_what_is_too_long() {
        let found = |length| Versioned {
            value: vec![1; length].into(),
            created: Revision(3),
            modified: PENDING,
            version: 2,
            lease: None,
        };
        let result = |length| CommandResult::Transacted {
            held: true,
            results: vec![OperationResult::Got(Some(found(length))), OperationResult::Deleted(4)],
        };
        let read = |length| Note::read(&Note::new(5, &"me".into(), &result(length)).write()).unwrap();
        let outcome = read(9).outcome(Revision(8)).unwrap();
        let expected = Versioned { modified: Revision(8), ..found(9) };
        let CommandResult::Transacted { results, .. } = &outcome.result else { panic!("{outcome:?}") };
        assert_eq!((outcome.revision, &results[0]), (Revision(8), &OperationResult::Got(Some(expected))));
        assert_eq!(read(MAX_RESULT).outcome(Revision(8)), None);
        assert_eq!(Note::read(b"\x02what comes later"), None);
        assert_eq!(Note::read(b""), None);
    }
}
