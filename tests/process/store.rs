//! The store that sidecars keep among themselves: it is founded by itself, is the same on all nodes, and outlives some of
//! them. What is decided when is in the unit tests and simulations of src/store/.

use serde_json::{Value, json};

use crate::{
    mtls::proving,
    support::{
        App, Client, Sidecar,
        authority::{Authority, Folder},
        eventually,
        sidecar::{Directory, free_address, run, with},
    },
};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A node that has a part in the store; those with a `directory` may vote.
fn node(name: &str, join: &[&str], gossip: &str, directory: Option<&Directory>) -> Value {
    let mesh = json!({
        "node": name,
        "bind": gossip,
        "join": join,
        "gossip_key": KEY,
        "profile": "local",
        "data_dir": directory.map_or_else(|| "none".into(), |one| one.0.join("mesh").display().to_string()),
    });
    let mut store = json!({ "bind": "127.0.0.1:0", "election_timeout": "500ms" });
    if let Some(directory) = directory {
        store["mode"] = "server".into();
        store["data_dir"] = directory.0.join("store").display().to_string().into();
    }
    json!({ "mesh": mesh, "store": store })
}

/// Three nodes that vote.
pub(crate) struct Trio {
    pub(crate) directories: [Directory; 3],
    gossip: [String; 3],
    nodes: Vec<Option<Sidecar>>,
    /// What nodes that are started from now on have in their configuration as well.
    pub(crate) over: Value,
}

impl Trio {
    pub(crate) async fn start() -> Self {
        Self::start_with(json!({})).await
    }

    /// Three whose configuration has `over` as well.
    pub(crate) async fn start_with(over: Value) -> Self {
        let gossip = [0; 3].map(|_| free_address().to_string());
        let mut trio =
            Self { directories: [0; 3].map(|_| Directory::new()), gossip, nodes: Vec::new(), over };
        for at in 0..3 {
            let node = Sidecar::start(trio.config(at)).await;
            trio.nodes.push(Some(node));
        }
        eventually("a store", async || {
            let (code, _) = kv(trio.node(0), &["get", "nothing"]);
            (code == Some(5)).then_some(())
        })
        .await;
        trio
    }

    fn config(&self, at: usize) -> Value {
        // The first one names nobody, and is the seed of all.
        let join: &[&str] = if at == 0 { &[] } else { &[&self.gossip[0]] };
        let node = node(&format!("node-{at}"), join, &self.gossip[at], Some(&self.directories[at]));
        with(node, self.over.clone())
    }

    pub(crate) fn node(&self, at: usize) -> &Sidecar {
        self.nodes[at].as_ref().unwrap_or_else(|| unreachable!("node {at} was killed"))
    }

    /// Which of the living leads.
    async fn leader(&self) -> usize {
        eventually("a leader", async || {
            for (at, node) in self.nodes.iter().enumerate() {
                if let Some(node) = node
                    && node.document("/v1/raft").await["role"] == "leader"
                {
                    return Some(at);
                }
            }
            None
        })
        .await
    }

    pub(crate) fn kill(&mut self, at: usize) {
        self.nodes[at] = None;
    }

    /// The file with its configuration, for verbs that look at its disk.
    pub(crate) fn config_file(&self, at: usize) -> String {
        let whole = json!({
            "version": 1,
            "service": { "name": "tested", "address": "127.0.0.1:9" },
            "mtls": { "mode": "disabled" },
        });
        let file = self.directories[at].0.join("outrigger.yaml");
        let written = std::fs::write(&file, with(whole, self.config(at)).to_string());
        assert!(written.is_ok(), "{written:?}");
        file.display().to_string()
    }

    pub(crate) async fn restart(&mut self, at: usize) {
        let node = Sidecar::start(self.config(at)).await;
        self.nodes[at] = Some(node);
    }
}

/// Runs `outrigger kv` against `sidecar`: its exit code, and what it prints.
pub(crate) fn kv(sidecar: &Sidecar, arguments: &[&str]) -> (Option<i32>, String) {
    let admin = sidecar.admin().to_string();
    let done = run(&[&["kv"], arguments, &["--admin", &admin, "--timeout", "10s"]].concat());
    (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned())
}

fn put(sidecar: &Sidecar, key: &str, value: &str) {
    assert_eq!(kv(sidecar, &["put", key, value]).0, Some(0), "{key}");
}

fn got(sidecar: &Sidecar, key: &str) -> String {
    kv(sidecar, &["get", key, "--consistency", "strong"]).1
}

#[tokio::test]
async fn three_servers_found_a_store_and_what_one_writes_all_read() {
    let trio = Trio::start().await;
    put(trio.node(0), "a", "1");
    for at in 0..3 {
        assert_eq!(got(trio.node(at), "a"), "1\n", "node {at}");
    }
    // Compare-and-set through another node than the one that wrote.
    assert_eq!(kv(trio.node(1), &["put", "a", "2", "--cas", "0"]).0, Some(7));
    assert_eq!(got(trio.node(2), "a"), "1\n");
    // A node that may not vote asks those who do.
    let client = Sidecar::start(node("client", &[&trio.gossip[0]], "127.0.0.1:0", None)).await;
    eventually("the client knows the servers", async || {
        (kv(&client, &["get", "a"]).1 == "1\n").then_some(())
    })
    .await;
    put(&client, "b", "from the client");
    assert_eq!(got(trio.node(2), "b"), "from the client\n");
    assert_eq!(kv(&client, &["rm", "a"]).0, Some(0));
    assert_eq!(kv(trio.node(0), &["get", "a"]).0, Some(5));
}

#[tokio::test]
async fn a_leader_that_is_killed_is_replaced_and_comes_back_with_what_it_had() {
    let mut trio = Trio::start().await;
    put(trio.node(0), "before", "1");
    let leader = trio.leader().await;
    trio.kill(leader);
    let survivor = (leader + 1) % 3;
    put(trio.node(survivor), "after", "2");
    assert_eq!(got(trio.node(survivor), "before"), "1\n");
    trio.restart(leader).await;
    eventually("it has caught up", async || {
        let said = kv(trio.node(leader), &["get", "after", "--consistency", "eventual"]);
        (said == (Some(0), "2\n".to_owned())).then_some(())
    })
    .await;
    let status = trio.node(leader).document("/v1/raft").await;
    assert_eq!(status["voters"].as_array().map(Vec::len), Some(3), "{status}");
}

#[tokio::test]
async fn all_that_was_acknowledged_is_there_after_all_were_killed() {
    let mut trio = Trio::start().await;
    for number in 0..20 {
        put(trio.node(number % 3), &format!("key-{number}"), &number.to_string());
    }
    (0..3).for_each(|at| trio.kill(at));
    for at in 0..3 {
        trio.restart(at).await;
    }
    for number in 0..20 {
        assert_eq!(got(trio.node(number % 3), &format!("key-{number}")), format!("{number}\n"));
    }
}

#[tokio::test]
async fn without_a_quorum_writes_are_refused_and_old_values_still_read() {
    let mut trio = Trio::start().await;
    put(trio.node(0), "a", "1");
    for at in 0..3 {
        eventually("all have it", async || {
            (kv(trio.node(at), &["get", "a", "--consistency", "eventual"]).1 == "1\n").then_some(())
        })
        .await;
    }
    eventually("it knows how old its copy is", async || {
        trio.node(0).document("/v1/raft").await["age_ms"].as_u64()
    })
    .await;
    trio.kill(1);
    trio.kill(2);
    let (code, _) = kv(trio.node(0), &["put", "a", "2"]);
    assert!(matches!(code, Some(1 | 8)), "{code:?}");
    assert!(matches!(kv(trio.node(0), &["get", "a"]).0, Some(1 | 8)));
    for level in ["eventual", "within:1h"] {
        assert_eq!(kv(trio.node(0), &["get", "a", "--consistency", level]), (Some(0), "1\n".to_owned()));
    }
    // The refusals above took longer than that.
    assert!(matches!(kv(trio.node(0), &["get", "a", "--consistency", "within:1s"]).0, Some(1 | 8)));
    trio.restart(1).await;
    eventually("it writes again", async || (kv(trio.node(0), &["put", "a", "3"]).0 == Some(0)).then_some(()))
        .await;
    assert_eq!(got(trio.node(1), "a"), "3\n");
}

/// Who answers a request through `sidecar`.
async fn answerer(sidecar: &Sidecar) -> String {
    Client::connect(sidecar.outbound()).await.get("shop", "/").await.text()
}

#[tokio::test]
async fn a_route_in_the_store_is_served_by_every_sidecar_and_outlives_the_quorum() {
    let apps = [App::saying("v1").await, App::saying("v2").await];
    let over = json!({
        "services": {
            "v1": { "endpoints": [apps[0].endpoint()] },
            "v2": { "endpoints": [apps[1].endpoint()] },
        },
        "routes": [{ "name": "shop", "service": "v1" }],
    });
    let mut trio = Trio::start_with(over).await;
    assert_eq!(answerer(trio.node(0)).await, "v1");

    let file = trio.directories[0].0.join("route.json");
    std::fs::write(&file, json!({ "name": "shop", "service": "v2" }).to_string()).expect("it is ours");
    let admin = trio.node(1).admin().to_string();
    let done = run(&["routes", "put", "-f", &file.display().to_string(), "--admin", &admin]);
    assert!(done.status.success(), "{done:?}");
    for at in 0..3 {
        eventually("the route of the store is served", async || {
            (answerer(trio.node(at)).await == "v2").then_some(())
        })
        .await;
    }

    // An entry that cannot be is refused before it is written.
    std::fs::write(&file, json!({ "name": "shop", "service": 7, "wonder": true }).to_string())
        .expect("it is ours");
    let refused = run(&["routes", "put", "-f", &file.display().to_string(), "--admin", &admin]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");

    // Two of three are gone, and the third starts anew: it serves what it knew last.
    (0..3).for_each(|at| trio.kill(at));
    trio.restart(2).await;
    assert_eq!(answerer(trio.node(2)).await, "v2");

    trio.restart(0).await;
    let admin = trio.node(0).admin().to_string();
    eventually("the route is taken back", async || {
        run(&["routes", "rm", "shop", "--admin", &admin]).status.success().then_some(())
    })
    .await;
    eventually("the file's route is served again", async || {
        (answerer(trio.node(2)).await == "v1").then_some(())
    })
    .await;
}

/// Short waits, so that tests need not wait long.
fn hasty() -> Value {
    json!({ "store": { "dead_after": "2s", "stable_after": "1s" } })
}

/// The names of the voters, and of those who stand by, as `sidecar` knows them.
async fn seats(sidecar: &Sidecar) -> [Vec<String>; 2] {
    let status = sidecar.document("/v1/raft").await;
    ["voters", "standbys"].map(|kind| {
        let seats = status[kind].as_array().into_iter().flatten();
        let mut names: Vec<String> =
            seats.filter_map(|seat| seat["node"].as_str().map(str::to_owned)).collect();
        names.sort();
        names
    })
}

/// Runs `outrigger raft`: its exit code, what it prints, and what it says of it.
pub(crate) fn raft(arguments: &[&str]) -> (Option<i32>, String, String) {
    let done = run(&[&["raft"], arguments].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

#[tokio::test]
async fn a_voter_that_is_gone_is_replaced_by_one_that_stands_by() {
    let mut trio = Trio::start_with(hasty()).await;
    let directory = Directory::new();
    let spare = with(node("spare", &[&trio.gossip[0]], "127.0.0.1:0", Some(&directory)), hasty());
    let spare = Sidecar::start(spare).await;
    let leader = trio.leader().await;
    eventually("the fourth one stands by", async || {
        (seats(trio.node(leader)).await[1] == ["spare"]).then_some(())
    })
    .await;
    put(trio.node(leader), "a", "1");
    let lost = (leader + 1) % 3;
    trio.kill(lost);
    eventually("it votes in the place of the lost one", async || {
        let [voters, standbys] = seats(trio.node(leader)).await;
        let lost = format!("node-{lost}");
        let is_replaced = voters.len() == 3 && !voters.contains(&lost) && !standbys.contains(&lost);
        (is_replaced && voters.contains(&"spare".to_owned())).then_some(())
    })
    .await;
    // So the store bears the loss of another one.
    trio.kill((leader + 2) % 3);
    put(trio.node(leader), "b", "2");
    assert_eq!(got(&spare, "b"), "2\n");
}

#[tokio::test]
async fn the_store_goes_on_from_one_disk_of_three() {
    let mut trio = Trio::start_with(hasty()).await;
    for number in 0..20 {
        put(trio.node(number % 3), &format!("key-{number}"), &number.to_string());
    }
    // While it runs nobody else looks at its disk, and nobody goes on from it.
    let files = [0, 1, 2].map(|at| trio.config_file(at));
    let (code, _, said) = raft(&["recover", "-c", &files[0], "--accept-data-loss"]);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("stop the sidecar first"), "{said}");

    (0..3).for_each(|at| trio.kill(at));
    let furthest = (0..3).max_by_key(|at| {
        let (code, told, said) = raft(&["inspect", "-c", &files[*at], "-o", "json"]);
        assert_eq!(code, Some(0), "{said}");
        let told: Value = serde_json::from_str(&told).expect("JSON");
        (told["last_term"].as_u64(), told["last_index"].as_u64())
    });
    let survivor = furthest.expect("there are three");
    let (lost, old) = ((survivor + 1) % 3, (survivor + 2) % 3);
    // One disk is lost. Another one is thought to be, and is not.
    trio.directories[lost] = Directory::new();
    let left = std::mem::replace(&mut trio.directories[old], Directory::new());

    let (code, _, said) = raft(&["recover", "-c", &files[survivor]]);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("--accept-data-loss") && said.contains("20 keys"), "{said}");
    let (code, told, said) = raft(&["recover", "-c", &files[survivor], "--accept-data-loss"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(told.contains("goes on in epoch 1") && told.contains("raft.redb.epoch-0"), "{told}");

    for at in [survivor, lost, old] {
        trio.restart(at).await;
    }
    eventually("three vote again", async || {
        let [voters, _] = seats(trio.node(survivor)).await;
        (voters == ["node-0", "node-1", "node-2"]).then_some(())
    })
    .await;
    for at in 0..3 {
        for number in 0..20 {
            assert_eq!(got(trio.node(at), &format!("key-{number}")), format!("{number}\n"));
        }
    }
    put(trio.node(lost), "after", "1");

    // Who comes back with the log of before has no say, and is told what to do.
    let before = trio.node(survivor).document("/v1/raft").await;
    let returned = || with(node("returned", &[&trio.gossip[survivor]], "127.0.0.1:0", Some(&left)), hasty());
    let returning = Sidecar::start(returned()).await;
    eventually("it knows that it was left behind", async || {
        let status = returning.document("/v1/raft").await;
        status["failure"].as_str().filter(|why| why.contains("epoch 1")).map(drop)
    })
    .await;
    assert_eq!(got(&returning, "after"), "1\n");
    put(&returning, "through-it", "2");
    let after = trio.node(survivor).document("/v1/raft").await;
    assert_eq!(
        [&before["term"], &before["voters"].as_array().map(Vec::len).into()],
        [&after["term"], &3.into()]
    );
    // With its log put aside it stands by.
    drop(returning);
    let returning = Sidecar::start(returned()).await;
    eventually("it stands by", async || (seats(trio.node(survivor)).await[1] == ["returned"]).then_some(()))
        .await;
    assert!(left.0.join("store/raft.redb.epoch-0").exists());
    eventually("it has what the others have", async || {
        (kv(&returning, &["get", "through-it", "--consistency", "eventual"]).1 == "2\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn within_mtls_the_store_is_written_by_those_on_its_list_and_read_by_all() {
    let authority = Authority::new("mesh");
    let [keeper, web, api] = ["keeper", "web", "api"].map(|service| Folder::of(&authority, service));
    let (directory, gossip) = (Directory::new(), free_address().to_string());
    let mut own = node("keeper", &[], &gossip, Some(&directory));
    own["store"]["bootstrap_expect"] = 1.into();
    own["store"]["allow"] = json!(["web", "batch-*"]);
    let keeper = Sidecar::start(proving("keeper", &keeper, "strict", own)).await;
    let client = |name: &str| node(name, &[&gossip], "127.0.0.1:0", None);
    let web = Sidecar::start(proving("web", &web, "strict", client("web"))).await;
    let api = Sidecar::start(proving("api", &api, "strict", client("api"))).await;

    eventually("the service on the list writes", async || {
        (kv(&web, &["put", "a", "1"]).0 == Some(0)).then_some(())
    })
    .await;
    eventually("the other one is heard", async || (kv(&api, &["get", "a"]).1 == "1\n").then_some(())).await;
    assert_eq!(kv(&api, &["put", "a", "2"]).0, Some(6));
    assert_eq!(kv(&api, &["rm", "a"]).0, Some(6));
    let order = |asked: &Sidecar, arguments: &[&str]| {
        raft(&[arguments, &["-a", &asked.admin().to_string()]].concat())
    };
    let (code, _, said) = order(&api, &["remove", "web", "--yes"]);
    assert_eq!(code, Some(6), "{said}");
    assert_eq!(order(&api, &["members"]).0, Some(0));
    assert_eq!(order(&web, &["remove", "web", "--yes"]).0, Some(5), "it may, and there is nothing to do");
    put(&keeper, "b", "of the server itself");
    assert_eq!(got(&api, "a"), "1\n");
}

#[tokio::test]
async fn a_scrape_tells_how_the_store_is_and_what_was_asked_of_it() {
    let trio = Trio::start().await;
    put(trio.node(0), "a", "12345");
    let leader = trio.node(trio.leader().await);
    leader.until_metric("outrigger_raft_is_leader", &[], 1.0).await;
    leader.until_metric("outrigger_store_keys", &[], 1.0).await;
    leader.until_metric("outrigger_raft_applied_index", &[], 2.0).await;
    assert_eq!(leader.metric("outrigger_store_bytes", &[]).await, 6.0);
    assert_eq!(leader.metric("outrigger_raft_peers", &[]).await, 2.0);
    assert_eq!(leader.metric("outrigger_raft_quorum_lost", &[]).await, 0.0);
    assert!(leader.metric("outrigger_raft_commit_duration_seconds_count", &[]).await >= 1.0);
    assert!(leader.metric("outrigger_raft_fsync_duration_seconds_count", &[]).await >= 1.0);
    assert!(leader.metric("outrigger_store_disk_bytes", &[]).await > 0.0);
    let asked = ["operation=\"transact\"", "outcome=\"ok\""];
    assert_eq!(trio.node(0).metric("outrigger_store_requests_total", &asked).await, 1.0);
    let ones = [0, 1, 2].map(|at| trio.node(at));
    let mut leaders = 0.0;
    for one in ones {
        leaders += one.metric("outrigger_raft_is_leader", &[]).await;
    }
    assert_eq!(leaders, 1.0);
}

#[tokio::test]
async fn operators_change_who_has_the_log_and_are_refused_what_makes_no_sense() {
    let trio = Trio::start_with(hasty()).await;
    put(trio.node(0), "a", "1");
    let client = Sidecar::start(node("client", &[&trio.gossip[0]], "127.0.0.1:0", None)).await;
    let directory = Directory::new();
    let leader = trio.leader().await;
    let admin = client.admin().to_string();
    let raft = |arguments: &[&str]| raft(&[arguments, &["-a", &admin, "--timeout", "12s"]].concat());
    eventually("the client knows all", async || {
        let (code, told, _) = raft(&["members"]);
        (code == Some(0) && told.contains("client  client")).then_some(())
    })
    .await;

    // Through a node that has no log: what is ordered is done by the leader.
    for (arguments, code, why) in [
        (&["add", "client"][..], 7, "is a client of the store"),
        (&["add", "nobody"], 5, "no node `nobody`"),
        (&["add", "node-0"], 7, "has the log already"),
        (&["remove", "nobody", "--yes"], 5, "no node `nobody`"),
        (&["remove", "client", "--yes"], 5, "no part in the store"),
        (&["transfer-leader", "client"], 7, "does not vote"),
        (&["remove", "node-0"], 2, "--yes"),
        (&["remove", &format!("node-{leader}"), "--yes"], 7, "leads"),
    ] {
        let (is, _, said) = raft(arguments);
        assert_eq!(is, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    let next = (leader + 1) % 3;
    let (code, told, said) = raft(&["transfer-leader", &format!("node-{next}")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(told.contains("shall lead"), "{told}");
    eventually("it leads", async || (trio.leader().await == next).then_some(())).await;

    let spare = with(node("spare", &[&trio.gossip[0]], "127.0.0.1:0", Some(&directory)), hasty());
    let spare = Sidecar::start(spare).await;
    eventually("the spare one has the log", async || {
        let (_, _, said) = raft(&["add", "spare"]);
        said.contains("has the log already").then_some(())
    })
    .await;
    // A voter is removed for ever, and one that stands by takes its place.
    let gone = format!("node-{}", (leader + 2) % 3);
    let (code, told, said) = eventually("nobody else changes the voters", async || {
        let answer = raft(&["remove", &gone, "--yes"]);
        (!answer.2.contains("try again")).then_some(answer)
    })
    .await;
    assert_eq!(code, Some(0), "{said}");
    assert!(told.contains("votes no longer") && told.contains("is gone for ever"), "{told}");
    eventually("the spare one votes", async || {
        let [voters, _] = seats(trio.node(next)).await;
        (voters.len() == 3 && voters.contains(&"spare".to_owned())).then_some(())
    })
    .await;
    let (code, _, said) = eventually("nobody changes the voters", async || {
        let answer = raft(&["add", &gone]);
        (!answer.2.contains("try again")).then_some(answer)
    })
    .await;
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("was removed for ever"), "{said}");
    assert_eq!(got(&spare, "a"), "1\n");
    assert!(
        client.log().contains("remove") && client.log().contains("is gone for ever"),
        "the audit log of who was asked"
    );
}

#[tokio::test]
async fn a_snapshot_that_was_saved_is_gone_on_with() {
    let mut trio = Trio::start_with(hasty()).await;
    put(trio.node(0), "a", "1");
    let file = trio.directories[0].0.join("store.snapshot").display().to_string();
    let admin = trio.node(1).admin().to_string();
    let (code, told, said) = raft(&["snapshot", "save", &file, "-a", &admin]);
    assert_eq!(code, Some(0), "{said}");
    assert!(told.contains("1 keys"), "{told}");
    // What is there is not written over.
    assert_eq!(raft(&["snapshot", "save", &file, "-a", &admin]).0, Some(1));
    let (code, told, _) = raft(&["snapshot", "inspect", &file]);
    assert_eq!(code, Some(0));
    assert!(told.contains("epoch 0") && told.contains("digest"), "{told}");
    let torn = trio.directories[0].0.join("torn").display().to_string();
    let bytes = std::fs::read(&file).expect("it was saved");
    std::fs::write(&torn, &bytes[..bytes.len() - 1]).expect("it is ours");
    let (code, _, said) = raft(&["snapshot", "inspect", &torn]);
    assert_eq!(code, Some(1));
    assert!(said.contains("cut short or damaged"), "{said}");

    put(trio.node(0), "a", "2");
    put(trio.node(0), "b", "2");
    (0..3).for_each(|at| trio.kill(at));
    let config = trio.config_file(0);
    assert_eq!(raft(&["snapshot", "restore", &torn, "-c", &config, "--accept-data-loss"]).0, Some(1));
    assert_eq!(raft(&["snapshot", "restore", &file, "-c", &config]).0, Some(7));
    let (code, told, said) = raft(&["snapshot", "restore", &file, "-c", &config, "--accept-data-loss"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(told.contains("goes on in epoch 1"), "{told}");
    trio.restart(0).await;
    eventually("it leads alone", async || (kv(trio.node(0), &["get", "a"]).0 == Some(0)).then_some(())).await;
    assert_eq!(got(trio.node(0), "a"), "1\n");
    assert_eq!(kv(trio.node(0), &["get", "b"]).0, Some(5));
}
