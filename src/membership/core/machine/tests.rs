//! What a member does with what it is told.

use super::*;
use crate::membership::{
    Profile,
    core::{fact::tests::facts, packet::Knowledge},
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
