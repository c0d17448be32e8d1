//! The rules of founding one by one. What holds in whole meshes is in `tests/simulation.rs`.

mod simulation;

use super::*;

const SEEDS: SeedList = SeedList { count: 1, digest: 7 };
const SECOND: Duration = Duration::from_secs(1);

fn at(millis: u64) -> Mono {
    Mono::ZERO.after(Duration::from_millis(millis))
}

fn config(expect: Expect, seeds: SeedList) -> Config {
    Config { expect, settle: 2 * SECOND, seeds }
}

fn node(node: u64, is_seed: bool, kept: Kept) -> Bootstrap {
    let me = Me { node, eligible: true, is_seed };
    Bootstrap::new(me, config(Expect::Three, SEEDS), kept, fastrand::Rng::with_seed(node), Mono::ZERO)
}

fn known(node: u64) -> Known {
    Known { node, eligible: true, founded: None, since: Mono::ZERO, is_seed: node == 2 }
}

fn outputs(bootstrap: &mut Bootstrap) -> Vec<Output> {
    std::iter::from_fn(|| bootstrap.poll()).collect()
}

fn ballot(round: u64, proposer: u64) -> Ballot {
    Ballot { round, proposer }
}

fn members(nodes: &[u64]) -> Members {
    Members::new(nodes.to_vec()).unwrap()
}

fn propose(round: u64, proposer: u64) -> Message {
    let members = members(&[proposer, proposer + 1, proposer + 2]);
    Message::Propose { ballot: ballot(round, proposer), seeds: SEEDS, members }
}

fn confirm(round: u64, proposer: u64, proposal: &Proposal) -> Message {
    Message::Confirm { ballot: ballot(round, proposer), seeds: SEEDS, proposal: proposal.clone() }
}

fn receive(bootstrap: &mut Bootstrap, from: u64, message: Message, now: Mono) -> Vec<Output> {
    bootstrap.handle(Input::Received { from, message }, now);
    outputs(bootstrap)
}

/// What it says at last, if its disk writes at once.
fn answer(bootstrap: &mut Bootstrap, from: u64, message: Message, now: Mono) -> Option<Message> {
    let mut said = receive(bootstrap, from, message, now);
    if let Some(Output::Persist { number, .. }) = said.first() {
        bootstrap.handle(Input::Persisted(*number), now);
        said.extend(outputs(bootstrap));
    }
    said.into_iter().find_map(|output| match output {
        Output::Send { message, .. } => Some(message),
        _ => None,
    })
}

fn refusal(message: Option<Message>) -> Refusal {
    match message {
        Some(Message::Refused { why, .. }) => why,
        other => panic!("{other:?} is no refusal"),
    }
}

/// Node 1 of 1, 2 (the seed) and 3, when it has asked itself.
fn proposer() -> (Bootstrap, Ballot) {
    let mut one = node(1, false, Kept::default());
    one.handle(Input::Known(vec![known(2), known(3)]), at(0));
    one.advance(at(2_000));
    assert!(matches!(outputs(&mut one)[..], [Output::Persist { number: 1, .. }]));
    one.handle(Input::Persisted(1), at(2_010));
    let asked: Vec<_> =
        outputs(&mut one).into_iter().filter(|output| is_propose_to(output, &[2, 3])).collect();
    assert_eq!(asked.len(), 2);
    (one, ballot(1, 1))
}

fn is_propose_to(output: &Output, nodes: &[u64]) -> bool {
    matches!(output, Output::Send { to, message: Message::Propose { .. } } if nodes.contains(to))
}

fn promised(ballot: Ballot) -> Message {
    Message::Promised { ballot, accepted: None }
}

#[test]
fn a_store_that_is_there_is_joined_and_none_founded() {
    let mut one = node(1, true, Kept::default());
    one.handle(Input::Known(vec![Known { founded: Some(StoreId(9)), ..known(4) }, known(3)]), at(0));
    one.advance(at(60_000));
    assert_eq!(outputs(&mut one), [Output::Join(StoreId(9))]);
    let refused = answer(&mut one, 3, propose(4, 3), at(60_000));
    assert_eq!(refusal(refused), Refusal::Founded(StoreId(9)));
}

#[test]
fn whoever_belongs_to_a_store_after_a_restart_founds_none() {
    let mut one = node(1, true, Kept { store: Some(StoreId(9)), ..Kept::default() });
    one.handle(Input::Known(vec![known(5), known(3)]), at(0));
    one.advance(at(60_000));
    assert_eq!(outputs(&mut one), []);
    assert_eq!(one.next_deadline(), None);
}

#[test]
fn two_stores_in_one_mesh_are_left_to_people() {
    let mut one = node(1, true, Kept::default());
    let [first, second] = [4, 5].map(|number| StoreId(number << 16));
    let both = [first, second].map(|store| Known { founded: Some(store), ..known(store.0) });
    one.handle(Input::Known(both.to_vec()), at(0));
    one.handle(Input::Known(both.to_vec()), at(10_000));
    assert_eq!(outputs(&mut one), [Output::Conflict(vec![first, second])]);
}

#[test]
fn of_a_store_the_latest_epoch_is_joined_and_an_earlier_one_left() {
    let (first, second) = (StoreId(7 << 16), StoreId(7 << 16 | 1));
    let both = [first, second].map(|store| Known { founded: Some(store), ..known(4 + store.0) });
    let mut fresh = node(1, true, Kept::default());
    fresh.handle(Input::Known(both.to_vec()), at(0));
    assert_eq!(outputs(&mut fresh), [Output::Join(second)]);
    let mut old = node(1, true, Kept { store: Some(first), ..Kept::default() });
    old.handle(Input::Known(both.to_vec()), at(0));
    old.handle(Input::Known(both.to_vec()), at(10));
    assert_eq!(outputs(&mut old), [Output::Superseded(second)]);
    // And nobody goes back.
    let mut new = node(1, true, Kept { store: Some(second), ..Kept::default() });
    new.handle(Input::Known(both.to_vec()), at(0));
    assert_eq!(outputs(&mut new), []);
}

#[test]
fn epochs_are_of_one_store_and_end() {
    let first = StoreId::fresh(0x1234_5678_9abc_def0);
    assert_eq!((first, first.epoch()), (StoreId(0x1234_5678_9abc_0000), 0));
    assert_eq!(StoreId::fresh(0), StoreId(0x1_0000));
    let next = first.next_epoch().unwrap();
    assert!(first.is_before(next) && !next.is_before(first) && !first.is_before(first));
    assert!(!first.is_before(StoreId(0x1234_5678_9abd_0001)));
    assert_eq!(StoreId(0x1234_5678_9abc_ffff).next_epoch(), None);
}

#[test]
fn one_without_seeds_founds_at_once_when_it_is_all_that_is_expected() {
    for (count, is_seed) in [(0, false), (1, true)] {
        let seeds = SeedList { count, digest: 7 };
        let me = Me { node: 8, eligible: true, is_seed };
        let rng = fastrand::Rng::with_seed(1);
        let mut alone = Bootstrap::new(me, config(Expect::One, seeds), Kept::default(), rng, Mono::ZERO);
        for number in 1..=2 {
            let said = outputs(&mut alone);
            assert!(matches!(said[..], [Output::Persist { number: n, .. }] if n == number), "{said:?}");
            alone.handle(Input::Persisted(number), Mono::ZERO);
        }
        let said = outputs(&mut alone);
        assert!(
            matches!(&said[..], [Output::Found(proposal)] if proposal.members.nodes() == [8]),
            "{said:?}"
        );
    }
}

#[test]
fn several_without_seeds_found_nothing() {
    let me = Me { node: 1, eligible: true, is_seed: false };
    let none = SeedList { count: 0, digest: 0 };
    let rng = fastrand::Rng::with_seed(1);
    let mut one = Bootstrap::new(me, config(Expect::Three, none), Kept::default(), rng, Mono::ZERO);
    one.handle(Input::Known([3, 4].map(known).to_vec()), at(0));
    one.advance(at(60_000));
    assert_eq!(outputs(&mut one), []);
}

#[test]
fn only_the_lowest_of_enough_settled_eligible_nodes_proposes() {
    let late = Known { since: at(9_000), ..known(3) };
    let ephemeral = Known { eligible: false, ..known(3) };
    let lower = Known { node: 0, ..known(3) };
    let no_seed = Known { is_seed: false, ..known(2) };
    let two_seeds = Known { is_seed: true, ..known(3) };
    for nodes in [
        vec![known(2)],
        vec![known(2), late],
        vec![known(2), ephemeral],
        vec![known(2), known(3), lower],
        vec![no_seed, known(3)],
        vec![known(2), two_seeds],
    ] {
        let mut one = node(1, false, Kept::default());
        one.handle(Input::Known(nodes.clone()), at(0));
        one.advance(at(10_000));
        assert_eq!(outputs(&mut one), [], "{nodes:?}");
    }
    // Ephemeral nodes are passed over, whatever their ids.
    let mut one = node(1, false, Kept::default());
    one.handle(Input::Known(vec![Known { node: 0, ..ephemeral }, known(2), known(3), known(4)]), at(0));
    assert_eq!(one.next_deadline(), Some(at(2_000)));
    one.advance(at(2_000));
    assert!(matches!(outputs(&mut one)[..], [Output::Persist { .. }]));
}

#[test]
fn a_store_is_founded_with_all_promises_and_then_the_votes() {
    let (mut one, ballot) = proposer();
    assert_eq!(receive(&mut one, 2, promised(ballot), at(2_020)), [], "3 has not promised");
    let said = receive(&mut one, 3, promised(ballot), at(2_030));
    assert!(matches!(&said[..], [Output::Send { to: 2, message: Message::Confirm { .. } }]), "{said:?}");
    let said = receive(&mut one, 3, Message::Confirmed { ballot }, at(2_040));
    assert_eq!(said, [], "3 is no seed");
    let said = receive(&mut one, 2, Message::Confirmed { ballot }, at(2_050));
    assert!(matches!(&said[..], [Output::Found(found)] if found.members == members(&[1, 2, 3])), "{said:?}");
    assert_eq!(receive(&mut one, 2, Message::Confirmed { ballot }, at(2_060)), [], "once");
}

#[test]
fn what_was_voted_for_before_is_gone_on_with() {
    let earlier = Proposal { members: members(&[1, 3, 9]), store: StoreId(77) };
    let (mut one, now) = proposer();
    let accepted = Some(Accepted { ballot: ballot(0, 9), proposal: earlier.clone() });
    receive(&mut one, 3, promised(now), at(2_020));
    let said = receive(&mut one, 2, Message::Promised { ballot: now, accepted }, at(2_020));
    let Some(Output::Send { message: Message::Confirm { proposal, .. }, .. }) = said.first() else {
        panic!("{said:?}")
    };
    assert_eq!(proposal, &earlier);
    let said = receive(&mut one, 2, Message::Confirmed { ballot: now }, at(2_020));
    assert_eq!(said, [Output::Found(earlier)]);
}

#[test]
fn members_are_told_when_one_that_is_none_of_them_learns_that_they_were_decided_on() {
    let earlier = Proposal { members: members(&[7, 8, 9]), store: StoreId(77) };
    let (mut one, now) = proposer();
    let accepted = Some(Accepted { ballot: ballot(0, 9), proposal: earlier.clone() });
    receive(&mut one, 3, promised(now), at(2_020));
    receive(&mut one, 2, Message::Promised { ballot: now, accepted }, at(2_020));
    let said = receive(&mut one, 2, Message::Confirmed { ballot: now }, at(2_020));
    let decided = Message::Decided(earlier.clone());
    assert_eq!(said, [7, 8, 9].map(|to| Output::Send { to, message: decided.clone() }));
    let mut seven = node(7, false, Kept::default());
    assert_eq!(receive(&mut seven, 1, decided.clone(), at(0)), [Output::Found(earlier)]);
    assert_eq!(receive(&mut seven, 1, decided.clone(), at(0)), []);
    let mut six = node(6, false, Kept::default());
    assert_eq!(receive(&mut six, 1, decided, at(0)), []);
}

#[test]
fn nothing_is_promised_before_it_is_written() {
    let mut two = node(2, true, Kept::default());
    let said = receive(&mut two, 1, propose(1, 1), at(0));
    assert!(matches!(&said[..], [Output::Persist { number: 1, promise }] if promise.ballot == ballot(1, 1)));
    assert_eq!(receive(&mut two, 1, propose(1, 1), at(10)), [], "again, while it is being written");
    two.handle(Input::Persisted(9), at(20));
    assert_eq!(outputs(&mut two), [], "another writing");
    two.handle(Input::Persisted(1), at(20));
    let answer = promised(ballot(1, 1));
    assert_eq!(outputs(&mut two), [Output::Send { to: 1, message: answer.clone() }]);
    let again = receive(&mut two, 1, propose(1, 1), at(30));
    assert_eq!(again, [Output::Send { to: 1, message: answer }], "it need not be written twice");
}

#[test]
fn a_promise_excludes_others_while_its_proposer_lives_and_is_heard() {
    let bound = |two: &mut Bootstrap, now| refusal(answer(two, 4, propose(9, 4), now));
    let bound_two = || {
        let mut two = node(2, true, Kept::default());
        two.handle(Input::Known(vec![known(1), known(4)]), at(0));
        assert_eq!(answer(&mut two, 1, propose(1, 1), at(0)), Some(promised(ballot(1, 1))));
        assert_eq!(bound(&mut two, at(5_000)), Refusal::Bound(ballot(1, 1)));
        two
    };
    let promise_to_four = Some(promised(ballot(9, 4)));
    // Abandoned.
    let mut two = bound_two();
    receive(&mut two, 1, Message::Abandon { ballot: ballot(1, 1) }, at(5_000));
    assert_eq!(answer(&mut two, 4, propose(9, 4), at(5_000)), promise_to_four);
    // Not by another, nor what is not the promised try.
    let mut two = bound_two();
    receive(&mut two, 4, Message::Abandon { ballot: ballot(1, 1) }, at(5_000));
    receive(&mut two, 1, Message::Abandon { ballot: ballot(0, 1) }, at(5_000));
    assert_eq!(bound(&mut two, at(5_000)), Refusal::Bound(ballot(1, 1)));
    // Dead.
    let mut two = bound_two();
    two.handle(Input::Known(vec![known(4)]), at(5_000));
    assert_eq!(answer(&mut two, 4, propose(9, 4), at(5_000)), promise_to_four);
    // Silent for long.
    let mut two = bound_two();
    assert_eq!(answer(&mut two, 4, propose(9, 4), at(6_000)), promise_to_four);
}

#[test]
fn whoever_promised_to_a_later_try_neither_promises_to_nor_votes_in_an_earlier_one() {
    let mut two = node(2, true, Kept::default());
    assert!(answer(&mut two, 4, propose(9, 4), at(0)).is_some());
    let earlier = Proposal { members: members(&[1, 2, 3]), store: StoreId(5) };
    assert_eq!(refusal(answer(&mut two, 1, propose(8, 1), at(90_000))), Refusal::Bound(ballot(9, 4)));
    let vote = answer(&mut two, 1, confirm(8, 1, &earlier), at(90_000));
    assert_eq!(refusal(vote), Refusal::Bound(ballot(9, 4)));
}

#[test]
fn a_restart_forgets_neither_promise_nor_vote_nor_ballot() {
    let proposal = Proposal { members: members(&[1, 2, 3]), store: StoreId(5) };
    let mut two = node(2, true, Kept::default());
    answer(&mut two, 4, propose(9, 4), at(0));
    let said = receive(&mut two, 4, confirm(9, 4, &proposal), at(0));
    let Some(Output::Persist { promise, .. }) = said.first() else { panic!("{said:?}") };
    let bytes = postcard::to_allocvec(promise).unwrap();
    let promise: Promise = postcard::from_bytes(&bytes).unwrap();
    let mut two = node(2, true, Kept { promise, store: None });
    assert_eq!(refusal(answer(&mut two, 1, propose(8, 1), at(0))), Refusal::Bound(ballot(9, 4)));
    let accepted = Some(Accepted { ballot: ballot(9, 4), proposal });
    let promised = Message::Promised { ballot: ballot(10, 1), accepted };
    assert_eq!(answer(&mut two, 1, propose(10, 1), at(0)), Some(promised));

    let promise = Promise { ballot: ballot(3, 1), accepted: None };
    let mut one = node(1, false, Kept { promise, store: None });
    one.handle(Input::Known(vec![known(2), known(3)]), at(0));
    one.advance(at(2_000));
    let said = outputs(&mut one);
    assert!(matches!(&said[..], [Output::Persist { promise, .. }] if promise.ballot == ballot(4, 1)));
}

#[test]
fn what_was_not_answered_is_said_again_and_given_up_at_last() {
    let (mut one, now) = proposer();
    receive(&mut one, 2, promised(now), at(2_020));
    assert_eq!(one.next_deadline(), Some(at(2_300)));
    one.advance(at(2_300));
    let said = outputs(&mut one);
    assert!(said.len() == 1 && is_propose_to(&said[0], &[3]), "{said:?}");
    one.advance(at(6_020));
    let said = outputs(&mut one);
    let abandon = Message::Abandon { ballot: now };
    assert_eq!(said, [2, 3].map(|to| Output::Send { to, message: abandon.clone() }));
    let next = one.next_deadline().unwrap();
    assert!(next > at(6_020) && next <= at(8_020), "{next:?}");
    one.advance(next);
    let said = outputs(&mut one);
    assert!(matches!(&said[..], [Output::Persist { promise, .. }] if promise.ballot == ballot(2, 1)));
}

#[test]
fn a_try_that_a_member_refuses_ends_and_the_next_is_above_what_it_was_told() {
    let (mut one, now) = proposer();
    let why = Refusal::Bound(ballot(40, 9));
    let said = receive(&mut one, 3, Message::Refused { ballot: now, why }, at(2_020));
    assert_eq!(said.len(), 2, "{said:?}");
    one.advance(one.next_deadline().unwrap());
    let said = outputs(&mut one);
    assert!(matches!(&said[..], [Output::Persist { promise, .. }] if promise.ballot == ballot(41, 1)));
}

#[test]
fn a_refusal_that_tells_of_a_store_is_an_invitation() {
    let (mut one, now) = proposer();
    let why = Refusal::Founded(StoreId(3));
    let said = receive(&mut one, 3, Message::Refused { ballot: now, why }, at(2_020));
    assert_eq!(said.last(), Some(&Output::Join(StoreId(3))));
}

#[test]
fn whoever_has_other_seeds_or_lies_about_itself_gets_nothing() {
    let mut two = node(2, true, Kept::default());
    let other = SeedList { count: 1, digest: 8 };
    let message = Message::Propose { ballot: ballot(1, 1), seeds: other, members: members(&[1, 2, 3]) };
    assert_eq!(refusal(answer(&mut two, 1, message, at(0))), Refusal::OtherSeeds);
    assert_eq!(answer(&mut two, 3, propose(1, 1), at(0)), None, "the try of another");
    assert_eq!(answer(&mut two, 1, propose(u64::MAX, 1), at(0)), None, "no such round");
    let me = Me { node: 2, eligible: false, is_seed: true };
    let rng = fastrand::Rng::with_seed(1);
    let mut ephemeral = Bootstrap::new(me, config(Expect::Three, SEEDS), Kept::default(), rng, Mono::ZERO);
    assert_eq!(refusal(answer(&mut ephemeral, 1, propose(1, 1), at(0))), Refusal::Ineligible);
    assert!(answer(&mut ephemeral, 4, propose(1, 4), at(0)).is_some(), "a seed promises to others");
}

#[test]
fn members_are_one_three_or_five_in_order() {
    for nodes in [&[][..], &[1, 2], &[1, 1, 2], &[3, 2, 1], &[1, 2, 3, 4, 5, 6]] {
        assert_eq!(Members::new(nodes.to_vec()), Err(MembersError), "{nodes:?}");
    }
    let bytes = postcard::to_allocvec(&vec![3_u64, 2, 1]).unwrap();
    assert!(postcard::from_bytes::<Members>(&bytes).is_err());
    assert_eq!(Expect::from_count(2), None);
    assert_eq!(Expect::from_count(5).map(Expect::count), Some(5));
}
