//! Slow and silent peers are cut at their limits, and a second client notices nothing of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    App, Client, Sidecar, get,
    http2::Http2,
    ok,
    sidecar::{api, with},
    wait_until,
};

/// An application, a sidecar with `limits` of its listeners, and a client that is not slow.
async fn sidecar(limits: Value) -> (App, Sidecar, Client) {
    let app = App::answering(|request| ok(&request.body.data.len().to_string())).await;
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), json!({ "listeners": limits }))).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    // A connection without any request would be one of those that are cut.
    still_served(&mut client).await;
    (app, sidecar, client)
}

/// What a client that keeps asking sees.
async fn still_served(client: &mut Client) {
    assert_eq!(client.get("h", "/other").await.status, 200);
}

#[tokio::test]
async fn a_head_that_drips_in_is_answered_408_at_the_header_timeout() {
    let (_app, sidecar, mut other) = sidecar(json!({ "header_timeout": "500ms" })).await;
    let mut slow = Client::connect(sidecar.outbound()).await;
    slow.send("GET / HTTP/1.1\r\n").await;
    let dripping = async {
        for letter in "x-slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".chars() {
            slow.send(letter.to_string()).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            still_served(&mut other).await;
        }
        unreachable!("it was let drip for 3 seconds")
    };
    // Reading needs the client too, so that the drip ends when the sidecar has spoken.
    tokio::select! {
        () = dripping => {}
        () = async { sidecar.until_metric("outrigger_http_rejected_total", &["reason=\"header_timeout\""], 1.0).await } => {}
    }
    let answer = slow.response().await;
    assert_eq!((answer.status, answer.flag()), (408, "downstream_timeout"));
    slow.closed().await;
}

#[tokio::test]
async fn a_slow_head_of_a_later_request_is_cut_as_well() {
    let (_app, sidecar, mut other) = sidecar(json!({ "header_timeout": "300ms" })).await;
    let mut slow = Client::connect(sidecar.outbound()).await;
    still_served(&mut slow).await;
    slow.send("GET / HTTP/1.1\r\nhost").await;
    assert_eq!(slow.response().await.status, 408);
    slow.closed().await;
    still_served(&mut other).await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed_without_a_word() {
    let (_app, sidecar, mut other) = sidecar(json!({ "header_timeout": "300ms" })).await;
    let mut silent = Client::connect(sidecar.outbound()).await;
    still_served(&mut other).await;
    silent.closed().await;
    still_served(&mut other).await;
}

#[tokio::test]
async fn half_a_preface_of_http2_is_not_waited_for_for_ever() {
    let (app, sidecar, mut other) = sidecar(json!({ "header_timeout": "300ms" })).await;
    for part in ["P", "PRI * HTTP/2.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        let mut half = Client::connect(sidecar.outbound()).await;
        half.send(part).await;
        half.rest().await;
        still_served(&mut other).await;
    }
    assert!(app.requests().iter().all(|request| request.target() == "/other"));
}

#[tokio::test]
async fn an_http2_connection_that_never_sends_a_request_is_closed() {
    let (_app, sidecar, _other) =
        sidecar(json!({ "idle_timeout": "300ms", "header_timeout": "300ms" })).await;
    let mut mute = Client::connect(sidecar.outbound()).await;
    mute.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    mute.rest().await;
    assert_eq!(get(sidecar.outbound(), "h", "/other").await.status, 200);
}

#[tokio::test]
async fn an_idle_connection_is_closed_at_the_idle_timeout() {
    let (_app, sidecar, mut idle) = sidecar(json!({ "idle_timeout": "300ms" })).await;
    still_served(&mut idle).await;
    idle.closed().await;
    assert_eq!(get(sidecar.outbound(), "h", "/other").await.status, 200);
}

#[tokio::test]
async fn an_http2_upload_that_stalls_is_ended_and_its_connection_lives_on() {
    let app = App::answering(|_| ok("whole")).await;
    let sidecar = Sidecar::start(with(
        api(&[app.endpoint()]),
        json!({
            "listeners": { "stream_idle_timeout": "400ms" },
            "services": { "api": { "protocol": "http1" } },
        }),
    ))
    .await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (response, _body) =
        client.open(http::Request::post("http://h/stalled").body(()).expect("valid")).await;
    match crate::support::http2::Answer::read(response).await {
        Ok(answer) => assert!(matches!(answer.status, 408 | 504), "{answer:?}"),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    assert_eq!(client.get("h", "/").await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_download_that_its_endpoint_stalls_is_broken_off() {
    let app = App::script(|mut connection| async move {
        while let Some(request) = connection.request().await {
            if request.target() == "/stalled" {
                connection.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome").await;
                connection.until_closed().await;
                return;
            }
            connection.send(ok("whole")).await;
        }
    })
    .await;
    let limits = json!({ "listeners": { "stream_idle_timeout": "400ms" }, "defaults": { "timeout": "0s" } });
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), limits)).await;
    let mut other = Client::connect(sidecar.outbound()).await;
    let answer = get(sidecar.outbound(), "h", "/stalled").await;
    assert_eq!((answer.text().as_str(), answer.is_complete()), ("some", false));
    still_served(&mut other).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_and_its_endpoint_is_freed() {
    let app = App::script(|mut connection| async move {
        while let Some(request) = connection.request().await {
            if request.target() != "/large" {
                connection.send(ok("small")).await;
                continue;
            }
            connection.send("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
            let piece = vec![b'x'; 100_000];
            for _ in 0..1000 {
                connection.send(&piece).await;
            }
        }
    })
    .await;
    let limits = json!({ "listeners": { "stream_idle_timeout": "500ms" }, "defaults": { "timeout": "0s" } });
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), limits)).await;
    let mut deaf = Client::connect(sidecar.outbound()).await;
    deaf.send("GET /large HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let mut other = Client::connect(sidecar.outbound()).await;
    still_served(&mut other).await;
    let line = sidecar.logged("/large").await;
    assert!(line["bytes_out"].as_u64().expect("a number") < 50_000_000, "it was not buffered: {line}");
    wait_until("its connection is gone", || app.open() <= 1).await;
    still_served(&mut other).await;
}
#[tokio::test]
async fn an_upload_that_stalls_is_answered_408_and_broken_off_at_the_endpoint() {
    for framing in ["content-length: 100", "transfer-encoding: chunked"] {
        let (app, sidecar, mut other) = sidecar(json!({ "stream_idle_timeout": "400ms" })).await;
        let mut slow = Client::connect(sidecar.outbound()).await;
        slow.send(format!("POST /stalled HTTP/1.1\r\nhost: h\r\n{framing}\r\n\r\n5\r\nfirst\r\n")).await;
        still_served(&mut other).await;
        let answer = slow.response().await;
        assert_eq!((answer.status, answer.flag()), (408, "downstream_timeout"), "{framing}");
        slow.closed().await;
        wait_until("the endpoint has seen the end", || app.requests().len() == 3).await;
        let seen = app.requests();
        let stalled = seen.iter().find(|request| request.target() == "/stalled").expect("it began");
        assert!(!stalled.body.complete, "{framing}: half an upload looks complete");
        still_served(&mut other).await;
    }
}
