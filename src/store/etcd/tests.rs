//! etcd does what every store does. Each test has an etcd of its own: a revision counts all that is written to it.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{EtcdParams, EtcdStore, link::Purpose};
use crate::{
    store::{
        EtcdLogin, Leasable as _, Level, Readable as _, Scan, Store, StoreError, Transactional as _,
        Watch as _, Watchable as _, Writable as _,
        core::{
            command::{Operation, Stay, Transaction},
            key::{Key, OpId, Revision},
            outcome::{CommandResult, OperationResult},
        },
    },
    types::Secret,
};

/// A running etcd. Dropping it ends it and removes what it has written.
struct Etcd {
    child: Child,
    directory: PathBuf,
    endpoint: Arc<str>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Whether there is an etcd to run. Says so loudly if there is none.
fn is_installed() -> bool {
    let is_there = Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !is_there {
        eprintln!("SKIPPED: etcd is not installed, so the store in etcd was not looked at");
    }
    is_there
}

fn free_url() -> String {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    format!("http://{}", socket.local_addr().unwrap())
}

fn start() -> Etcd {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("outrigger-etcd-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
    let directory = std::env::temp_dir().join(name);
    let (client, peer) = (free_url(), free_url());
    let child = Command::new("etcd")
        .arg("--data-dir")
        .arg(&directory)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .arg(format!("--initial-cluster=default={peer}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Etcd { child, directory, endpoint: client.into() }
}

fn params(endpoints: &[&Arc<str>]) -> EtcdParams {
    EtcdParams {
        endpoints: endpoints.iter().map(|one| Arc::clone(one)).collect(),
        prefix: "outrigger/tests/".into(),
        login: None,
        tls: None,
        timeout: Duration::from_secs(5),
    }
}

async fn until_there(store: &EtcdStore) {
    let scan = Scan { limit: 1, ..Scan::default() };
    let there = async {
        while store.scan(&scan, Level::Strong).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), there).await.expect("etcd is there");
}

async fn open() -> Option<(EtcdStore, Etcd)> {
    if !is_installed() {
        return None;
    }
    let etcd = start();
    let store = EtcdStore::new("tests", params(&[&etcd.endpoint]));
    until_there(&store).await;
    Some((store, etcd))
}

/// The rules of every store, unless there is no etcd.
macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $rule() {
                let Some((store, _etcd)) = open().await else { return };
                crate::store::conformance::$rule(&Store::Etcd(store)).await;
            }
        )*
    };
}

rules! {
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
    a_lease_takes_its_keys_along,
    a_lease_that_is_not_there_holds_nothing,
    a_key_with_a_ttl_goes_by_itself,
    a_lease_that_nobody_keeps_ends,
    what_is_beyond_a_limit_is_refused_and_changes_nothing,
    a_read_waits_until_it_is_as_far_as_asked,
    progress_follows_the_state,
}

/// What etcd remembers is for its operator to say: this one keeps the last revisions only.
#[tokio::test]
async fn a_watch_says_that_changes_are_forgotten() {
    let Some((store, _etcd)) = open().await else { return };
    let forgetful = store.clone();
    let compacting = async move {
        loop {
            let last = i64::try_from(forgetful.0.link.revision().0).unwrap();
            if last > 20 {
                let compacted = forgetful.0.link.call(Purpose::Write, |client| async move {
                    client.kv_client().compact(last - 10, None).await
                });
                // The same revision twice is refused.
                let _ = compacted.await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let store = Store::Etcd(store);
    tokio::select! {
        () = compacting => unreachable!(),
        () = crate::store::conformance::a_watch_says_that_changes_are_forgotten(&store) => {}
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn op() -> OpId {
    Store::next_op().unwrap()
}

async fn put(store: &EtcdStore, text: &str, value: &str) -> Revision {
    store.put(op(), key(text), value.to_owned().into(), Stay::Forever).await.unwrap()
}

async fn value(store: &EtcdStore, text: &str) -> Option<String> {
    let found = store.get(&key(text), Level::Strong).await.unwrap()?;
    Some(String::from_utf8(found.value.to_vec()).unwrap())
}

/// Runs `etcdctl`: what it prints.
fn etcdctl(etcd: &Etcd, arguments: &[&str]) -> String {
    let done = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &etcd.endpoint])
        .args(arguments)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test]
async fn values_are_what_etcdctl_shows_and_puts() {
    let Some((store, etcd)) = open().await else { return };
    let mut watch = store.watch("routes/", Revision(0));
    put(&store, "routes/web", "ours").await;
    let ours = watch.next().await.unwrap();
    assert_eq!(&*ours[0].author, "tests");
    if Command::new("etcdctl").arg("version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: there is no etcdctl");
        return;
    }
    let shown = etcdctl(&etcd, &["get", "outrigger/tests/kv/routes/web", "--print-value-only"]);
    assert_eq!(shown, "ours\n");
    etcdctl(&etcd, &["put", "outrigger/tests/kv/routes/web", "theirs"]);
    assert_eq!(value(&store, "routes/web").await.as_deref(), Some("theirs"));
    let theirs = watch.next().await.unwrap();
    assert_eq!((theirs.len(), &*theirs[0].author), (1, "etcd"));
    // What could be no key of ours, and what is another's, is not seen.
    for name in ["outrigger/tests/kv/a\tb", "outrigger/tests/kvs", "outrigger/test", "outrigger/testss/kv/a"]
    {
        etcdctl(&etcd, &["put", name, "x"]);
    }
    let page = store.scan(&Scan { limit: 10, ..Scan::default() }, Level::Strong).await.unwrap();
    assert_eq!((page.entries.len(), page.next), (1, None));
}

#[tokio::test]
async fn another_member_is_asked_when_one_is_gone() {
    let Some((_, etcd)) = open().await else { return };
    let gone: Arc<str> = free_url().into();
    for order in [[&gone, &etcd.endpoint], [&etcd.endpoint, &gone]] {
        let store = EtcdStore::new("tests", params(&order));
        put(&store, "a", "1").await;
        assert_eq!(value(&store, "a").await.as_deref(), Some("1"));
    }
}

#[tokio::test]
async fn without_any_member_all_fails_with_its_address() {
    let gone: Arc<str> = free_url().into();
    let store = EtcdStore::new("tests", params(&[&gone]));
    let read = store.get(&key("a"), Level::Eventual).await;
    assert!(matches!(&read, Err(StoreError::Unreachable(_))), "{read:?}");
    let written = store.put(op(), key("a"), "1".into(), Stay::Forever).await;
    assert!(matches!(&written, Err(StoreError::Unreachable(_))), "{written:?}");
    let watched = store.watch("", Revision(0)).next().await;
    assert!(matches!(&watched, Err(StoreError::Unreachable(_))), "{watched:?}");
}

#[tokio::test]
async fn a_beginning_is_replaced_at_one_moment() {
    let Some((store, _etcd)) = open().await else { return };
    for name in ["p/a", "p/b", "p/c", "q"] {
        put(&store, name, "old").await;
    }
    let mut then = vec![Operation::DeletePrefix("p/".to_owned())];
    for name in ["p/b", "p/d"] {
        then.push(Operation::Put { key: key(name), value: "new".into(), stay: Stay::Forever });
    }
    let outcome = store.transact(op(), Transaction { then, ..Transaction::default() }).await.unwrap();
    let CommandResult::Transacted { results, .. } = &outcome.result else { panic!("{outcome:?}") };
    assert_eq!(results[0], OperationResult::Deleted(3));
    let page = store.scan(&Scan { limit: 10, ..Scan::default() }, Level::Strong).await.unwrap();
    let found: Vec<_> = page.entries.iter().map(|(key, found)| (key.as_str(), &*found.value)).collect();
    assert_eq!(found, [("p/b", &b"new"[..]), ("p/d", b"new"), ("q", b"old")]);
}

#[tokio::test]
async fn writers_that_meet_lose_no_write() {
    let Some((store, _etcd)) = open().await else { return };
    put(&store, "n", "0").await;
    let count = async |store: EtcdStore| {
        for _ in 0..5 {
            loop {
                let found = store.get(&key("n"), Level::Strong).await.unwrap().unwrap();
                let number: u64 = std::str::from_utf8(&found.value).unwrap().parse().unwrap();
                let next = Transaction::put(key("n"), (number + 1).to_string().into(), Stay::Forever);
                let swap = next.if_modified_at(key("n"), found.modified);
                let outcome = store.transact(op(), swap).await.unwrap();
                if matches!(outcome.result, CommandResult::Transacted { held: true, .. }) {
                    break;
                }
            }
        }
    };
    tokio::join!(count(store.clone()), count(store.clone()), count(store.clone()));
    assert_eq!(value(&store, "n").await.as_deref(), Some("15"));
}

#[tokio::test]
async fn a_write_of_which_nobody_knew_the_end_is_settled_by_asking_again() {
    let Some((store, _etcd)) = open().await else { return };
    put(&store, "a", "1").await;
    // It would make the key if it were not there: now it changes nothing, and is noted for that reason alone.
    let late = op();
    store.0.unsettled.add(late);
    let make =
        || Transaction::put(key("a"), "late".into(), Stay::Forever).if_modified_at(key("a"), Revision(0));
    let first = store.transact(late, make()).await.unwrap();
    assert!(matches!(first.result, CommandResult::Transacted { held: false, .. }), "{first:?}");
    assert!(store.delete(op(), key("a")).await.unwrap());
    assert_eq!(store.transact(late, make()).await.unwrap(), first);
    assert_eq!(value(&store, "a").await, None);
}

#[tokio::test]
async fn pages_of_large_values_are_whole() {
    let Some((store, _etcd)) = open().await else { return };
    // Together more than one answer may have, with values of which a page takes three.
    let large = bytes::Bytes::from(vec![b'x'; 400 * 1024]);
    for at in 0..50 {
        let name = format!("p/{at:02}");
        store.put(op(), key(&name), large.clone(), Stay::Forever).await.unwrap();
    }
    let mut scan = Scan { prefix: "p/".to_owned(), after: None, limit: 1000 };
    let mut found = Vec::new();
    loop {
        let page = store.scan(&scan, Level::Strong).await.unwrap();
        assert!(page.entries.len() <= 3, "{}", page.entries.len());
        found.extend(page.entries.into_iter().map(|(key, _)| String::from(key)));
        match page.next {
            Some(next) => scan.after = Some(next),
            None => break,
        }
    }
    assert_eq!(found.len(), 50);
    // A watch from the beginning gets them in parts.
    let mut watch = store.watch("p/", Revision(0));
    let mut told = 0;
    while told < 50 {
        told += watch.next().await.unwrap().len();
    }
    assert_eq!(told, 50);
}

#[tokio::test]
async fn a_user_of_etcd_needs_the_right_to_the_prefix_alone() {
    let Some((_, etcd)) = open().await else { return };
    if Command::new("etcdctl").arg("version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: there is no etcdctl, so users and passwords were not looked at");
        return;
    }
    for arguments in [
        &["user", "add", "root:root"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "outrigger"],
        &["role", "grant-permission", "outrigger", "--prefix=true", "readwrite", "outrigger/tests/"],
        &["user", "add", "outrigger:secret"],
        &["user", "grant-role", "outrigger", "outrigger"],
        &["auth", "enable"],
    ] {
        etcdctl(&etcd, arguments);
    }
    let as_user = |password: &str, prefix: &str| {
        let login = EtcdLogin { user: "outrigger".into(), password: Secret::new(password) };
        let params = params(&[&etcd.endpoint]);
        EtcdStore::new("tests", EtcdParams { login: Some(login), prefix: prefix.into(), ..params })
    };
    let store = as_user("secret", "outrigger/tests/");
    let mut watch = store.watch("", Revision(0));
    put(&store, "a", "1").await;
    assert_eq!(watch.next().await.unwrap()[0].key, key("a"));
    assert!(store.delete(op(), key("a")).await.unwrap());
    let lease = store.grant(op(), Duration::from_secs(60)).await.unwrap();
    store.put(op(), key("b"), "1".into(), Stay::Lease(lease)).await.unwrap();
    assert_eq!(store.revoke(op(), lease).await.unwrap(), 1);
    let cases = [("wrong", "outrigger/tests/", "password"), ("secret", "elsewhere/", "store.etcd.prefix")];
    for (password, prefix, said) in cases {
        let refused = as_user(password, prefix).put(op(), key("a"), "1".into(), Stay::Forever).await;
        assert!(matches!(&refused, Err(StoreError::Failed(why)) if why.contains(said)), "{refused:?}");
    }
}
