//! The rules of the state, one by one. That all of them hold together is in `model`.

use bytes::Bytes;

use super::{
    super::{
        command::{Command, Compare, Operand, Operation, Relation, Request, Stay, Transaction},
        key::{Key, LeaseId, OpId, Revision},
        outcome::{CommandResult, OperationResult, Outcome},
    },
    Compacted, Damaged, Kv, MAX_ANSWER, MAX_EXPIRED, MAX_KEYS, MAX_LEASES, MAX_REMOVED, MAX_STORE,
    REMEMBERED_MS,
    answers::{MAX_ANSWERS, MAX_ANSWERS_BYTES},
    history::{MAX_CHANGES, MAX_CHANGES_BYTES},
    pages::{MAX_PAGE, MAX_PAGE_BYTES},
};
use crate::store::{
    Scan,
    core::command::{MAX_AUTHOR, MAX_VALUE, author},
};

/// A state, and the next operation id and time.
struct Store {
    kv: Kv,
    sequence: u64,
    at_ms: u64,
}

impl Store {
    fn new() -> Self {
        Self { kv: Kv::default(), sequence: 0, at_ms: 1_000_000 }
    }

    fn ask(&mut self, request: Request) -> Outcome {
        self.sequence += 1;
        let op = OpId { client: 1, sequence: self.sequence };
        self.kv.apply(&Command { op, at_ms: self.at_ms, author: "alice".into(), request })
    }

    fn transact(&mut self, transaction: Transaction) -> CommandResult {
        self.ask(Request::Transact(transaction)).result
    }

    fn then(&mut self, then: Vec<Operation>) -> CommandResult {
        self.transact(Transaction { then, ..Transaction::default() })
    }

    fn put(&mut self, name: &str, value: &str) -> CommandResult {
        self.then(vec![put(name, value, Stay::Forever)])
    }

    fn grant(&mut self, ttl_ms: u64) -> LeaseId {
        match self.ask(Request::Grant { ttl_ms }).result {
            CommandResult::Leased { lease, .. } => lease,
            other => panic!("{other:?}"),
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.kv.get(&key(name)).map(|has| std::str::from_utf8(&has.value).unwrap())
    }

    fn names(&self) -> Vec<String> {
        self.kv.scan(&Scan::default()).entries.iter().map(|(key, _)| key.to_string()).collect()
    }
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn put(name: &str, value: &str, stay: Stay) -> Operation {
    Operation::Put { key: key(name), value: Bytes::copy_from_slice(value.as_bytes()), stay }
}

fn put_done() -> CommandResult {
    CommandResult::Transacted { held: true, results: vec![OperationResult::Put] }
}

#[test]
fn a_key_counts_its_writes_and_begins_anew_when_it_was_deleted() {
    let mut store = Store::new();
    assert_eq!(store.put("a", "1"), put_done());
    store.put("b", "1");
    store.put("a", "2");
    let has = store.kv.get(&key("a")).unwrap().clone();
    assert_eq!((has.created, has.modified, has.version), (Revision(1), Revision(3), 2));
    store.transact(Transaction::delete(key("a")));
    store.put("a", "3");
    let has = store.kv.get(&key("a")).unwrap();
    assert_eq!((has.created, has.modified, has.version), (Revision(5), Revision(5), 1));
    assert_eq!((store.kv.len(), store.kv.bytes(), store.kv.is_empty()), (2, 4, false));
}

#[test]
fn only_what_changes_something_makes_a_revision() {
    let mut store = Store::new();
    store.put("a", "1");
    let lease = store.grant(1_000);
    assert_eq!(lease, LeaseId(2));
    let before = store.kv.revision();
    let requests = [
        Request::Transact(Transaction::default()),
        Request::Transact(Transaction { then: vec![Operation::Get(key("a"))], ..Transaction::default() }),
        Request::Transact(Transaction::delete(key("x"))),
        Request::Transact(Transaction {
            then: vec![Operation::DeletePrefix("x".to_owned())],
            ..Transaction::default()
        }),
        Request::KeepAlive(lease),
        Request::KeepAlive(LeaseId(77)),
        Request::Revoke(LeaseId(77)),
        Request::Expire,
    ];
    for request in requests {
        let outcome = store.ask(request.clone());
        assert_eq!(outcome.revision, before, "{request:?}");
    }
    assert_eq!(store.ask(Request::Revoke(lease)).revision, Revision(3));
}

#[test]
fn comparisons_take_a_missing_key_as_nought_and_empty() {
    let mut store = Store::new();
    store.put("a", "m");
    store.put("a", "m");
    let modified = |revision| Operand::Modified(Revision(revision));
    let created = |revision| Operand::Created(Revision(revision));
    let value = |text: &'static str| Operand::Value(Bytes::from_static(text.as_bytes()));
    let table = [
        ("a", Relation::Equal, modified(2), true),
        ("a", Relation::Equal, modified(1), false),
        ("a", Relation::Less, modified(3), true),
        ("a", Relation::Less, modified(2), false),
        ("a", Relation::Equal, created(1), true),
        ("a", Relation::Greater, created(0), true),
        ("a", Relation::NotEqual, Operand::Version(2), false),
        ("a", Relation::Greater, Operand::Version(1), true),
        ("a", Relation::Equal, value("m"), true),
        ("a", Relation::Greater, value("ly"), true),
        ("a", Relation::Less, value("ma"), true),
        ("x", Relation::Equal, modified(0), true),
        ("x", Relation::Equal, created(0), true),
        ("x", Relation::Less, Operand::Version(1), true),
        ("x", Relation::Equal, value(""), true),
        ("x", Relation::NotEqual, value("m"), true),
    ];
    for (name, relation, with, expected) in table {
        let compare = Compare { key: key(name), relation, with };
        let shown = format!("{compare:?}");
        let result = store.transact(Transaction { compare: vec![compare], ..Transaction::default() });
        assert_eq!(result, CommandResult::Transacted { held: expected, results: Vec::new() }, "{shown}");
    }
}

#[test]
fn a_transaction_compares_before_it_writes_and_its_reads_see_its_writes() {
    let mut store = Store::new();
    let transaction = Transaction {
        then: vec![
            put("a", "1", Stay::Forever),
            Operation::Get(key("a")),
            put("b", "1", Stay::Forever),
            Operation::DeletePrefix("a".to_owned()),
            Operation::Get(key("a")),
        ],
        otherwise: vec![put("c", "1", Stay::Forever)],
        ..Transaction::default()
    }
    .if_modified_at(key("a"), Revision(0));
    let CommandResult::Transacted { held: true, results } = store.transact(transaction.clone()) else {
        panic!("it did not hold")
    };
    let OperationResult::Got(Some(read)) = &results[1] else { panic!("{results:?}") };
    assert_eq!((&read.value[..], read.modified), (&b"1"[..], Revision(1)));
    assert_eq!(results[3..], [OperationResult::Deleted(1), OperationResult::Got(None)]);
    assert_eq!((store.names(), store.kv.revision()), (vec!["b".to_owned()], Revision(1)));

    store.put("a", "2");
    let CommandResult::Transacted { held: false, results } = store.transact(transaction) else {
        panic!("it held")
    };
    assert_eq!((results, store.names().len()), (vec![OperationResult::Put], 3));
}

#[test]
fn an_unknown_lease_undoes_the_whole_transaction() {
    let mut store = Store::new();
    let before = store.kv.revision();
    let lease = Stay::Lease(LeaseId(9));
    let result = store.then(vec![put("a", "1", Stay::Forever), put("b", "1", lease)]);
    assert_eq!(result, CommandResult::NoLease(LeaseId(9)));
    assert!(store.kv.is_empty() && store.kv.revision() == before);
    // The branch that is not taken asks for nothing.
    let transaction = Transaction {
        then: vec![put("a", "1", Stay::Forever)],
        otherwise: vec![put("b", "1", lease)],
        ..Transaction::default()
    };
    assert_eq!(store.transact(transaction), put_done());
}

#[test]
fn keys_go_with_their_lease_and_only_when_asked_to_expire() {
    let mut store = Store::new();
    let lease = store.grant(5_000);
    store.then(vec![put("a", "1", Stay::Lease(lease)), put("b", "1", Stay::Lease(lease))]);
    store.then(vec![put("c", "1", Stay::Lease(lease)), put("d", "1", Stay::Ttl(9_000))]);
    store.put("b", "detached");
    let end = store.at_ms + 5_000;
    assert_eq!(store.kv.next_expiry(), Some(end));
    store.at_ms = end - 1;
    assert_eq!(store.ask(Request::Expire).result, CommandResult::Ended { keys: 0 });
    store.at_ms = end;
    store.put("e", "1");
    assert_eq!(store.names().len(), 5, "time alone ends nothing");
    let outcome = store.ask(Request::Expire);
    assert_eq!(outcome.result, CommandResult::Ended { keys: 2 });
    assert_eq!(store.names(), ["b", "d", "e"]);
    let (changes, _) = store.kv.changes_after(Revision(outcome.revision.0 - 1), "", 0).unwrap();
    assert_eq!(changes.len(), 2);
    assert!(changes.iter().all(|change| change.after.is_none() && &*change.author == "alice"));
    assert_eq!(store.ask(Request::KeepAlive(lease)).result, CommandResult::NoLease(lease));
    assert_eq!(store.kv.next_expiry(), Some(end + 4_000));
}

#[test]
fn a_lease_that_is_kept_alive_begins_anew() {
    let mut store = Store::new();
    let lease = store.grant(5_000);
    store.at_ms += 4_000;
    assert_eq!(store.ask(Request::KeepAlive(lease)).result, CommandResult::Leased { lease, ttl_ms: 5_000 });
    assert_eq!(store.kv.next_expiry(), Some(store.at_ms + 5_000));
    // A leader whose clock is behind does not turn time back.
    let late = store.at_ms;
    store.at_ms = 0;
    store.ask(Request::KeepAlive(lease));
    assert_eq!(store.kv.next_expiry(), Some(late + 5_000));
    let state = store.kv.leases().next().unwrap();
    assert_eq!((state.lease, state.ttl_ms, state.ends_ms, state.keys), (lease, 5_000, late + 5_000, 0));
}

#[test]
fn a_revoked_lease_takes_its_keys_with_it() {
    let mut store = Store::new();
    let lease = store.grant(5_000);
    store.then(vec![put("a", "1", Stay::Lease(lease)), put("b", "1", Stay::Forever)]);
    assert_eq!(store.ask(Request::Revoke(lease)).result, CommandResult::Ended { keys: 1 });
    assert_eq!((store.names(), store.kv.next_expiry()), (vec!["b".to_owned()], None));
}

#[test]
fn keys_with_a_time_to_live_share_a_lease_only_if_it_is_as_long() {
    let mut store = Store::new();
    store.put("x", "1");
    let ttl = |ttl_ms| Stay::Ttl(ttl_ms);
    store.then(vec![put("a", "1", ttl(2_000)), put("b", "1", ttl(3_000)), put("c", "1", ttl(2_000))]);
    let lease = |name| store.kv.get(&key(name)).unwrap().lease.unwrap();
    assert_eq!(lease("a"), LeaseId(2), "named by the revision");
    assert_eq!(lease("a"), lease("c"));
    assert_ne!(lease("a"), lease("b"));
    assert_eq!(store.kv.leases().map(|lease| lease.keys).collect::<Vec<_>>(), [2, 1]);
    // Such a lease goes with its last key: setting one key again and again leaves none behind.
    store.then(vec![put("b", "2", ttl(3_000))]);
    store.then(vec![put("b", "3", Stay::Forever), Operation::Delete(key("a"))]);
    assert_eq!(
        store.kv.leases().map(|lease| (lease.lease, lease.keys)).collect::<Vec<_>>(),
        [(LeaseId(2), 1)]
    );
    store.then(vec![put("c", "1", ttl(4_000)), Operation::Delete(key("c")), put("c", "1", ttl(4_000))]);
    assert_eq!(store.kv.leases().map(|lease| lease.keys).collect::<Vec<_>>(), [1]);
    // It does not go between two operations of one transaction.
    let own = store.kv.leases().next().unwrap().lease;
    store.then(vec![Operation::Delete(key("c")), put("d", "1", Stay::Lease(own))]);
    assert_eq!(store.kv.leases().map(|lease| (lease.lease, lease.keys)).collect::<Vec<_>>(), [(own, 1)]);
}

#[test]
fn expiry_is_done_in_pieces_and_a_lease_once_begun_is_over() {
    let mut store = Store::new();
    let lease = store.grant(1_000);
    let keys = MAX_EXPIRED + 50;
    for from in (0..keys).step_by(100) {
        let range = from..(from + 100).min(keys);
        store.then(range.map(|n| put(&format!("{n:05}"), "", Stay::Lease(lease))).collect());
    }
    let empty = store.grant(1_500);
    store.at_ms += 2_000;
    assert_eq!(store.ask(Request::Expire).result, CommandResult::Ended { keys: MAX_EXPIRED as u64 });
    assert_eq!(store.ask(Request::KeepAlive(lease)).result, CommandResult::NoLease(lease));
    let bind = vec![put("z", "", Stay::Lease(lease))];
    assert_eq!(store.then(bind), CommandResult::NoLease(lease));
    assert_eq!(store.kv.leases().map(|lease| lease.lease).collect::<Vec<_>>(), [empty]);
    let copy = Kv::from_bytes(&store.kv.to_bytes()).unwrap();
    assert_eq!(copy, store.kv);
    assert!(store.kv.next_expiry() < Some(store.at_ms));
    assert_eq!(store.ask(Request::Expire).result, CommandResult::Ended { keys: 50 });
    assert!(store.kv.is_empty());
    assert_eq!(store.kv.next_expiry(), None);
}

#[test]
fn an_operation_is_done_once_within_fifteen_minutes() {
    let mut kv = Kv::default();
    let command = |sequence, at_ms, request| Command {
        op: OpId { client: 1, sequence },
        at_ms,
        author: "bob".into(),
        request,
    };
    let set =
        Request::Transact(Transaction { then: vec![put("a", "1", Stay::Forever)], ..Transaction::default() });
    let first = kv.apply(&command(1, 1_000, set.clone()));
    let grant = kv.apply(&command(2, 1_000, Request::Grant { ttl_ms: 90_000 }));
    let state = kv.clone();
    // Another request of the same id is taken for the same.
    assert_eq!(kv.apply(&command(1, 1_000, set.clone())), first);
    assert_eq!(kv.apply(&command(2, 1_000, set.clone())), grant);
    assert_eq!(kv, state);
    assert_eq!(kv.apply(&command(1, 1_000 + REMEMBERED_MS, set.clone())), first);
    let again = kv.apply(&command(1, 1_001 + REMEMBERED_MS, set));
    assert_eq!((again.revision, kv.get(&key("a")).unwrap().version), (Revision(3), 2));
}

#[test]
fn what_may_be_repeated_is_not_remembered() {
    let mut kv = Kv::default();
    let op = OpId { client: 1, sequence: 1 };
    let mut ask = |at_ms, request| kv.apply(&Command { op, at_ms, author: "n".into(), request });
    ask(1_000, Request::Expire);
    let CommandResult::Leased { lease, .. } = ask(1_000, Request::Grant { ttl_ms: 1_000 }).result else {
        panic!("no lease")
    };
    assert!(matches!(ask(1_500, Request::KeepAlive(lease)).result, CommandResult::Leased { .. }));
    ask(2_500, Request::Expire);
    assert_eq!(ask(2_500, Request::KeepAlive(lease)).result, CommandResult::NoLease(lease));
}

#[test]
fn the_oldest_answers_are_forgotten_when_they_are_too_many() {
    let mut store = Store::new();
    let first = Command {
        op: OpId { client: 9, sequence: 0 },
        at_ms: store.at_ms,
        author: "n".into(),
        request: Request::Transact(Transaction::delete(key("a"))),
    };
    store.kv.apply(&first);
    store.put("a", "1");
    for _ in 2..MAX_ANSWERS {
        store.transact(Transaction::default());
    }
    store.kv.apply(&first);
    assert_eq!(store.value("a"), Some("1"));
    store.transact(Transaction::default());
    store.kv.apply(&first);
    assert_eq!(store.value("a"), None);
}

#[test]
fn the_oldest_answers_are_forgotten_when_they_are_too_large() {
    let mut store = Store::new();
    store.put("a", &"v".repeat(MAX_ANSWER - 100));
    let read = Transaction { then: vec![Operation::Get(key("a"))], ..Transaction::default() };
    let first = Command {
        op: OpId { client: 9, sequence: 0 },
        at_ms: store.at_ms,
        author: "n".into(),
        request: Request::Transact(Transaction::put(key("b"), Bytes::new(), Stay::Forever)),
    };
    let done = store.kv.apply(&first).revision;
    for _ in 0..MAX_ANSWERS_BYTES / MAX_ANSWER {
        store.transact(read.clone());
    }
    assert_eq!(store.kv.apply(&first).revision, done);
    for _ in 0..MAX_ANSWERS_BYTES / MAX_ANSWER / 20 {
        store.transact(read.clone());
    }
    assert!(store.kv.apply(&first).revision > done);
}

#[test]
fn of_a_large_answer_the_reads_are_forgotten() {
    for (length, is_whole) in [(MAX_ANSWER - 100, true), (MAX_ANSWER + 1, false)] {
        let mut store = Store::new();
        store.put("a", &"v".repeat(length));
        let then = vec![Operation::Get(key("a")), Operation::Delete(key("a"))];
        let first = store.then(then.clone());
        store.sequence -= 1;
        let again = store.then(then);
        let stripped = CommandResult::Transacted {
            held: true,
            results: vec![OperationResult::Got(None), OperationResult::Deleted(1)],
        };
        assert_eq!(again, if is_whole { first } else { stripped }, "{length}");
    }
}

#[test]
fn what_no_replica_would_apply_changes_nothing() {
    let mut store = Store::new();
    store.put("a", "1");
    let state = store.kv.clone();
    let get = Operation::Get(key("a"));
    let requests = [
        Request::Grant { ttl_ms: 0 },
        Request::Grant { ttl_ms: u64::MAX },
        Request::Transact(Transaction { then: vec![get; 200], ..Transaction::default() }),
        Request::Transact(Transaction { then: vec![put("a", "1", Stay::Ttl(1))], ..Transaction::default() }),
        Request::Transact(Transaction::put(key("a"), vec![0; MAX_VALUE + 1].into(), Stay::Forever)),
    ];
    store.at_ms += 1;
    for request in requests {
        assert_eq!(store.ask(request).result, CommandResult::Full);
    }
    let op = OpId { client: 5, sequence: 5 };
    for author in ["a".repeat(MAX_AUTHOR + 1), "a\nb".to_owned()] {
        let author = author.into();
        store.kv.apply(&Command { op, at_ms: u64::MAX, author, request: Request::Expire });
    }
    assert_eq!(store.kv, state);
}

#[test]
fn a_full_store_takes_nothing_back_but_deletes() {
    let mut store = Store::new();
    let value = Bytes::from(vec![7; MAX_VALUE]);
    let large = |name: &str| Operation::Put { key: key(name), value: value.clone(), stay: Stay::Forever };
    let room = MAX_STORE / MAX_VALUE - 1;
    for n in 0..room {
        store.then(vec![large(&format!("{n:03}"))]);
    }
    let rest = MAX_STORE - store.kv.bytes() - "end".len();
    let then = vec![put("end", &"e".repeat(rest), Stay::Forever)];
    assert_eq!(store.then(then), put_done());
    assert_eq!(store.kv.bytes(), MAX_STORE);

    let state = store.kv.scan(&Scan { prefix: "end".to_owned(), ..Scan::default() });
    let revision = store.kv.revision();
    let too_much = vec![
        Operation::Delete(key("000")),
        large("new"),
        put("end", "", Stay::Ttl(1_000)),
        large("end"),
        put("y", "", Stay::Ttl(2_000)),
    ];
    assert_eq!(store.then(too_much), CommandResult::Full);
    assert_eq!((store.kv.revision(), store.kv.bytes(), store.kv.len()), (revision, MAX_STORE, room + 1));
    assert_eq!(store.kv.scan(&Scan { prefix: "end".to_owned(), ..Scan::default() }), state);
    assert_eq!(store.kv.leases().count(), 0);
    // As large as before fits, and so does what comes where something has gone.
    assert_eq!(store.then(vec![large("000")]), put_done());
    let swap = vec![Operation::Delete(key("000")), large("new")];
    assert!(matches!(store.then(swap), CommandResult::Transacted { .. }));
    let all = vec![Operation::DeletePrefix(String::new())];
    store.then(all);
    assert_eq!((store.kv.len(), store.kv.bytes()), (0, 0));
}

#[test]
fn no_more_keys_than_so_many_are_removed_by_their_beginning_at_once() {
    let mut store = Store::new();
    store.put("a", "");
    let entry = store.kv.get(&key("a")).unwrap().clone();
    store.kv.keys = (0..=MAX_REMOVED).map(|n| (key(&format!("k{n:06}")), entry.clone())).collect();
    store.kv.bytes = (MAX_REMOVED + 1) * 7;
    let before = store.kv.clone();
    let prefix = |text: &str| Operation::DeletePrefix(text.to_owned());
    for too_many in [vec![prefix("")], vec![put("z", "", Stay::Forever), prefix("k00"), prefix("k01")]] {
        assert_eq!(store.then(too_many), CommandResult::TooMany);
        assert_eq!((&store.kv.keys, store.kv.bytes()), (&before.keys, before.bytes()));
        assert_eq!(store.kv.revision(), before.revision());
    }
    let some = store.then(vec![Operation::Delete(key("k010000")), prefix("k")]);
    assert!(matches!(some, CommandResult::Transacted { .. }), "{some:?}");
    assert_eq!((store.kv.len(), store.kv.bytes()), (0, 0));
}

#[test]
fn a_lease_with_many_keys_ends_at_once_and_its_keys_go_in_parts() {
    let mut store = Store::new();
    let lease = store.grant(5_000);
    let count = MAX_EXPIRED + 300;
    for number in 0..count {
        store.then(vec![put(&format!("k{number:06}"), "", Stay::Lease(lease))]);
    }
    let ended = store.ask(Request::Revoke(lease)).result;
    assert_eq!(ended, CommandResult::Ended { keys: count as u64 });
    assert_eq!((store.kv.len(), store.kv.leases().count()), (300, 0));
    assert_eq!(store.ask(Request::KeepAlive(lease)).result, CommandResult::NoLease(lease));
    assert_eq!(store.then(vec![put("z", "", Stay::Lease(lease))]), CommandResult::NoLease(lease));
    assert_eq!(store.ask(Request::Revoke(lease)).result, CommandResult::NoLease(lease));
    // A leader is told that there is something to do at once, and the state is whole in between.
    assert!(store.kv.next_expiry().is_some_and(|due| due <= store.kv.at_ms));
    assert_eq!(Kv::from_bytes(&store.kv.to_bytes()).as_ref(), Ok(&store.kv));
    assert_eq!(store.ask(Request::Expire).result, CommandResult::Ended { keys: 300 });
    assert_eq!((store.kv.len(), store.kv.next_expiry()), (0, None));
}

#[test]
fn there_is_a_limit_of_keys() {
    let mut store = Store::new();
    store.put("a", "");
    let entry = store.kv.get(&key("a")).unwrap().clone();
    store.kv.keys = (0..MAX_KEYS).map(|n| (key(&format!("k{n:07}")), entry.clone())).collect();
    store.kv.bytes = MAX_KEYS * 8;
    assert_eq!(store.put("z", ""), CommandResult::Full);
    assert_eq!(store.put("k0000000", ""), put_done());
    store.transact(Transaction::delete(key("k0000001")));
    assert_eq!(store.put("z", ""), put_done());
    assert_eq!(store.kv.len(), MAX_KEYS);
}

#[test]
fn there_is_a_limit_of_leases() {
    let mut store = Store::new();
    for n in 1..MAX_LEASES as u64 {
        store.kv.leases.grant(LeaseId(n << 20), 1_000, n);
    }
    store.then(vec![put("a", "", Stay::Ttl(1_000))]);
    assert_eq!(store.ask(Request::Grant { ttl_ms: 1_000 }).result, CommandResult::Full);
    assert_eq!(store.then(vec![put("b", "", Stay::Ttl(1_000))]), CommandResult::Full);
    assert_eq!(store.put("b", ""), put_done());
    assert!(matches!(store.then(vec![Operation::Delete(key("a"))]), CommandResult::Transacted { .. }));
    assert_eq!(store.then(vec![put("b", "", Stay::Ttl(1_000))]), put_done());
    // One Expire ends no more leases than it would remove keys.
    store.at_ms += 2_000_000;
    store.ask(Request::Expire);
    assert_eq!(store.kv.leases().count(), MAX_LEASES - MAX_EXPIRED);
}

#[test]
fn pages_follow_one_another_within_their_prefix() {
    let mut store = Store::new();
    for name in ["a", "b/1", "b/2", "b/3", "b0", "c"] {
        store.put(name, name);
    }
    let names = |after: Option<&str>, limit| {
        let scan = Scan { prefix: "b/".to_owned(), after: after.map(key), limit };
        let page = store.kv.scan(&scan);
        let names: Vec<_> = page.entries.iter().map(|(key, _)| key.to_string()).collect();
        (names.join(" "), page.next.map(|key| key.to_string()))
    };
    let table = [
        (None, 0, "b/1 b/2 b/3", None),
        (None, 3, "b/1 b/2 b/3", None),
        (None, 2, "b/1 b/2", Some("b/2")),
        (Some("b/2"), 2, "b/3", None),
        (Some("b/11"), 1, "b/2", Some("b/2")),
        (Some("a"), 9, "b/1 b/2 b/3", None),
        (Some("c"), 9, "", None),
    ];
    for (after, limit, expected, next) in table {
        assert_eq!(names(after, limit), (expected.to_owned(), next.map(str::to_owned)), "{after:?} {limit}");
    }
}

#[test]
fn a_page_has_at_most_a_thousand_entries_and_a_mebibyte() {
    let mut store = Store::new();
    for n in 0..=MAX_PAGE {
        store.put(&format!("small/{n:04}"), "");
    }
    let small = store.kv.scan(&Scan { prefix: "small/".to_owned(), after: None, limit: 5_000 });
    assert_eq!((small.entries.len(), small.next), (MAX_PAGE, Some(key("small/0999"))));
    let value = "v".repeat(MAX_PAGE_BYTES / 4);
    for n in 0..6 {
        store.put(&format!("large/{n}"), &value);
    }
    let large = store.kv.scan(&Scan { prefix: "large/".to_owned(), after: None, limit: 0 });
    assert_eq!((large.entries.len(), large.next), (4, Some(key("large/3"))));
}

#[test]
fn changes_are_told_by_whole_revisions_and_say_where_to_go_on() {
    let mut store = Store::new();
    store.put("a", "1");
    store.then(vec![put("a", "2", Stay::Forever), put("b", "1", Stay::Forever)]);
    store.grant(1_000);
    store.put("b", "2");
    let told = |after, prefix: &str, limit| {
        let (changes, end) = store.kv.changes_after(Revision(after), prefix, limit).unwrap();
        (changes.iter().map(|change| change.revision.0).collect::<Vec<_>>(), end.0)
    };
    assert_eq!(told(0, "", 0), (vec![1, 2, 2, 4], 4));
    assert_eq!(told(0, "", 1), (vec![1], 1));
    assert_eq!(told(0, "", 2), (vec![1, 2, 2], 2));
    assert_eq!(told(2, "", 1), (vec![4], 4));
    assert_eq!(told(0, "b", 1), (vec![2], 2));
    assert_eq!(told(1, "a", 9), (vec![2], 4));
    assert_eq!(told(4, "", 9), (vec![], 4));
    assert_eq!(told(9, "", 9), (vec![], 9));
    let of_a: Vec<_> = store.kv.history(&key("a")).map(|change| change.revision.0).collect();
    assert_eq!((of_a, store.kv.oldest()), (vec![1, 2], Revision(1)));
}

#[test]
fn the_past_is_forgotten_by_whole_revisions() {
    let mut store = Store::new();
    store.then(vec![put("a", "1", Stay::Forever), put("b", "1", Stay::Forever)]);
    for n in 0..MAX_CHANGES - 1 {
        store.put("c", &n.to_string());
    }
    // The first two changes are of one revision, and go together.
    assert_eq!((store.kv.oldest(), store.kv.history.changes().len()), (Revision(2), MAX_CHANGES - 1));
    assert_eq!(store.kv.changes_after(Revision(0), "", 0), Err(Compacted { oldest: Revision(2) }));
    assert_eq!(store.kv.at(Revision(0)).unwrap_err(), Compacted { oldest: Revision(2) });
    assert_eq!(store.kv.at(Revision(1)).unwrap().iter().count(), 2);
    assert!(store.kv.changes_after(Revision(1), "", 0).is_ok());

    let mut store = Store::new();
    let large = "v".repeat(MAX_VALUE);
    for n in 0..MAX_CHANGES_BYTES / MAX_VALUE {
        store.put(&format!("{n:02}"), &large);
    }
    assert_eq!(store.kv.oldest(), Revision(2));
    // What is too much by itself is not remembered at all.
    store.then(vec![Operation::DeletePrefix(String::new())]);
    let revision = store.kv.revision();
    assert_eq!(store.kv.oldest(), Revision(revision.0 + 1));
    assert_eq!(store.kv.changes_after(revision, "", 0), Ok((Vec::new(), revision)));
    assert!(store.kv.at(revision).unwrap().iter().next().is_none());
}

#[test]
fn any_text_can_name_an_author() {
    assert_eq!(&*author("user/alice via node/web-1"), "user/alice via node/web-1");
    assert_eq!(&*author("a\u{1b}[1m\n\u{85}b"), "a [1m  b");
    assert_eq!(author(&"é".repeat(MAX_AUTHOR)).len(), MAX_AUTHOR);
    assert_eq!(author(&format!("x{}", "é".repeat(MAX_AUTHOR))).len(), MAX_AUTHOR - 1);
}

#[test]
fn a_time_names_the_last_revision_by_then() {
    let mut store = Store::new();
    let at = |store: &Store, at_ms| store.kv.revision_at(at_ms).map(|revision| revision.0);
    assert_eq!(at(&store, 5), Ok(0));
    for at_ms in [10, 20, 20, 30] {
        store.at_ms = at_ms;
        store.put("a", "1");
    }
    // A clock that was set back does not set the log back.
    store.at_ms = 25;
    store.put("a", "1");
    let told: Vec<_> = [9, 10, 19, 20, 29, 30, 99].into_iter().map(|at_ms| at(&store, at_ms)).collect();
    assert_eq!(told, [Ok(0), Ok(1), Ok(1), Ok(3), Ok(3), Ok(5), Ok(5)]);
    let large = "x".repeat(MAX_VALUE);
    store.at_ms = 40;
    while store.kv.oldest() <= Revision(5) {
        store.put("large", &large);
    }
    assert_eq!(at(&store, 30), Err(Compacted { oldest: store.kv.oldest() }));
    assert_eq!(at(&store, 40), Ok(store.kv.revision().0));
}

#[test]
fn bytes_that_are_no_image_are_refused() {
    let mut store = Store::new();
    let lease = store.grant(1_000);
    store.then(vec![put("a", "value", Stay::Lease(lease)), Operation::Get(key("a"))]);
    let bytes = store.kv.to_bytes();
    assert_eq!(Kv::from_bytes(&bytes).as_ref(), Ok(&store.kv));
    assert_eq!(Kv::from_bytes(&Kv::default().to_bytes()), Ok(Kv::default()));
    for length in 0..bytes.len() {
        assert!(Kv::from_bytes(&bytes[..length]).is_err(), "{length}");
    }
    for at in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        assert!(Kv::from_bytes(&flipped).is_err(), "{at}");
    }
    let mut other = bytes.clone();
    other[0] = 9;
    assert_eq!(Kv::from_bytes(&other), Err(Damaged::Format(9)));
    assert_eq!(Kv::from_bytes(&[]), Err(Damaged::Short));
}

#[test]
fn an_image_with_the_right_checksum_is_not_trusted_for_it() {
    let mut store = Store::new();
    let lease = store.grant(1_000);
    store.then(vec![put("a", "value", Stay::Lease(lease)), Operation::Get(key("a"))]);
    let bytes = store.kv.to_bytes();
    let body = &bytes[..bytes.len() - 8];
    let sealed = |body: &[u8]| {
        let checksum = xxhash_rust::xxh64::xxh64(body, 0).to_le_bytes();
        [body, &checksum[..]].concat()
    };
    assert_eq!(Kv::from_bytes(&sealed(body)).as_ref(), Ok(&store.kv));
    assert_eq!(Kv::from_bytes(&sealed(&[body, &[0]].concat())), Err(Damaged::Contradiction));
    for length in 1..body.len() {
        assert_eq!(Kv::from_bytes(&sealed(&body[..length])), Err(Damaged::Contradiction), "{length}");
    }
    // Whatever comes of these, it is a state that can go on, or none.
    for at in 8..body.len() * 8 {
        let mut flipped = body.to_vec();
        flipped[at / 8] ^= 1 << (at % 8);
        let Ok(mut kv) = Kv::from_bytes(&sealed(&flipped)) else { continue };
        let all =
            Transaction { then: vec![Operation::DeletePrefix(String::new())], ..Transaction::default() };
        for request in [Request::Expire, Request::Transact(all), Request::Grant { ttl_ms: 1_000 }] {
            let op = OpId { client: 3, sequence: at as u64 };
            kv.apply(&Command { op, at_ms: 2_000_000, author: "n".into(), request });
        }
        let _ = kv.at(Revision(0)).map(|past| past.iter().count());
    }
    let mut orphan = store.kv.clone();
    orphan.leases.end(lease);
    assert_eq!(Kv::from_bytes(&orphan.to_bytes()), Err(Damaged::Contradiction));
}
