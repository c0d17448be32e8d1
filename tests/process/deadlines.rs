//! How much time is left for a request: read from the caller, told to the next hop, and never exceeded.

use std::time::Duration;

use http::Request;
use serde_json::json;

use crate::support::{
    App, Client, Sidecar, get,
    http2::{self, Http2, reply},
    ok, send,
    sidecar::{api, with},
};

/// Answers with the time that the request says is left, or with nothing if it says none.
async fn telling() -> App {
    App::answering(|request| ok(request.field("x-request-timeout-ms").unwrap_or("none"))).await
}

fn with_timeout(millis: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: h\r\nx-request-timeout-ms: {millis}\r\n\r\n")
}

/// A sidecar whose outbound listener leads to the inbound listener of the next one, and so on to the application.
async fn chain(app: &App, hops: usize) -> Vec<Sidecar> {
    let mut chain: Vec<Sidecar> = Vec::new();
    for hop in 0..hops {
        let next = chain.last().map_or_else(|| app.endpoint(), |next| next.outbound().to_string());
        let config = match hop {
            // The last one stands beside the application, where nothing but inbound is needed.
            0 => json!({ "service": { "address": app.endpoint() } }),
            1 => api(&[chain[0].inbound().to_string()]),
            _ => api(&[next]),
        };
        chain.push(Sidecar::start(config).await);
    }
    chain
}

#[tokio::test]
async fn the_application_is_told_what_is_left_of_the_routes_limit() {
    let app = telling().await;
    let config = with(api(&[app.endpoint()]), json!({ "defaults": { "timeout": "4s" } }));
    let sidecar = Sidecar::start(config).await;
    let left: u64 = get(sidecar.outbound(), "h", "/").await.text().parse().expect("a number");
    assert!(left <= 4000, "{left}");
}

#[tokio::test]
async fn without_any_limit_nothing_is_told() {
    let app = telling().await;
    let config = with(api(&[app.endpoint()]), json!({ "defaults": { "timeout": "0s" } }));
    let sidecar = Sidecar::start(config).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "none");
    // A caller's own limit counts all the same.
    let left: u64 = send(sidecar.outbound(), with_timeout("60000")).await.text().parse().expect("a number");
    assert!(left <= 60_000, "{left}");
}

#[tokio::test]
async fn a_caller_can_only_shorten_the_limit() {
    let app = telling().await;
    let config = with(api(&[app.endpoint()]), json!({ "defaults": { "timeout": "4s" } }));
    let sidecar = Sidecar::start(config).await;
    for (asked, most) in [("1500", 1500), ("900000", 4000), ("soon", 4000), ("-1", 4000)] {
        let left: u64 = send(sidecar.outbound(), with_timeout(asked)).await.text().parse().expect("a number");
        assert!(left <= most && left + 1000 > most, "{asked}: {left}");
    }
}

#[tokio::test]
async fn a_deadline_that_is_spent_is_answered_at_once_and_nothing_is_sent() {
    let app = telling().await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let answer = send(sidecar.outbound(), with_timeout("0")).await;
    assert_eq!((answer.status, answer.flag()), (504, "deadline"));
    assert_eq!(app.accepted(), 0);
}

#[tokio::test]
async fn a_callers_deadline_ends_a_request_that_hangs_and_cancels_it_at_the_endpoint() {
    let app = App::script(|mut connection| async move {
        connection.request().await;
        connection.until_closed().await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let answer = send(sidecar.outbound(), with_timeout("200")).await;
    assert_eq!((answer.status, answer.flag()), (504, "deadline"));
    crate::support::wait_until("the endpoint's connection is closed", || app.open() == 0).await;
}

#[tokio::test]
async fn each_hop_leaves_less_time_to_the_next() {
    let app = telling().await;
    let chain = chain(&app, 4).await;
    let first = chain.last().expect("four sidecars").outbound();
    let left: u64 = send(first, with_timeout("1000")).await.text().parse().expect("a number");
    assert!(left < 1000, "four hops take time: {left}");
    // The limit of the first hop's route bounds the last one, too.
    let left: u64 = get(first, "h", "/").await.text().parse().expect("a number");
    assert!(left < 15_000, "{left}");
}

#[tokio::test]
async fn the_first_of_three_sidecars_gives_up_for_all_of_them() {
    let app = App::script(|mut connection| async move {
        connection.request().await;
        connection.until_closed().await;
    })
    .await;
    let chain = chain(&app, 3).await;
    let mut client = Client::connect(chain.last().expect("three sidecars").outbound()).await;
    client.send(with_timeout("300")).await;
    assert_eq!(client.response().await.status, 504);
    crate::support::wait_until("the request is cancelled at the application", || app.open() == 0).await;
}

#[tokio::test]
async fn a_grpc_call_carries_its_deadline_in_its_own_header() {
    let app = App::script(|connection| {
        http2::serve_all(connection, h2::server::Builder::new(), |request, mut respond| async move {
            let left = request.headers().get("grpc-timeout").expect("a deadline").to_str().expect("text");
            let millis: u64 = left.strip_suffix('m').expect("milliseconds").parse().expect("a number");
            assert!(millis <= 2000, "{left}");
            assert!(request.headers().get("x-request-timeout-ms").is_none());
            reply(&mut respond, "in time");
        })
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let call = |timeout: &str| {
        Request::post("http://h/shop.Cart/Get")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", timeout)
            .body(bytes::Bytes::new())
            .expect("a valid request")
    };
    let answer = client.send(call("2S")).await.expect("an answer");
    assert_eq!(answer.data, b"in time");
    let late = client.send(call("0m")).await.expect("an answer");
    assert_eq!((late.status, late.field("grpc-status")), (200, Some("4")));
}

#[tokio::test]
async fn the_limit_of_a_route_waits_for_the_end_of_an_upload_but_the_callers_does_not() {
    let app = App::answering(|request| ok(&request.body.data.len().to_string())).await;
    let config = with(api(&[app.endpoint()]), json!({ "defaults": { "timeout": "300ms" } }));
    let sidecar = Sidecar::start(config).await;
    let slow = async |extra: &str| {
        let mut client = Client::connect(sidecar.outbound()).await;
        client.send(format!("POST / HTTP/1.1\r\nhost: h\r\n{extra}content-length: 4\r\n\r\n")).await;
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            client.send("x").await;
        }
        client.response().await
    };
    assert_eq!(slow("").await.text(), "4");
    let cut = slow("x-request-timeout-ms: 300\r\n").await;
    // Whoever was late is told: it was the client who did not send.
    assert!(matches!(cut.status, 408 | 504), "{cut:?}");
}
