//! Clients and endpoints of HTTP/1.0: what they must not be sent, and what they may leave out.

use serde_json::json;

use crate::support::{
    App, Client, Sidecar,
    client::send,
    get, ok,
    sidecar::{api, with},
    wait_until,
};

const PLAIN: &str = "GET / HTTP/1.0\r\nhost: h\r\n\r\n";
const KEEPING: &str = "GET / HTTP/1.0\r\nhost: h\r\nconnection: Keep-Alive\r\n\r\n";

#[tokio::test]
async fn the_connection_ends_with_the_answer_unless_the_client_asks_otherwise() {
    let app = App::saying("served").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    // What follows a request on such a connection is nobody's.
    client.send(PLAIN.repeat(2)).await;
    let answer = client.response().await;
    assert_eq!((answer.head.start.as_str(), answer.text().as_str()), ("HTTP/1.0 200 OK", "served"));
    assert_ne!(answer.field("connection"), Some("keep-alive"));
    client.closed().await;
    assert_eq!(app.requests().len(), 1);
}

#[tokio::test]
async fn a_client_that_asks_for_it_keeps_its_connection_and_is_told_so() {
    let app = App::saying("served").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..3 {
        client.send(KEEPING).await;
        let answer = client.response().await;
        assert_eq!(answer.head.start, "HTTP/1.0 200 OK");
        assert_eq!((answer.head.all("connection"), answer.text().as_str()), (vec!["keep-alive"], "served"));
    }
    // The endpoint is told nothing of it.
    assert!(app.requests().iter().all(|request| request.field("connection").is_none()));
    client.send(PLAIN).await;
    assert_eq!(client.response().await.text(), "served");
    client.closed().await;
}

#[tokio::test]
async fn an_answer_without_a_length_ends_with_the_connection_and_promises_no_other() {
    let app = App::answering(|_| {
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n"
            .to_vec()
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    for request in [PLAIN, KEEPING] {
        let mut client = Client::connect(sidecar.outbound()).await;
        client.send(request).await;
        let answer = client.response().await;
        assert_eq!(answer.head.start, "HTTP/1.0 200 OK");
        assert_eq!((answer.field("transfer-encoding"), answer.field("trailer")), (None, None));
        assert_eq!((answer.head.all("connection"), answer.text().as_str()), (vec!["close"], "hello"));
    }
}

#[tokio::test]
async fn answers_without_a_body_leave_a_kept_connection_in_step() {
    let app = App::answering(|request| match request.head.start.split(' ').next() {
        Some("HEAD") => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".to_vec(),
        Some("DELETE") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        _ => ok("after"),
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(KEEPING.replace("GET", "HEAD")).await;
    assert_eq!(client.response_to_head().await.field("connection"), Some("keep-alive"));
    client.send(KEEPING.replace("GET", "DELETE")).await;
    assert_eq!(client.response().await.field("connection"), Some("keep-alive"));
    client.send(KEEPING).await;
    assert_eq!(client.response().await.text(), "after");
}

#[tokio::test]
async fn nobody_is_told_to_continue() {
    let app = App::script(|mut connection| async move {
        while connection.request().await.is_some() {
            connection.send("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await;
            connection.send(ok("served")).await;
        }
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let post = "POST / HTTP/1.0\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\nbody";
    let answer = send(sidecar.outbound(), post).await;
    assert!(answer.informational.is_empty(), "{:?}", answer.informational);
    assert_eq!((answer.status, answer.text().as_str()), (200, "served"));
    assert_eq!(
        (app.only_request().body.data.as_slice(), app.only_request().field("expect")),
        (&b"body"[..], None)
    );
}

#[tokio::test]
async fn without_a_host_only_routes_for_any_host_match_and_the_endpoint_is_told_the_service() {
    let app = App::saying("any").await;
    let named = App::saying("named").await;
    let config = |protocol: &str| {
        json!({
            "routes": [
                { "match": { "hosts": ["h"] }, "service": "named" },
                { "match": { "hosts": ["*.mesh"] }, "service": "named" },
                { "service": "api" },
            ],
            "services": {
                "api": { "endpoints": [app.endpoint()], "protocol": protocol },
                "named": { "endpoints": [named.endpoint()] },
            },
        })
    };
    let sidecar = Sidecar::start(config("http1")).await;
    assert_eq!(send(sidecar.outbound(), "GET / HTTP/1.0\r\n\r\n").await.text(), "any");
    assert_eq!(app.only_request().head.all("host"), ["api"]);
    assert_eq!(send(sidecar.outbound(), PLAIN).await.text(), "named");
    // A target that names one is as good as the field.
    assert_eq!(send(sidecar.outbound(), "GET http://h/ HTTP/1.0\r\n\r\n").await.text(), "named");
    assert_eq!(named.requests()[1].head.all("host"), ["h"]);
    // With HTTP/1.1 it may not be missing.
    assert_eq!(send(sidecar.outbound(), "GET / HTTP/1.1\r\n\r\n").await.status, 400);
}

#[tokio::test]
async fn a_request_without_a_host_passes_two_sidecars_in_either_version() {
    let app = App::saying("served").await;
    let local = json!({ "service": { "name": "tested", "address": app.endpoint(), "protocol": "http1" } });
    let far = Sidecar::start(local).await;
    for protocol in ["http1", "http2"] {
        let near = Sidecar::start(with(
            api(&[far.inbound().to_string()]),
            json!({ "services": { "api": { "protocol": protocol } } }),
        ))
        .await;
        let answer = send(near.outbound(), "GET / HTTP/1.0\r\n\r\n").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "served"), "{protocol}");
    }
    assert!(app.requests().iter().all(|request| request.head.all("host") == ["api"]));
}

#[tokio::test]
async fn chunks_are_refused_and_nothing_after_them_is_read() {
    let app = App::saying("served").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    for connection in ["keep-alive", "close"] {
        let mut client = Client::connect(sidecar.outbound()).await;
        let chunked = "transfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        client
            .send(format!("POST / HTTP/1.0\r\nhost: h\r\nconnection: {connection}\r\n{chunked}{PLAIN}"))
            .await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.field("connection")), (400, Some("close")));
        client.closed().await;
    }
    let reason = ["reason=\"transfer_encoding\""];
    assert_eq!(sidecar.metric("outrigger_http_rejected_total", &reason).await, 2.0);
    assert!(app.requests().is_empty());
}

#[tokio::test]
async fn a_body_without_a_length_is_no_body() {
    let app = App::saying("served").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(format!("POST / HTTP/1.0\r\nhost: h\r\n\r\n{PLAIN}")).await;
    assert_eq!(client.response().await.text(), "served");
    client.closed().await;
    let request = app.only_request();
    assert_eq!((request.body.data.as_slice(), request.field("transfer-encoding")), (&b""[..], None));
}

#[tokio::test]
async fn there_is_no_other_protocol_to_switch_to() {
    let app = App::answering(|request| ok(request.field("upgrade").unwrap_or("plain"))).await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let asking = "GET / HTTP/1.0\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(send(sidecar.outbound(), asking).await.text(), "plain");
    let connect = "CONNECT h:80 HTTP/1.0\r\n\r\n";
    assert_eq!(send(sidecar.outbound(), connect).await.status, 400);
}

#[tokio::test]
async fn an_endpoint_of_http10_keeps_its_connection_only_if_it_says_so() {
    for (said, connections) in [("", 3), ("connection: keep-alive\r\n", 1)] {
        let app = App::script(move |mut connection| async move {
            while connection.request().await.is_some() {
                connection.send(format!("HTTP/1.0 200 OK\r\n{said}content-length: 3\r\n\r\nold")).await;
            }
        })
        .await;
        let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
        let mut client = Client::connect(sidecar.outbound()).await;
        for _ in 0..3 {
            let answer = client.get("h", "/").await;
            assert_eq!((answer.head.start.as_str(), answer.text().as_str()), ("HTTP/1.1 200 OK", "old"));
            assert_eq!(answer.field("connection"), None);
        }
        assert_eq!(app.accepted(), connections, "{said}");
    }
}

#[tokio::test]
async fn an_answer_of_http10_ends_where_its_version_says() {
    let app = App::script(|mut connection| async move {
        let Some(request) = connection.request().await else { return };
        connection
            .send(match request.target() {
                "/close" => "HTTP/1.0 200 OK\r\n\r\nto the end",
                // No such version has chunks: what they would be is anybody's guess.
                _ => "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
            })
            .await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let answer = get(sidecar.outbound(), "h", "/close").await;
    assert_eq!((answer.text().as_str(), answer.field("transfer-encoding")), ("to the end", Some("chunked")));
    assert!(answer.is_complete());
    let answer = get(sidecar.outbound(), "h", "/chunked").await;
    assert_eq!((answer.status, answer.flag()), (502, "upstream_reset"));
    wait_until("no connection is left", || app.open() == 0).await;
}
