//! What every store does, whichever it is: one suite for all of them. `conforms!` makes tests of it for a kind of store.

mod past;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use tokio::time::timeout;

use super::{
    Leasable, Level, Readable, Replicated, Scan, Store, StoreError, Transactional, Watch, Watchable,
    Writable,
    core::{
        command::{
            Compare, MAX_OPERATIONS, MAX_TRANSACTION, MAX_VALUE, Operand, Operation, Relation, RequestError,
            Stay, Transaction,
        },
        key::{Key, LeaseId, MAX_KEY, OpId, Revision},
        outcome::{Change, CommandResult, OperationResult, Outcome},
    },
};

/// Tests of all that is said here. `$open` is an async function without arguments: an empty store, and what must be kept
/// as long as it is used.
macro_rules! conforms {
    ($open:path: $($rule:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $rule() {
                let (store, _kept) = $open().await;
                $crate::store::conformance::$rule(&store).await;
            }
        )*
    };
    ($open:path) => {
        $crate::store::conformance::conforms! {
            $open:
            a_key_has_what_was_put_last,
            a_delete_says_whether_there_was_anything,
            a_comparison_decides_which_branch_is_done,
            of_those_who_make_one_key_one_does,
            a_transaction_is_one_revision_or_none,
            a_transaction_reads_what_it_has_written,
            a_repeat_does_nothing_twice,
            pages_have_all_keys_in_order,
            a_watch_tells_each_change_once_and_in_order,
            a_watch_resumes_after_any_revision,
            a_watch_of_quiet_keys_keeps_up,
            a_watch_that_is_cancelled_loses_nothing,
            a_watch_says_that_changes_are_forgotten,
            a_lease_takes_its_keys_along,
            a_lease_that_is_not_there_holds_nothing,
            a_key_with_a_ttl_goes_by_itself,
            a_lease_that_nobody_keeps_ends,
            what_is_beyond_a_limit_is_refused_and_changes_nothing,
            a_read_waits_until_it_is_as_far_as_asked,
            progress_follows_the_state,
            the_past_is_as_it_was,
            what_is_forgotten_is_not_looked_back_to,
        }
    };
}
pub(super) use conforms;
pub(super) use past::{the_past_is_as_it_was, what_is_forgotten_is_not_looked_back_to};

/// Longer than anything here takes on a machine with much to do.
const SOON: Duration = Duration::from_secs(20);

/// All that a store does.
pub(super) trait Whole:
    Readable + Writable + Transactional + Watchable + Leasable + Replicated
{
}

impl<S: Readable + Writable + Transactional + Watchable + Leasable + Replicated> Whole for S {}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn op() -> OpId {
    Store::next_op().unwrap()
}

async fn put(store: &impl Whole, text: &str, value: &str) -> Revision {
    put_while(store, text, value, Stay::Forever).await
}

async fn put_while(store: &impl Whole, text: &str, value: &str, stay: Stay) -> Revision {
    store.put(op(), key(text), Bytes::copy_from_slice(value.as_bytes()), stay).await.unwrap()
}

async fn value(store: &impl Whole, text: &str) -> Option<String> {
    let found = store.get(&key(text), Level::Strong).await.unwrap();
    found.map(|found| String::from_utf8(found.value.to_vec()).unwrap())
}

async fn revision(store: &impl Whole) -> Revision {
    store.scan(&Scan { limit: 1, ..Scan::default() }, Level::Strong).await.unwrap().revision
}

async fn soon<T>(waiting: impl Future<Output = T>) -> T {
    timeout(SOON, waiting).await.expect("in time")
}

/// What a watch tells up to and with revision `last`.
async fn told(watch: &mut impl Watch, last: Revision) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    while all.last().is_none_or(|change| change.revision < last) {
        let next = soon(watch.next()).await.unwrap();
        assert!(!next.is_empty(), "a watch waits until there is something to tell");
        all.extend(next);
    }
    all
}

fn summary(changes: &[Change]) -> Vec<(u64, &str, Option<&[u8]>)> {
    fn value(change: &Change) -> Option<&[u8]> {
        change.after.as_ref().map(|after| &*after.value)
    }
    changes.iter().map(|change| (change.revision.0, change.key.as_str(), value(change))).collect()
}

pub(super) async fn a_key_has_what_was_put_last(store: &impl Whole) {
    assert_eq!(store.get(&key("a"), Level::Strong).await.unwrap(), None);
    let first = put(store, "a", "1").await;
    let other = put(store, "b", "x").await;
    let second = put(store, "a", "2").await;
    assert!(Revision(0) < first && first < other && other < second);
    for level in [Level::Strong, Level::Lease, Level::AtLeast(second)] {
        let found = store.get(&key("a"), level).await.unwrap().unwrap();
        assert_eq!((&*found.value, found.version), (&b"2"[..], 2), "{level:?}");
        assert_eq!((found.created, found.modified, found.lease), (first, second, None), "{level:?}");
    }
    // Having read that it is there, this node has it.
    assert!(store.get(&key("a"), Level::Eventual).await.unwrap().is_some());
    let empty = put(store, "a", "").await;
    assert_eq!(store.get(&key("a"), Level::Strong).await.unwrap().unwrap().modified, empty);
}

pub(super) async fn a_delete_says_whether_there_was_anything(store: &impl Whole) {
    put(store, "a", "1").await;
    assert!(store.delete(op(), key("a")).await.unwrap());
    assert_eq!(value(store, "a").await, None);
    let before = revision(store).await;
    assert!(!store.delete(op(), key("a")).await.unwrap());
    assert_eq!(revision(store).await, before, "what changes nothing is no revision");
    let again = put(store, "a", "2").await;
    let found = store.get(&key("a"), Level::Strong).await.unwrap().unwrap();
    assert_eq!((found.created, found.version), (again, 1), "it is another key by the same name");
}

fn held(outcome: &Outcome) -> (bool, &[OperationResult]) {
    match &outcome.result {
        CommandResult::Transacted { held, results } => (*held, results),
        other => panic!("{other:?}"),
    }
}

pub(super) async fn a_comparison_decides_which_branch_is_done(store: &impl Whole) {
    let at = put(store, "a", "m").await;
    let cases = [
        ("a", Relation::Equal, Operand::Modified(at), true),
        ("a", Relation::Equal, Operand::Modified(Revision(0)), false),
        ("a", Relation::NotEqual, Operand::Created(at), false),
        ("a", Relation::Less, Operand::Version(2), true),
        ("a", Relation::Greater, Operand::Value("l".into()), true),
        ("a", Relation::Greater, Operand::Value("m".into()), false),
        ("none", Relation::Equal, Operand::Modified(Revision(0)), true),
        ("none", Relation::Equal, Operand::Value(Bytes::new()), true),
        ("none", Relation::Equal, Operand::Version(1), false),
    ];
    for (text, relation, with, holds) in cases {
        let about = format!("{text} {relation:?} {with:?}");
        let transaction = Transaction {
            compare: vec![
                Compare { key: key("a"), relation: Relation::NotEqual, with: Operand::Version(0) },
                Compare { key: key(text), relation, with },
            ],
            then: vec![Operation::Get(key("a"))],
            otherwise: vec![],
        };
        let outcome = store.transact(op(), transaction).await.unwrap();
        let (was_held, results) = held(&outcome);
        assert_eq!((was_held, results.len()), (holds, usize::from(holds)), "{about}");
    }
    let swap =
        |from: Revision| Transaction::put(key("a"), "n".into(), Stay::Forever).if_modified_at(key("a"), from);
    assert!(!held(&store.transact(op(), swap(Revision(0))).await.unwrap()).0);
    assert_eq!(value(store, "a").await.as_deref(), Some("m"));
    assert!(held(&store.transact(op(), swap(at)).await.unwrap()).0);
    assert!(!held(&store.transact(op(), swap(at)).await.unwrap()).0);
    assert_eq!(value(store, "a").await.as_deref(), Some("n"));
}

pub(super) async fn of_those_who_make_one_key_one_does(store: &impl Whole) {
    let make = |name: &str| {
        let put = Transaction::put(key("lock"), Bytes::copy_from_slice(name.as_bytes()), Stay::Forever);
        store.transact(op(), put.if_modified_at(key("lock"), Revision(0)))
    };
    let (first, second, third) = tokio::join!(make("1"), make("2"), make("3"));
    let held = [first, second, third].map(|outcome| held(&outcome.unwrap()).0);
    assert_eq!(held.into_iter().filter(|held| *held).count(), 1, "{held:?}");
    let winner = held.into_iter().position(|held| held).unwrap() + 1;
    assert_eq!(value(store, "lock").await, Some(winner.to_string()));
}

fn put_of(text: &str, value: &'static str) -> Operation {
    Operation::Put { key: key(text), value: value.into(), stay: Stay::Forever }
}

pub(super) async fn a_transaction_is_one_revision_or_none(store: &impl Whole) {
    let before = put(store, "p/old", "0").await;
    let then = vec![put_of("p/a", "1"), put_of("p/b", "2"), Operation::Delete(key("p/old"))];
    let outcome = store.transact(op(), Transaction { then, ..Transaction::default() }).await.unwrap();
    assert_eq!(outcome.revision.0, before.0 + 1);
    let page =
        store.scan(&Scan { prefix: "p/".to_owned(), limit: 9, ..Scan::default() }, Level::Strong).await;
    let page = page.unwrap();
    let modified: Vec<_> = page.entries.iter().map(|(key, found)| (key.as_str(), found.modified)).collect();
    assert_eq!(modified, [("p/a", outcome.revision), ("p/b", outcome.revision)]);
    let then = vec![Operation::Get(key("p/a")), Operation::Delete(key("none"))];
    let reads = store.transact(op(), Transaction { then, ..Transaction::default() }).await.unwrap();
    assert_eq!(reads.revision, outcome.revision);
    assert_eq!(revision(store).await, outcome.revision);
}

pub(super) async fn a_transaction_reads_what_it_has_written(store: &impl Whole) {
    let get = || Operation::Get(key("a"));
    let then = vec![
        get(),
        put_of("a", "1"),
        get(),
        put_of("ab", "2"),
        Operation::DeletePrefix("a".to_owned()),
        get(),
    ];
    let outcome = store.transact(op(), Transaction { then, ..Transaction::default() }).await.unwrap();
    let (_, results) = held(&outcome);
    assert_eq!(results[0], OperationResult::Got(None));
    assert!(matches!(&results[2], OperationResult::Got(Some(found)) if found.value == "1"), "{results:?}");
    assert_eq!(results[4..], [OperationResult::Deleted(2), OperationResult::Got(None)]);
}

pub(super) async fn a_repeat_does_nothing_twice(store: &impl Whole) {
    let once = op();
    let first = store.put(once, key("a"), "1".into(), Stay::Forever).await.unwrap();
    put(store, "a", "2").await;
    let again = store.put(once, key("a"), "1".into(), Stay::Forever).await.unwrap();
    assert_eq!(again, first, "it is answered as it was");
    assert_eq!(value(store, "a").await.as_deref(), Some("2"));
    let once = op();
    assert!(store.delete(once, key("a")).await.unwrap());
    put(store, "a", "3").await;
    assert!(store.delete(once, key("a")).await.unwrap());
    assert_eq!(value(store, "a").await.as_deref(), Some("3"));
    let (once, swap) = (op(), Transaction::put(key("b"), "1".into(), Stay::Forever));
    let swap = swap.if_modified_at(key("b"), Revision(0));
    let first = store.transact(once, swap.clone()).await.unwrap();
    assert_eq!(store.transact(once, swap).await.unwrap(), first, "the comparison is not made again");
    let once = op();
    let lease = store.grant(once, Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.grant(once, Duration::from_secs(60)).await.unwrap(), lease);
}

pub(super) async fn pages_have_all_keys_in_order(store: &impl Whole) {
    let mut expected: Vec<String> = (0..25).map(|number| format!("p/{}", number * 37 % 100)).collect();
    for text in &expected {
        put(store, text, "v").await;
    }
    for outside in ["p", "p.", "p0", "o", "q/1"] {
        put(store, outside, "v").await;
    }
    expected.sort();
    let mut scan = Scan { prefix: "p/".to_owned(), after: None, limit: 10 };
    let mut found = Vec::new();
    for size in [10, 10, 5] {
        let page = store.scan(&scan, Level::Strong).await.unwrap();
        assert_eq!((page.entries.len(), page.next.is_some()), (size, size == 10));
        found.extend(page.entries.into_iter().map(|(key, _)| String::from(key)));
        scan.after = page.next;
    }
    assert_eq!(found, expected);
    let all = store.scan(&Scan { limit: 1000, ..Scan::default() }, Level::Lease).await.unwrap();
    assert_eq!((all.entries.len(), all.next, all.revision), (30, None, revision(store).await));
    let none = Scan { prefix: "z".to_owned(), after: None, limit: 10 };
    assert!(store.scan(&none, Level::Eventual).await.unwrap().entries.is_empty());
}

pub(super) async fn a_watch_tells_each_change_once_and_in_order(store: &impl Whole) {
    let mut watch = store.watch("w/", Revision(0));
    let first = put(store, "w/a", "1").await;
    put(store, "x", "1").await;
    let then = vec![put_of("w/a", "2"), put_of("w/b", "3"), put_of("y", "4")];
    let both = store.transact(op(), Transaction { then, ..Transaction::default() }).await.unwrap().revision;
    store.delete(op(), key("w/a")).await.unwrap();
    let last = revision(store).await;
    let changes = told(&mut watch, last).await;
    let mut all = summary(&changes);
    // The order within one revision is nobody's business.
    all.sort();
    let (one, two, end) = (first.0, both.0, last.0);
    assert_eq!(
        all,
        [
            (one, "w/a", Some(&b"1"[..])),
            (two, "w/a", Some(b"2")),
            (two, "w/b", Some(b"3")),
            (end, "w/a", None)
        ]
    );
    assert!(changes.windows(2).all(|pair| pair[0].revision <= pair[1].revision), "{changes:?}");
    let removed = changes.last().unwrap();
    assert_eq!(removed.before.as_ref().map(|before| &*before.value), Some(&b"2"[..]));
    assert!(!removed.author.is_empty() && removed.at_ms > 0, "{removed:?}");
}

pub(super) async fn a_watch_resumes_after_any_revision(store: &impl Whole) {
    let mut revisions = Vec::new();
    for value in ["0", "1", "2", "3"] {
        revisions.push(put(store, "a", value).await);
    }
    for (at, after) in revisions[..3].iter().enumerate() {
        let changes = told(&mut store.watch("", *after), revisions[3]).await;
        let seen: Vec<Revision> = changes.iter().map(|change| change.revision).collect();
        assert_eq!(seen, revisions[at + 1..]);
    }
}

pub(super) async fn a_watch_of_quiet_keys_keeps_up(store: &impl Whole) {
    let mut watch = store.watch("quiet/", Revision(0));
    let last = put(store, "loud", "1").await;
    let kept_up = async {
        while watch.seen() < last {
            assert!(timeout(Duration::from_millis(10), watch.next()).await.is_err());
        }
    };
    soon(kept_up).await;
}

pub(super) async fn a_watch_that_is_cancelled_loses_nothing(store: &impl Whole) {
    let mut watch = store.watch("a", Revision(0));
    let mut changes = Vec::new();
    let mut last = Revision(0);
    for value in ["0", "1", "2", "3", "4"] {
        let mut next = std::pin::pin!(watch.next());
        let polled =
            std::future::poll_fn(|context| std::task::Poll::Ready(next.as_mut().poll(context))).await;
        if let std::task::Poll::Ready(told) = polled {
            changes.extend(told.unwrap());
        }
        last = put(store, "a", value).await;
    }
    if changes.last().is_none_or(|change: &Change| change.revision < last) {
        changes.extend(told(&mut watch, last).await);
    }
    let values: Vec<_> = summary(&changes).into_iter().filter_map(|(_, _, value)| value).collect();
    assert_eq!(values, [b"0", b"1", b"2", b"3", b"4"]);
}

pub(super) async fn a_lease_takes_its_keys_along(store: &impl Whole) {
    let lease = store.grant(op(), Duration::from_secs(60)).await.unwrap();
    assert!(!store.keep_alive(lease).await.unwrap().is_zero());
    put_while(store, "l/a", "1", Stay::Lease(lease)).await;
    put_while(store, "l/b", "1", Stay::Lease(lease)).await;
    put_while(store, "l/c", "1", Stay::Lease(lease)).await;
    assert_eq!(store.get(&key("l/a"), Level::Strong).await.unwrap().unwrap().lease, Some(lease));
    // Written without it, a key is no longer bound.
    put(store, "l/c", "2").await;
    assert_eq!(store.revoke(op(), lease).await.unwrap(), 2);
    assert_eq!((value(store, "l/a").await, value(store, "l/b").await), (None, None));
    assert_eq!(value(store, "l/c").await.as_deref(), Some("2"));
}

pub(super) async fn a_lease_that_is_not_there_holds_nothing(store: &impl Whole) {
    let lease = store.grant(op(), Duration::from_secs(60)).await.unwrap();
    store.revoke(op(), lease).await.unwrap();
    for gone in [lease, LeaseId(u64::MAX)] {
        let kept = store.keep_alive(gone).await;
        assert!(matches!(kept, Err(StoreError::NoLease(named)) if named == gone), "{kept:?}");
        let bound = store.put(op(), key("a"), "1".into(), Stay::Lease(gone)).await;
        assert!(matches!(bound, Err(StoreError::NoLease(named)) if named == gone), "{bound:?}");
        let ended = store.revoke(op(), gone).await;
        assert!(matches!(ended, Err(StoreError::NoLease(named)) if named == gone), "{ended:?}");
    }
    assert_eq!(value(store, "a").await, None);
}

pub(super) async fn a_key_with_a_ttl_goes_by_itself(store: &impl Whole) {
    let at = put_while(store, "a", "1", Stay::Ttl(1000)).await;
    assert!(store.get(&key("a"), Level::Strong).await.unwrap().unwrap().lease.is_some());
    let changes = soon(store.watch("a", at).next()).await.unwrap();
    assert_eq!((changes.len(), &changes[0].after), (1, &None));
    assert_eq!(value(store, "a").await, None);
}

pub(super) async fn a_lease_that_nobody_keeps_ends(store: &impl Whole) {
    let lease = store.grant(op(), Duration::from_secs(1)).await.unwrap();
    let at = put_while(store, "a", "1", Stay::Lease(lease)).await;
    let changes = soon(store.watch("a", at).next()).await.unwrap();
    assert_eq!(changes[0].after, None);
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::NoLease(_))));
}

pub(super) async fn what_is_beyond_a_limit_is_refused_and_changes_nothing(store: &impl Whole) {
    let longest = key(&"k".repeat(MAX_KEY));
    let largest = Bytes::from(vec![7; MAX_VALUE]);
    store.put(op(), longest.clone(), largest.clone(), Stay::Forever).await.unwrap();
    assert_eq!(store.get(&longest, Level::Strong).await.unwrap().unwrap().value, largest);
    let before = revision(store).await;
    let larger = Bytes::from(vec![7; MAX_VALUE + 1]);
    let refused = store.put(op(), key("a"), larger, Stay::Forever).await;
    assert!(matches!(refused, Err(StoreError::Request(RequestError::Value { .. }))), "{refused:?}");
    for ttl_ms in [999, 86_400_001] {
        let refused = store.put(op(), key("a"), "1".into(), Stay::Ttl(ttl_ms)).await;
        assert!(matches!(refused, Err(StoreError::Request(RequestError::Ttl(_)))), "{refused:?}");
        let refused = store.grant(op(), Duration::from_millis(ttl_ms)).await;
        assert!(matches!(refused, Err(StoreError::Request(RequestError::Ttl(_)))), "{refused:?}");
    }
    let many = vec![Operation::Get(key("a")); MAX_OPERATIONS + 1];
    let half = Bytes::from(vec![7; MAX_TRANSACTION / 2]);
    let large: Vec<Operation> = ["a", "b", "c"]
        .map(|text| Operation::Put { key: key(text), value: half.clone(), stay: Stay::Forever })
        .into();
    for then in [many, large] {
        let refused = store.transact(op(), Transaction { then, ..Transaction::default() }).await;
        assert!(matches!(refused, Err(StoreError::Request(RequestError::Transaction))), "{refused:?}");
    }
    assert_eq!(revision(store).await, before);
}

pub(super) async fn a_read_waits_until_it_is_as_far_as_asked(store: &impl Whole) {
    let at = put(store, "a", "1").await;
    let wanted = Revision(at.0 + 1);
    let (target, scan) = (key("a"), Scan { limit: 10, ..Scan::default() });
    let reads = async {
        let found = store.get(&target, Level::AtLeast(wanted)).await.unwrap().unwrap();
        let page = store.scan(&scan, Level::AtLeast(wanted)).await.unwrap();
        (found.modified, page.revision)
    };
    let (read, written) = soon(async { tokio::join!(reads, put(store, "a", "2")) }).await;
    assert_eq!((read, written), ((wanted, wanted), wanted));
}

pub(super) async fn progress_follows_the_state(store: &impl Whole) {
    let at = put(store, "a", "1").await;
    assert_eq!(store.get(&key("a"), Level::AtLeast(at)).await.unwrap().unwrap().modified, at);
    let progress = store.progress();
    assert_eq!(progress.revision, at);
    assert!(progress.heard.is_some(), "{progress:?}");
}

pub(super) async fn a_watch_says_that_changes_are_forgotten(store: &impl Whole) {
    let first = put(store, "a", "first").await;
    let mut watch = store.watch("", first);
    // More than anybody should remember.
    let large = Bytes::from(vec![7; MAX_VALUE]);
    for _ in 0..64 {
        store.put(op(), key("a"), large.clone(), Stay::Forever).await.unwrap();
    }
    let over = soon(watch.next()).await;
    let Err(StoreError::Compacted { oldest }) = over else { panic!("{over:?}") };
    let last = revision(store).await;
    assert!(first < oldest && oldest.0 <= last.0 + 1, "{oldest} of {last}");
    // The state and its revision are where to go on from.
    let mut watch = store.watch("", last);
    let next = put(store, "a", "next").await;
    assert_eq!(told(&mut watch, next).await.len(), 1);
}
