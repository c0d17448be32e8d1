//! What must hold for any bytes that the replicated store reads: bodies of calls between nodes, what is read of their heads,
//! images of the state, records on the disk. Members of the mesh may send the first two; a damaged or foreign disk has the
//! others.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger::{
    peer::rpc,
    store::{
        Scan,
        backend::{Batch, Durability, Keys, Memory, Plain, SealKey, Sealed, Span, StorageBackend, Table},
        bodies,
        core::{
            bootstrap::{Bootstrap, Config, Expect, Input, Kept, Known, Me, Output, SeedList, StoreId},
            command::{Command, Request},
            key::Revision,
            kv::{Kv, MAX_EXPIRED},
            outcome::CommandResult,
        },
    },
    types::Mono,
};
use xxhash_rust::xxh64::xxh64;

/// What must hold of a state, whatever it has come from.
fn check(kv: &Kv) {
    let page = kv.scan(&Scan::default());
    assert!(page.entries.len() <= kv.len() && page.revision == kv.revision());
    if page.entries.len() == kv.len() {
        let bytes: usize = page.entries.iter().map(|(key, has)| key.as_str().len() + has.value.len()).sum();
        assert_eq!(bytes, kv.bytes());
    }
    for (key, has) in &page.entries {
        assert_eq!(kv.get(key), Some(has));
        assert!(has.created <= has.modified && has.modified <= kv.revision());
    }
    let image = kv.to_bytes();
    let again = Kv::from_bytes(&image).expect("what was written can be read");
    assert!(again == *kv && again.to_bytes() == image);
}

/// The image of a state, with a checksum that is right: what is read is a state like any other, and goes on as one.
pub(crate) fn store_image(input: &[u8]) {
    // As it is, and with the checksum that whoever made it by hand would put behind it.
    let mut made = input.to_vec();
    made.extend_from_slice(&xxh64(input, 0).to_le_bytes());
    for bytes in [input, &made] {
        let Ok(mut kv) = Kv::from_bytes(bytes) else { continue };
        check(&kv);
        let before = kv.revision();
        // No store lives to see this one, and it has no next.
        if before.0 + 1 >= 1 << 56 {
            continue;
        }
        assert!(kv.changes_after(Revision(0), "", 0).is_ok() || kv.oldest() > Revision(1));
        let at_ms = kv.next_expiry().unwrap_or(1);
        let op = outrigger::store::core::key::OpId { client: 1, sequence: 1 };
        let outcome = kv.apply(&Command { op, at_ms, author: "fuzz".into(), request: Request::Expire });
        let CommandResult::Ended { keys } = outcome.result else { unreachable!("{outcome:?}") };
        assert!(keys <= MAX_EXPIRED as u64 && kv.revision().0 <= before.0 + 1);
        check(&kv);
    }
}

/// Commands as they come from other nodes, one behind the other: two replicas come to the same state, which counts right,
/// and a repeat changes nothing.
pub(crate) fn store_commands(input: &[u8]) {
    let (mut one, mut other) = (Kv::default(), Kv::default());
    let mut rest = input;
    while let Some((command, behind)) = bodies::take_command(rest) {
        rest = behind;
        let before = one.clone();
        let outcome = one.apply(&command);
        assert_eq!(other.apply(&command), outcome);
        if command.check().is_err() {
            assert!(one == before, "what is refused changes nothing");
        }
        // What was done already is answered as it was then.
        let is_repeat = outcome.revision < one.revision() && one.revision() == before.revision();
        assert!(outcome.revision == one.revision() || is_repeat, "{outcome:?}");
        assert!(one.revision().0 <= before.revision().0 + 1);
        let changes = one.changes_after(before.revision(), "", 0).expect("the last change is remembered").0;
        let changed: BTreeMap<_, _> = changes.iter().map(|change| (&change.key, &change.after)).collect();
        for (key, after) in changed {
            assert_eq!(one.get(key), after.as_ref());
        }
        if matches!(command.request, Request::Transact(_) | Request::Grant { .. } | Request::Revoke(_)) {
            let (now, again) = (one.revision(), one.clone().apply(&command));
            assert!(again.revision == now || command.check().is_err() || again == outcome, "{again:?}");
        }
    }
    assert!(one == other);
    check(&one);
}

/// The body of a call or an answer: it is read within bounds, and what was read is written as it is read again.
pub(crate) fn store_bodies(input: &[u8]) {
    for kind in bodies::Kind::ALL {
        if let Some(written) = bodies::reread(kind, input) {
            assert!(written.len() <= input.len(), "{kind:?} grows");
            assert_eq!(bodies::reread(kind, &written).as_ref(), Some(&written), "{kind:?}");
        }
    }
}

/// Words of other nodes, each behind its length, to one that founds a store: it goes on, belongs to one store and never to
/// another, though to later epochs of it, and says no more than a few words to each.
pub(crate) fn store_founding(input: &[u8]) {
    let me = Me { node: 1, eligible: true, is_seed: true };
    let seeds = SeedList { count: 3, digest: 7 };
    let expect = Expect::from_count(3).expect("three are a number of voters");
    let config = Config { expect, settle: Duration::from_millis(1), seeds };
    let mut now = Mono::ZERO.after(Duration::from_secs(1));
    let mut machine = Bootstrap::new(me, config, Kept::default(), fastrand::Rng::with_seed(1), now);
    let other = |node| Known { node, eligible: true, founded: None, since: Mono::ZERO, is_seed: true };
    machine.handle(Input::Known([2, 3].map(other).to_vec()), now);
    let mut store: Option<StoreId> = None;
    let mut rest = input;
    while let Some((&[from, length], behind)) = rest.split_first_chunk::<2>() {
        let (word, behind) = behind.split_at(usize::from(length).min(behind.len()));
        rest = behind;
        if let Some(message) = bodies::founding(word) {
            machine.handle(Input::Received { from: u64::from(from % 4), message }, now);
        }
        let mut said = 0;
        while let Some(output) = machine.poll() {
            match output {
                Output::Persist { number, .. } => machine.handle(Input::Persisted(number), now),
                Output::Join(_)
                | Output::Found(_)
                | Output::Send { .. }
                | Output::Conflict(_)
                | Output::Superseded(_) => {}
            }
            said += 1;
            assert!(said <= 64, "it does not come to an end");
        }
        // An epoch takes the place of an earlier one of the same store.
        let is_kept = match (store, machine.store()) {
            (Some(before), Some(now)) => before == now || before.is_before(now),
            (Some(_), None) => false,
            (None, _) => true,
        };
        assert!(is_kept, "it changes its store");
        store = machine.store();
        now = machine.next_deadline().map_or(now, |due| now.max(due));
        machine.advance(now);
    }
}

/// The head of a call, a field a line: what passes is meant for this node of this cluster, and bears a limit.
pub(crate) fn rpc_head(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(32) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let once = |name: &str| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
    };
    if let Ok((from, limit)) = rpc::read_head(&headers, "mesh", 7) {
        assert!(
            once("outrigger-cluster") == Some("mesh")
                && once("outrigger-to").is_some_and(|to| to.ends_with('7'))
        );
        assert!(
            once("outrigger-from").and_then(|text| text.parse().ok()) == Some(from) && limit <= rpc::LONGEST
        );
    }
    if let Some((method, _)) = input.split_first().and_then(|(length, rest)| {
        let end = usize::from(*length).min(rest.len());
        std::str::from_utf8(&rest[..end]).ok().map(|method| (method, end))
    }) && let Some(method) = rpc::Method::parse(method)
    {
        assert!((1..=64).contains(&method.as_str().len()));
    }
}

/// A record on the disk: nobody without the key makes one that is opened, by chance, by changing a real one, or by moving
/// it elsewhere.
pub(crate) fn store_record(input: &[u8]) {
    let inner = Arc::new(Memory::default());
    // Others each time: what was sealed once is real for ever, and the fuzzer has seen it.
    let mut secret = [0; 32];
    fastrand::fill(&mut secret);
    let mut key = |id: u8| {
        secret[0] = id;
        SealKey::new(id, &secret).expect("a key that is none of `not encrypted`")
    };
    let keys = Keys::Some { newest: key(2), older: vec![key(1)], plain: Plain::Refused };
    let sealed = Sealed::new(Arc::clone(&inner), keys);
    let mut batch = Batch::default();
    batch.put(Table::Meta, *b"vote", *b"the vote of this node");
    sealed.apply(batch, Durability::Durable).expect("memory takes it");
    let real = inner.get(Table::Meta, b"vote").expect("memory").expect("it is there");
    // The fuzzer sees what its input is compared with, and so finds the real one.
    for forged in [input.to_vec(), super::changed(&real, input)] {
        let is_real = forged == real;
        for (table, place) in [(Table::Meta, &b"vote"[..]), (Table::Log, b"vote"), (Table::Meta, b"purged")] {
            let mut batch = Batch::default();
            batch.put(table, place, forged.clone());
            inner.apply(batch, Durability::Durable).expect("memory takes it");
            let opened = sealed.get(table, place);
            if is_real && table == Table::Meta && place == b"vote" {
                assert_eq!(
                    opened.expect("it is the real one").as_deref(),
                    Some(&b"the vote of this node"[..])
                );
            } else {
                let error = opened.expect_err("nobody without the key has made this");
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert!(sealed.range(table, Span::ALL, 10).is_err());
            }
        }
    }
}
