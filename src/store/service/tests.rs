//! The store of sidecars does what every store does: from a replica of one's own, and through another node.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Service, ServiceParams};
use crate::{
    rt::{Drain, Tasks},
    store::{
        Backend, Historical as _, Keyspace, KeyspaceLevel, Keyspaces, Level, Mode, Params, Peer,
        Readable as _, Spec, Standing, Store, StoreError, StoreKeys, Timing, Writable as _, Writer,
        conformance::conforms,
        core::{
            autopilot::Patience,
            command::Stay,
            key::{Key, Revision},
        },
    },
    types::Mono,
};

/// What must live as long as the stores are used.
struct Running {
    _tasks: Tasks,
    _drain: Drain,
    _peers: watch::Sender<Arc<Vec<Peer>>>,
}

fn params(mode: Mode, expect: usize, allow: &[Writer]) -> Params {
    let alone = Spec { replicas: 1, reads: 1, writes: 1, ..Spec::default() };
    let space = Keyspace { level: KeyspaceLevel::Quorum, spec: alone };
    Params {
        backend: Backend::Embedded,
        mode,
        bind: ([127, 0, 0, 1], 0).into(),
        advertise: None,
        data_dir: None,
        bootstrap_expect: expect,
        timing: Timing { heartbeat: Duration::from_millis(50), election_timeout: Duration::from_millis(300) },
        patience: Patience::USUAL,
        keys: StoreKeys::default(),
        allow: allow.to_vec(),
        keyspaces: Keyspaces::new([("sessions".to_owned(), space)].into()),
    }
}

/// A server that waits for so many, and a client of it.
async fn started(expect: usize, allow: &[Writer]) -> ([Store; 2], Running) {
    let (peers, known) = watch::channel(Arc::new(Vec::new()));
    let (drain, mut tasks) = (Drain::default(), Tasks::default());
    let mut stores = Vec::new();
    let mut seen = Vec::new();
    for (id, mode) in [(1, Mode::Server), (2, Mode::Client)] {
        let service = Service::open(ServiceParams {
            id,
            node: "node".into(),
            cluster: "tests".into(),
            seeds: Vec::new(),
            is_seed: id == 1,
            mesh: None,
            peers: known.clone(),
            promises: None,
            store: params(mode, expect, allow),
        });
        let service = service.await.unwrap();
        seen.push(Peer {
            id,
            name: "node".into(),
            address: service.local_address(),
            is_server: mode == Mode::Server,
            is_seed: id == 1,
            founded: None,
            standing: Standing::Alive,
            since: Mono::ZERO,
            zone: "".into(),
            is_draining: false,
        });
        stores.push(service.store());
        tasks.spawn("store", service.run(drain.watch()));
    }
    peers.send_replace(Arc::new(seen));
    let [server, client] = stores.try_into().unwrap();
    ([server, client], Running { _tasks: tasks, _drain: drain, _peers: peers })
}

/// A server that is its own majority, and a client of it, both of which answer.
async fn pair() -> ([Store; 2], Running) {
    let (stores, running) = started(1, &[]).await;
    // It answers once it is founded.
    let key = Key::new("nothing").unwrap();
    for store in &stores {
        let answered = async { while store.get(&key, Level::Strong).await.is_err() {} };
        tokio::time::timeout(Duration::from_secs(20), answered).await.expect("it is founded");
    }
    (stores, running)
}

#[tokio::test]
async fn a_change_is_told_to_be_of_whoever_asked_for_it() {
    let ([server, client], _running) = pair().await;
    let key = Key::new("a").unwrap();
    for store in [&server, &client.on_behalf_of("user/alice")] {
        let op = Store::next_op().unwrap();
        store.put(op, key.clone(), "1".into(), Stay::Forever).await.unwrap();
    }
    let (changes, _) = client.changes("", Revision(0)).await.unwrap();
    let authors: Vec<&str> = changes.iter().map(|change| &*change.author).collect();
    assert_eq!(authors, ["node/node", "user/alice via node/node"]);
}

#[tokio::test]
async fn whoever_may_not_write_does_not_write_by_quorum_either() {
    let ([server, client], _running) = started(1, &[Writer::Service("web".into())]).await;
    let key = Key::new("sessions/1").unwrap();
    let done = async |store: &Store| {
        let op = Store::next_op().unwrap();
        loop {
            match store.quorum().unwrap().put(op, &key, Some("1".into()), None).await {
                // It is not known yet who is a server.
                Err(StoreError::Quorum(_) | StoreError::Failed(_)) => tokio::task::yield_now().await,
                other => return other,
            }
        }
    };
    let both = async { (done(&server).await, done(&client).await) };
    let (allowed, denied) =
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("it is answered");
    assert!(allowed.is_ok(), "{allowed:?}");
    assert!(matches!(denied, Err(StoreError::Denied(_))), "{denied:?}");
    let read = client.quorum().unwrap().get(&key, None).await.unwrap();
    assert_eq!(read.found.map(|held| held.value), Some("1".into()));
}

#[tokio::test]
async fn a_server_that_has_found_no_store_does_not_answer_for_one() {
    let ([server, client], _running) = started(3, &[]).await;
    let key = Key::new("a").unwrap();
    let (of_server, of_client) =
        tokio::join!(server.get(&key, Level::Eventual), client.get(&key, Level::Eventual));
    assert!(of_server.is_err() && of_client.is_err(), "{of_server:?} {of_client:?}");
}

async fn server() -> (Store, Running) {
    let ([server, _], running) = pair().await;
    (server, running)
}

async fn client() -> (Store, Running) {
    let ([_, client], running) = pair().await;
    (client, running)
}

mod of_a_server {
    use super::*;

    conforms!(server);
}

mod of_a_client {
    use super::*;

    conforms! {
        client:
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
        the_past_is_as_it_was,
        what_is_forgotten_is_not_looked_back_to,
    }
}
