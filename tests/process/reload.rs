//! A new configuration comes into force whole or not at all, and nobody who is being served notices.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{
    App, Client, Sidecar, eventually, get, ok,
    sidecar::{api, with},
    wait_until,
};

/// A change that sends all requests to `app`.
fn to(app: &App) -> Value {
    json!({ "services": { "api": { "endpoints": [app.endpoint()] } } })
}

async fn until_answered_by(sidecar: &Sidecar, name: &str) {
    eventually(&format!("{name} answers"), async || {
        (get(sidecar.outbound(), "h", "/").await.text() == name).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_changed_file_comes_into_force_by_itself() {
    let (old, new) = (App::saying("old").await, App::saying("new").await);
    let watched = with(api(&[old.endpoint()]), json!({ "reload": { "watch": true, "interval": "100ms" } }));
    let mut sidecar = Sidecar::start(watched).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "old");
    sidecar.edit(to(&new));
    until_answered_by(&sidecar, "new").await;
    sidecar
        .until_metric("outrigger_config_reloads_total", &["trigger=\"file\"", "result=\"success\""], 1.0)
        .await;
}

#[tokio::test]
async fn sighup_reloads() {
    let (old, new) = (App::saying("old").await, App::saying("new").await);
    let mut sidecar = Sidecar::start(api(&[old.endpoint()])).await;
    sidecar.edit(to(&new));
    sidecar.signal("HUP");
    until_answered_by(&sidecar, "new").await;
    assert_eq!(sidecar.status().await["config"]["last_reload"]["trigger"], "signal");
}

#[tokio::test]
async fn the_admin_api_reloads_and_tells_what_changed() {
    let (old, new) = (App::saying("old").await, App::saying("new").await);
    let mut sidecar = Sidecar::start(api(&[old.endpoint()])).await;
    let before = sidecar.status().await["config"]["hash"].clone();
    sidecar.edit(to(&new));

    let rehearsed = sidecar.ask("POST", "/v1/reload?dry_run", "").await.expect("an answer");
    assert_eq!(rehearsed.status, 200);
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "old", "a rehearsal changes nothing");

    let (status, report) = sidecar.reload().await;
    assert_eq!((status, &report["applied"]), (200, &json!(true)), "{report}");
    assert!(report["changed"].to_string().contains("services"), "{report}");
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "new");
    assert_ne!(sidecar.status().await["config"]["hash"], before);
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_reported_everywhere() {
    let app = App::saying("served").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let before = sidecar.status().await["config"]["hash"].clone();
    for (broken, complaint) in [
        ("version: 1\nroutez: []\n", "routez"),
        ("version: [1\n", "outrigger.yaml"),
        ("", "empty"),
        ("\u{0}\u{1}", ""),
    ] {
        sidecar.write_config(broken);
        let (status, problem) = sidecar.reload().await;
        assert_eq!(status, 422, "{broken:?}");
        assert!(problem.to_string().contains(complaint), "{broken:?}: {problem}");
        let config = sidecar.status().await["config"].clone();
        assert_eq!(config["hash"], before);
        assert_eq!(config["last_reload"]["successful"], false);
        assert!(config["last_reload"]["error"].as_str().is_some_and(|error| error.contains(complaint)));
        assert_eq!(sidecar.metric("outrigger_config_last_reload_successful", &[]).await, 0.0);
        assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "served");
    }
    assert!(sidecar.log().contains("reload rejected"));
}

#[tokio::test]
async fn a_file_that_is_gone_changes_nothing_and_one_that_is_mended_is_taken_up() {
    let (old, new) = (App::saying("old").await, App::saying("new").await);
    let mut sidecar = Sidecar::start(api(&[old.endpoint()])).await;
    std::fs::remove_file(sidecar.directory().join("outrigger.yaml")).expect("the directory is ours");
    let (status, _) = sidecar.reload().await;
    assert_eq!(status, 422);
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "old");
    sidecar.edit(to(&new));
    assert_eq!(sidecar.reload().await.0, 200);
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "new");
    assert_eq!(sidecar.metric("outrigger_config_last_reload_successful", &[]).await, 1.0);
}

#[tokio::test]
async fn keys_that_need_a_restart_are_named_and_the_rest_is_applied() {
    let (old, new) = (App::saying("old").await, App::saying("new").await);
    let mut sidecar = Sidecar::start(api(&[old.endpoint()])).await;
    sidecar.edit(with(to(&new), json!({ "workers": 2, "service": { "name": "renamed" } })));
    let (status, report) = sidecar.reload().await;
    assert_eq!(status, 200, "{report}");
    let waiting = report["restart_required"].to_string();
    assert!(waiting.contains("workers") && waiting.contains("service.name"), "{report}");
    let pending = sidecar.status().await["config"]["pending_restart"].to_string();
    assert!(pending.contains("workers") && pending.contains("service.name"), "{pending}");
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "new");
    assert_eq!(sidecar.status().await["service"], "tested");
}

#[tokio::test]
async fn connections_to_endpoints_that_stay_survive() {
    let (stays, comes) = (App::saying("stays").await, App::saying("comes").await);
    let mut sidecar = Sidecar::start(api(&[stays.endpoint()])).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "stays");
    sidecar.edit(json!({ "services": { "api": { "endpoints": [stays.endpoint(), comes.endpoint()] } } }));
    assert_eq!(sidecar.reload().await.0, 200);
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..20 {
        assert_eq!(client.get("h", "/").await.status, 200);
    }
    assert_eq!((stays.accepted(), comes.accepted()), (1, 1));

    sidecar.edit(to(&comes));
    assert_eq!(sidecar.reload().await.0, 200);
    wait_until("connections to the endpoint that left are closed", || stays.open() == 0).await;
}

#[tokio::test]
async fn health_survives_a_reload() {
    let app = App::answering(|_| b"HTTP/1.1 500 Sick\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let check =
        json!({ "path": "/healthz", "interval": "100ms", "timeout": "90ms", "unhealthy_threshold": 1 });
    let config = with(
        api(&[app.endpoint()]),
        json!({ "services": { "api": { "health_check": check, "panic_threshold": 0 } } }),
    );
    let mut sidecar = Sidecar::start(config).await;
    let address = app.endpoint();
    eventually("it is out", async || {
        (sidecar.endpoint_state(&address).await.as_deref() == Some("unhealthy")).then_some(())
    })
    .await;
    sidecar.edit(json!({ "routes": [{ "name": "renamed", "service": "api" }] }));
    assert_eq!(sidecar.reload().await.0, 200);
    assert_eq!(sidecar.endpoint_state(&address).await.as_deref(), Some("unhealthy"));
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 503);
}

#[tokio::test]
async fn requests_in_flight_finish_where_they_began() {
    let gate = Arc::new(Semaphore::new(0));
    let shared = Arc::clone(&gate);
    let old = App::script(move |mut connection| {
        let gate = Arc::clone(&shared);
        async move {
            connection.request().await;
            gate.acquire().await.expect("it is never closed").forget();
            connection.send(ok("old")).await;
        }
    })
    .await;
    let new = App::saying("new").await;
    let mut sidecar = Sidecar::start(api(&[old.endpoint()])).await;
    let mut waiting = Client::connect(sidecar.outbound()).await;
    waiting.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    wait_until("the request is there", || old.requests().len() == 1).await;
    sidecar.edit(with(to(&new), json!({ "routes": [{ "name": "other", "service": "api" }] })));
    assert_eq!(sidecar.reload().await.0, 200);
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "new");
    gate.add_permits(1);
    assert_eq!(waiting.response().await.text(), "old");
    assert_eq!(waiting.get("h", "/").await.text(), "new", "the client's connection was kept");
}

#[tokio::test]
async fn twenty_reloads_under_load_cost_no_request() {
    let apps = [App::saying("0").await, App::saying("1").await];
    let mut sidecar = Sidecar::start(api(&[apps[0].endpoint()])).await;
    let address = sidecar.outbound();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut served = 0_u32;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(client.get("h", "/").await.status, 200);
                    served += 1;
                }
                served
            })
        })
        .collect();
    for round in 0..20 {
        let target = &apps[(round + 1) % 2];
        sidecar.edit(to(target));
        assert_eq!(sidecar.reload().await.0, 200);
        until_answered_by(&sidecar, ["1", "0"][round % 2]).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for client in load {
        assert!(client.await.expect("no request failed") > 0);
    }
}

#[tokio::test]
async fn new_limits_hold_for_connections_accepted_from_then_on() {
    let app = App::saying("served").await;
    let mut sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    sidecar.edit(json!({ "listeners": { "idle_timeout": "200ms" } }));
    assert_eq!(sidecar.reload().await.0, 200);
    let mut client = Client::connect(sidecar.outbound()).await;
    assert_eq!(client.get("h", "/").await.status, 200);
    client.closed().await;
}

#[tokio::test]
async fn a_storm_of_signals_ends_in_the_last_configuration() {
    let (old, new) = (App::saying("old").await, App::saying("new").await);
    let mut sidecar = Sidecar::start(api(&[old.endpoint()])).await;
    for round in 0..30 {
        sidecar.edit(to([&old, &new][round % 2]));
        sidecar.signal("HUP");
    }
    until_answered_by(&sidecar, "new").await;
    assert_eq!(sidecar.status().await["config"]["last_reload"]["successful"], true);
}

#[tokio::test]
async fn a_service_that_is_to_be_spoken_to_by_tls_gets_no_request_over_an_older_connection() {
    let app = App::saying("in the clear").await;
    let mut sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    assert_eq!(get(sidecar.outbound(), "h", "/before").await.status, 200);
    let made = rcgen::generate_simple_self_signed(["api.example".to_owned()]).expect("a certificate");
    let ca = sidecar.directory().join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).expect("the directory is ours");
    let tls = json!({ "mode": "simple", "server_name": "api.example", "ca_file": ca });
    sidecar.edit(json!({ "services": { "api": { "tls": tls } } }));
    assert_eq!(sidecar.reload().await.0, 200);
    // The application waits for a request and never answers a handshake; the pooled connection would have had an answer.
    assert_eq!(get(sidecar.outbound(), "h", "/after").await.status, 504);
    assert!(app.requests().iter().all(|request| request.target() != "/after"));
}

#[tokio::test]
async fn a_mesh_is_not_added_by_a_reload() {
    let app = App::saying("old").await;
    let mut sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mesh =
        json!({ "node": "a", "bind": "127.0.0.1:0", "gossip_key": "0f".repeat(32), "data_dir": "none" });
    sidecar.edit(json!({ "mesh": mesh }));
    let (status, report) = sidecar.reload().await;
    assert_eq!((status, &report["detail"]), (409, &json!("`mesh` is added or removed with a restart only")));
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "old");
}
