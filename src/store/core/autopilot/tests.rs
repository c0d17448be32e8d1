//! One rule after the other, and what holds for any situation.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;

const NOW: Mono = Mono::from_nanos(1_000_000_000_000);

fn ago(millis: u64) -> Mono {
    Mono::from_nanos(NOW.as_nanos() - millis * 1_000_000)
}

/// Alive, fresh, caught up and stable, in zone `a`.
fn sound() -> Node {
    Node {
        liveness: Liveness::Alive,
        last_ack: Some(ago(20)),
        lag: 0,
        stable_since: Some(ago(60_000)),
        zone: Some("a".into()),
        eligible: true,
        draining: false,
    }
}

fn dead() -> Node {
    Node { liveness: Liveness::Dead, last_ack: Some(ago(15_000)), stable_since: None, ..sound() }
}

fn draining() -> Node {
    Node { draining: true, ..sound() }
}

fn zone(name: &str) -> Node {
    Node { zone: Some(name.into()), ..sound() }
}

/// Voters 1, 2, … of which 1 leads, then learners, then watchers, all sound.
fn mesh(voters: u64, learners: u64, watchers: u64) -> Situation {
    Situation {
        leader: 1,
        led_since: ago(600_000),
        voters: (1..=voters).collect(),
        learners: (voters + 1..=voters + learners).collect(),
        nodes: (1..=voters + learners + watchers).map(|id| (id, sound())).collect(),
        tombstones: BTreeSet::new(),
        change: Change::None,
        target: Target::Auto,
        patience: Patience::USUAL,
    }
}

impl Situation {
    fn with(mut self, id: u64, node: Node) -> Self {
        self.nodes.insert(id, node);
        self
    }

    fn wanting(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    fn carry_out(&mut self, step: Step) {
        let steps_down = match step {
            Step::AddLearner(node) => {
                self.learners.insert(node);
                None
            }
            Step::Promote { add, remove } => {
                self.learners.remove(&add);
                self.voters.insert(add);
                remove
            }
            Step::Demote(node) => Some(node),
            Step::RemoveLearner(node) => {
                self.learners.remove(&node);
                None
            }
            Step::Bury(node) => {
                self.learners.remove(&node);
                self.tombstones.insert(node);
                None
            }
            Step::TransferLeadership(to) => {
                self.leader = to;
                None
            }
        };
        if let Some(node) = steps_down {
            assert!(self.voters.remove(&node), "{node} does not vote");
            self.learners.insert(node);
        }
    }

    fn steps(mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(step) = decide(&self, NOW) {
            self.carry_out(step);
            steps.push(step);
            assert!(steps.len() < 100, "no end: {steps:?}");
        }
        steps
    }
}

fn replacing(remove: u64, add: u64) -> Option<Step> {
    Some(Step::Promote { add, remove: Some(remove) })
}

#[test]
fn a_mesh_in_order_is_left_alone() {
    for (voters, learners, watchers) in [(1, 0, 0), (1, 1, 0), (3, 0, 0), (3, 1, 0), (3, 2, 1), (5, 2, 9)] {
        assert_eq!(decide(&mesh(voters, learners, watchers), NOW), None, "{voters} {learners} {watchers}");
    }
}

#[test]
fn two_of_the_watchers_stand_by() {
    assert_eq!(mesh(3, 0, 3).steps(), [Step::AddLearner(4), Step::AddLearner(5)]);
}

#[test]
fn only_whoever_is_alive_stable_eligible_and_staying_is_made_a_standby() {
    for watcher in [
        Node { liveness: Liveness::Suspect, ..sound() },
        Node { liveness: Liveness::Dead, ..sound() },
        Node { stable_since: None, ..sound() },
        Node { stable_since: Some(ago(9_999)), ..sound() },
        Node { eligible: false, ..sound() },
        draining(),
    ] {
        assert_eq!(decide(&mesh(3, 0, 1).with(4, watcher.clone()), NOW), None, "{watcher:?}");
    }
    let mut buried = mesh(3, 0, 1);
    buried.tombstones.insert(4);
    assert_eq!(decide(&buried, NOW), None);
    let barely = Node { stable_since: Some(ago(10_000)), ..sound() };
    assert_eq!(decide(&mesh(3, 0, 1).with(4, barely), NOW), Some(Step::AddLearner(4)));
}

#[test]
fn a_dead_voter_is_replaced_by_a_standby_in_one_change_and_buried() {
    let one_dead = mesh(3, 2, 1).with(3, dead());
    assert_eq!(
        one_dead.steps(),
        [Step::Promote { add: 4, remove: Some(3) }, Step::Bury(3), Step::AddLearner(6)]
    );
}

#[test]
fn whoever_the_membership_has_forgotten_is_dead() {
    let mut forgotten = mesh(3, 2, 0);
    forgotten.nodes.remove(&2);
    assert_eq!(decide(&forgotten, NOW), replacing(2, 4));
}

#[test]
fn nobody_is_dead_who_acknowledged_lately_or_whom_this_leader_cannot_know() {
    for voter in [
        Node { last_ack: Some(ago(14_999)), ..dead() },
        Node { liveness: Liveness::Suspect, ..dead() },
        Node { liveness: Liveness::Alive, ..dead() },
    ] {
        assert_eq!(decide(&mesh(3, 2, 0).with(3, voter.clone()), NOW), None, "{voter:?}");
    }
    let mut new_leader = mesh(3, 2, 0).with(3, Node { last_ack: None, ..dead() });
    new_leader.led_since = ago(14_999);
    assert_eq!(decide(&new_leader, NOW), None);
    new_leader.led_since = ago(15_000);
    assert_eq!(decide(&new_leader, NOW), replacing(3, 4));
}

#[test]
fn only_a_healthy_standby_becomes_a_voter() {
    for standby in [
        Node { liveness: Liveness::Suspect, ..sound() },
        Node { last_ack: Some(ago(600)), ..sound() },
        Node { last_ack: None, ..sound() },
        Node { lag: 251, ..sound() },
        Node { stable_since: Some(ago(9_999)), ..sound() },
    ] {
        let one_dead = mesh(3, 1, 0).with(3, dead()).with(4, standby.clone());
        assert_eq!(decide(&one_dead, NOW), None, "{standby:?}");
    }
    let barely = Node { last_ack: Some(ago(599)), lag: 250, stable_since: Some(ago(10_000)), ..sound() };
    assert_eq!(decide(&mesh(3, 1, 0).with(3, dead()).with(4, barely), NOW), replacing(3, 4));
}

#[test]
fn nothing_is_changed_while_a_change_is_in_flight_or_without_a_quorum_that_answers() {
    let mut changing = mesh(3, 2, 1).with(3, dead());
    changing.change = Change::InFlight;
    assert_eq!(decide(&changing, NOW), None);
    assert_eq!(decide(&mesh(3, 2, 1).with(3, dead()).with(2, dead()), NOW), None);
    let mut stranger = mesh(3, 2, 1).with(3, dead());
    stranger.leader = 4;
    assert_eq!(decide(&stranger, NOW), None);
}

#[test]
fn three_are_never_made_fewer() {
    assert_eq!(decide(&mesh(3, 0, 0).with(3, dead()), NOW), None);
    assert_eq!(decide(&mesh(3, 0, 0).with(3, draining()), NOW), None);
    assert_eq!(decide(&mesh(2, 0, 0).wanting(Target::Three), NOW), None);
}

#[test]
fn the_dead_go_first_if_nobody_can_replace_them_and_more_than_three_vote() {
    let steps = mesh(5, 0, 0).wanting(Target::Five).with(4, dead()).with(5, dead()).steps();
    assert_eq!(steps, [Step::Demote(4), Step::Demote(5), Step::Bury(4), Step::Bury(5)]);
    let draining = mesh(5, 0, 0).wanting(Target::Five).with(4, draining());
    assert_eq!(decide(&draining, NOW), None, "whoever drains still serves");
}

#[test]
fn no_step_leaves_fewer_healthy_voters_than_decide() {
    let lagging = |ids: &[u64]| {
        let mesh = mesh(5, 0, 0).wanting(Target::Three);
        ids.iter().fold(mesh, |mesh, id| mesh.with(*id, Node { lag: 9_000, ..sound() }))
    };
    assert_eq!(lagging(&[3, 4]).steps(), [Step::Demote(4), Step::Demote(3)]);
    // Two healthy ones would be fewer than decide among four.
    assert_eq!(decide(&lagging(&[3, 4, 5]), NOW), None);
}

#[test]
fn five_vote_from_seven_nodes_and_stay_down_to_five() {
    for (voters, all, target) in [(3, 6, 3), (3, 7, 5), (5, 6, 5), (5, 5, 5), (5, 4, 3)] {
        let mut mesh = mesh(voters, 0, 9);
        mesh.nodes.retain(|id, _| *id <= all);
        assert_eq!(mesh.target_voters(NOW), target, "{voters} of {all}");
    }
    let ephemeral = Node { eligible: false, ..sound() };
    assert_eq!(mesh(3, 0, 4).with(7, ephemeral).target_voters(NOW), 3);
    assert_eq!(mesh(5, 0, 0).wanting(Target::Three).target_voters(NOW), 3);
}

#[test]
fn three_become_five_by_way_of_four_only_when_two_are_ready() {
    assert_eq!(decide(&mesh(3, 1, 0).wanting(Target::Five), NOW), None);
    let add = |add| Step::Promote { add, remove: None };
    assert_eq!(mesh(3, 2, 0).wanting(Target::Five).steps(), [add(4), add(5)]);
    assert_eq!(mesh(1, 2, 0).steps(), [add(2), add(3)]);
    assert_eq!(decide(&mesh(4, 1, 0).wanting(Target::Five), NOW), Some(add(5)));
}

#[test]
fn five_become_three_and_the_least_useful_go() {
    let lagging = Node { lag: 9_000, ..sound() };
    let steps = mesh(5, 0, 0).wanting(Target::Three).with(2, lagging).steps();
    assert_eq!(steps, [Step::Demote(2), Step::Demote(5)]);
}

#[test]
fn a_draining_leader_lets_another_lead_and_is_then_replaced() {
    let behind = Node { lag: 10, ..sound() };
    let steps = mesh(3, 2, 1).with(1, draining()).with(2, behind).steps();
    assert_eq!(
        steps,
        [
            Step::TransferLeadership(3),
            Step::Promote { add: 4, remove: Some(1) },
            Step::RemoveLearner(1),
            Step::AddLearner(6)
        ]
    );
}

#[test]
fn leadership_goes_only_to_a_healthy_voter_that_stays() {
    let lagging = Node { lag: 251, ..sound() };
    let nobody = mesh(3, 0, 0).with(1, draining()).with(2, draining()).with(3, lagging);
    assert_eq!(decide(&nobody, NOW), None);
    // First somebody must come who could.
    let mut replaced = mesh(3, 1, 0);
    (1..=3).for_each(|id| drop(replaced.nodes.insert(id, draining())));
    assert_eq!(
        replaced.steps()[..2],
        [Step::Promote { add: 4, remove: Some(2) }, Step::TransferLeadership(4)]
    );
}

#[test]
fn whoever_may_not_vote_is_replaced_like_whoever_drains() {
    let ephemeral = Node { eligible: false, ..sound() };
    assert_eq!(decide(&mesh(3, 1, 0).with(2, ephemeral.clone()), NOW), replacing(2, 4));
    assert_eq!(decide(&mesh(3, 1, 0).with(4, ephemeral), NOW), Some(Step::RemoveLearner(4)));
}

#[test]
fn the_dead_are_replaced_before_those_who_drain() {
    assert_eq!(decide(&mesh(5, 1, 1).with(2, draining()).with(4, dead()), NOW), replacing(4, 6));
}

#[test]
fn the_standby_of_the_emptiest_zone_is_taken() {
    let one_dead = mesh(3, 2, 0).with(3, dead()).with(5, zone("b"));
    assert_eq!(decide(&one_dead, NOW), replacing(3, 5));
    assert_eq!(decide(&mesh(3, 0, 2).with(5, zone("b")), NOW), Some(Step::AddLearner(5)));
}

#[test]
fn voters_are_spread_over_zones_by_swaps() {
    let steps = mesh(3, 2, 2).with(6, zone("b")).with(7, zone("c")).wanting(Target::Three).steps();
    // Standbys of other zones are fetched, though there are two already.
    assert_eq!(
        steps,
        [
            Step::AddLearner(6),
            Step::Promote { add: 6, remove: Some(3) },
            Step::RemoveLearner(5),
            Step::AddLearner(7),
            Step::Promote { add: 7, remove: Some(2) },
            Step::RemoveLearner(4)
        ]
    );
}

#[test]
fn a_dead_learner_is_buried_and_one_too_many_sent_back() {
    assert_eq!(decide(&mesh(3, 2, 0).with(4, dead()), NOW), Some(Step::Bury(4)));
    let lagging = Node { lag: 251, ..sound() };
    assert_eq!(decide(&mesh(3, 3, 0).with(5, lagging), NOW), Some(Step::RemoveLearner(5)));
    assert_eq!(decide(&mesh(3, 3, 0), NOW), Some(Step::RemoveLearner(6)));
}

fn nodes() -> impl Strategy<Value = Node> {
    let liveness = prop_oneof![
        6 => Just(Liveness::Alive),
        1 => Just(Liveness::Suspect),
        2 => Just(Liveness::Dead)
    ];
    let ack =
        prop_oneof![6 => Just(Some(20)), 1 => Just(Some(700)), 2 => Just(Some(20_000)), 1 => Just(None)];
    let lag = prop_oneof![5 => Just(0_u64), 1 => Just(250), 1 => Just(251)];
    let stable = prop_oneof![5 => Just(Some(10_000)), 1 => Just(Some(9_000)), 1 => Just(None)];
    let zone = prop_oneof![Just(None), Just(Some("a")), Just(Some("b")), Just(Some("c"))];
    let (eligible, draining) = (prop::bool::weighted(0.9), prop::bool::weighted(0.1));
    (liveness, ack, lag, stable, zone, eligible, draining).prop_map(
        |(liveness, ack, lag, stable, zone, eligible, draining)| Node {
            liveness,
            last_ack: ack.map(ago),
            lag,
            stable_since: stable.map(ago),
            zone: zone.map(Into::into),
            eligible,
            draining,
        },
    )
}

fn situations() -> impl Strategy<Value = Situation> {
    let target = prop_oneof![Just(Target::Auto), Just(Target::Three), Just(Target::Five)];
    let led = prop_oneof![3 => Just(600_000), 1 => Just(5_000)];
    let tombstones = prop::collection::btree_set(0..16_u64, 0..3);
    let nodes = prop::collection::vec(prop::option::weighted(0.95, nodes()), 3..16);
    (1..=6_usize, 0..=4_usize, nodes, tombstones, target, led).prop_map(
        |(voters, learners, nodes, tombstones, target, led)| {
            let (voters, count) = (voters.min(nodes.len()) as u64, nodes.len() as u64);
            let learners = (learners as u64).min(count - voters);
            let nodes: BTreeMap<u64, Node> =
                (0..count).zip(nodes).filter_map(|(id, node)| Some((id, node?))).collect();
            let led_since = ago(led);
            let voters_set: BTreeSet<u64> = (0..voters).collect();
            let learners = (voters..voters + learners).collect();
            let (leader, change) = (0, Change::None);
            let (voters, patience) = (voters_set, Patience::USUAL);
            Situation { leader, led_since, voters, learners, nodes, tombstones, change, target, patience }
        },
    )
}

fn healthy(situation: &Situation, voters: &BTreeSet<u64>) -> usize {
    voters.iter().filter(|voter| situation.is_healthy(**voter, NOW)).count()
}

/// What must hold of any step.
fn check(before: &Situation, step: Step) {
    let mut after = before.clone();
    after.carry_out(step);
    let had_quorum = healthy(before, &before.voters) >= quorum(before.voters.len());
    let has_quorum = healthy(before, &after.voters) >= quorum(after.voters.len());
    assert!(has_quorum || !had_quorum, "{step:?} takes the quorum away");
    assert!(after.voters == before.voters || has_quorum, "{step:?} changes voters and leaves no quorum");
    let removed: Vec<_> = before.voters.difference(&after.voters).collect();
    assert!(removed.len() <= (before.voters.len() - 1) / 2, "{step:?} removes too many");
    assert!(after.voters.contains(&before.leader), "{step:?} removes the leader");
    assert!(after.voters.len() >= before.voters.len().min(3), "{step:?} leaves too few");
    assert!(after.voters.is_disjoint(&after.learners));
    if after.voters.len() < before.voters.len() && before.voters.len() <= before.target_voters(NOW) {
        assert!(removed.iter().all(|voter| !before.is_healthy(**voter, NOW)), "{step:?} of a healthy voter");
    }
    let added = after.voters.difference(&before.voters).chain(after.learners.difference(&before.learners));
    for node in added.filter(|node| !before.voters.contains(node)) {
        let is_fit = before.nodes.get(node).is_some_and(|node| node.eligible && !node.draining);
        assert!(is_fit && !before.tombstones.contains(node), "{step:?} of one that may not");
    }
    if let Step::Bury(node) = step {
        let is_gone = before.nodes.get(&node).is_none_or(|node| node.liveness == Liveness::Dead);
        assert!(is_gone, "{step:?} of one that lives");
    }
    if let Step::TransferLeadership(to) = step {
        assert!(before.voters.contains(&to) && before.is_healthy(to, NOW) && to != before.leader);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_situation_comes_to_rest_by_steps_that_are_safe(start in situations()) {
        let mut situation = start;
        let mut steps = Vec::new();
        while let Some(step) = decide(&situation, NOW) {
            check(&situation, step);
            situation.carry_out(step);
            steps.push(step);
            prop_assert!(steps.len() < 60, "no end: {:?}", steps);
        }
    }

    #[test]
    fn a_mesh_that_changes_all_the_time_never_sees_an_unsafe_step(
        start in situations(),
        turns in prop::collection::vec((0..16_u64, nodes()), 0..40),
    ) {
        let mut situation = start;
        for (id, node) in turns {
            if situation.nodes.contains_key(&id) {
                situation.nodes.insert(id, node);
            }
            if let Some(step) = decide(&situation, NOW) {
                check(&situation, step);
                situation.carry_out(step);
            }
        }
    }

    #[test]
    fn a_mesh_of_sound_nodes_comes_to_what_is_wanted(
        (voters, watchers) in (1..=5_u64, 0..12_u64),
        zones in prop::collection::vec(0..3_u8, 20),
    ) {
        let mut situation = mesh(voters, 0, watchers);
        for (node, zone) in situation.nodes.values_mut().zip(zones) {
            node.zone = Some(zone.to_string().into());
        }
        let mut count = 0;
        while let Some(step) = decide(&situation, NOW) {
            situation.carry_out(step);
            count += 1;
            prop_assert!(count < 60);
        }
        let all = voters + watchers;
        let target = situation.target_voters(NOW) as u64;
        if all >= target && (voters >= 3 || all >= 3) {
            prop_assert_eq!(situation.voters.len() as u64, target);
        }
        prop_assert!(situation.learners.len() as u64 >= (all - situation.voters.len() as u64).min(2));
        prop_assert!(situation.learners.len() <= 2);
        let zone_of = |id: &u64| situation.nodes[id].zone.clone();
        let in_zone = |zone| situation.voters.iter().filter(|id| zone_of(id) == zone).count();
        let watching = situation.nodes.keys().filter(|id| !situation.voters.contains(id));
        for watcher in watching {
            let relieved = situation.voters.iter().filter(|id| **id != situation.leader);
            let most = relieved.map(|id| in_zone(zone_of(id))).max().unwrap_or(0);
            prop_assert!(situation.voters.len() < 3 || most < in_zone(zone_of(watcher)) + 2);
        }
    }
}

#[test]
fn what_is_fresh_or_stable_does_not_depend_on_how_long_the_process_runs() {
    let young = Mono::ZERO.after(Duration::from_secs(1));
    let mut start = mesh(3, 0, 1);
    start.led_since = Mono::ZERO;
    start.nodes.values_mut().for_each(|node| {
        (node.last_ack, node.stable_since) = (Some(young), Some(Mono::ZERO));
    });
    assert_eq!(decide(&start, young), None);
}
