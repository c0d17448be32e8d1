//! HTTP/2 windows that stay closed, on either side, and endpoints that take fewer streams than there are requests.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{
    App, Client, Connection, Sidecar,
    frames::{self, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, INITIAL_WINDOW_SIZE, RST_STREAM},
    get,
    http2::{self, Answer, Http2, reply},
    ok,
    sidecar::{api, with},
    wait_until,
};

/// RFC 9113 §7.
const CANCEL: u32 = 8;

/// What the access log says of `path` once the request is over.
async fn flag_of(sidecar: &Sidecar, path: &str) -> Value {
    sidecar.logged(path).await["flag"].clone()
}

#[tokio::test]
async fn a_client_that_never_opens_its_window_loses_its_stream_and_frees_the_endpoint() {
    let app = App::answering(|request| match request.target() {
        "/large" => ok(&"x".repeat(1_000_000)),
        _ => ok("small"),
    })
    .await;
    let limits = json!({
        "listeners": { "stream_idle_timeout": "500ms" },
        "defaults": { "timeout": "0s" },
        "services": { "api": { "protocol": "http1" } },
    });
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), limits)).await;
    let mut client = Frames::connect(sidecar.outbound(), &[(INITIAL_WINDOW_SIZE, 0)]).await;
    client.send(frames::get(1, "/large")).await;
    let reset = client.until(RST_STREAM, 1).await.expect("the stream is reset, not the connection");
    assert_eq!(reset.code(), CANCEL);
    assert_eq!(flag_of(&sidecar, "/large").await, "downstream_timeout");
    wait_until("the endpoint's connection is gone", || app.open() == 0).await;

    // Whoever opens the window is served, on the same connection.
    client.send([frames::get(3, "/small"), frames::window(3, 100)].concat()).await;
    assert_eq!(client.until(DATA, 3).await.expect("the answer").payload, b"small");
}

#[tokio::test]
async fn a_client_that_leaves_answers_of_the_sidecar_itself_untaken_does_not_keep_them() {
    let routes =
        json!([{ "name": "direct", "direct_response": { "status": 200, "body": "short and stout" } }]);
    let config = json!({ "routes": routes, "listeners": { "stream_idle_timeout": "300ms" } });
    let sidecar = Sidecar::start(config).await;
    let mut client = Frames::connect(sidecar.outbound(), &[(INITIAL_WINDOW_SIZE, 0)]).await;
    client.send(frames::get(1, "/teapot")).await;
    assert_eq!(client.until(RST_STREAM, 1).await.expect("the stream is reset").code(), CANCEL);
}

/// An empty answer.
fn answer(stream: u32) -> Vec<u8> {
    frames::frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88])
}

/// An endpoint's side of a connection that gives no window, and whose client knows that: it has had an answer.
async fn closed_window(connection: Connection) -> Option<Frames> {
    let mut client = Frames::accept(connection, &[(INITIAL_WINDOW_SIZE, 0)]).await?;
    client.until(HEADERS, 1).await?;
    client.send(answer(1)).await;
    Some(client)
}

#[tokio::test]
async fn an_endpoint_that_answers_and_never_takes_the_upload_does_not_keep_its_stream() {
    let reset = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&reset);
    let app = App::script(move |connection| {
        let seen = Arc::clone(&seen);
        async move {
            let Some(mut client) = closed_window(connection).await else { return };
            let Some(request) = client.until(HEADERS, 3).await else { return };
            assert_eq!(request.flags & END_STREAM, 0, "a body is announced");
            client.send(answer(3)).await;
            if client.until(RST_STREAM, 3).await.is_some() {
                seen.fetch_add(1, Ordering::SeqCst);
            }
            client.closed().await;
        }
    })
    .await;
    let limits = json!({
        "listeners": { "stream_idle_timeout": "500ms" },
        "services": { "api": { "protocol": "http2" } },
    });
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), limits)).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    assert_eq!(client.get("h", "/").await.status, 200);
    client.send("POST /up HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\n0123456789").await;
    assert_eq!(client.response().await.status, 200);
    wait_until("the stream is reset", || reset.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn an_endpoint_that_never_takes_the_upload_nor_answers_is_given_up() {
    let app = App::script(|connection| async move {
        if let Some(mut client) = closed_window(connection).await {
            client.closed().await;
        }
    })
    .await;
    let limits = json!({
        "listeners": { "stream_idle_timeout": "500ms" },
        "defaults": { "timeout": "0s" },
        "services": { "api": { "protocol": "http2" } },
    });
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), limits)).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    assert_eq!(client.get("h", "/").await.status, 200);
    client.send("POST /up HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\n0123456789").await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.flag()), (504, "upstream_timeout"));
}

/// An HTTP/2 endpoint that allows `streams` at a time and answers when it is told; and how many requests wait there.
async fn narrow(streams: u32) -> (App, Arc<Semaphore>, Arc<AtomicUsize>) {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::new(AtomicUsize::new(0));
    let shared = (Arc::clone(&gate), Arc::clone(&waiting));
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(streams);
    let app = App::script(move |connection| {
        let (gate, waiting) = shared.clone();
        http2::serve_all(connection, settings.clone(), move |_, mut respond| {
            let (gate, waiting) = (Arc::clone(&gate), Arc::clone(&waiting));
            async move {
                waiting.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.expect("it is never closed").forget();
                waiting.fetch_sub(1, Ordering::SeqCst);
                reply(&mut respond, "at last");
            }
        })
    })
    .await;
    (app, gate, waiting)
}

fn limited(app: &App, limits: &Value) -> Value {
    let service = json!({ "protocol": "http2", "limits": limits });
    let over = json!({ "defaults": { "timeout": "60s" }, "services": { "api": service } });
    with(api(&[app.endpoint()]), over)
}

#[tokio::test]
async fn a_burst_onto_a_fresh_endpoint_is_spread_as_its_settings_say() {
    let (app, gate, waiting) = narrow(2).await;
    let sidecar = Sidecar::start(limited(&app, &json!({ "queue_timeout": "60s" }))).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let mut responses = Vec::new();
    for _ in 0..6 {
        responses.push(client.begin(http2::get("h", "/"), None).await);
    }
    wait_until("none waits behind another", || waiting.load(Ordering::SeqCst) == 6).await;
    assert_eq!(app.accepted(), 3);
    gate.add_permits(6);
    for response in responses {
        assert_eq!(Answer::read(response).await.expect("an answer").status, 200);
    }
}

#[tokio::test]
async fn requests_beyond_the_streams_of_all_connections_wait_in_the_queue() {
    let (app, gate, waiting) = narrow(2).await;
    let limits = json!({ "max_connections": 1, "max_pending_requests": 1, "queue_timeout": "60s" });
    let sidecar = Sidecar::start(limited(&app, &limits)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    // A burst of two would leave one in the queue until the endpoint's SETTINGS came, where the third finds no room.
    let mut responses = Vec::new();
    for number in 1..=2 {
        responses.push(client.begin(http2::get("h", "/"), None).await);
        wait_until("it is there", || waiting.load(Ordering::SeqCst) == number).await;
    }
    responses.push(client.begin(http2::get("h", "/"), None).await);
    sidecar.until_metric("outrigger_upstream_pending_requests", &["service=\"api\""], 1.0).await;
    let refused = get(sidecar.outbound(), "h", "/").await;
    assert_eq!((refused.status, refused.flag()), (503, "upstream_overflow"));
    gate.add_permits(3);
    for response in responses {
        assert_eq!(Answer::read(response).await.expect("an answer").status, 200);
    }
    assert_eq!(app.accepted(), 1);
}

#[tokio::test]
async fn the_wait_for_a_stream_has_an_end() {
    let (app, gate, waiting) = narrow(1).await;
    let limits = json!({ "max_connections": 1, "queue_timeout": "200ms" });
    let sidecar = Sidecar::start(limited(&app, &limits)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let first = client.begin(http2::get("h", "/"), None).await;
    wait_until("the stream is in use", || waiting.load(Ordering::SeqCst) == 1).await;
    let refused = get(sidecar.outbound(), "h", "/").await;
    assert_eq!((refused.status, refused.flag()), (503, "upstream_overflow"));
    gate.add_permits(1);
    assert_eq!(Answer::read(first).await.expect("an answer").status, 200);
}
