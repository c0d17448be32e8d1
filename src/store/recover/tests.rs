//! Recovery from the disk of one server. That others join it then is in tests/process/store.rs.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::*;
use crate::{
    rt::{Drain, Tasks},
    store::{
        Backend, Keyspaces, Level, Mode, Params, Peer, Readable as _, Service, ServiceParams, Standing,
        Store, StoreError, StoreKey, Timing, Watch as _, Watchable as _, Writable as _,
        backend::{Batch, Durability, Table},
        core::{autopilot::Patience, command::Stay, key::Key},
    },
    types::Mono,
};

pub(in crate::store) const WHOSE: Whose<'static> = Whose { cluster: "tests", id: 1, node: "one" };

/// A folder that goes with the value.
pub(in crate::store) struct Folder(pub(in crate::store) PathBuf);

impl Folder {
    pub(in crate::store) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("outrigger-recover-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server that is its own majority.
pub(in crate::store) struct Server {
    pub(in crate::store) store: Store,
    tasks: Tasks,
    drain: Drain,
    _peers: watch::Sender<Arc<Vec<Peer>>>,
}

impl Server {
    pub(in crate::store) async fn start(folder: &Folder, keys: &StoreKeys) -> Self {
        let (peers, known) = watch::channel(Arc::new(Vec::new()));
        let (drain, mut tasks) = (Drain::default(), Tasks::default());
        let service = Service::open(ServiceParams {
            id: 1,
            node: "one".into(),
            cluster: "tests".into(),
            seeds: Vec::new(),
            is_seed: true,
            mesh: None,
            peers: known,
            promises: None,
            store: Params {
                backend: Backend::Embedded,
                mode: Mode::Server,
                bind: ([127, 0, 0, 1], 0).into(),
                advertise: None,
                data_dir: Some(folder.0.clone()),
                bootstrap_expect: 1,
                timing: Timing {
                    heartbeat: Duration::from_millis(50),
                    election_timeout: Duration::from_millis(300),
                },
                patience: Patience::USUAL,
                keys: keys.clone(),
                keyspaces: Keyspaces::default(),
                allow: Vec::new(),
            },
        });
        let service = service.await.unwrap();
        let own = Peer {
            id: 1,
            name: "one".into(),
            address: service.local_address(),
            is_server: true,
            is_seed: true,
            founded: None,
            standing: Standing::Alive,
            since: Mono::ZERO,
            zone: "".into(),
            is_draining: false,
        };
        peers.send_replace(Arc::new(vec![own]));
        let store = service.store();
        tasks.spawn("store", service.run(drain.watch()));
        let key = Key::new("nothing").unwrap();
        let answered = async { while store.get(&key, Level::Strong).await.is_err() {} };
        tokio::time::timeout(Duration::from_secs(20), answered).await.expect("it leads");
        Self { store, tasks, drain, _peers: peers }
    }

    pub(in crate::store) async fn put(&self, key: &str) -> Revision {
        let value = bytes::Bytes::from(key.to_owned());
        let op = Store::next_op().unwrap();
        self.store.put(op, Key::new(key).unwrap(), value, Stay::Forever).await.unwrap()
    }

    pub(in crate::store) async fn has(&self, key: &str) -> bool {
        self.store.get(&Key::new(key).unwrap(), Level::Strong).await.unwrap().is_some()
    }

    /// Ends it, with its files closed.
    pub(in crate::store) async fn end(self) {
        self.drain.advance(crate::rt::Phase::Stopped);
        self.tasks.finish(Duration::from_secs(10)).await;
    }
}

/// Looks again as long as the files are still being closed.
pub(in crate::store) async fn inspected(folder: &Folder, keys: &StoreKeys) -> Position {
    let looking = async {
        loop {
            match inspect(&folder.0, keys) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                position => return position.unwrap(),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looking).await.expect("the files are closed")
}

#[tokio::test]
async fn a_store_goes_on_with_all_that_the_disk_has_and_watchers_learn_that_they_missed_something() {
    let folder = Folder::new("goes-on");
    let key = StoreKey::parse(&"5a".repeat(32)).unwrap();
    let keys = StoreKeys { keys: vec![key], reads_plain: false };
    let server = Server::start(&folder, &keys).await;
    server.put("a").await;
    let before = server.put("b").await;
    // It is not looked into while it runs.
    assert_eq!(inspect(&folder.0, &keys).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    server.end().await;

    let position = inspected(&folder, &keys).await;
    assert_eq!((position.cluster.as_deref(), position.epoch), (Some("tests"), Some(0)));
    assert_eq!((position.revision, position.keys, position.voters.len()), (before, 2, 1));
    // To look changes nothing.
    assert_eq!(inspect(&folder.0, &keys).unwrap().digest, position.digest);
    assert!(inspect(&folder.0, &StoreKeys::default()).is_err(), "without its key");

    let renewed = recover(&folder.0, &keys, WHOSE).unwrap();
    assert_eq!((renewed.epoch, renewed.keys), (1, 2));
    assert_eq!(renewed.kept.as_deref(), Some(&*folder.0.join("raft.redb.epoch-0")));
    let server = Server::start(&folder, &keys).await;
    assert!(server.has("a").await && server.has("b").await);
    assert_eq!(server.store.status().unwrap().epoch, Some(1));
    assert!(server.put("c").await > Revision(before.0 + 1_000_000));
    let missed = server.store.watch("", before).next().await;
    assert!(matches!(missed, Err(StoreError::Compacted { .. })), "{missed:?}");
    server.end().await;
    // And once more.
    inspected(&folder, &keys).await;
    assert_eq!(recover(&folder.0, &keys, WHOSE).unwrap().epoch, 2);
}

#[tokio::test]
async fn the_disk_of_another_mesh_or_member_is_refused() {
    let folder = Folder::new("anothers");
    let keys = StoreKeys::default();
    let server = Server::start(&folder, &keys).await;
    server.put("a").await;
    server.end().await;
    let before = inspected(&folder, &keys).await;
    for (whose, why) in
        [(Whose { cluster: "other", ..WHOSE }, "mesh `tests`"), (Whose { id: 2, ..WHOSE }, "another member")]
    {
        let error = recover(&folder.0, &keys, whose).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    let after = inspect(&folder.0, &keys).unwrap();
    assert_eq!((after.epoch, after.digest), (before.epoch, before.digest));
    assert!(!folder.0.join("raft.redb.epoch-0").exists());
}

#[test]
fn there_is_nothing_to_go_on_from_without_a_log() {
    let folder = Folder::new("nothing");
    let keys = StoreKeys::default();
    assert_eq!(inspect(&folder.0, &keys).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(!folder.0.join("raft.redb").exists(), "to look makes no file");
    files::open(Some(&folder.0), Some(&folder.0), 1, "tests", &files::keys(&keys), &Arc::default()).unwrap();
    let error = recover(&folder.0, &keys, WHOSE).unwrap_err();
    assert!(error.to_string().contains("never had a part"), "{error}");
    std::fs::write(folder.0.join("raft.redb"), b"not a store").unwrap();
    assert!(inspect(&folder.0, &keys).is_err());
}

#[tokio::test]
async fn a_log_that_was_left_behind_is_put_aside_and_one_that_is_gone_is_missed() {
    let folder = Folder::new("left");
    let keys = StoreKeys::default();
    let server = Server::start(&folder, &keys).await;
    server.put("a").await;
    server.end().await;
    inspected(&folder, &keys).await;
    let sealed = files::keys(&keys);
    let open = || files::open(Some(&folder.0), Some(&folder.0), 1, "tests", &sealed, &Arc::default());
    let store = open().unwrap().label.store.unwrap();
    let later = store.next_epoch().unwrap();
    Memory::open(Some(&folder.0), 1).unwrap().remember(later).unwrap();
    let error = recover(&folder.0, &keys, WHOSE).unwrap_err();
    assert!(error.to_string().contains("left behind"), "{error}");
    assert_eq!(open().unwrap().label.store, Some(later));
    let position = inspect(&folder.0, &keys).unwrap();
    assert_eq!((position.epoch, position.last_index, position.keys), (Some(1), 0, 0));
    // Its own log is kept, with all that it has.
    std::fs::create_dir(folder.0.join("copy")).unwrap();
    std::fs::copy(folder.0.join("raft.redb.epoch-0"), folder.0.join("copy/raft.redb")).unwrap();
    assert_eq!(inspect(&folder.0.join("copy"), &keys).unwrap().keys, 1);
    // A server that has a part in a store does not begin with an empty log.
    std::fs::remove_file(folder.0.join("raft.redb")).unwrap();
    assert!(open().is_err_and(|error| error.to_string().contains("is gone")));
}

#[test]
fn what_is_kept_by_quorum_outlives_a_log_and_goes_to_no_other_store() {
    let folder = Folder::new("records");
    let keys = files::keys(&StoreKeys::default());
    let open = || files::open(Some(&folder.0), Some(&folder.0), 1, "tests", &keys, &Arc::default());
    let remember = |store| Memory::open(Some(&folder.0), 1).unwrap().remember(store).unwrap();
    let first = StoreId(7 << 16);
    let files = open().unwrap();
    let mut batch = Batch::default();
    batch.put(Table::Log, *b"ra/1", *b"a record");
    files.records.apply(batch, Durability::Durable).unwrap();
    drop(files);
    remember(first);
    drop(open().unwrap());
    // The log was left behind and begins anew; what is kept by quorum is as true as before.
    remember(first.next_epoch().unwrap());
    let files = open().unwrap();
    assert!(folder.0.join("raft.redb.epoch-0").exists());
    assert_eq!(files.records.get(Table::Log, b"ra/1").unwrap().unwrap(), b"a record");
    drop(files);
    // Those of another store, or of another node, are not taken.
    for (node, store, why) in [(1, StoreId(9 << 16), "quorum.redb"), (2, first, "another member")] {
        let label = Label { cluster: "tests".to_owned(), node, store: Some(store) };
        label.write(&files::open_log(&folder.0.join("quorum.redb"), keys.clone()).unwrap()).unwrap();
        let error = open().err().unwrap();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_log_is_made_shorter_by_its_bytes() {
    let folder = Folder::new("bytes");
    let keys = StoreKeys::default();
    let server = Server::start(&folder, &keys).await;
    // Far fewer entries than a snapshot is made after, and 36 MiB.
    let value = bytes::Bytes::from(vec![7; 512 * 1024]);
    for _ in 0..72 {
        let op = Store::next_op().unwrap();
        server.store.put(op, Key::new("a").unwrap(), value.clone(), Stay::Forever).await.unwrap();
    }
    let shortened = async {
        while server.store.status().unwrap().snapshot == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), shortened).await.expect("there is a snapshot");
    server.end().await;
    let position = inspected(&folder, &keys).await;
    assert!(position.snapshot >= 60 && position.keys == 1, "{position:?}");
}
