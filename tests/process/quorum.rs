//! Keyspaces that are kept by quorum, on three real servers: one of them is killed and comes back, two are, and a session
//! goes from one to the next. What is decided when is in the simulation of src/store/quorum/core.

use serde_json::{Value, json};

use crate::{
    store::{Trio, kv, raft},
    support::{Sidecar, eventually, sidecar::run},
};

async fn trio() -> Trio {
    let spaces = json!({ "fast": {}, "loose": { "level": "eventual" } });
    Trio::start_with(json!({ "store": { "keyspaces": spaces } })).await
}

/// Runs `outrigger kv` for JSON: its exit code, and the document.
fn told(sidecar: &Sidecar, arguments: &[&str]) -> (Option<i32>, Value) {
    let (code, text) = kv(sidecar, &[arguments, &["-o", "json"]].concat());
    (code, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// What one server has itself.
fn own(sidecar: &Sidecar, key: &str) -> (Option<i32>, String) {
    kv(sidecar, &["get", key, "--consistency", "eventual"])
}

/// Waits until all three see each other, and a write goes through.
async fn settled(trio: &Trio) {
    eventually("a write by quorum", async || {
        (0..3).all(|at| kv(trio.node(at), &["put", "fast/ready", "1"]).0 == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_one_server_writes_by_quorum_all_read_and_whoever_was_down_is_repaired() {
    let mut trio = trio().await;
    settled(&trio).await;
    assert_eq!(kv(trio.node(0), &["put", "fast/a", "1"]).0, Some(0));
    for at in 0..3 {
        assert_eq!(kv(trio.node(at), &["get", "fast/a"]), (Some(0), "1\n".to_owned()), "node {at}");
    }
    assert_eq!(kv(trio.node(1), &["rm", "fast/a"]).0, Some(0));
    assert_eq!(kv(trio.node(2), &["get", "fast/a", "--consistency", "quorum"]).0, Some(5));
    assert_eq!(kv(trio.node(2), &["rm", "fast/a"]).0, Some(5));

    // The others go on without one, and it gets what it missed when it is back.
    trio.kill(2);
    eventually("the two others go on", async || {
        (kv(trio.node(0), &["put", "fast/b", "2"]).0 == Some(0)).then_some(())
    })
    .await;
    for number in 0..20 {
        let (key, value) = (format!("fast/missed-{number}"), number.to_string());
        assert_eq!(kv(trio.node(number % 2), &["put", &key, &value]).0, Some(0), "{key}");
    }
    assert_eq!(kv(trio.node(1), &["get", "fast/b"]), (Some(0), "2\n".to_owned()));
    trio.restart(2).await;
    for number in 0..20 {
        let (key, value) = (format!("fast/missed-{number}"), format!("{number}\n"));
        eventually("it has what it missed", async || {
            (own(trio.node(2), &key) == (Some(0), value.clone())).then_some(())
        })
        .await;
    }
    let (code, listed) = told(trio.node(2), &["ls", "fast/"]);
    let keys = listed["items"].as_array().map(Vec::len);
    assert_eq!((code, keys), (Some(0), Some(22)), "{listed}");
    assert_eq!(kv(trio.node(2), &["ls", "fast/missed-1", "--keys-only"]).1.lines().count(), 11);
}

#[tokio::test]
async fn with_two_of_three_down_quorum_is_refused_and_eventual_goes_on() {
    let mut trio = trio().await;
    settled(&trio).await;
    assert_eq!(kv(trio.node(0), &["put", "fast/a", "1"]).0, Some(0));
    for at in 0..3 {
        eventually("all have it", async || (own(trio.node(at), "fast/a").1 == "1\n").then_some(())).await;
    }
    trio.kill(1);
    trio.kill(2);
    // Before gossip knows it, it takes the time of the keyspace; then none.
    assert!(matches!(kv(trio.node(0), &["put", "fast/a", "2"]).0, Some(1 | 8)));
    assert!(matches!(kv(trio.node(0), &["get", "fast/a", "--consistency", "quorum"]).0, Some(1 | 8)));
    assert_eq!(own(trio.node(0), "fast/a").0, Some(0));
    assert_eq!(kv(trio.node(0), &["put", "loose/a", "3"]).0, Some(0));
    assert_eq!(kv(trio.node(0), &["get", "loose/a"]), (Some(0), "3\n".to_owned()));
    // What was written so is handed to the others once they are back.
    for at in [1, 2] {
        trio.restart(at).await;
    }
    for at in 0..3 {
        eventually("it is handed on", async || {
            (own(trio.node(at), "loose/a") == (Some(0), "3\n".to_owned())).then_some(())
        })
        .await;
    }
    eventually("a quorum reads again", async || {
        (kv(trio.node(1), &["get", "fast/a"]).0 == Some(0)).then_some(())
    })
    .await;
    trio.node(0).until_metric("outrigger_store_quorum_hints_total", &["outcome=\"replayed\""], 1.0).await;
}

#[tokio::test]
async fn what_most_have_outlives_a_store_that_went_on_from_the_disk_of_the_one_that_has_not() {
    let mut trio = trio().await;
    settled(&trio).await;
    trio.kill(0);
    eventually("the two others write it", async || {
        (kv(trio.node(1), &["put", "fast/late", "2"]).0 == Some(0)).then_some(())
    })
    .await;
    trio.kill(1);
    trio.kill(2);
    let (code, _, said) = raft(&["recover", "-c", &trio.config_file(0), "--accept-data-loss"]);
    assert_eq!(code, Some(0), "{said}");
    for at in 0..3 {
        trio.restart(at).await;
    }
    eventually("the others know that they were left behind", async || {
        let mut failures = Vec::new();
        for at in [1, 2] {
            failures.push(trio.node(at).document("/v1/raft").await["failure"].clone());
        }
        failures.iter().all(|why| why.as_str().is_some_and(|why| why.contains("epoch 1"))).then_some(())
    })
    .await;
    // What they acknowledged is on most servers, whatever became of their logs.
    eventually("it is read by quorum", async || {
        (kv(trio.node(0), &["get", "fast/late"]).1 == "2\n").then_some(())
    })
    .await;
    // It is on their disks still when they have put their logs aside.
    for at in [1, 2] {
        trio.kill(at);
        trio.restart(at).await;
        assert!(trio.directories[at].0.join("store/raft.redb.epoch-0").exists());
        assert_eq!(own(trio.node(at), "fast/late").1, "2\n");
    }
}

#[tokio::test]
async fn who_is_configured_otherwise_is_named_by_the_others_until_it_is_not() {
    let mut trio = trio().await;
    settled(&trio).await;
    let disagreeing = async |trio: &Trio, wanted: [f64; 3]| {
        eventually("each counts those who have others", async || {
            let mut counts = [-1.0; 3];
            for (at, count) in counts.iter_mut().enumerate() {
                *count = trio.node(at).metric("outrigger_store_quorum_keyspaces_disagreeing", &[]).await;
            }
            (counts == wanted).then_some(())
        })
        .await;
    };
    disagreeing(&trio, [0.0; 3]).await;
    // A change goes from node to node, and all go on meanwhile.
    let spaces = json!({ "fast": {}, "loose": { "level": "eventual" }, "more": {} });
    trio.over = json!({ "store": { "keyspaces": spaces } });
    for (at, counts) in [(0, [2.0, 1.0, 1.0]), (1, [1.0, 1.0, 2.0]), (2, [0.0; 3])] {
        trio.kill(at);
        trio.restart(at).await;
        disagreeing(&trio, counts).await;
        eventually("a write by quorum", async || {
            (kv(trio.node(at), &["put", "fast/a", "1"]).0 == Some(0)).then_some(())
        })
        .await;
    }
    let told = trio.node(0).log();
    assert!(told.contains("it has other keyspaces than this node"), "{told}");
    assert!(told.contains("more: quorum, 2 reads and 2 writes of 3"), "{told}");
}

#[tokio::test]
async fn a_session_goes_from_one_server_to_the_next_and_sees_what_it_wrote() {
    let trio = trio().await;
    settled(&trio).await;
    let mut session = String::new();
    for number in 0..12 {
        let value = number.to_string();
        let level = ["--consistency", "session", "--session", &session];
        let put = [&["put", "fast/cart", value.as_str()][..], &level].concat();
        let (code, written) = told(trio.node(number % 3), &put);
        assert_eq!(code, Some(0), "{written}");
        written["session"].as_str().unwrap_or_default().clone_into(&mut session);
        let get = ["get", "fast/cart", "--session", &session];
        let (code, found) = told(trio.node((number + 1) % 3), &get);
        assert_eq!((code, found["value"].as_str()), (Some(0), Some(value.as_str())), "{found}");
        found["session"].as_str().unwrap_or_default().clone_into(&mut session);
    }
    let cut = &session[..session.len() - 2];
    assert_eq!(kv(trio.node(0), &["get", "fast/cart", "--session", cut]).0, Some(1));
}

#[tokio::test]
async fn what_only_the_log_can_do_is_refused_by_name_and_other_keys_go_to_it_as_before() {
    let trio = trio().await;
    settled(&trio).await;
    let admin = trio.node(0).admin().to_string();
    let said = |arguments: &[&str]| {
        let done = run(&[&["kv"], arguments, &["--admin", &admin]].concat());
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    for arguments in [
        &["get", "fast/a", "--consistency", "strong"][..],
        &["put", "fast/a", "1", "--cas", "0"],
        &["put", "fast/a", "1", "--ttl", "30s"],
        &["rm", "fast/a", "--cas", "3"],
        &["watch", "fast/", "--after", "0"],
    ] {
        let (code, text) = said(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {text}");
        assert!(text.contains("the keyspace `fast` is kept by quorum"), "{arguments:?}: {text}");
    }
    assert_eq!(kv(trio.node(0), &["put", "other/a", "1"]).0, Some(0));
    assert_eq!(kv(trio.node(1), &["get", "other/a", "--consistency", "strong"]).1, "1\n");
    let (code, text) = said(&["get", "other/a", "--consistency", "quorum"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("store.keyspaces"), "{text}");
}
