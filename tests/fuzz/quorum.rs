//! The same for the leaderless tier of the store: what its servers say to each other, what is on their disks, and what
//! callers carry as sessions.

use std::{collections::BTreeMap, time::Duration};

use outrigger::{
    store::{
        Token, bodies,
        core::key::Key,
        quorum_core::{
            clock::MOST_AHEAD,
            machine::Machine,
            record::Record,
            rules::{Change, Input, Level, Loaded, Now, Output, Reach, Rules, Specs, Want},
        },
    },
    types::Mono,
};

/// More than one packet, or the passing of time, makes a server say: a packet to each of the others, and an answer.
const MOST_SAID: usize = 16;

/// Words of other servers, each behind its sender and its length, to one that also reads: it goes on, says no more than a
/// packet to each, keeps nothing from the future, and finds on its disk what it has.
pub(crate) fn store_quorum(input: &[u8]) {
    let mut now = Now { mono: Mono::ZERO.after(Duration::from_secs(1)), wall_ms: 1 << 40 };
    let new = |loaded, now| Machine::new(1, 9, Rules::default(), Specs::new(), loaded, now);
    let mut machine = new(Loaded::default(), now);
    let mut disk = BTreeMap::new();
    machine.handle(Input::Peers([1, 2, 3].map(|node| (node, Reach::There)).to_vec()), now);
    settle(&mut machine, &mut disk, now);
    let key = Key::new("a/1").expect("a key");
    let mut rest = input;
    while let Some((&[from, low, high], behind)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let (word, behind) = behind.split_at(length.min(behind.len()));
        rest = behind;
        // From another server, or from one that nobody knows.
        if let Some(packet) = bodies::packet(word) {
            machine.handle(Input::Received(u64::from(from % 3) + 2, packet), now);
        }
        machine.handle(Input::Asked(1, Want::Get(key.clone()), Level::Eventual), now);
        settle(&mut machine, &mut disk, now);
        now.mono = now.mono.max(machine.next_deadline());
        machine.advance(now);
        settle(&mut machine, &mut disk, now);
    }
    let again = new(Loaded(disk.into_values().collect()), now);
    let of = |machine: &Machine| -> Vec<(Key, Record)> {
        let all = machine.table().with_prefix("", None);
        all.map(|(key, kept)| (key.clone(), kept.record.clone())).collect()
    };
    let records = of(&machine);
    assert!(records.iter().all(|(_, record)| record.stamp.ms <= now.wall_ms + MOST_AHEAD));
    assert_eq!(records.len(), machine.table().len());
    assert!(of(&again) == records, "its disk has something else");
}

/// Until it has nothing more to say or to write.
fn settle(machine: &mut Machine, disk: &mut BTreeMap<String, Change>, now: Now) {
    let mut said = 0;
    loop {
        while let Some(output) = machine.poll() {
            match output {
                Output::Send(..) | Output::Answer(..) => said += 1,
            }
            assert!(said <= MOST_SAID, "it does not come to an end");
        }
        let Some((number, changes)) = machine.batch() else { return };
        for change in changes {
            let name = match &change {
                Change::Record(key, _) => format!("record {}", key.as_str()),
                Change::Hint(number, _) => format!("hint {number}"),
                Change::Op(op, _) => format!("op {op:?}"),
                Change::Ring(_) => "ring".to_owned(),
                Change::Together(_) => "together".to_owned(),
            };
            disk.insert(name, change);
        }
        machine.handle(Input::Synced(number), now);
    }
}

/// A record on the disk, its name behind its length; and the same bytes as a session: what is read is written as it is
/// read again.
pub(crate) fn store_quorum_disk(input: &[u8]) {
    if let Some((length, rest)) = input.split_first() {
        let (name, value) = rest.split_at(usize::from(*length).min(rest.len()));
        if let Some((named, written)) = bodies::reread_record(name, value) {
            assert!(named == name && written.len() <= value.len());
            assert_eq!(bodies::reread_record(&named, &written), Some((named, written)));
        }
    }
    if let Some(token) = std::str::from_utf8(input).ok().and_then(|text| Token::parse(text).ok()) {
        assert_eq!(Token::parse(&token.text()), Ok(token));
    }
}
