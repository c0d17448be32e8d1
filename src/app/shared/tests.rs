//! Following a store in memory, with the test in the place of the reloader, and the copy on disk.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use tokio::sync::watch;

use super::*;
use crate::{
    config::{ProcessEnvironment, RecordKind, parse},
    rt::{Drain, clock},
    store::{
        MemoryStore, Transactional as _, Writable as _,
        core::{
            command::{Operation, Stay, Transaction},
            key::Key,
        },
    },
};

const SOON: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_millis(200);

fn record(key: &str, text: &str, revision: u64) -> Stored {
    let record = Record::of_key(key, Bytes::copy_from_slice(text.as_bytes())).unwrap();
    Stored { record, revision: Revision(revision) }
}

fn directory(name: &str) -> PathBuf {
    let place = std::env::temp_dir().join(format!("outrigger-shared-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    place
}

/// A follower of `store` whose reloader is the test.
struct Following {
    store: Store,
    asked: crate::app::reload::Shares,
    kept: watch::Receiver<Option<Arc<SharedRecords>>>,
    _drain: Drain,
}

fn follow(first: SharedRecords) -> Following {
    let store = Store::Memory(MemoryStore::new("tests"));
    let (reload, asked) = ReloadHandle::of_test();
    let (keep, kept) = watch::channel(None);
    let drain = Drain::default();
    let mut follower = Follower::new(store.clone(), reload, Arc::new(first), keep);
    follower.catching_up = PATIENCE;
    tokio::spawn(follower.run(drain.watch()));
    Following { store, asked, kept, _drain: drain }
}

impl Following {
    async fn next(&mut self) -> Arc<SharedRecords> {
        tokio::time::timeout(SOON, self.asked.next()).await.unwrap().unwrap()
    }

    async fn put(&self, key: &str, text: &str) {
        let (op, key) = (Store::next_op().unwrap(), Key::new(key).unwrap());
        self.store.put(op, key, Bytes::copy_from_slice(text.as_bytes()), Stay::Forever).await.unwrap();
    }
}

fn keys(records: &SharedRecords) -> Vec<String> {
    records.items.iter().map(|stored| stored.record.key()).collect()
}

#[tokio::test]
async fn what_is_written_is_put_to_work_and_what_is_removed_is_not() {
    let mut following = follow(SharedRecords::default());
    following.put("routes/a", "service: x").await;
    following.put("other/a", "service: x").await;
    let records = following.next().await;
    assert_eq!(keys(&records), ["routes/a"]);
    assert_eq!(records.items[0].revision, Revision(1));
    following.put("intentions/b", "source: x").await;
    assert_eq!(keys(&*following.next().await), ["intentions/b", "routes/a"]);
    let op = Store::next_op().unwrap();
    following.store.delete(op, Key::new("routes/a").unwrap()).await.unwrap();
    assert_eq!(keys(&*following.next().await), ["intentions/b"]);
    let kept = following.kept.wait_for(|kept| kept.as_ref().is_some_and(|kept| kept.items.len() == 1));
    tokio::time::timeout(SOON, kept).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_transaction_is_one_change() {
    let mut following = follow(SharedRecords::default());
    following.put("routes/first", "service: x").await;
    following.next().await;
    let put = |n: usize| Operation::Put {
        key: Key::new(&format!("{}{n}", RecordKind::ALL[n % 4].prefix())).unwrap(),
        value: Bytes::from_static(b"service: x"),
        stay: Stay::Forever,
    };
    let transaction = Transaction { then: (0..60).map(put).collect(), ..Transaction::default() };
    following.store.transact(Store::next_op().unwrap(), transaction).await.unwrap();
    assert_eq!(following.next().await.items.len(), 61);
}

#[tokio::test]
async fn a_store_that_has_less_than_was_known_is_given_time_and_then_believed() {
    let first = SharedRecords { revision: Revision(9), items: vec![record("routes/old", "service: x", 9)] };
    let mut following = follow(first);
    let begun = clock::now();
    following.put("routes/new", "service: x").await;
    assert_eq!(keys(&*following.next().await), ["routes/new"]);
    assert!(clock::now().since(begun) >= PATIENCE);
}

#[test]
fn what_is_kept_comes_back_and_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;

    let place = directory("kept").join("shared.json");
    assert_eq!(kept::read(&place), None);
    let records = SharedRecords {
        revision: Revision(7),
        items: vec![record("intentions/a", "source: \"x\"\n", 3), record("routes/b/c", "service: \u{fc}", 7)],
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (keep, newest) = watch::channel(None);
        let drain = Drain::default();
        let task = tokio::spawn(kept::run(place.clone(), newest, drain.watch()));
        keep.send_replace(Some(Arc::new(records.clone())));
        let written = async {
            while kept::read(&place).is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(SOON, written).await.unwrap();
        drop(keep);
        task.await.unwrap();
    });
    assert_eq!(kept::read(&place), Some(records));
    assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o600);
    for wrong in ["", "{", "{\"format\":2,\"revision\":1,\"records\":[]}"] {
        std::fs::write(&place, wrong).unwrap();
        assert_eq!(kept::read(&place), None, "{wrong}");
    }
    std::fs::remove_dir_all(place.parent().unwrap()).unwrap();
}

#[test]
fn it_is_kept_beside_what_the_mesh_keeps_or_the_store() {
    let with = |more: &str| {
        let text = format!(
            "version: 1\nservice: {{ name: web, address: 127.0.0.1:8080 }}\nmtls: {{ mode: disabled }}\n{more}\n"
        );
        let (bundle, _) =
            parse("test", &text, &ProcessEnvironment).unwrap_or_else(|error| panic!("{error:?}"));
        kept::place(&bundle)
    };
    let mesh = "mesh: { node: a, gossip_key: '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef', data_dir: ";
    assert_eq!(with(&format!("{mesh}/var/mesh }}")), None);
    assert_eq!(
        with(&format!("{mesh}/var/mesh }}\nstore: {{}}")),
        Some(PathBuf::from("/var/mesh/shared.json"))
    );
    let server = "store: { mode: client, data_dir: /var/store }";
    assert_eq!(with(&format!("{mesh}none }}\n{server}")), Some(PathBuf::from("/var/store/shared.json")));
    assert_eq!(with(&format!("{mesh}none }}\nstore: {{}}")), None);
}
