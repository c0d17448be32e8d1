//! What must hold for any bytes that come in by gossip: sealed packets, what is within them, and the messages of calls.
//! The network may send the first; only a holder of a key of the mesh the others, and even that must not break anything.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use outrigger::{
    membership::{
        Facts, GossipKey, Health, MemberId, Profile, Speaks,
        core::{
            envelope::{Keyring, OVERHEAD, Opener, Place, Refused, Sealer, Way, open_message, seal_message},
            machine::{Machine, Output, Setup},
            message::{self, Answer, Question},
            packet::{self, Knowledge, MAX_MEMBERS, Seen, Standing},
            tuning::{MAX_PACKET, Tuning},
        },
    },
    types::{Mono, Tags},
};

use super::pieces;

/// What happens after each packet: so many times that something is due. Enough for a probe to fail and its helpers too.
const STEPS: usize = 24;

fn keyring() -> Keyring {
    Keyring::new(GossipKey::parse(&"5e".repeat(32)).expect("64 digits"))
}

fn facts(node: &str) -> Facts {
    Facts {
        node: node.into(),
        service: "api".into(),
        endpoint: Some(([10, 0, 0, 1], 15006).into()),
        speaks: Speaks::Auto,
        secured: true,
        weight: 1,
        tags: Tags::default(),
        health: Health::Unchecked,
        store: None,
        is_draining: false,
        load: 0,
        version: "0.1.0".into(),
        keys: vec![1],
    }
}

fn address(number: u8) -> SocketAddr {
    ([10, 0, 0, number], 7946).into()
}

fn member(number: u8, now: Mono) -> Machine {
    let setup = Setup {
        id: MemberId(number.into()),
        generation: 1,
        address: address(number),
        tuning: Tuning::of(Profile::Lan),
        facts: facts(&format!("n{number}")),
        said_at: 1,
        needs_proof: true,
        rng: fastrand::Rng::with_seed(number.into()),
    };
    Machine::new(setup, now)
}

/// One that knows two others.
fn one_of_three(now: Mono) -> Machine {
    let mut machine = member(1, now);
    for other in [2, 3] {
        let own = member(other, now);
        let seen = Seen {
            id: own.own().id,
            generation: 1,
            address: address(other),
            incarnation: 0,
            standing: Standing::Alive,
        };
        machine.meet(&seen, own.own().clone(), now);
    }
    machine
}

/// Everything that it knows of others came in these many bytes, and it can go on.
fn check(machine: &mut Machine, bytes: usize, now: Mono) {
    for output in machine.outputs() {
        if let Output::Send { packet, .. } = output {
            assert!(packet.len() <= MAX_PACKET, "{} bytes", packet.len());
            assert!(packet::read(&packet).is_ok(), "it sends what cannot be read: {packet:?}");
        }
    }
    // A member takes 16 bytes at the least: its id, its life, its address.
    let most = (3 + bytes / 16).min(MAX_MEMBERS);
    let Knowledge { members, facts } = machine.knowledge();
    assert!(members.len() <= most && facts.len() <= most, "{} and {} of {most}", members.len(), facts.len());
    let view = machine.view(now);
    assert!(view.members.len() <= most);
    let ids: BTreeSet<MemberId> = view.members.iter().map(|member| member.id).collect();
    assert_eq!(ids.len(), view.members.len(), "a member is there twice");
    assert_eq!(view.own, Some(machine.own().id));
}

/// Packets of a holder of the key, each behind its length, to a member that knows two others: what is refused changes
/// nothing, what is not makes it know no more than it was told, and it goes on.
pub(crate) fn gossip_packet(input: &[u8]) {
    let mut now = Mono::ZERO.after(Duration::from_secs(1));
    let mut machine = one_of_three(now);
    let mut rest = input;
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(behind.len()).min(MAX_PACKET);
        let (packet, behind) = behind.split_at(length);
        rest = behind;
        if let Ok((swim, items)) = packet::read(packet) {
            let mut again = packet::begin(swim);
            items.iter().for_each(|item| again.extend(item.encode()));
            assert_eq!(packet::read(&again), Ok((swim, items)), "what was read can be sent on");
        }
        // Whoever has the key can say to be anybody: the id is the first part of a message.
        let sender = packet.get(2..10).and_then(|id| id.try_into().ok()).map_or(2, u64::from_be_bytes);
        let before = machine.knowledge();
        if machine.receive(MemberId(sender), packet, now).is_err() {
            assert_eq!(machine.knowledge(), before, "a packet that is refused has changed something");
        }
        for _ in 0..STEPS {
            let Some(due) = machine.next_deadline() else { break };
            now = now.max(due);
            machine.advance(now);
            check(&mut machine, input.len(), now);
        }
    }
}

/// `real` as `input` changes it: some bytes at some place, or another end.
pub(crate) fn changed(real: &[u8], input: &[u8]) -> Vec<u8> {
    let (place, bytes) = pieces(input);
    let (how, bytes) = bytes.split_first().map_or((0, bytes), |(how, bytes)| (*how, bytes));
    let mut changed = real.to_vec();
    let at = place % real.len();
    match how % 4 {
        0 => changed.iter_mut().skip(at).zip(bytes).for_each(|(byte, by)| *byte ^= by),
        1 => changed.truncate(at),
        2 => changed.extend(bytes),
        _ => drop(changed.splice(at..at, bytes.iter().copied())),
    }
    changed
}

/// Bytes from the network: nobody without the key makes any that are opened, by chance or by changing real ones, and what
/// is refused does not keep a real packet out.
pub(crate) fn gossip_envelope(input: &[u8]) {
    let ring = keyring();
    let mut sealer = Sealer::new("mesh", MemberId(7), 100, 9);
    let first = sealer.seal(b"the first packet", &ring);
    let second = sealer.seal(b"the second packet", &ring);
    assert_eq!(second.len(), b"the second packet".len() + OVERHEAD);
    let mut opener = Opener::new("mesh");
    assert!(opener.open(&first, &ring).is_ok());
    // The fuzzer sees what its input is compared with, and so finds the real ones.
    for forged in [input, &changed(&second, input)] {
        if forged != first && forged != second {
            assert!(opener.open(forged, &ring).is_err());
            assert!(Opener::new("mesh").open(forged, &ring).is_err());
        }
    }
    assert_eq!(opener.open(&second, &ring), Ok((MemberId(7), b"the second packet".to_vec())));
    for seen in [&first, &second] {
        assert_eq!(opener.open(seen, &ring), Err(Refused::Replay));
    }
    assert_eq!(Opener::new("other").open(&second, &ring), Err(Refused::Seal));
}

/// What comes on a connection: nothing is opened that was not sealed for its place, and what a holder of the key says is
/// read within bounds, is written as it was read, and makes a member know no more than it was told.
pub(crate) fn gossip_message(input: &[u8]) {
    let ring = keyring();
    let place = Place { chance: &[3; 32], way: Way::Question, number: 0, cluster: "mesh" };
    let real = seal_message(b"who are you?", place, &ring).expect("a short message");
    assert_eq!(open_message(&real, place, &ring), Ok(b"who are you?".to_vec()));
    // The fuzzer sees what its input is compared with, and so finds the real one.
    for forged in [input, &changed(&real, input)] {
        assert!(forged == real || open_message(forged, place, &ring).is_err());
    }

    let question = message::read::<Question>(input);
    if let Ok(question) = &question {
        assert_eq!(message::read(&message::write(question)).as_ref(), Ok(question));
    }
    let answer = message::read::<Answer>(input);
    if let Ok(answer) = &answer {
        assert_eq!(message::read(&message::write(answer)).as_ref(), Ok(answer));
    }
    let mut now = Mono::ZERO.after(Duration::from_secs(1));
    let mut machine = one_of_three(now);
    let from = match question {
        Ok(Question::Everything(card, knowledge)) if knowledge.is_plausible() => {
            machine.merge(knowledge, card.seen.id, now);
            card
        }
        Ok(Question::Hello(card) | Question::Compare { card, .. }) => card,
        Ok(Question::Everything(..) | Question::Keyring(_)) | Err(_) => return,
    };
    machine.meet(&from.seen, from.record, now);
    for _ in 0..STEPS {
        let Some(due) = machine.next_deadline() else { break };
        now = now.max(due);
        machine.advance(now);
        check(&mut machine, input.len(), now);
    }
}
