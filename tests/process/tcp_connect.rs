//! CONNECT, where a route leads it to a TCP service, and where none does.

use serde_json::{Value, json};

use crate::{
    support::{App, Client, Sidecar, get, ok, sidecar},
    tcp::echo,
};

const CONNECT: &str = "CONNECT db.internal:5432 HTTP/1.1\r\nhost: db.internal:5432\r\n\r\n";

/// `db.internal` is a TCP service by CONNECT, everything else an HTTP service.
pub(crate) fn tunnelling(database: &App, web: &App) -> Value {
    json!({
        "routes": [
            { "name": "tunnel", "match": { "hosts": ["db.internal"], "methods": ["CONNECT"] }, "service": "db" },
            { "name": "web", "service": "web" },
        ],
        "services": {
            "db": { "protocol": "tcp", "endpoints": [database.endpoint()] },
            "web": { "endpoints": [web.endpoint()] },
        },
    })
}

pub(crate) async fn web() -> App {
    App::answering(|_| ok("web")).await
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_until_both_sides_are_done() {
    let (database, web) = (echo().await, web().await);
    let sidecar = Sidecar::start(tunnelling(&database, &web)).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(CONNECT).await;
    let head = client.head().await.expect("an answer");
    assert_eq!(head.start, "HTTP/1.1 200 OK");
    for forbidden in ["content-length", "transfer-encoding", "connection"] {
        assert!(head.field(forbidden).is_none(), "{head:?}");
    }
    client.send("GET / HTTP/1.1\r\n\r\n is only bytes here").await;
    assert_eq!(client.bytes(37).await, b"GET / HTTP/1.1\r\n\r\n is only bytes here");
    client.finish().await;
    client.closed().await;
    let line = sidecar.logged("").await;
    assert_eq!((&line["method"], &line["status"]), (&json!("CONNECT"), &json!(200)));
    assert_eq!((&line["route"], &line["service"]), (&json!("tunnel"), &json!("db")));
    assert_eq!((&line["endpoint"], &line["bytes_out"]), (&json!(database.endpoint()), &json!(37)));
}

#[tokio::test]
async fn without_a_route_of_its_own_connect_is_405_and_what_follows_is_no_request() {
    let (database, web) = (echo().await, web().await);
    let sidecar = Sidecar::start(tunnelling(&database, &web)).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: web\r\n\r\n";
    for to in [sidecar.outbound(), sidecar.inbound()] {
        let mut client = Client::connect(to).await;
        client.send(format!("CONNECT web:80 HTTP/1.1\r\nhost: web:80\r\n\r\n{smuggled}")).await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.field("connection")), (405, Some("close")));
        assert!(client.rest().await.is_empty());
    }
    assert_eq!(web.requests().len() + database.accepted(), 0);
    assert_eq!(get(sidecar.outbound(), "web", "/").await.text(), "web");
}

#[tokio::test]
async fn bytes_before_the_answer_are_refused_with_the_tunnel() {
    let (database, web) = (echo().await, web().await);
    let sidecar = Sidecar::start(tunnelling(&database, &web)).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(format!("{CONNECT}GET /smuggled HTTP/1.1\r\nhost: web\r\n\r\n")).await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.field("connection")), (400, Some("close")));
    assert!(client.rest().await.is_empty());
    assert!(web.requests().is_empty());
    let reason = ["reason=\"early_data\""];
    assert_eq!(sidecar.metric("outrigger_http_rejected_total", &reason).await, 1.0);
}

#[tokio::test]
async fn a_service_that_is_down_is_an_answer_and_not_a_tunnel() {
    let (database, web) = (echo().await, web().await);
    let mut config = tunnelling(&database, &web);
    config["services"]["db"]["endpoints"] = json!([sidecar::free_address().to_string()]);
    let sidecar = Sidecar::start(config).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(CONNECT).await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.flag()), (502, "upstream_connect"));
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn requests_cannot_be_routed_to_a_service_that_takes_bytes() {
    let (database, web) = (echo().await, web().await);
    let sidecar = Sidecar::start(tunnelling(&database, &web)).await;
    assert_eq!(get(sidecar.outbound(), "db.internal", "/").await.text(), "web");
    let mut config = tunnelling(&database, &web);
    config["routes"][0]["match"]["methods"] = json!(["CONNECT", "GET"]);
    let directory = sidecar::Directory::new();
    let path = directory.0.join("wrong.yaml");
    std::fs::write(&path, sidecar_document(config)).expect("the directory is ours");
    let output = sidecar::run(&["check", &path.display().to_string()]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("OR230"), "{output:?}");
}

/// A whole configuration with `config` in it.
fn sidecar_document(config: Value) -> String {
    let base = json!({
        "version": 1,
        "service": { "name": "web", "address": "127.0.0.1:9" },
        "mtls": { "mode": "disabled" },
    });
    sidecar::with(base, config).to_string()
}
