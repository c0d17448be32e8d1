//! What is tried again, and what never is.

use serde_json::json;

use crate::support::{
    App, Client, Connection, Sidecar, get, ok, send,
    sidecar::{api, free_address, with},
};

/// A service whose first endpoint is `first` and whose second is `second`, taken in turn.
fn in_turn(first: &str, second: &str) -> serde_json::Value {
    with(
        api(&[first.to_owned(), second.to_owned()]),
        json!({ "defaults": { "load_balancer": { "policy": "round_robin" } } }),
    )
}

/// An endpoint that takes requests and resets the connection instead of answering.
async fn resetting() -> App {
    App::script(|mut connection| async move {
        connection.request().await;
        connection.reset();
    })
    .await
}

#[tokio::test]
async fn a_get_goes_to_another_endpoint_after_a_refused_connection() {
    let app = App::saying("alive").await;
    let sidecar = Sidecar::start(in_turn(&free_address().to_string(), &app.endpoint())).await;
    for _ in 0..6 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "alive");
    }
    sidecar.until_metric("outrigger_retries_total", &["reason=\"connect\""], 1.0).await;
}

#[tokio::test]
async fn a_post_goes_to_another_endpoint_after_a_refused_connection_with_its_body() {
    let app = App::saying("alive").await;
    let sidecar = Sidecar::start(in_turn(&free_address().to_string(), &app.endpoint())).await;
    let request = "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello";
    for _ in 0..6 {
        assert_eq!(send(sidecar.outbound(), request).await.text(), "alive");
    }
    let seen = app.requests();
    assert!(seen.len() == 6 && seen.iter().all(|request| request.body.data == b"hello"), "{seen:?}");
}

#[tokio::test]
async fn a_get_is_tried_once_more_after_a_reset_without_an_answer() {
    let (sick, well) = (resetting().await, App::saying("alive").await);
    let sidecar = Sidecar::start(in_turn(&sick.endpoint(), &well.endpoint())).await;
    for _ in 0..6 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "alive");
    }
    assert!(!sick.requests().is_empty());
    sidecar.until_metric("outrigger_retries_total", &["reason=\"reset\""], 1.0).await;
}

#[tokio::test]
async fn a_put_is_tried_again_with_its_whole_body_or_not_at_all() {
    // Within what is kept, the second endpoint gets all of it; beyond, none of it: half would look whole.
    for (size, expected) in [(1000, 200), (60_000, 200), (300_000, 502)] {
        let sick = App::script(move |mut connection| async move {
            connection.head().await;
            connection.wire.exactly(size.min(200_000)).await;
            connection.reset();
        })
        .await;
        let well = App::answering(|request| ok(&request.body.data.len().to_string())).await;
        // One worker, in turn: of two requests one meets the sick endpoint first.
        let sidecar = Sidecar::start(in_turn(&sick.endpoint(), &well.endpoint())).await;
        let mut met = 0;
        while met == 0 {
            let mut client = Client::connect(sidecar.outbound()).await;
            client.send("PUT / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").await;
            for _ in 0..10 {
                client.send(format!("{:x}\r\n{}\r\n", size / 10, "x".repeat(size / 10))).await;
            }
            client.send("0\r\n\r\n").await;
            let answer = client.response().await;
            met = sick.requests().len();
            if met > 0 {
                assert_eq!(answer.status, expected, "{size} bytes: {answer:?}");
            }
        }
        let whole =
            |request: &crate::support::app::Request| request.body.complete && request.body.data.len() == size;
        let seen = well.requests();
        assert!(
            seen.iter().all(whole),
            "{size} bytes: {:?}",
            seen.iter().map(|r| r.body.data.len()).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn a_post_that_may_have_been_processed_is_never_sent_twice() {
    // The endpoint reads so much of head and body before it breaks; `None`: all of it, and half an answer.
    for read in [Some(1), Some(20), Some(60), Some(200), None] {
        let script = move |mut connection: Connection| async move {
            match read {
                Some(count) => drop(connection.wire.exactly(count).await),
                None => {
                    connection.request().await;
                    connection.send("HTTP/1.1 200 O").await;
                }
            }
            connection.reset();
        };
        let (one, two) = (App::script(script).await, App::script(script).await);
        let sidecar = Sidecar::start(in_turn(&one.endpoint(), &two.endpoint())).await;
        let body = "x".repeat(150);
        let request = format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 150\r\n\r\n{body}");
        let answer = send(sidecar.outbound(), request).await;
        assert_eq!((answer.status, answer.flag()), (502, "upstream_reset"), "after {read:?} bytes");
        assert_eq!(one.accepted() + two.accepted(), 1, "after {read:?} bytes");
    }
}

#[tokio::test]
async fn nothing_is_tried_again_once_an_answer_has_begun() {
    let script = |mut connection: Connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
    };
    let (one, two) = (App::script(script).await, App::script(script).await);
    let sidecar = Sidecar::start(in_turn(&one.endpoint(), &two.endpoint())).await;
    let answer = get(sidecar.outbound(), "h", "/").await;
    assert_eq!((answer.text().as_str(), answer.is_complete()), ("half", false));
    assert_eq!(one.accepted() + two.accepted(), 1);
}

#[tokio::test]
async fn there_are_at_most_two_attempts() {
    let (one, two) = (resetting().await, resetting().await);
    let sidecar = Sidecar::start(in_turn(&one.endpoint(), &two.endpoint())).await;
    assert_eq!(get(sidecar.outbound(), "h", "/twice").await.status, 502);
    assert_eq!((one.requests().len(), two.requests().len()), (1, 1));
    assert_eq!(sidecar.logged("/twice").await["attempts"], 2);
}

/// Answers one request on each connection, waits for the next one, and closes instead of answering it.
async fn closing_when_reused() -> App {
    App::script(|mut connection| async move {
        connection.request().await;
        connection.send(ok("first")).await;
        connection.head().await;
        connection.reset();
    })
    .await
}

#[tokio::test]
async fn a_get_on_a_pooled_connection_that_breaks_is_answered_by_another() {
    let app = closing_when_reused().await;
    // Half of its attempts fail, which would open its circuit.
    let unguarded = json!({ "services": { "api": { "circuit_breaker": "none" } } });
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), unguarded)).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for round in 0..20 {
        assert_eq!(client.get("h", "/").await.text(), "first", "request {round}");
    }
}

#[tokio::test]
async fn a_post_on_a_pooled_connection_that_breaks_fails_rather_than_being_sent_twice() {
    let app = closing_when_reused().await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    let mut answered = Vec::new();
    for number in 0..10 {
        client.send(format!("POST /{number} HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi")).await;
        answered.push(client.response().await.status);
    }
    assert!(answered.iter().all(|status| matches!(status, 200 | 502)), "{answered:?}");
    let mut targets: Vec<String> = app.requests().iter().map(|seen| seen.target().to_owned()).collect();
    targets.sort();
    let sent = targets.len();
    targets.dedup();
    assert_eq!(targets.len(), sent, "a request was sent twice");
}

#[tokio::test]
async fn connections_that_their_endpoint_closed_while_idle_cost_no_request() {
    // Closes in an orderly way right after each answer, without saying so.
    let app = App::script(|mut connection| async move {
        connection.request().await;
        connection.send(ok("once")).await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for round in 0..50 {
        assert_eq!(client.get("h", "/").await.text(), "once", "request {round}");
    }
}
