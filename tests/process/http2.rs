//! HTTP/2 by prior knowledge, from the client and to the endpoint.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{
    App, Client, Sidecar,
    frames::{END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, frame},
    get,
    http2::{self, Answer, Http2, reply},
    ok,
    sidecar::{api, with},
    wait_until,
};

fn speaking_http2(app: &App) -> Value {
    with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http2" } } }))
}

/// An HTTP/2 endpoint that answers when it is told, and counts the requests that wait.
async fn gated(settings: h2::server::Builder) -> (App, Arc<Semaphore>, Arc<AtomicUsize>) {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::new(AtomicUsize::new(0));
    let shared = (Arc::clone(&gate), Arc::clone(&waiting));
    let app = App::script(move |connection| {
        let (gate, waiting) = shared.clone();
        http2::serve_all(connection, settings.clone(), move |_, mut respond| {
            let (gate, waiting) = (Arc::clone(&gate), Arc::clone(&waiting));
            async move {
                waiting.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.expect("it is never closed").forget();
                reply(&mut respond, "at last");
            }
        })
    })
    .await;
    (app, gate, waiting)
}

#[tokio::test]
async fn both_versions_are_served_on_one_port_and_reach_an_http1_endpoint() {
    let app = App::answering(|request| ok(request.field("host").unwrap_or_default())).await;
    let config = with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http1" } } }));
    let sidecar = Sidecar::start(config).await;
    let answer = Http2::connect(sidecar.outbound()).await.get("shop.mesh", "/").await.expect("an answer");
    assert_eq!((answer.status, answer.data.as_slice()), (200, &b"shop.mesh"[..]));
    assert_eq!(get(sidecar.outbound(), "shop.mesh", "/").await.text(), "shop.mesh");
}

#[tokio::test]
async fn an_http1_request_reaches_an_http2_endpoint() {
    let app = App::script(|connection| {
        http2::serve_all(connection, h2::server::Builder::new(), |request, mut respond| async move {
            assert_eq!(request.uri().to_string(), "http://shop.mesh/path?q");
            assert!(request.headers().get("connection").is_none());
            reply(&mut respond, "two");
        })
    })
    .await;
    let sidecar = Sidecar::start(speaking_http2(&app)).await;
    assert_eq!(get(sidecar.outbound(), "shop.mesh", "/path?q").await.text(), "two");
}

#[tokio::test]
async fn requests_share_one_connection_to_an_http2_endpoint() {
    let (app, gate, waiting) = gated(h2::server::Builder::new()).await;
    let sidecar = Sidecar::start(speaking_http2(&app)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let mut responses = Vec::new();
    for _ in 0..20 {
        responses.push(client.begin(http2::get("h", "/"), None).await);
    }
    wait_until("all of them are there", || waiting.load(Ordering::SeqCst) == 20).await;
    gate.add_permits(20);
    for response in responses {
        assert_eq!(Answer::read(response).await.expect("an answer").data, b"at last");
    }
    assert_eq!(app.accepted(), 1);
}

#[tokio::test]
async fn another_connection_is_opened_when_the_streams_of_one_are_used_up() {
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(2);
    let (app, gate, waiting) = gated(settings).await;
    // Without a limit of time, requests that wait for a stream wait for ever.
    let sidecar =
        Sidecar::start(with(speaking_http2(&app), json!({ "defaults": { "timeout": "0s" } }))).await;
    let client = Http2::connect(sidecar.outbound()).await;
    // The endpoint's settings are known once requests have been answered.
    gate.add_permits(2);
    for _ in 0..2 {
        assert_eq!(client.get("h", "/").await.expect("an answer").status, 200);
    }
    let mut responses = Vec::new();
    for number in 1..=6 {
        responses.push(client.begin(http2::get("h", "/"), None).await);
        wait_until("it is there beside the others", || waiting.load(Ordering::SeqCst) == 2 + number).await;
    }
    assert_eq!(app.accepted(), 3);
    gate.add_permits(6);
    for response in responses {
        assert_eq!(Answer::read(response).await.expect("an answer").status, 200);
    }
}

#[tokio::test]
async fn a_connection_that_has_served_its_requests_leaves_its_place_to_the_next() {
    let (app, gate, waiting) = gated(h2::server::Builder::new()).await;
    let limits = json!({ "max_requests_per_connection": 1, "max_connections": 1 });
    let config = with(speaking_http2(&app), json!({ "services": { "api": { "limits": limits } } }));
    let sidecar = Sidecar::start(config).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let mut responses = Vec::new();
    for number in 1..=4 {
        responses.push(client.begin(http2::get("h", "/"), None).await);
        wait_until("it is there beside the others", || waiting.load(Ordering::SeqCst) == number).await;
    }
    gate.add_permits(8);
    for response in responses {
        assert_eq!(Answer::read(response).await.expect("an answer").status, 200);
    }
    for _ in 0..4 {
        assert_eq!(client.get("h", "/").await.expect("an answer").status, 200);
    }
    assert_eq!(app.accepted(), 8);
    wait_until("those that were used are closed", || app.open() <= 1).await;
}

#[tokio::test]
async fn an_orderly_goaway_costs_no_request() {
    // Each connection takes three requests and then says that it is leaving.
    let app = App::script(|connection| async move {
        let Some(mut streams) = http2::serve(connection, &h2::server::Builder::new()).await else { return };
        for taken in 1.. {
            let Some(Ok((_, mut respond))) = streams.accept().await else { return };
            reply(&mut respond, "served");
            if taken == 3 {
                streams.graceful_shutdown();
            }
        }
    })
    .await;
    let sidecar = Sidecar::start(speaking_http2(&app)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    for number in 0..30 {
        let answer = client.get("h", "/").await.expect("an answer");
        assert_eq!(answer.status, 200, "request {number}");
    }
    assert!(app.accepted() > 1);
}

#[tokio::test]
async fn an_authority_that_contradicts_host_is_refused() {
    let app = App::saying("served").await;
    let config = with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http1" } } }));
    let sidecar = Sidecar::start(config).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let mut request = http2::get("public", "/");
    request.headers_mut().insert("host", http::HeaderValue::from_static("internal"));
    match client.send(request).await {
        Ok(answer) => {
            assert_eq!((answer.status, answer.field("x-outrigger-flag")), (400, Some("bad_request")));
        }
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    assert!(app.requests().is_empty());
    assert_eq!(client.get("public", "/").await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_host_in_place_of_the_authority_must_be_one() {
    let app = App::answering(|request| ok(request.field("host").unwrap_or_default())).await;
    let config = with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http1" } } }));
    let sidecar = Sidecar::start(config).await;
    let client = Http2::connect(sidecar.outbound()).await;
    // A target in origin form has no `:authority`.
    let naming = |host: &'static str| {
        http::Request::get("/").header("host", host).body(bytes::Bytes::new()).expect("a valid request")
    };
    for host in ["u@a", "a b", "", "a:b:c"] {
        let answer = client.send(naming(host)).await.expect("an answer");
        assert_eq!((answer.status, answer.field("x-outrigger-flag")), (400, Some("bad_request")), "{host:?}");
    }
    assert!(app.requests().is_empty());
    assert_eq!(client.send(naming("shop.mesh")).await.expect("an answer").data, b"shop.mesh");
}

#[tokio::test]
async fn a_cookie_that_the_client_splits_is_one_field_for_an_http1_endpoint() {
    let app = App::saying("served").await;
    let config = with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http1" } } }));
    let sidecar = Sidecar::start(config).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let mut request = http2::get("h", "/");
    for crumb in ["a=1", "b=2"] {
        request.headers_mut().append("cookie", http::HeaderValue::from_static(crumb));
    }
    assert_eq!(client.send(request).await.expect("an answer").status, 200);
    assert_eq!(app.only_request().head.all("cookie"), ["a=1; b=2"]);
}

#[tokio::test]
async fn a_target_that_http1_would_not_allow_is_refused_on_http2_too() {
    let app = App::saying("served").await;
    let config = with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http1" } } }));
    let sidecar = Sidecar::start(config).await;
    let client = Http2::connect(sidecar.outbound()).await;
    for target in ["/%00", "/a/../../b", "/%zz"] {
        let answer = client.get("h", target).await.expect("an answer");
        assert_eq!(answer.status, 400, "{target}");
    }
    assert!(app.requests().is_empty());
}

#[tokio::test]
async fn a_slow_stream_does_not_hold_up_the_others_of_its_connection() {
    let app = App::answering(|request| match request.target() {
        "/large" => {
            let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4000000\r\n\r\n".to_vec();
            answer.resize(answer.len() + 4_000_000, b'x');
            answer
        }
        _ => ok("small"),
    })
    .await;
    let config = with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http1" } } }));
    let sidecar = Sidecar::start(config).await;
    let client = Http2::connect(sidecar.outbound()).await;
    // Its body is never read, so its window is soon used up.
    let unread = client.begin(http2::get("h", "/large"), None).await.await.expect("a head");
    for _ in 0..10 {
        assert_eq!(client.get("h", "/").await.expect("an answer").data, b"small");
    }
    drop(unread);
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_connection_that_sends_it_and_no_other() {
    let app = App::script(|mut connection| async move {
        while let Some(request) = connection.request().await {
            if request.target() == "/slow" {
                connection.until_closed().await;
                return;
            }
            connection.send(ok("served")).await;
        }
    })
    .await;
    let config = with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http1" } } }));
    let sidecar = Sidecar::start(config).await;
    let mut other = Client::connect(sidecar.outbound()).await;
    let mut flood = Client::connect(sidecar.outbound()).await;
    flood.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let mut frames = Vec::new();
    for stream in (1_u32..4000).step_by(2) {
        // HEADERS (GET http /slow, authority h; ends head and stream) and RST_STREAM with CANCEL.
        let head = b"\x82\x86\x04\x05/slow\x01\x01h";
        frames.extend_from_slice(&[0, 0, head.len() as u8, 1, 5]);
        frames.extend_from_slice(&stream.to_be_bytes());
        frames.extend_from_slice(head);
        frames.extend_from_slice(&[0, 0, 4, 3, 0]);
        frames.extend_from_slice(&stream.to_be_bytes());
        frames.extend_from_slice(&8_u32.to_be_bytes());
    }
    flood.send(&frames).await;
    flood.rest().await;
    assert_eq!(other.get("h", "/").await.text(), "served");
    wait_until("what the flood began is cancelled", || app.open() <= 1).await;
}
#[tokio::test]
async fn a_request_that_its_endpoint_refuses_unprocessed_is_tried_again_even_a_post() {
    let app = App::script(|connection| {
        let first = connection.number == 0;
        let seen = Arc::new(AtomicUsize::new(0));
        http2::serve_all(connection, h2::server::Builder::new(), move |_, mut respond| {
            let number = seen.fetch_add(1, Ordering::SeqCst);
            async move {
                if first && number == 0 {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                } else {
                    reply(&mut respond, "taken");
                }
            }
        })
    })
    .await;
    let sidecar = Sidecar::start(speaking_http2(&app)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let post = http::Request::post("http://h/").body(bytes::Bytes::new()).expect("valid");
    assert_eq!(client.send(post).await.expect("an answer").data, b"taken");
    sidecar.until_metric("outrigger_retries_total", &["reason=\"refused\""], 1.0).await;
}

#[tokio::test]
async fn a_post_that_its_endpoint_refuses_unprocessed_is_tried_again_with_its_whole_body() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&attempts);
    let app = App::script(move |connection| {
        let count = Arc::clone(&count);
        http2::serve_all(connection, h2::server::Builder::new(), move |request, mut respond| {
            let count = Arc::clone(&count);
            async move {
                if count.fetch_add(1, Ordering::SeqCst) == 0 {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                    return;
                }
                let mut upload = request.into_body();
                let mut data = Vec::new();
                while let Some(Ok(part)) = upload.data().await {
                    data.extend_from_slice(&part);
                }
                reply(&mut respond, if data == b"the whole body" { "whole" } else { "not whole" });
            }
        })
    })
    .await;
    let sidecar = Sidecar::start(speaking_http2(&app)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let post = http::Request::post("http://h/").body("the whole body".into()).expect("valid");
    assert_eq!(client.send(post).await.expect("an answer").data, b"whole");
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    sidecar.until_metric("outrigger_retries_total", &["reason=\"refused\""], 1.0).await;
}

#[tokio::test]
async fn streams_that_an_abrupt_goaway_leaves_out_are_tried_again_on_another_connection() {
    // The first connection takes one request, never answers it, and leaves with an error.
    let app = App::script(|connection| async move {
        if connection.number > 0 {
            http2::serve_all(connection, h2::server::Builder::new(), |_, mut respond| async move {
                reply(&mut respond, "served");
            })
            .await;
            return;
        }
        let Some(mut streams) = http2::serve(connection, &h2::server::Builder::new()).await else { return };
        let taken = streams.accept().await;
        streams.abrupt_shutdown(h2::Reason::INTERNAL_ERROR);
        while let Some(Ok(_)) = streams.accept().await {}
        drop(taken);
    })
    .await;
    let sidecar = Sidecar::start(speaking_http2(&app)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    for _ in 0..3 {
        assert_eq!(client.get("h", "/").await.expect("an answer").data, b"served");
    }
}

#[tokio::test]
async fn requests_that_an_orderly_goaway_leaves_out_do_not_count_against_the_endpoint() {
    // Many more than open a circuit.
    const TOGETHER: usize = 30;
    // The first connection answers one request, and takes its leave below all that are on their way then.
    let app = App::script(|connection| async move {
        if connection.number > 0 {
            http2::serve_all(connection, h2::server::Builder::new(), |_, mut respond| async move {
                reply(&mut respond, "served");
            })
            .await;
            return;
        }
        let Some(mut frames) = Frames::accept(connection, &[]).await else { return };
        let first = frames.next_of(&[HEADERS]).await.expect("a request").stream;
        // The first entry of HPACK's table with a status is 200 (RFC 7541, appendix A).
        frames.send(frame(HEADERS, END_STREAM | END_HEADERS, first, &[0x88])).await;
        for _ in 0..TOGETHER {
            frames.next_of(&[HEADERS]).await.expect("a request");
        }
        let last_and_no_error = [first.to_be_bytes(), [0; 4]].concat();
        frames.send(frame(GOAWAY, 0, 0, &last_and_no_error)).await;
        frames.closed().await;
    })
    .await;
    let sidecar = Sidecar::start(speaking_http2(&app)).await;
    let client = Arc::new(Http2::connect(sidecar.outbound()).await);
    assert_eq!(client.get("h", "/").await.expect("an answer").status, 200);
    let mut together = tokio::task::JoinSet::new();
    for _ in 0..TOGETHER {
        let client = Arc::clone(&client);
        together.spawn(async move { client.get("h", "/").await.expect("an answer").data });
    }
    for data in together.join_all().await {
        assert_eq!(data, b"served");
    }
    assert_eq!(sidecar.metric("outrigger_circuit_breaker_transitions_total", &["to=\"open\""]).await, 0.0);
}
