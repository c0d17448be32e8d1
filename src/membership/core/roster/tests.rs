//! Who may be sent requests, and when most are missed rather than dead.

use super::*;
use crate::{membership::core::fact::tests::facts, types::Tags};

type Change<T> = fn(&mut T);

const OWN: MemberId = MemberId(0);

fn at(seconds: u64) -> Mono {
    Mono::from_nanos(seconds * 1_000_000_000)
}

fn sight(state: MemberState) -> Sight {
    Sight { generation: 1, incarnation: 0, address: ([10, 0, 0, 1], 7946).into(), state, since: Mono::ZERO }
}

fn record(id: u64, facts: Facts) -> FactRecord {
    FactRecord { id: MemberId(id), generation: 1, sequence: 1, has_left: false, said_at: 0, facts }
}

/// A roster that knows the members 1 to `count`, all alive and with nothing to prove.
fn roster(count: u64) -> Roster {
    let mut roster = Roster::new(OWN, false);
    for id in 1..=count {
        roster.learn(&record(id, facts(&format!("n{id}"))));
        roster.see(MemberId(id), sight(MemberState::Alive), at(0));
    }
    roster
}

fn routable(roster: &Roster, id: u64, now: Mono) -> Routable {
    let id = MemberId(id);
    roster.routable(id, &roster.sights[&id], now)
}

#[test]
fn requests_go_to_those_that_live_and_take_them() {
    let cases: [(&str, MemberState, Change<FactRecord>, Routable); 6] = [
        ("alive", MemberState::Alive, |_| {}, Routable::Yes),
        ("suspect", MemberState::Suspect, |_| {}, Routable::Thinned),
        ("dead", MemberState::Dead, |_| {}, Routable::No),
        ("draining", MemberState::Alive, |record| record.facts.is_draining = true, Routable::No),
        ("taking none", MemberState::Alive, |record| record.facts.endpoint = None, Routable::No),
        ("leaving", MemberState::Alive, |record| record.has_left = true, Routable::No),
    ];
    for (name, state, change, expected) in cases {
        let mut roster = roster(3);
        let mut record = FactRecord { sequence: 2, ..record(1, facts("n1")) };
        change(&mut record);
        roster.learn(&record);
        roster.see(MemberId(1), sight(state), at(1));
        roster.judge_isolation();
        assert_eq!(routable(&roster, 1, at(1)), expected, "{name}");
    }
}

#[test]
fn whoever_has_not_proved_who_it_is_gets_nothing() {
    let mut roster = Roster::new(OWN, true);
    roster.learn(&record(1, facts("n1")));
    roster.see(MemberId(1), sight(MemberState::Alive), at(0));
    assert_eq!((routable(&roster, 1, at(0)), roster.unconfirmed().count()), (Routable::No, 1));
    roster.confirm(sight(MemberState::Alive).address, &record(1, facts("n1")), at(0));
    assert_eq!((routable(&roster, 1, at(0)), roster.unconfirmed().count()), (Routable::Yes, 0));
}

#[test]
fn another_service_or_endpoint_must_be_proved_again_and_other_tags_need_not() {
    let changes: [(Change<Facts>, Routable); 3] = [
        (|facts| facts.service = "other".into(), Routable::No),
        (|facts| facts.endpoint = Some(([10, 0, 0, 9], 1).into()), Routable::No),
        (|facts| facts.tags = Tags::new([("version".to_owned(), "v2".to_owned())]), Routable::Yes),
    ];
    for (change, expected) in changes {
        let mut roster = Roster::new(OWN, true);
        roster.learn(&record(1, facts("n1")));
        roster.see(MemberId(1), sight(MemberState::Alive), at(0));
        roster.confirm(sight(MemberState::Alive).address, &record(1, facts("n1")), at(0));
        let mut next = FactRecord { sequence: 2, ..record(1, facts("n1")) };
        change(&mut next.facts);
        assert!(roster.learn(&next));
        assert_eq!(routable(&roster, 1, at(0)), expected);
    }
}

#[test]
fn what_was_proved_is_what_was_shown_and_not_what_gossip_says_meanwhile() {
    let mut roster = Roster::new(OWN, true);
    roster.see(MemberId(1), sight(MemberState::Alive), at(0));
    let mut forged = FactRecord { sequence: 9, ..record(1, facts("n1")) };
    forged.facts.endpoint = Some(([10, 0, 0, 66], 15006).into());
    assert!(roster.learn(&forged));
    let shown = record(1, facts("n1"));
    roster.confirm(sight(MemberState::Alive).address, &shown, at(0));
    assert!(!roster.learn(&shown));
    assert_eq!((routable(&roster, 1, at(0)), roster.unconfirmed().count()), (Routable::No, 1));
}

#[test]
fn older_news_change_nothing() {
    let mut roster = roster(1);
    let newer = FactRecord { sequence: 5, ..record(1, facts("new")) };
    assert!(roster.learn(&newer));
    assert!(!roster.learn(&newer) && !roster.learn(&record(1, facts("old"))));
    assert!(roster.learn(&FactRecord { generation: 2, sequence: 1, ..record(1, facts("later")) }));
}

#[test]
fn losing_most_at_once_is_being_cut_off() {
    let mut roster = roster(5);
    let mut lose = |id: u64, state, now| {
        roster.hear(at(now));
        roster.see(MemberId(id), sight(state), at(now));
        roster.judge_isolation()
    };
    assert_eq!([lose(1, MemberState::Dead, 1), lose(2, MemberState::Dead, 2)], [None, None]);
    assert_eq!(lose(3, MemberState::Dead, 3), Some(true));
    assert_eq!(lose(4, MemberState::Dead, 90), None);
    assert_eq!(lose(4, MemberState::Alive, 91), None);
    assert_eq!(lose(3, MemberState::Alive, 91), Some(false));
}

#[test]
fn those_who_die_one_by_one_while_nobody_is_heard_are_lost_at_once() {
    let mut roster = roster(30);
    roster.hear(at(1));
    let mut judged = Vec::new();
    for id in 1..=30 {
        roster.see(MemberId(id), sight(MemberState::Dead), at(10 * id));
        judged.extend(roster.judge_isolation());
    }
    assert_eq!(judged, [true]);
    assert!((1..=30).all(|id| routable(&roster, id, at(301)) == Routable::LastResort));
}

#[test]
fn there_is_room_for_as_many_as_a_comparison_may_name_beside_this_node() {
    let all = MAX_MEMBERS as u64;
    let mut full = roster(all);
    assert_eq!((full.room(), full.sight(MemberId(all)).is_some()), (0, false));
    full.see(MemberId(1), sight(MemberState::Dead), at(1));
    assert_eq!(full.gone().map(|(id, _)| id).collect::<Vec<_>>(), [MemberId(1)]);
    full.forget(MemberId(1), 1);
    full.see(MemberId(all), sight(MemberState::Alive), at(2));
    assert_eq!((full.room(), full.sight(MemberId(all)).is_some()), (0, true));
}

#[test]
fn what_strangers_say_makes_room_for_what_members_say() {
    let mut roster = Roster::new(OWN, false);
    (1..=MAX_MEMBERS as u64).for_each(|id| assert!(roster.learn(&record(id, facts("n")))));
    roster.see(MemberId(1), sight(MemberState::Alive), at(0));
    assert!(!roster.learn(&record(u64::MAX, facts("last"))));
    roster.drop_orphans();
    assert!(roster.learn(&record(u64::MAX, facts("last"))));
    assert!(roster.record(MemberId(1)).is_some() && roster.record(MemberId(2)).is_none());
}

#[test]
fn whoever_is_given_up_again_after_it_was_taken_back_is_no_loss() {
    let mut roster = roster(3);
    for (state, now, judged) in [
        (MemberState::Dead, 1, Some(true)),
        (MemberState::Suspect, 60, Some(false)),
        (MemberState::Dead, 70, None),
    ] {
        roster.hear(at(now));
        (1..=3).for_each(|id| roster.see(MemberId(id), sight(state), at(now)));
        assert_eq!(roster.judge_isolation(), judged, "{now} s");
        roster.doubt((1..=3).map(MemberId));
    }
}

#[test]
fn those_that_are_missed_are_the_last_resort() {
    let mut roster = roster(2);
    for id in [1, 2] {
        roster.see(MemberId(id), sight(MemberState::Dead), at(1));
        roster.judge_isolation();
    }
    assert_eq!(routable(&roster, 1, at(1)), Routable::LastResort);
}

#[test]
fn losing_them_one_by_one_while_others_are_heard_is_not_being_cut_off() {
    let mut roster = roster(5);
    for id in 1..=5 {
        roster.hear(at(id * 60));
        roster.see(MemberId(id), sight(MemberState::Dead), at(id * 60));
        assert_eq!(roster.judge_isolation(), None);
    }
}

#[test]
fn goodbyes_are_no_losses() {
    let mut roster = roster(3);
    for id in 1..=3 {
        roster.see(MemberId(id), sight(MemberState::Left), at(1));
        assert_eq!(roster.judge_isolation(), None);
    }
}

#[test]
fn whoever_comes_and_goes_is_used_sparingly_for_a_while() {
    let mut roster = roster(3);
    for round in 0..3 {
        roster.see(MemberId(1), sight(MemberState::Dead), at(round * 4));
        roster.see(MemberId(1), sight(MemberState::Alive), at(round * 4 + 2));
    }
    assert_eq!(routable(&roster, 1, at(11)), Routable::Thinned);
    assert_eq!(routable(&roster, 1, at(120)), Routable::Yes);
}

#[test]
fn a_name_is_taken_by_the_living() {
    let mut roster = roster(2);
    assert_eq!(roster.named("n1", MemberId(9)).map(|(id, _)| id), Some(MemberId(1)));
    assert_eq!(roster.named("n1", MemberId(1)), None);
    roster.see(MemberId(1), sight(MemberState::Suspect), at(1));
    assert_eq!(roster.named("n1", MemberId(9)), None);
}
