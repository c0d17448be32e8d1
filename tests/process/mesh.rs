//! Sidecars that find each other: no list of endpoints anywhere, and whoever does not belong is sent nothing. What the network
//! does to them is tried in tests/scripts/membership.py; the decisions themselves are tests/sim and the unit tests.

use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc, time::SystemTime};

use outrigger::{
    identity::{Material, MeshTls, PemFiles, TlsVersion},
    membership::{Facts, GossipKey, Health, Lookup, Membership, Params, Profile, Seed, Speaks},
    rt::{Drain, Phase},
    telemetry::metrics::Registry,
    types::{Tags, TrustDomain},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    mtls::{lines, proving},
    support::{
        App, Client, Sidecar,
        authority::{Authority, Folder},
        eventually,
        sidecar::{Directory, run, with},
        wait_until, within,
    },
};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const JOINS: &str = "outrigger_gossip_joins_total";
const DROPPED: &str = "outrigger_gossip_dropped_total";

/// The section `mesh` of a node that asks the members at `join` to get in.
fn mesh(node: &str, join: &[&str]) -> Value {
    json!({
        "mesh": {
            "node": node,
            "bind": "127.0.0.1:0",
            "join": join,
            "gossip_key": KEY,
            "profile": "local",
            "data_dir": "none",
        },
    })
}

/// The sidecar of an instance of `api`, with `app` behind it.
fn api(node: &str, join: &[&str], app: &App) -> Value {
    let service = json!({ "name": "api", "address": app.endpoint(), "protocol": "http1" });
    with(mesh(node, join), json!({ "service": service }))
}

/// The sidecar of somebody who calls `api`, of which only the name is known.
fn web(join: &[&str]) -> Value {
    let routes = json!([{ "name": "all", "service": "api" }]);
    with(mesh("web-1", join), json!({ "service": { "name": "web" }, "routes": routes }))
}

/// `config` with the mutual TLS of `folder`, which proves to be some service.
fn secured(config: Value, folder: &Folder) -> Value {
    let service = config["service"]["name"].as_str().expect("it has a name").to_owned();
    proving(&service, folder, "strict", config)
}

/// Where it gossips.
async fn gossip(sidecar: &Sidecar) -> String {
    let members = sidecar.document("/v1/members").await;
    let own = members["items"].as_array().into_iter().flatten().find(|one| one["id"] == members["own"]);
    let address = own.and_then(|own| own["address"].as_str());
    address.expect("it knows itself").to_owned()
}

/// All that `sidecar` knows of members called `node`.
async fn known(sidecar: &Sidecar, node: &str) -> Vec<Value> {
    let members = sidecar.document("/v1/members").await;
    let items = members["items"].as_array().cloned().unwrap_or_default();
    items.into_iter().filter(|one| one["node"] == node).collect()
}

/// Waits until `sidecar` sees one `node`, of which this holds; gives what it sees.
async fn until(sidecar: &Sidecar, node: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("{node} is seen as it should be"), async || {
        known(sidecar, node).await.into_iter().find(&holds)
    })
    .await
}

/// Waits until requests may be sent to it.
async fn until_routable(sidecar: &Sidecar, node: &str) -> Value {
    until(sidecar, node, |one| one["routable"] == "yes").await
}

async fn until_in_state(sidecar: &Sidecar, node: &str, state: &str) -> Value {
    until(sidecar, node, |one| one["state"] == state).await
}

/// Waits until the service `api` has so many endpoints.
async fn until_endpoints(sidecar: &Sidecar, count: usize) {
    eventually(&format!("api has {count} endpoints"), async || {
        let services = sidecar.document("/v1/services").await;
        let api = services["items"].as_array()?.iter().find(|one| one["name"] == "api")?.clone();
        (api["endpoints"].as_array()?.len() == count).then_some(())
    })
    .await;
}

/// Who answers some requests of the application beside `sidecar`, all of which must be answered.
async fn answerers(sidecar: &Sidecar) -> Vec<String> {
    let mut client = Client::connect(sidecar.outbound()).await;
    let mut names = Vec::new();
    for _ in 0..20 {
        let answer = client.get("api", "/").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        names.push(answer.text());
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Runs `outrigger keyring` against `sidecar`: its exit code, and what it says.
fn keyring(sidecar: &Sidecar, arguments: &[&str]) -> (Option<i32>, String) {
    let admin = sidecar.admin().to_string();
    let done = run(&[&["keyring"], arguments, &["--admin", &admin]].concat());
    let said = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// The marks of the keys that `sidecar` has, that which it seals with first.
async fn marks(sidecar: &Sidecar) -> Vec<String> {
    let keys = sidecar.document("/v1/keyring").await;
    let mut items = keys["items"].as_array().cloned().unwrap_or_default();
    items.sort_by_key(|key| key["primary"] != true);
    items.iter().filter_map(|key| key["mark"].as_str().map(str::to_owned)).collect()
}

/// Two instances of `api`, called `one` and `two`, and `web-1`, which calls them.
struct Trio {
    one: Sidecar,
    two: Sidecar,
    web: Sidecar,
    apps: [App; 2],
}

impl Trio {
    async fn start(over: Value) -> Self {
        let apps = [App::saying("one").await, App::saying("two").await];
        let one = Sidecar::start(with(api("one", &[], &apps[0]), over.clone())).await;
        let seed = gossip(&one).await;
        let two = Sidecar::start(with(api("two", &[&seed], &apps[1]), over)).await;
        let web = Sidecar::start(web(&[&seed])).await;
        until_endpoints(&web, 2).await;
        Self { one, two, web, apps }
    }
}

#[tokio::test]
async fn sidecars_find_each_other_and_serve_without_a_list_of_endpoints() {
    let trio = Trio::start(json!({})).await;
    assert_eq!(answerers(&trio.web).await, ["one", "two"]);
    for (sidecar, others) in
        [(&trio.one, ["two", "web-1"]), (&trio.two, ["one", "web-1"]), (&trio.web, ["one", "two"])]
    {
        for other in others {
            until_in_state(sidecar, other, "alive").await;
        }
    }
    let said = run(&["members", "--admin", &trio.web.admin().to_string()]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(["one", "two", "web-1"].iter().all(|node| said.contains(node)), "{said}");
}

#[tokio::test]
async fn with_mutual_tls_they_prove_who_they_are_and_serve() {
    let authority = Authority::new("mesh");
    let folders = ["api", "web"].map(|service| Folder::of(&authority, service));
    let app = App::saying("hello").await;
    let instance = Sidecar::start(secured(api("one", &[], &app), &folders[0])).await;
    let seed = gossip(&instance).await;
    let caller = Sidecar::start(secured(web(&[&seed]), &folders[1])).await;
    let seen = until_routable(&caller, "one").await;
    assert_eq!((&seen["state"], &seen["confirmed"]), (&json!("alive"), &json!(true)));
    until_endpoints(&caller, 1).await;
    assert_eq!(answerers(&caller).await, ["hello"]);
    assert_eq!(app.requests()[0].field("x-outrigger-source"), Some("web"));
}

/// What an instance of `service` says about itself, of which `app` is all that is true.
fn facts(service: &str, app: &App) -> Facts {
    Facts {
        node: "liar".into(),
        service: service.into(),
        endpoint: Some(app.address),
        speaks: Speaks::Http1,
        secured: true,
        weight: 1,
        tags: Tags::default(),
        health: Health::Unchecked,
        store: None,
        is_draining: false,
        load: 0,
        version: "1".into(),
        keys: Vec::new(),
    }
}

/// A member of `batch` that can say anything: no sidecar says what its certificate does not.
async fn member_of_batch(join: &str, authority: &Authority) -> Membership {
    let shown = authority.service("batch");
    let files = PemFiles {
        chain: shown.chain.into_bytes(),
        key: shown.key.into_bytes(),
        roots: authority.root().into_bytes(),
        lists: Vec::new(),
    };
    let domain = TrustDomain::default();
    let own = domain.service("batch").expect("a name");
    let material = Material::read(&files, &domain, &own, SystemTime::now()).expect("they are good");
    let mesh = MeshTls::new(material, TlsVersion::V13).expect("TLS");
    let params = Params {
        node: "liar".into(),
        cluster: "default".into(),
        bind: ([127, 0, 0, 1], 0).into(),
        advertise: None,
        advertise_endpoint: None,
        join: vec![Seed::Address(join.parse().expect("an address"))],
        key: GossipKey::parse(KEY).expect("a key"),
        profile: Profile::Local,
        data_dir: None,
        weight: 1,
    };
    let lookup: Lookup = Arc::new(|_| Box::pin(async { Err("there are no names".to_owned()) }));
    let bound = Membership::bind(params, Some(Arc::new(mesh)), &Registry::new(100, 1), lookup).await;
    bound.expect("loopback")
}

#[tokio::test]
async fn whose_certificate_is_of_another_service_than_it_says_is_sent_no_request() {
    let authority = Authority::new("mesh");
    let folders = ["api", "web"].map(|service| Folder::of(&authority, service));
    let (true_app, false_app) = (App::saying("true").await, App::saying("false").await);
    let instance = Sidecar::start(secured(api("one", &[], &true_app), &folders[0])).await;
    let seed = gossip(&instance).await;
    let caller = Sidecar::start(secured(web(&[&seed]), &folders[1])).await;
    until_endpoints(&caller, 1).await;
    // It gets in as what it is, and then says to stand beside an instance of `api`.
    let liar = member_of_batch(&seed, &authority).await;
    let (says, said) = watch::channel(facts("batch", &false_app));
    let drain = Drain::default();
    let running = tokio::spawn(liar.run(said, drain.watch()));
    until_routable(&caller, "liar").await;
    says.send_replace(facts("api", &false_app));
    let seen = until(&caller, "liar", |one| one["service"] == "api").await;
    assert_eq!((&seen["routable"], &seen["confirmed"]), (&json!("no"), &json!(false)));
    let message = "a member has not proved who it is; it is sent no requests until it does";
    wait_until("the caller finds that it lies", || !lines(&caller, message).is_empty()).await;
    let told = &lines(&caller, message)[0];
    let reason = "its certificate is of the service `batch`, and it says to be of `api`";
    assert_eq!((&told["node"], &told["reason"]), (&json!("liar"), &json!(reason)));
    assert_eq!(answerers(&caller).await, ["true"]);
    assert_eq!(false_app.accepted(), 0);
    drain.advance(Phase::Stopped);
    within("it leaves", running).await.expect("it does not panic");
    until_in_state(&caller, "liar", "left").await;
}

#[tokio::test]
async fn who_has_another_key_or_is_of_another_mesh_never_gets_in() {
    let app = App::saying("hello").await;
    let instance = Sidecar::start(api("one", &[], &app)).await;
    let seed = gossip(&instance).await;
    let others = [
        ("key", "wrong-key", json!({ "mesh": { "gossip_key": "f".repeat(64) } })),
        ("seal", "wrong-mesh", json!({ "mesh": { "cluster": "elsewhere" } })),
    ];
    for (reason, node, over) in others {
        let stranger = Sidecar::start(with(mesh(node, &[&seed]), over)).await;
        stranger.until_metric(JOINS, &["result=\"refused\""], 1.0).await;
        instance.until_metric(DROPPED, &[&format!("reason=\"{reason}\"")], 1.0).await;
        let told = lines(&stranger, "cannot join the mesh yet; it is tried again");
        let told = told[0]["reason"].as_str().expect("a reason").to_owned();
        assert!(told.contains("mesh.gossip_key") && told.contains("mesh.cluster"), "{told}");
        assert!(known(&stranger, "one").await.is_empty() && known(&instance, node).await.is_empty());
    }
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_and_both_say_so() {
    let (first_app, second_app) = (App::saying("first").await, App::saying("second").await);
    let first = Sidecar::start(api("one", &[], &first_app)).await;
    let seed = gossip(&first).await;
    let caller = Sidecar::start(web(&[&seed])).await;
    until_endpoints(&caller, 1).await;
    let second = Sidecar::start(api("one", &[&seed], &second_app)).await;
    second.until_metric(JOINS, &["result=\"conflict\""], 1.0).await;
    let told = lines(&second, "the name of this node is taken");
    let error = told[0]["error"].as_str().expect("a reason");
    assert!(error.contains(&seed) && error.contains("mesh.node"), "{error}");
    let told = lines(&first, "a member is refused: its name is taken");
    assert_eq!((&told[0]["node"], &told[0]["level"]), (&json!("one"), &json!("WARN")));
    assert_eq!(known(&caller, "one").await.len(), 1);
    assert_eq!(answerers(&caller).await, ["first"]);
    assert_eq!(second_app.accepted(), 0);
}

#[tokio::test]
async fn who_drains_is_sent_nothing_new_and_has_left_in_the_end() {
    let mut trio = Trio::start(json!({ "shutdown": { "grace": "60s" } })).await;
    trio.one.signal("TERM");
    let seen = until(&trio.web, "one", |one| one["draining"] == true).await;
    assert_eq!((&seen["state"], &seen["routable"]), (&json!("alive"), &json!("no")));
    until_endpoints(&trio.web, 1).await;
    let before = trio.apps[0].requests().len();
    assert_eq!(answerers(&trio.web).await, ["two"]);
    assert_eq!(trio.apps[0].requests().len(), before);
    // A second time cuts the wait short.
    trio.one.signal("TERM");
    assert_eq!(trio.one.ended().await.code(), Some(0));
    assert_eq!(lines(&trio.one, "tasks did not end in time and are aborted").len(), 0);
    until_in_state(&trio.web, "one", "left").await;
    until_in_state(&trio.two, "one", "left").await;
    assert_eq!(answerers(&trio.web).await, ["two"]);
}

#[tokio::test]
async fn a_member_that_is_killed_costs_no_request_and_is_dead_soon() {
    let trio = Trio::start(json!({})).await;
    assert_eq!(answerers(&trio.web).await, ["one", "two"]);
    trio.one.signal("KILL");
    eventually("it is dead", async || {
        assert_eq!(answerers(&trio.web).await.last().map(String::as_str), Some("two"));
        let seen = known(&trio.web, "one").await;
        seen.iter().any(|one| one["state"] == "dead").then_some(())
    })
    .await;
    until_endpoints(&trio.web, 1).await;
    let accused = lines(&trio.web, "member dead: it did not speak up in time");
    let heard = lines(&trio.web, "member dead: so another says");
    assert!(accused.iter().chain(&heard).any(|line| line["node"] == "one"));
}

#[tokio::test]
async fn a_seed_that_hangs_does_not_keep_a_newcomer_waiting() {
    let silent = App::script(|mut connection| async move { connection.until_closed().await }).await;
    let app = App::saying("hello").await;
    let instance = Sidecar::start(api("one", &[], &app)).await;
    let seed = gossip(&instance).await;
    let caller = Sidecar::start(web(&[&silent.endpoint(), &seed])).await;
    until_endpoints(&caller, 1).await;
    assert_eq!(answerers(&caller).await, ["hello"]);
    assert_eq!(silent.open(), 1, "it is still waited for");
}

#[tokio::test]
async fn a_node_that_keeps_its_data_is_the_same_one_in_a_later_life() {
    let directory = Directory::new();
    let data = json!({ "mesh": { "data_dir": directory.0.join("data") } });
    let app = App::saying("hello").await;
    let caller = Sidecar::start(web(&[])).await;
    let seed = gossip(&caller).await;
    let mut instance = Sidecar::start(with(api("one", &[&seed], &app), data.clone())).await;
    let before = until_routable(&caller, "one").await;
    instance.signal("KILL");
    instance.ended().await;
    let again = Sidecar::start(with(api("one", &[&seed], &app), data)).await;
    let later = |one: &Value| one["generation"].as_u64() > before["generation"].as_u64();
    let after = until(&caller, "one", |one| later(one) && one["routable"] == "yes").await;
    assert_eq!(after["id"], before["id"]);
    assert_eq!(known(&caller, "one").await.len(), 1);
    let inbound = again.inbound().to_string();
    eventually("it is the endpoint", async || caller.endpoint_state(&inbound).await).await;
    until_endpoints(&caller, 1).await;
    assert_eq!(answerers(&caller).await, ["hello"]);
}

#[tokio::test]
async fn the_key_of_a_live_mesh_is_changed_by_the_command_line() {
    let trio = Trio::start(json!({})).await;
    let old = marks(&trio.web).await;
    assert_eq!(old.len(), 1);
    let made = run(&["keyring", "generate"]);
    let key = trio.web.directory().join("new.key");
    fs::write(&key, &made.stdout).expect("the directory is ours");
    let installed = keyring(&trio.web, &["install", "--file", key.to_str().expect("UTF-8")]);
    assert_eq!(installed.0, Some(0), "{}", installed.1);
    let new = marks(&trio.web).await[1].clone();
    assert!(installed.1.starts_with(&format!("installed {new} at 3 of 3 members\n")), "{}", installed.1);
    // Neither what nobody has nor what is in use.
    assert_eq!(keyring(&trio.web, &["use", "00000000"]).0, Some(5));
    let (code, said) = keyring(&trio.web, &["rm", &old[0]]);
    assert_eq!(code, Some(7));
    assert!(said.contains("is in use"), "{said}");
    for step in ["use", "rm"] {
        let mark = if step == "use" { &new } else { &old[0] };
        eventually(step, async || (keyring(&trio.two, &[step, mark]).0 == Some(0)).then_some(())).await;
    }
    assert_eq!(marks(&trio.two).await, std::slice::from_ref(&new));
    for sidecar in [&trio.one, &trio.two, &trio.web] {
        eventually("the new key alone", async || (marks(sidecar).await == [new.clone()]).then_some(())).await;
        assert_eq!(sidecar.metric("outrigger_gossip_members", &["state=\"alive\""]).await, 3.0);
    }
    assert_eq!(answerers(&trio.web).await, ["one", "two"]);
    eventually("all are seen to seal with it", async || {
        let (code, said) = keyring(&trio.web, &["ls"]);
        (code == Some(0) && said.matches("3 of 3").count() == 2 && !said.contains(&old[0])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_a_mesh_there_is_no_keyring_and_nobody_to_list() {
    let sidecar = Sidecar::start(json!({})).await;
    assert_eq!(keyring(&sidecar, &["ls"]).0, Some(5));
    assert_eq!(run(&["members", "--admin", &sidecar.admin().to_string()]).status.code(), Some(5));
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_used_keeps_it_from_starting_and_it_says_why() {
    let directory = Directory::new();
    let place = directory.0.join("data");
    let config = with(mesh("one", &[]), json!({ "mesh": { "data_dir": place } }));
    let holder = Sidecar::start(config.clone()).await;
    let refused = async |words: &[&str]| {
        let mut sidecar = Sidecar::begin(config.clone());
        assert_eq!(sidecar.ended().await.code(), Some(1));
        let said = sidecar.log();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(said.contains("mesh.data_dir"), "{said}");
    };
    refused(&["in use by another process", &place.to_string_lossy()]).await;
    drop(holder);

    let (node, keys) = (place.join("node"), place.join("keyring"));
    let kept = fs::read_to_string(&node).expect("it was kept");
    fs::write(&node, "who knows").expect("the directory is ours");
    refused(&["is damaged", &node.to_string_lossy()]).await;
    fs::write(&node, kept).expect("the directory is ours");

    fs::write(&keys, format!("{KEY}\n")).expect("the directory is ours");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).expect("the directory is ours");
    refused(&["holds a secret, and others can read or change it", &keys.to_string_lossy()]).await;
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).expect("the directory is ours");
    let _again = Sidecar::start(config.clone()).await;
}

#[tokio::test]
async fn members_are_told_in_json_with_all_that_is_known() {
    let over = json!({ "mesh": { "weight": 3 }, "service": { "tags": { "zone": "a", "version": "v2" } } });
    let app = App::saying("hello").await;
    let instance = Sidecar::start(with(api("one", &[], &app), over)).await;
    let caller = Sidecar::start(web(&[&gossip(&instance).await])).await;
    let seen = until(&caller, "one", |one| one["round_trip_seconds"].is_number()).await;
    let expected = json!({
        "node": "one",
        "service": "api",
        "address": gossip(&instance).await,
        "endpoint": instance.inbound().to_string(),
        "state": "alive",
        "incarnation": 0,
        "confirmed": true,
        "routable": "yes",
        "accusers": [],
        "zone": "a",
        "version": env!("CARGO_PKG_VERSION"),
        "tags": { "version": "v2", "zone": "a" },
        "weight": 3,
        "health": "unchecked",
        "draining": false,
        "load": 0,
    });
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&seen[key], value, "{key}");
    }
    assert!(seen["since_seconds"].is_number() && seen["generation"].is_u64());
    let list = caller.document("/v1/members").await;
    let head = ["apiVersion", "kind", "health_score", "isolated"].map(|key| &list[key]);
    assert_eq!(json!(head), json!(["v1", "MemberList", 0, false]));
    let nodes: Vec<_> = list["items"].as_array().expect("a list").iter().map(|one| &one["node"]).collect();
    assert_eq!(nodes, ["one", "web-1"]);
    let counts = caller.status().await["members"].clone();
    assert_eq!((&counts["alive"], &counts["dead"]), (&json!(2), &json!(0)));
}
