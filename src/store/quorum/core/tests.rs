//! The laws of records and clocks, and the rules of single parts. What holds among several servers is in
//! `tests/simulation.rs`.

mod simulation;
mod world;

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    clock::{Clock, MOST_AHEAD, Stamp},
    hints::{Hint, Hints},
    merkle::Tree,
    record::{Record, keyspace},
    ring::{Ring, Rings, reached, union},
    session::{MOST_KEYS, Session},
};
use crate::{
    store::core::key::{Key, OpId},
    types::Mono,
};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn stamps() -> impl Strategy<Value = Stamp> {
    (0..4_u64, 0..3_u32, 0..3_u64).prop_map(|(ms, count, writer)| Stamp { ms, count, writer })
}

fn records() -> impl Strategy<Value = Record> {
    let values = proptest::option::of(proptest::sample::select(vec!["", "a", "b"]));
    (stamps(), 0..3_u64, values).prop_map(|(stamp, sequence, value)| Record {
        stamp,
        op: OpId { client: 1, sequence },
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
    })
}

proptest! {
    #[test]
    fn merging_is_associative_commutative_and_idempotent(a in records(), b in records(), c in records()) {
        prop_assert_eq!(a.clone().merge(b.clone()), b.clone().merge(a.clone()));
        prop_assert_eq!(a.clone().merge(a.clone()), a.clone());
        let left = a.clone().merge(b.clone()).merge(c.clone());
        prop_assert_eq!(left, a.merge(b.merge(c)));
    }

    #[test]
    fn records_that_differ_have_different_digests(a in records(), b in records()) {
        let key = key("k");
        prop_assert_eq!(a == b, a.digest(&key) == b.digest(&key));
    }

    #[test]
    fn a_clock_grows_past_all_it_has_seen_and_never_far_ahead_of_the_wall(
        steps in proptest::collection::vec((0..3_000_u64, proptest::option::of(0..4_000_u64)), 1..60)
    ) {
        let mut clock = Clock::new(7);
        let mut last = Stamp::default();
        for (wall_ms, seen) in steps {
            if let Some(ms) = seen {
                let stamp = Stamp { ms, count: 3, writer: 9 };
                let taken = clock.observe(stamp, wall_ms).is_ok();
                prop_assert_eq!(taken, ms <= wall_ms + MOST_AHEAD);
                if taken {
                    last = last.max(stamp);
                }
            }
            if let Ok(stamp) = clock.next(wall_ms) {
                prop_assert!((stamp.ms, stamp.count) > (last.ms, last.count), "{stamp:?} after {last:?}");
                prop_assert!(stamp.ms >= wall_ms && stamp.ms <= wall_ms + MOST_AHEAD);
                last = stamp;
            }
        }
    }

    #[test]
    fn a_server_that_goes_moves_only_the_keys_it_kept(ids in proptest::collection::btree_set(1..1000_u64, 4..9), at in 0..4_usize) {
        let ring = Ring::new(ids.iter().copied());
        let gone = ring.members()[at];
        let smaller = Ring::new(ids.into_iter().filter(|id| *id != gone));
        for number in 0..50 {
            let text = format!("space/{number}");
            let (before, after) = (ring.replicas(&text, 3), smaller.replicas(&text, 3));
            let stay: Vec<u64> = before.iter().copied().filter(|id| *id != gone).collect();
            prop_assert!(stay.iter().all(|id| after.contains(id)));
            prop_assert!(before.contains(&gone) || before == after);
        }
    }

    #[test]
    fn trees_are_the_same_for_the_same_records_in_any_order(mut keys in proptest::collection::vec("[a-d]{1,3}", 0..20), extra in "[e-h]{2}") {
        let tree = |keys: &[String]| {
            let mut tree = Tree::default();
            keys.iter().for_each(|text| tree.toggle(&key(text), xxhash_rust::xxh64::xxh64(text.as_bytes(), 5)));
            tree
        };
        let one = tree(&keys);
        keys.reverse();
        prop_assert_eq!(one.root(), tree(&keys).root());
        keys.push(extra.clone());
        let other = tree(&keys);
        prop_assert_ne!(one.root(), other.root());
        let part = super::merkle::leaf(&key(&extra));
        prop_assert_eq!(one.differing(other.leaves()).collect::<Vec<_>>(), vec![part]);
    }
}

#[test]
fn a_clock_that_was_set_back_makes_no_stamp_before_it_is_there_again() {
    let mut clock = Clock::new(1);
    let first = clock.next(10_000).unwrap();
    assert!(clock.next(9_000).is_err());
    let next = clock.next(9_600).unwrap();
    assert!(next > first);
}

#[test]
fn the_oldest_hints_go_for_age_and_for_room() {
    let record =
        Record { stamp: Stamp::default(), op: OpId { client: 1, sequence: 1 }, value: Some("v".into()) };
    let mut hints = Hints::default();
    for at_ms in [100, 200] {
        hints.add(Hint { to: 9, key: key("k"), record: record.clone(), at_ms });
    }
    assert_eq!(hints.surplus(1_100, 1_000, 10_000), None);
    assert_eq!(hints.surplus(1_101, 1_000, 10_000), Some(0));
    assert_eq!(hints.surplus(300, 1_000, 200), Some(0));
    assert!(hints.remove(0).is_some() && hints.remove(0).is_none());
    assert_eq!(hints.of(9, 10).map(|(number, _)| number).collect::<Vec<_>>(), [1]);
    assert_eq!(hints.surplus(300, 1_000, 200), None);
    hints.remove(1);
    assert!(hints.targets().is_empty() && hints.is_empty());
}

#[test]
fn a_session_asks_for_what_it_has_seen_and_for_a_quorum_once_it_has_seen_much() {
    let stamp = |ms| Stamp { ms, count: 0, writer: 0 };
    let mut session = Session::default();
    session.saw(&key("a"), stamp(5));
    session.saw(&key("a"), stamp(3));
    assert_eq!(session.floor(&key("a")).least, Some(stamp(5)));
    assert!(!session.floor(&key("b")).by_quorum);
    for number in 0..2 * MOST_KEYS {
        session.saw(&key(&format!("k{number}")), stamp(1));
    }
    assert!(session.is_sound());
    assert!(session.floor(&key("new")).by_quorum);
    assert_eq!(session.floor(&key("a")).least, Some(stamp(5)));
}

#[test]
fn rings_that_differ_count_side_by_side_until_their_time_is_over() {
    let at = |seconds| Mono::ZERO.after(Duration::from_secs(seconds));
    let minute = Duration::from_secs(60);
    let mut rings = Rings::new(Ring::default(), at(0));
    assert!(rings.change(Ring::new([1, 2, 3]), at(0), minute));
    let sets = |rings: &Rings| rings.sets("k", 3, 2, 2);
    assert_eq!(sets(&rings).len(), 1, "nothing is handed over from no ring at all");
    assert_eq!(rings.unchanged(at(50)), Duration::from_secs(50));
    assert!(rings.learn(Ring::new([3, 4, 5]), at(50), minute));
    assert!(!rings.learn(Ring::new([3, 4, 5]), at(60), minute), "it is known");
    let both = sets(&rings);
    assert_eq!(both.len(), 2);
    assert_eq!(union(&both).len(), 5);
    assert!(reached(&both, 2, |node| [1, 3, 4].contains(&node)));
    assert!(
        !reached(&both, 2, |node| [1, 2, 3].contains(&node)),
        "a quorum of one ring is none of the other"
    );
    assert_eq!(rings.unchanged(at(100)), Duration::ZERO);
    assert!(!rings.advance(at(119)) && rings.advance(at(120)));
    assert_eq!(sets(&rings).len(), 1);
    // Quorums of these meet all of the three, or there are none.
    rings.learn(Ring::new([1, 3]), at(130), minute);
    rings.learn(Ring::new([2]), at(130), minute);
    assert_eq!(sets(&rings).len(), 1);
    rings.learn(Ring::new([1, 2, 4]), at(130), minute);
    assert_eq!(sets(&rings).len(), 2);
}

#[test]
fn the_keyspace_is_what_comes_before_the_first_slash() {
    for (text, space) in [("a/b/c", "a"), ("a", "a"), ("/a", ""), ("ä/", "ä")] {
        assert_eq!(keyspace(text), space);
    }
}
