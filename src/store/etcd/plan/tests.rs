//! A plan comes to what the embedded store does with the same transaction, drawn by chance from few keys.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};

use super::{super::layout::settled, *};
use crate::store::core::{
    command::{Command, Request},
    key::OpId,
    kv::Kv,
    outcome::Outcome,
};

const KEYS: [&str; 6] = ["a", "ab", "abc", "b", "ba", "c"];
const PREFIXES: [&str; 5] = ["", "a", "ab", "b", "z"];

fn key() -> impl Strategy<Value = Key> {
    select(&KEYS[..]).prop_map(|text| Key::new(text).unwrap())
}

fn value() -> impl Strategy<Value = Bytes> {
    select(&["", "1", "2", "3"][..]).prop_map(Bytes::from)
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        key().prop_map(Operation::Get),
        (key(), value()).prop_map(|(key, value)| Operation::Put { key, value, stay: Stay::Forever }),
        key().prop_map(Operation::Delete),
        select(&PREFIXES[..]).prop_map(|prefix| Operation::DeletePrefix(prefix.to_owned())),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let relation = select(&[Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater][..]);
    let with = prop_oneof![
        (0..6_u64).prop_map(|at| Operand::Modified(Revision(at))),
        (0..6_u64).prop_map(|at| Operand::Created(Revision(at))),
        (0..3_u64).prop_map(Operand::Version),
        value().prop_map(Operand::Value),
    ];
    (key(), relation, with).prop_map(|(key, relation, with)| Compare { key, relation, with })
}

fn transaction() -> impl Strategy<Value = Transaction> {
    (vec(compare(), 0..3), vec(operation(), 0..7), vec(operation(), 0..7))
        .prop_map(|(compare, then, otherwise)| Transaction { compare, then, otherwise })
}

fn apply(kv: &mut Kv, sequence: u64, transaction: Transaction) -> Outcome {
    let op = OpId { client: 1, sequence };
    kv.apply(&Command { op, at_ms: 1, author: "me".into(), request: Request::Transact(transaction) })
}

fn keys(kv: &Kv) -> BTreeMap<Key, Versioned> {
    let all = KEYS.map(|text| Key::new(text).unwrap());
    all.into_iter().filter_map(|key| kv.get(&key).cloned().map(|found| (key, found))).collect()
}

/// What is read for `wanted`: no value of a key that is only wanted to be there.
fn read(kv: &Kv, wanted: &Wanted) -> Seen {
    let all = keys(kv);
    let of = |(key, reading): (&Key, &Reading)| {
        let mut found = all.get(key)?.clone();
        if *reading == Reading::Standing {
            found.value = Bytes::from_static(b"not read");
        }
        Some((key.clone(), found))
    };
    let count = |prefix: &String| {
        let count = all.keys().filter(|key| key.as_str().starts_with(prefix.as_str())).count();
        (prefix.clone(), u64::try_from(count).unwrap())
    };
    Seen {
        revision: kv.revision(),
        keys: wanted.keys.iter().filter_map(of).collect(),
        counts: wanted.prefixes.iter().map(count).collect(),
    }
}

/// What the keys have once `plan` is written: the gaps of what is cleared first, as one transaction of etcd has it.
fn written(mut all: BTreeMap<Key, Versioned>, plan: &Plan) -> BTreeMap<String, Bytes> {
    for prefix in &plan.clears {
        for (from, to) in gaps(prefix, plan.puts.keys()) {
            all.retain(|key, _| {
                let text = key.as_str();
                let is_in = *text >= *from && text.starts_with(prefix.as_str());
                !(is_in && to.as_ref().is_none_or(|to| *text < **to))
            });
        }
    }
    let mut left: BTreeMap<String, Bytes> =
        all.into_iter().map(|(key, found)| (key.into(), found.value)).collect();
    for key in &plan.deletes {
        assert!(!plan.puts.contains_key(key));
        left.remove(key.as_str());
    }
    left.extend(plan.puts.iter().map(|(key, (value, _))| (key.as_str().to_owned(), value.clone())));
    left
}

proptest! {
    #[test]
    fn a_plan_comes_to_what_the_embedded_store_does(
        before in vec((key(), value()), 0..5),
        transaction in transaction(),
    ) {
        let mut kv = Kv::default();
        for (at, (key, value)) in (1..).zip(before) {
            apply(&mut kv, at, Transaction::put(key, value, Stay::Forever));
        }
        let (state, revision) = (keys(&kv), kv.revision());
        let plan = Plan::new(&transaction, &read(&kv, &Wanted::of(&transaction)));
        let expected = apply(&mut kv, 100, transaction);
        prop_assert_eq!(settled(plan.result.clone(), Revision(revision.0 + 1)).result, expected.result);
        let left: BTreeMap<String, Bytes> =
            keys(&kv).into_iter().map(|(key, found)| (key.into(), found.value)).collect();
        prop_assert_eq!(written(state, &plan), left);
        // What was set and removed again has changed nothing that anybody could see, and may be written all the same.
        prop_assert!(plan.has_effect || expected.revision == revision);
        prop_assert!(!plan.has_effect || expected.revision > revision);
    }
}

fn named(text: &str) -> Key {
    Key::new(text).unwrap()
}

#[test]
fn what_is_put_blindly_needs_no_reading() {
    let put = Transaction::put(named("a"), "1".into(), Stay::Forever);
    assert_eq!(Wanted::of(&put), Wanted::default());
    let plan = Plan::guessed(&put).unwrap();
    assert!(plan.unchanged.is_empty() && plan.has_effect && plan.puts.len() == 1, "{plan:?}");
    let swap = put.if_modified_at(named("a"), Revision(7));
    assert_eq!(Plan::guessed(&swap).unwrap().unchanged, BTreeMap::from([(named("a"), Revision(7))]));
    let twice = swap.if_modified_at(named("a"), Revision(8));
    assert_eq!(Plan::guessed(&twice), None, "it cannot hold");
    assert_eq!(Plan::guessed(&Transaction::delete(named("a"))), None);
}

#[test]
fn only_what_decided_must_not_change() {
    let transaction = Transaction {
        compare: vec![
            Compare { key: named("a"), relation: Relation::Equal, with: Operand::Version(0) },
            Compare { key: named("b"), relation: Relation::Equal, with: Operand::Version(9) },
            Compare { key: named("c"), relation: Relation::Equal, with: Operand::Version(9) },
        ],
        then: vec![Operation::Get(named("d"))],
        otherwise: vec![Operation::Delete(named("e"))],
    };
    let plan = Plan::new(&transaction, &Seen::default());
    let unchanged: Vec<_> = plan.unchanged.keys().map(Key::as_str).collect();
    assert_eq!(unchanged, ["b", "e"]);
    assert!(!plan.has_effect);
}
