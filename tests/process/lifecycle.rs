//! The life of the process: how it starts or does not, and how it ends without a request lost.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{
    App, Client, Sidecar, eventually, get,
    http2::{self, Answer, Http2},
    ok,
    sidecar::{Directory, api, free_address, run, with},
    wait_until,
};

/// An endpoint that answers when told, and a sidecar before it with this shutdown.
async fn slow(shutdown: serde_json::Value) -> (App, Arc<Semaphore>, Sidecar) {
    let gate = Arc::new(Semaphore::new(0));
    let shared = Arc::clone(&gate);
    let app = App::script(move |mut connection| {
        let gate = Arc::clone(&shared);
        async move {
            while connection.request().await.is_some() {
                gate.acquire().await.expect("it is never closed").forget();
                connection.send(ok("finished")).await;
            }
        }
    })
    .await;
    let config = with(
        api(&[app.endpoint()]),
        json!({ "shutdown": shutdown, "services": { "api": { "protocol": "http1" } } }),
    );
    let sidecar = Sidecar::start(config).await;
    (app, gate, sidecar)
}

async fn until_not_ready(sidecar: &Sidecar) {
    eventually("it is not ready", async || (sidecar.admin_get("/readyz").await.status == 503).then_some(()))
        .await;
}

#[tokio::test]
async fn while_it_is_in_its_grace_it_serves_but_is_not_ready() {
    let app = App::saying("served").await;
    let config = with(api(&[app.endpoint()]), json!({ "shutdown": { "grace": "60s" } }));
    let mut sidecar = Sidecar::start(config).await;
    assert_eq!(sidecar.admin_get("/readyz").await.status, 200);
    sidecar.signal("TERM");
    until_not_ready(&sidecar).await;
    assert_eq!(sidecar.admin_get("/livez").await.status, 200);
    assert_eq!(sidecar.status().await["state"], "draining");
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "served");
    sidecar.signal("TERM");
    assert_eq!(sidecar.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_request_in_progress_is_finished_and_told_that_its_connection_ends() {
    let (app, gate, mut sidecar) = slow(json!({ "grace": "0s", "drain_timeout": "60s" })).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send("GET /last HTTP/1.1\r\nhost: h\r\n\r\n").await;
    wait_until("the request is there", || app.requests().len() == 1).await;
    let address = sidecar.outbound();
    sidecar.signal("TERM");
    eventually("the listener is closed", async || {
        tokio::net::TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;
    assert!(sidecar.is_running());
    gate.add_permits(1);
    let answer = client.response().await;
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("finished", Some("close")));
    client.closed().await;
    assert_eq!(sidecar.ended().await.code(), Some(0));
    assert_eq!(sidecar.logged("/last").await["status"], 200, "the last lines were written");
}

#[tokio::test]
async fn an_http2_client_is_told_to_leave_and_its_streams_finish() {
    let (app, gate, mut sidecar) = slow(json!({ "grace": "0s", "drain_timeout": "60s" })).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let response = client.begin(http2::get("h", "/"), None).await;
    wait_until("the request is there", || app.requests().len() == 1).await;
    sidecar.signal("TERM");
    until_not_ready(&sidecar).await;
    gate.add_permits(1);
    assert_eq!(Answer::read(response).await.expect("an answer").data, b"finished");
    assert_eq!(sidecar.ended().await.code(), Some(0));
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_end() {
    let app = App::saying("served").await;
    let config =
        with(api(&[app.endpoint()]), json!({ "shutdown": { "grace": "0s", "drain_timeout": "600s" } }));
    let mut sidecar = Sidecar::start(config).await;
    let mut idle = Client::connect(sidecar.outbound()).await;
    assert_eq!(idle.get("h", "/").await.status, 200);
    let idle_http2 = Http2::connect(sidecar.outbound()).await;
    let mut silent = Client::connect(sidecar.outbound()).await;
    sidecar.until_metric("outrigger_downstream_connections", &["http2"], 1.0).await;
    sidecar.signal("TERM");
    idle.closed().await;
    silent.closed().await;
    assert_eq!(sidecar.ended().await.code(), Some(0));
    drop(idle_http2);
}

#[tokio::test]
async fn what_does_not_finish_is_cut_at_the_drain_deadline() {
    let (app, _gate, mut sidecar) = slow(json!({ "grace": "0s", "drain_timeout": "300ms" })).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    wait_until("the request is there", || app.requests().len() == 1).await;
    sidecar.signal("TERM");
    assert_eq!(sidecar.ended().await.code(), Some(0));
    client.closed().await;
    assert!(sidecar.log().contains("drain deadline"));
    let lines = sidecar.access_log();
    assert_eq!(lines.len(), 1, "what was cut is written down: {lines:?}");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    for signal in ["TERM", "INT"] {
        let (app, _gate, mut sidecar) = slow(json!({ "grace": "0s", "drain_timeout": "600s" })).await;
        let mut client = Client::connect(sidecar.outbound()).await;
        client.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
        wait_until("the request is there", || app.requests().len() == 1).await;
        sidecar.signal("TERM");
        until_not_ready(&sidecar).await;
        sidecar.signal(signal);
        assert_eq!(sidecar.ended().await.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn a_load_that_honours_close_loses_no_request_over_the_end() {
    let app = App::saying("served").await;
    let config =
        with(api(&[app.endpoint()]), json!({ "shutdown": { "grace": "100ms", "drain_timeout": "60s" } }));
    let mut sidecar = Sidecar::start(config).await;
    let address = sidecar.outbound();
    let load: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut served = 0_u32;
                loop {
                    let answer = client.get("h", "/").await;
                    assert_eq!(answer.status, 200, "after {served} requests");
                    served += 1;
                    if answer.field("connection") == Some("close") {
                        return served;
                    }
                }
            })
        })
        .collect();
    sidecar.until_metric("outrigger_http_requests_total", &["status=\"200\""], 100.0).await;
    sidecar.signal("TERM");
    for client in load {
        assert!(client.await.expect("no request failed") > 0);
    }
    assert_eq!(sidecar.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_tunnel_lasts_until_the_drain_deadline() {
    let app = App::script(|mut connection| async move {
        connection.head().await;
        connection
            .send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
            .await;
        loop {
            let echoed = connection.wire.exactly(4).await;
            if echoed.is_empty() {
                return;
            }
            connection.send(echoed).await;
        }
    })
    .await;
    let config =
        with(api(&[app.endpoint()]), json!({ "shutdown": { "grace": "0s", "drain_timeout": "1s" } }));
    let mut sidecar = Sidecar::start(config).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send("GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
    assert_eq!(client.response().await.status, 101);
    sidecar.signal("TERM");
    until_not_ready(&sidecar).await;
    client.send("ping").await;
    assert_eq!(client.bytes(4).await, b"ping");
    client.closed().await;
    assert_eq!(sidecar.ended().await.code(), Some(0));
}

#[test]
fn an_invalid_configuration_ends_it_with_3_and_says_where_and_what() {
    let directory = Directory::new();
    let file = directory.0.join("broken.yaml");
    std::fs::write(&file, "version: 1\nservise: {}\n").expect("the directory is ours");
    let ended = run(&["run", "--config", file.to_str().expect("UTF-8")]);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(3), "{said}");
    assert!(said.contains("broken.yaml:2:1") && said.contains("service"), "{said}");
}

#[test]
fn a_file_that_cannot_be_read_ends_it_with_1_and_is_named() {
    let ended = run(&["run", "--config", "/nowhere/outrigger.yaml"]);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("/nowhere/outrigger.yaml"), "{said}");
}

#[test]
fn wrong_usage_ends_it_with_2() {
    for args in [&["run", "--no-such-flag"][..], &["fly"], &[], &["run", "--workers", "0"]] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn an_address_in_use_ends_it_with_1_and_is_named() {
    let taken = std::net::TcpListener::bind(free_address()).expect("it was free");
    let address = taken.local_addr().expect("a bound socket has an address").to_string();
    let directory = Directory::new();
    let file = directory.0.join("outrigger.yaml");
    for place in ["inbound", "outbound", "admin"] {
        let mut config = json!({
            "version": 1,
            "service": { "name": "tested", "address": "127.0.0.1:9" },
            "listeners": { "inbound": { "address": "127.0.0.1:0" }, "outbound": { "address": "127.0.0.1:0" } },
            "admin": { "address": free_address().to_string(), "metrics_address": "none" },
            "mtls": { "mode": "disabled" },
        });
        match place {
            "admin" => config["admin"]["address"] = address.clone().into(),
            side => config["listeners"][side]["address"] = address.clone().into(),
        }
        std::fs::write(&file, config.to_string()).expect("the directory is ours");
        let ended = run(&["run", "--config", file.to_str().expect("UTF-8")]);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{place}: {said}");
        assert!(said.contains(&address), "{place}: {said}");
    }
}

#[tokio::test]
async fn status_asks_a_running_sidecar_and_says_when_there_is_none() {
    let sidecar = Sidecar::start(json!({})).await;
    let admin = sidecar.admin().to_string();
    let told = run(&["status", "--admin", &admin, "--fail"]);
    assert_eq!(told.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&told.stdout).contains("ready"));
    drop(sidecar);
    assert_eq!(run(&["status", "--admin", &admin]).status.code(), Some(4));
}
