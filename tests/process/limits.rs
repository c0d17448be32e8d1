//! Limits: what is too much is refused in words, and when there is room again it is used.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;

use crate::support::{
    App, Client, LIMIT, Sidecar, eventually, get, ok,
    sidecar::{api, with},
    wait_until,
};

/// An endpoint that answers only when told, as many requests as it is given permits.
async fn gated() -> (App, std::sync::Arc<tokio::sync::Semaphore>) {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let shared = std::sync::Arc::clone(&gate);
    let app = App::script(move |mut connection| {
        let gate = std::sync::Arc::clone(&shared);
        async move {
            while connection.request().await.is_some() {
                gate.acquire().await.expect("it is never closed").forget();
                connection.send(ok("at last")).await;
            }
        }
    })
    .await;
    (app, gate)
}

async fn ask(sidecar: &Sidecar, path: &str) -> Client {
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")).await;
    client
}

#[tokio::test]
async fn requests_beyond_the_connections_of_an_endpoint_wait_and_those_beyond_the_queue_are_refused() {
    let (app, gate) = gated().await;
    let limits = json!({ "max_connections": 2, "max_pending_requests": 1, "queue_timeout": "60s" });
    let sidecar = Sidecar::start(with(
        api(&[app.endpoint()]),
        json!({ "defaults": { "timeout": "60s" }, "services": { "api": { "limits": limits } } }),
    ))
    .await;
    let mut first = ask(&sidecar, "/1").await;
    let mut second = ask(&sidecar, "/2").await;
    wait_until("both connections are in use", || app.requests().len() == 2).await;
    let mut third = ask(&sidecar, "/3").await;
    sidecar.until_metric("outrigger_upstream_pending_requests", &["service=\"api\""], 1.0).await;

    let refused = get(sidecar.outbound(), "h", "/4").await;
    assert_eq!((refused.status, refused.flag()), (503, "upstream_overflow"));
    assert_eq!(refused.field("retry-after"), Some("1"));
    sidecar
        .until_metric("outrigger_upstream_limit_rejections_total", &["limit=\"pending_requests\""], 1.0)
        .await;

    gate.add_permits(3);
    for client in [&mut first, &mut second, &mut third] {
        assert_eq!(client.response().await.text(), "at last");
    }
    assert_eq!(app.accepted(), 2);
}

#[tokio::test]
async fn the_wait_for_a_connection_has_an_end() {
    let (app, gate) = gated().await;
    let limits = json!({ "max_connections": 1, "queue_timeout": "200ms" });
    let sidecar =
        Sidecar::start(with(api(&[app.endpoint()]), json!({ "services": { "api": { "limits": limits } } })))
            .await;
    let mut first = ask(&sidecar, "/1").await;
    wait_until("the connection is in use", || app.requests().len() == 1).await;
    let refused = get(sidecar.outbound(), "h", "/2").await;
    assert_eq!((refused.status, refused.flag()), (503, "upstream_overflow"));
    gate.add_permits(1);
    assert_eq!(first.response().await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_leaves_its_place_to_others() {
    let (app, gate) = gated().await;
    let limits = json!({ "max_connections": 1, "max_pending_requests": 1, "queue_timeout": "60s" });
    let sidecar = Sidecar::start(with(
        api(&[app.endpoint()]),
        json!({ "defaults": { "timeout": "60s" }, "services": { "api": { "limits": limits } } }),
    ))
    .await;
    let mut first = ask(&sidecar, "/1").await;
    wait_until("the connection is in use", || app.requests().len() == 1).await;
    let gone = ask(&sidecar, "/gone").await;
    sidecar.until_metric("outrigger_upstream_pending_requests", &[], 1.0).await;
    drop(gone);
    eventually("the place is free", async || {
        (sidecar.metric("outrigger_upstream_pending_requests", &[]).await == 0.0).then_some(())
    })
    .await;
    let mut next = ask(&sidecar, "/next").await;
    sidecar.until_metric("outrigger_upstream_pending_requests", &[], 1.0).await;
    gate.add_permits(2);
    assert_eq!(first.response().await.status, 200);
    assert_eq!(next.response().await.status, 200);
    assert!(app.requests().iter().all(|seen| seen.target() != "/gone"));
}

#[tokio::test]
async fn a_connection_is_closed_after_the_requests_it_may_serve() {
    let app = App::saying("yes").await;
    let limits = json!({ "max_requests_per_connection": 2 });
    let sidecar =
        Sidecar::start(with(api(&[app.endpoint()]), json!({ "services": { "api": { "limits": limits } } })))
            .await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..6 {
        assert_eq!(client.get("h", "/").await.status, 200);
    }
    assert_eq!(app.accepted(), 3);
}

#[tokio::test]
async fn pooled_connections_are_closed_when_nobody_used_them_for_the_idle_timeout() {
    let app = App::saying("yes").await;
    let sidecar =
        Sidecar::start(with(api(&[app.endpoint()]), json!({ "defaults": { "idle_timeout": "200ms" } })))
            .await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
    wait_until("the connection is closed", || app.open() == 0).await;
}

#[tokio::test]
async fn connections_beyond_the_cap_are_refused_in_words_and_served_when_there_is_room() {
    let app = App::saying("served").await;
    let sidecar =
        Sidecar::start(with(api(&[app.endpoint()]), json!({ "listeners": { "max_connections": 2 } }))).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(sidecar.outbound()).await;
        assert_eq!(client.get("h", "/").await.status, 200);
        held.push(client);
    }
    let mut refused = Client::connect(sidecar.outbound()).await;
    refused.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let answer = refused.response().await;
    assert_eq!((answer.status, answer.flag()), (503, "overload"));
    assert_eq!((answer.field("connection"), answer.field("retry-after")), (Some("close"), Some("1")));
    refused.closed().await;
    let refusals = ["direction=\"outbound\"", "result=\"refused\""];
    sidecar.until_metric("outrigger_downstream_connections_total", &refusals, 1.0).await;
    assert_eq!(held[0].get("h", "/").await.status, 200, "those that were there notice nothing");

    held.pop();
    eventually("there is room again", async || {
        (get(sidecar.outbound(), "h", "/").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_process_out_of_descriptors_does_not_spin_and_recovers() {
    let app = App::saying("served").await;
    let sidecar = Sidecar::start_with_descriptors(api(&[app.endpoint()]), 48).await;
    let mut served = Client::connect(sidecar.outbound()).await;
    assert_eq!(served.get("h", "/").await.status, 200);
    let mut crowd = Vec::new();
    for _ in 0..80 {
        // The kernel completes connections that the sidecar cannot accept.
        crowd.push(TcpStream::connect(sidecar.outbound()).await.expect("there is a backlog"));
    }
    wait_until("it says so", || sidecar.log().contains("cannot accept connections")).await;
    assert_eq!(served.get("h", "/").await.status, 200, "who is there already is served");

    // Over one second of shortage, a loop without a pause would use it up whole.
    let before = sidecar.cpu_ticks();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = sidecar.cpu_ticks() - before;
    assert!(used < 50, "{used} of 100 ticks were used for nothing");

    drop(crowd);
    let answer = tokio::time::timeout(LIMIT, get(sidecar.outbound(), "h", "/")).await;
    assert_eq!(answer.expect("it recovers").status, 200);
    wait_until("it says so", || sidecar.log().contains("accepting connections again")).await;
}

#[tokio::test]
async fn heads_that_are_too_large_are_answered_431_and_targets_that_are_too_long_414() {
    let app = App::saying("served").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let many: String = (0..101).map(|number| format!("x-{number}: 1\r\n")).collect();
    let long = "x".repeat(70_000);
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nhost: h\r\n{many}\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nhost: h\r\nx-long: {long}\r\n\r\n"), 431),
        (format!("GET /{long} HTTP/1.1\r\nhost: h\r\n\r\n"), 414),
    ] {
        let mut client = Client::connect(sidecar.outbound()).await;
        client.send(request).await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.flag()), (status, "bad_request"));
        client.closed().await;
    }
    assert!(app.requests().is_empty());
}

#[tokio::test]
async fn nothing_is_left_open_after_a_crowd_of_broken_clients() {
    let app = App::saying("served").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
    let before = sidecar.metric("process_open_fds", &[]).await;
    for round in 0..60 {
        let mut client = Client::connect(sidecar.outbound()).await;
        let part = [
            "",
            "GET",
            "GET / HTTP/1.1\r\nhost: h\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nhalf",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\nhost: h\r\n\r\n",
        ][round % 6];
        client.send(part).await;
    }
    // The pool may hold some connections to the endpoint: those of requests that were at it at the same time.
    let most = before + 12.0;
    eventually("descriptors are given back", async || {
        (sidecar.metric("process_open_fds", &[]).await <= most).then_some(())
    })
    .await;
    eventually("no request is in flight", async || {
        (sidecar.metric("outrigger_http_requests_in_flight", &[]).await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn slow_and_rude_clients_of_the_admin_api_do_not_hurt_the_data_plane_or_each_other() {
    let app = App::saying("served").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut held = Vec::new();
    for part in
        ["", "GET /metrics", "POST /v1/reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900000\r\n\r\n{"]
    {
        for _ in 0..5 {
            let mut client = Client::connect(sidecar.admin()).await;
            client.send(part).await;
            held.push(client);
        }
    }
    for _ in 0..10 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
        assert_eq!(sidecar.admin_get("/readyz").await.status, 200);
    }
    assert_eq!(sidecar.ask("DELETE", "/v1/status", "").await.map_or(0, |answer| answer.status), 405);
    assert_eq!(sidecar.reload().await.0, 200);
}
