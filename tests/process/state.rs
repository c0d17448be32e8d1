//! What all sidecars share, looked back at and put back from the command line, through a node that has the state and through
//! one that has not. Rules are in the tests of src/admin/state/.

use serde_json::{Value, json};

use crate::support::{
    App, Client, Sidecar, eventually,
    sidecar::{Directory, free_address, run, with},
};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A node that founds a store by itself, and one without a replica that asks it.
struct Pair {
    server: Sidecar,
    client: Sidecar,
    folder: Directory,
}

impl Pair {
    async fn start(over: Value) -> Self {
        let (folder, gossip) = (Directory::new(), free_address().to_string());
        let mesh = |name: &str, bind: &str, join: &[&str], data: String| {
            let own = json!({ "node": name, "bind": bind, "join": join, "data_dir": data });
            with(json!({ "gossip_key": KEY, "profile": "local" }), own)
        };
        let below = |name: &str| folder.0.join(name).display().to_string();
        let store = json!({
            "mode": "server", "bind": "127.0.0.1:0", "bootstrap_expect": 1, "data_dir": below("store"),
        });
        let server = json!({ "mesh": mesh("server", &gossip, &[], below("mesh")), "store": store });
        let client = json!({
            "mesh": mesh("client", "127.0.0.1:0", &[&gossip], "none".into()),
            "store": { "bind": "127.0.0.1:0" },
        });
        let server = Sidecar::start(with(server, over.clone())).await;
        let client = Sidecar::start(with(client, over)).await;
        let pair = Self { server, client, folder };
        for node in [&pair.server, &pair.client] {
            eventually("a store", async || {
                (outrigger(node, &["kv", "get", "nothing"]).0 == Some(5)).then_some(())
            })
            .await;
        }
        pair
    }

    /// Writes a route through the command line; its revision.
    fn route(&self, name: &str, service: &str) -> u64 {
        let file = self.folder.0.join("route.yaml");
        std::fs::write(&file, format!("name: {name}\nservice: {service}\n")).expect("it is ours");
        let file = file.display().to_string();
        let (code, told) = outrigger(&self.client, &["routes", "put", "-f", &file, "-o", "json"]);
        assert_eq!(code, Some(0), "{told}");
        read(&told)["revision"].as_u64().expect("a revision")
    }
}

/// Runs `outrigger` against `sidecar`: its exit code, and what it prints.
fn outrigger(sidecar: &Sidecar, arguments: &[&str]) -> (Option<i32>, String) {
    let admin = sidecar.admin().to_string();
    let done = run(&[arguments, &["--admin", &admin, "--timeout", "10s"]].concat());
    let text = [&done.stdout[..], &done.stderr].map(String::from_utf8_lossy).concat();
    (done.status.code(), text)
}

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[tokio::test]
async fn how_a_service_is_called_and_how_many_call_is_shared() {
    let app = App::saying("v1").await;
    let pair = Pair::start(json!({
        "service": { "address": app.endpoint() },
        "services": { "v1": { "endpoints": [app.endpoint()] } },
        "routes": [{ "name": "shop", "service": "v1" }],
    }))
    .await;
    let put = |kind: &str, name: &str, text: &str| {
        let file = pair.folder.0.join("entry.yaml");
        std::fs::write(&file, text).expect("it is ours");
        outrigger(&pair.client, &[kind, "put", name, "-f", &file.display().to_string()])
    };
    let cookie = async |node: &Sidecar| {
        let answer = Client::connect(node.outbound()).await.get("shop", "/").await;
        answer.field("set-cookie").is_some_and(|field| field.starts_with("shared="))
    };

    assert!(!cookie(&pair.server).await);
    let (code, told) = put("policies", "v1", "session_affinity: { cookie: shared }\n");
    assert_eq!(code, Some(0), "{told}");
    for node in [&pair.server, &pair.client] {
        eventually("the policy is in force", async || cookie(node).await.then_some(())).await;
        let (_, list) = outrigger(node, &["policies", "ls"]);
        assert!(list.contains("session_affinity") && list.contains("store@"), "{list}");
    }
    // What does not fit is not written.
    assert_eq!(put("policies", "v1", "endpoints: [127.0.0.1:1]\n").0, Some(3));
    assert_eq!(put("policies", "v1", "session_afinity: { cookie: shared }\n").0, Some(3));
    assert_eq!(put("ratelimits", "all", "rate: often\n").0, Some(3));

    let inbound = async || Client::connect(pair.server.inbound()).await.get("web", "/").await.status;
    assert_eq!(inbound().await, 200);
    assert_eq!(put("ratelimits", "all", "rate: 1/h\n").0, Some(0));
    eventually("the limit is in force", async || (inbound().await == 429).then_some(())).await;
    let (_, list) = outrigger(&pair.server, &["ratelimits", "ls"]);
    assert!(list.contains("all") && list.contains("1/h"), "{list}");
    assert_eq!(outrigger(&pair.client, &["ratelimits", "rm", "all"]).0, Some(0));
    eventually("the limit is gone", async || (inbound().await == 200).then_some(())).await;

    // One that was written past the check is left out, and the rest is served.
    let written = outrigger(&pair.client, &["kv", "put", "policies/v1", "{ limits: many }"]);
    assert_eq!(written.0, Some(0), "{}", written.1);
    eventually("it is left out", async || {
        let (_, list) = outrigger(&pair.server, &["policies", "ls"]);
        list.contains("left out").then_some(())
    })
    .await;
    assert_eq!(answerer(&pair.server).await, "v1");
    assert!(!cookie(&pair.server).await);
}

#[tokio::test]
async fn a_lease_is_kept_from_the_command_line_and_takes_its_key_along() {
    let pair = Pair::start(json!({})).await;
    let kv = |arguments: &[&str]| outrigger(&pair.client, &[&["kv"], arguments].concat());
    let (code, granted) = kv(&["lease", "grant", "1h"]);
    assert_eq!(code, Some(0), "{granted}");
    let lease = granted.trim();
    assert_eq!(kv(&["put", "leader", "me", "--lease", lease, "--cas", "0"]).0, Some(0));
    let kept = kv(&["lease", "keep-alive", lease, "--once"]);
    assert_eq!(kept, (Some(0), format!("lease {lease} lasts 1h\n")));
    assert_eq!(outrigger(&pair.server, &["kv", "get", "leader"]), (Some(0), "me\n".to_owned()));
    assert_eq!(kv(&["lease", "revoke", lease]), (Some(0), "1 keys removed\n".to_owned()));
    assert_eq!(kv(&["get", "leader"]).0, Some(5));
    assert_eq!(kv(&["lease", "keep-alive", lease]).0, Some(5));
    assert_eq!(kv(&["lease", "revoke", lease]).0, Some(5));
    assert_eq!(kv(&["put", "leader", "me", "--lease", lease]).0, Some(5));
    assert_eq!(kv(&["lease", "grant", "1ms"]).0, Some(1));

    // One that nobody keeps alive ends by itself, and its key with it.
    let (_, granted) = kv(&["lease", "grant", "5s"]);
    assert_eq!(kv(&["put", "leader", "me", "--lease", granted.trim()]).0, Some(0));
    eventually("the lease ends", async || (kv(&["get", "leader"]).0 == Some(5)).then_some(())).await;
}

async fn answerer(sidecar: &Sidecar) -> String {
    Client::connect(sidecar.outbound()).await.get("shop", "/").await.text()
}

async fn until_answered_by(sidecar: &Sidecar, app: &str) {
    eventually("the route is in force", async || (answerer(sidecar).await == app).then_some(())).await;
}

#[tokio::test]
async fn a_route_that_was_a_mistake_is_found_and_put_back() {
    let apps = [App::saying("v1").await, App::saying("v2").await];
    let pair = Pair::start(json!({
        "services": {
            "v1": { "endpoints": [apps[0].endpoint()] },
            "v2": { "endpoints": [apps[1].endpoint()] },
        },
    }))
    .await;
    let good = pair.route("shop", "v1");
    let bad = pair.route("shop", "v2");
    until_answered_by(&pair.server, "v2").await;

    for node in [&pair.server, &pair.client] {
        let (code, state) = outrigger(node, &["state", "at", &good.to_string()]);
        let expected = format!("# revision {good}\nroutes:\n  shop:\n    name: shop\n    service: v1\n");
        assert_eq!((code, state), (Some(0), expected));
        let (_, log) = outrigger(node, &["state", "log", "-o", "json"]);
        let log = read(&log);
        assert_eq!(
            (&log["items"][0]["key"], &log["items"][0]["revision"]),
            (&json!("routes/shop"), &bad.into())
        );
        let (code, diff) = outrigger(node, &["state", "diff", &good.to_string(), &bad.to_string()]);
        assert!(code == Some(0) && diff.contains("changed routes/shop\n"), "{diff}");
        assert!(
            diff.contains("  - service: v1\n  + service: v2\n")
                && diff.contains("by address/127.0.0.1 via node/client\n"),
            "{diff}"
        );
    }
    // By the time at which it was made, and by how long ago that was.
    let (_, log) = outrigger(&pair.client, &["state", "log", "-n", "1", "-o", "json"]);
    let at = read(&log)["items"][0]["at"].as_str().expect("a time").to_owned();
    let (_, state) = outrigger(&pair.client, &["state", "at", &at, "-o", "json"]);
    assert_eq!(read(&state)["revision"], bad);
    assert_eq!(outrigger(&pair.client, &["state", "at", "1h"]).1, "# revision 0\n");

    let revert =
        |more: &[&str]| outrigger(&pair.client, &[&["state", "revert", &good.to_string()], more].concat());
    let (code, told) = revert(&["--dry-run"]);
    assert!(code == Some(0) && told.contains(&format!("seen at revision {bad}")), "{told}");
    assert_eq!(answerer(&pair.server).await, "v2");
    // Somebody was faster than whoever has looked.
    assert_eq!(revert(&["--cas", &good.to_string()]).0, Some(7));
    let (code, told) = revert(&["--only", "routes/shop", "--cas", &bad.to_string()]);
    assert!(code == Some(0) && told.contains(&format!("revision {}", bad + 1)), "{told}");
    until_answered_by(&pair.server, "v1").await;
    until_answered_by(&pair.client, "v1").await;

    assert_eq!(outrigger(&pair.client, &["state", "at", "999"]).0, Some(5));
    assert_eq!(revert(&["--only", "routes/none"]).0, Some(5));
    assert_eq!(outrigger(&pair.client, &["state", "at", "yesterday"]).0, Some(2));
}
