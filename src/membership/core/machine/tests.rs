//! What a member does with what it is told.

use std::collections::VecDeque;

use super::*;
use crate::membership::{
    Profile,
    core::{
        fact::tests::facts,
        packet::{Knowledge, Seen, Standing},
    },
};

fn machine(number: u64) -> Machine {
    let setup = Setup {
        id: MemberId(number),
        generation: 1,
        address: ([10, 0, 0, number as u8], 7946).into(),
        tuning: Tuning::of(Profile::Lan),
        facts: facts(&format!("n{number}")),
        said_at: 0,
        needs_proof: false,
        rng: fastrand::Rng::with_seed(number),
    };
    Machine::new(setup, Mono::ZERO)
}

#[test]
fn a_member_that_has_said_nothing_is_a_gap_until_it_does() {
    let (mut one, two) = (machine(1), machine(2));
    assert!(!one.has_gaps());
    let known = two.knowledge();
    let mute = Knowledge { members: known.members.clone(), facts: Vec::new() };
    one.merge(mute, MemberId(2), Mono::ZERO);
    assert!((one.others(), one.has_gaps()) == (1, true));
    one.merge(known, MemberId(2), Mono::ZERO);
    assert!((one.others(), one.has_gaps()) == (1, false));
}

/// Members that know each other, and the packets between them: nothing is sent unless the test says so.
struct Table {
    machines: Vec<Machine>,
    now: Mono,
    /// From, to, what.
    packets: VecDeque<(usize, usize, Vec<u8>)>,
    events: Vec<(usize, Event)>,
}

impl Table {
    fn of(count: u64) -> Self {
        let mut machines: Vec<Machine> = (0..count).map(machine).collect();
        let all: Vec<Knowledge> = machines.iter().map(Machine::knowledge).collect();
        for machine in &mut machines {
            all.iter().for_each(|knowledge| machine.merge(knowledge.clone(), MemberId(0), Mono::ZERO));
        }
        let mut table = Self { machines, now: Mono::ZERO, packets: VecDeque::new(), events: Vec::new() };
        table.collect();
        table.packets.clear();
        table.events.clear();
        table
    }

    fn collect(&mut self) {
        for from in 0..self.machines.len() {
            for output in self.machines[from].outputs() {
                match output {
                    Output::Send { to, packet } => {
                        let to = self.machines.iter().position(|one| one.swim.identity().address == to);
                        self.packets.extend(to.map(|to| (from, to, packet)));
                    }
                    Output::Event(event) => self.events.push((from, event)),
                }
            }
        }
    }

    /// Runs for `time`. Packets arrive at once if `passes` says so, and never otherwise.
    fn run(&mut self, time: Duration, passes: impl Fn(usize, usize) -> bool) {
        let end = self.now.after(time);
        loop {
            self.collect();
            if let Some((from, to, packet)) = self.packets.pop_front() {
                if passes(from, to) {
                    let sender = self.machines[from].own.id;
                    assert_eq!(self.machines[to].receive(sender, &packet, self.now), Ok(()));
                }
                continue;
            }
            let next = self.machines.iter().filter_map(Machine::next_deadline).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next.max(self.now);
            for machine in &mut self.machines {
                if machine.next_deadline().is_some_and(|due| due <= self.now) {
                    machine.advance(self.now);
                }
            }
        }
        self.now = end;
    }

    fn score(&self, of: usize) -> u8 {
        self.machines[of].hooks.health.score()
    }

    fn has(&self, at: usize, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(|(node, event)| *node == at && wanted(event))
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn whoever_gets_no_answers_at_all_distrusts_itself() {
    let mut table = Table::of(4);
    table.run(6 * SECOND, |_, to| to != 0);
    assert!(table.score(0) >= 3, "{}", table.score(0));
    assert_eq!(table.score(1), 0);
}

#[test]
fn helpers_who_hear_nothing_either_say_so_and_the_prober_trusts_itself() {
    let mut table = Table::of(5);
    // Nobody hears the last one, which is not the fault of whoever asks it.
    table.run(4 * SECOND, |from, to| from != 4 && to != 4);
    let scores: Vec<u8> = (0..4).map(|node| table.score(node)).collect();
    assert!(table.has(0, |event| matches!(event, Event::Unanswered(MemberId(4)))));
    assert_eq!(scores, [0; 4]);
}

#[test]
fn distrust_of_oneself_makes_probes_rarer() {
    let asks = |score: u8| {
        let mut table = Table::of(2);
        table.machines[0].hooks.health.worse(score);
        table.run(SECOND, |_, _| false);
        let timers = table.machines[0].hooks.timers.iter();
        let mut probes =
            timers.filter(|(_, due)| matches!(due, Due::Swim(foca::Timer::ProbeRandomMember(_))));
        probes.next().map(|((at, _), _)| at.since(Mono::ZERO))
    };
    assert!(asks(4) > asks(0), "{:?} {:?}", asks(4), asks(0));
}

#[test]
fn whoever_is_suspected_hears_of_it_with_the_next_packet_and_speaks_up() {
    let mut table = Table::of(3);
    // The last one does not get through to the first, which comes to suspect it.
    table.run(2 * SECOND, |from, to| (from, to) != (2, 0) && (from, to) != (1, 0));
    assert_eq!(table.machines[0].state(MemberId(2)), Some(MemberState::Suspect));
    assert!(table.has(2, |event| matches!(event, Event::SpokeUp { .. })));
    table.run(2 * SECOND, |_, _| true);
    assert_eq!(table.machines[0].state(MemberId(2)), Some(MemberState::Alive));
}

#[test]
fn whoever_spreads_an_accusation_that_is_refuted_is_told_so() {
    let mut table = Table::of(4);
    // The last two do not hear each other. The others know that both spoke up; what they tell is lost.
    let alone = |from, to| (from, to) != (3, 2) && (from, to) != (2, 3);
    let refuted = Item::Refuted { target: MemberId(3), generation: 1, incarnation: 1 };
    let told = [packet::begin(&[]), refuted.encode()].concat();
    for node in [0, 1] {
        assert_eq!(table.machines[node].receive(MemberId(3), &told, Mono::ZERO), Ok(()));
    }
    table.machines[3].hooks.own_incarnation = 1;
    table.collect();
    table.packets.clear();
    let stale = Item::Accusation(crate::membership::core::packet::Accusation {
        accuser: MemberId(2),
        target: MemberId(3),
        generation: 1,
        incarnation: 0,
    });
    let packet = [packet::begin(&[]), stale.encode()].concat();
    assert_eq!(table.machines[1].receive(MemberId(2), &packet, Mono::ZERO), Ok(()));
    table.collect();
    let answers: Vec<_> =
        table.packets.iter().map(|(_, to, packet)| (*to, packet::read(packet).unwrap().1)).collect();
    assert!(answers.len() == 1 && answers[0].0 == 2 && answers[0].1.contains(&refuted), "{answers:?}");
    table.run(Duration::ZERO, alone);
    assert_eq!(table.machines[2].roster.sight(MemberId(3)).map(|sight| sight.incarnation), Some(1));
}

#[test]
fn nobody_is_made_to_speak_up_by_a_suspicion_of_another_life() {
    let mut table = Table::of(2);
    for generation in [0, 2] {
        table.machines[0].take(MemberId(1), Item::Suspected { generation, incarnation: 0 });
    }
    table.collect();
    assert!(!table.has(0, |event| matches!(event, Event::SpokeUp { .. })));
    table.machines[0].take(MemberId(1), Item::Suspected { generation: 1, incarnation: 0 });
    table.collect();
    assert!(table.has(0, |event| matches!(event, Event::SpokeUp { .. })));
}

#[test]
fn whoever_is_misquoted_has_the_last_word() {
    let mut table = Table::of(3);
    let forged = FactRecord { sequence: 1000, facts: facts("liar"), ..table.machines[1].own.clone() };
    table.machines[0].learn(forged, true);
    assert_eq!(&*table.machines[0].facts(MemberId(1)).unwrap().node, "liar");
    table.run(5 * SECOND, |_, _| true);
    assert!(table.has(1, |event| *event == Event::Misquoted));
    for observer in [0, 2] {
        let machine = &table.machines[observer];
        assert_eq!(&*machine.facts(MemberId(1)).unwrap().node, "n1");
        assert_eq!(machine.state(MemberId(1)), Some(MemberState::Alive));
    }
}

fn says(seen: &[(u64, u64, Standing)], facts: Vec<FactRecord>) -> Knowledge {
    let seen = seen.iter().map(|(id, generation, standing)| Seen {
        id: MemberId(*id),
        generation: *generation,
        address: ([10, 0, (*id >> 8) as u8, *id as u8], 7946).into(),
        incarnation: 0,
        standing: *standing,
    });
    Knowledge { members: seen.collect(), facts }
}

#[test]
fn a_death_that_another_tells_of_on_a_connection_is_a_suspicion() {
    let cases = [
        ("the life that is known", 1, false, MemberState::Suspect),
        ("a goodbye", 1, true, MemberState::Left),
        ("a later life", 2, false, MemberState::Dead),
        ("an earlier life", 0, false, MemberState::Alive),
    ];
    for (name, generation, has_left, expected) in cases {
        let mut table = Table::of(3);
        let goodbye = FactRecord { sequence: 9, has_left, ..table.machines[2].own.clone() };
        let told =
            says(&[(2, generation, Standing::Down)], if has_left { vec![goodbye] } else { Vec::new() });
        table.machines[0].merge(told, MemberId(1), Mono::ZERO);
        assert_eq!(table.machines[0].state(MemberId(2)), Some(expected), "{name}");
    }
}

#[test]
fn ones_own_accusation_confirms_nothing_when_it_comes_back() {
    let mut table = Table::of(6);
    table.run(3 * SECOND, |from, to| from != 5 && to != 5);
    let accuser = (0..5).find(|node| table.machines[*node].hooks.pending.contains_key(&MemberId(5))).unwrap();
    let alone = table.machines[accuser].hooks.pending[&MemberId(5)].suspicion.accusers().clone();
    assert!(!alone.contains(&MemberId(accuser as u64)));
    for (by, more) in [(accuser, 0), (90, 1)] {
        let before = table.machines[accuser].hooks.pending[&MemberId(5)].suspicion.clone();
        table.machines[accuser].hooks.accuse(&crate::membership::core::packet::Accusation {
            accuser: MemberId(by as u64),
            target: MemberId(5),
            generation: 1,
            incarnation: 0,
        });
        let after = &table.machines[accuser].hooks.pending[&MemberId(5)].suspicion;
        assert_eq!(after.accusers().len() - before.accusers().len(), more);
    }
}

#[test]
fn a_newcomer_takes_the_place_of_whoever_is_gone_the_longest() {
    let mut one = machine(0);
    let others: Vec<(u64, u64, Standing)> =
        (1..packet::MAX_MEMBERS as u64).map(|id| (id, 1, Standing::Alive)).collect();
    one.merge(says(&others, Vec::new()), MemberId(1), Mono::ZERO);
    one.bury(MemberId(7), Mono::from_nanos(1));
    one.bury(MemberId(3), Mono::from_nanos(2));
    one.merge(says(&[(9000, 1, Standing::Alive)], Vec::new()), MemberId(1), Mono::from_nanos(3));
    let states = [3, 7, 9000].map(|id| one.state(MemberId(id)));
    assert_eq!(states, [Some(MemberState::Dead), None, Some(MemberState::Alive)]);
    assert!(one.knowledge().is_plausible(), "others would refuse what it tells");
    // Those who still know whom it has forgotten do not bring them back, and what names nobody new costs nobody the place.
    let told =
        says(&[(7, 1, Standing::Down), (0, 1, Standing::Alive), (9000, 1, Standing::Alive)], Vec::new());
    one.merge(told, MemberId(1), Mono::from_nanos(4));
    assert_eq!([3, 7, 9000].map(|id| one.state(MemberId(id))), states);
}

#[test]
fn whoever_begins_again_forgets_the_gone_and_not_those_who_were_never_gone() {
    let mut one = machine(0);
    let known = [(1, 1, Standing::Alive), (2, 1, Standing::Alive)];
    one.merge(says(&known, Vec::new()), MemberId(1), Mono::ZERO);
    known.iter().for_each(|(id, ..)| one.bury(MemberId(*id), Mono::from_nanos(1)));
    // It has lost all, and hears of one that was not dead.
    one.merge(says(&[known[1]], Vec::new()), MemberId(2), Mono::from_nanos(2));
    let states = |one: &Machine| [1, 2].map(|id| one.state(MemberId(id)));
    assert_eq!(states(&one), [Some(MemberState::Dead), Some(MemberState::Alive)]);
    let mut reminders = 0;
    for due in std::mem::take(&mut one.hooks.timers).into_values() {
        if let Due::Swim(timer @ Timer::RemoveDown(_)) = due {
            reminders += 1;
            one.fire(timer);
        }
    }
    assert_eq!(reminders, 2);
    assert_eq!(states(&one), [None, Some(MemberState::Alive)]);
}

#[test]
fn whoever_lives_again_takes_back_what_it_judged_lately_and_nothing_older() {
    let verdict = |after: Duration| {
        let mut table = Table::of(5);
        // The last two are gone; the first judges them, and hears later that it is dead itself.
        table.run(40 * SECOND, |from, to| from < 3 && to < 3);
        let judge = (0..3).find(|node| !table.machines[*node].hooks.judged.is_empty()).unwrap();
        table.run(after, |from, to| from < 3 && to < 3);
        let told = says(&[(judge as u64, 1, Standing::Down)], Vec::new());
        let judged: Vec<MemberId> = table.machines[judge].hooks.judged.keys().copied().collect();
        let other = MemberId((judge as u64 + 1) % 3);
        let now = table.now;
        table.machines[judge].merge(told, other, now);
        assert_eq!(table.machines[judge].generation(), 2);
        judged.iter().map(|id| table.machines[judge].state(*id)).collect::<Vec<_>>()
    };
    let lately = verdict(Duration::ZERO);
    assert!(
        !lately.is_empty() && lately.iter().all(|state| *state == Some(MemberState::Suspect)),
        "{lately:?}"
    );
    let old = verdict(LATELY);
    assert!(!old.is_empty() && old.iter().all(|state| *state == Some(MemberState::Dead)), "{old:?}");
}

#[test]
fn whoever_is_misquoted_in_the_last_life_lives_it_and_is_there() {
    let mut table = Table::of(3);
    let forged = FactRecord { generation: packet::MAX_LIFE, sequence: 1000, ..table.machines[1].own.clone() };
    assert!(table.machines[1].has_later_life());
    for _ in 0..2 {
        table.machines[1].learn(forged.clone(), true);
        table.run(5 * SECOND, |_, _| true);
        let machine = &table.machines[1];
        assert_eq!((machine.generation(), machine.has_later_life()), (packet::MAX_LIFE, false));
        for observer in [0, 2] {
            assert_eq!(table.machines[observer].state(MemberId(1)), Some(MemberState::Alive));
        }
    }
}

#[test]
fn whoever_hears_a_later_goodbye_alone_hears_that_it_is_one() {
    let mut table = Table::of(4);
    let now = table.now;
    table.machines[3].leave(now, 1);
    table.machines[3].leave_again(now);
    table.collect();
    table.packets.clear();
    table.machines[3].leave_again(now);
    table.run(Duration::ZERO, |from, _| from == 3);
    let states = [0, 1, 2].map(|node: usize| table.machines[node].state(MemberId(3)));
    assert_eq!(states, [Some(MemberState::Left); 3]);
    let is_death = |event: &Event| matches!(event, Event::Member { state: MemberState::Dead, .. });
    assert!((0..3).all(|node| !table.has(node, is_death)));
}
