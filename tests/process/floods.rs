//! Clients that flood an HTTP/2 connection, each in its own way. Their connection ends, the reason is counted, others
//! are served meanwhile, and memory and descriptors are back near where they were.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    App, Client, Sidecar,
    footprint::Footprint,
    frames::{
        self, CONTINUATION, DATA, END_HEADERS, END_STREAM, Ending, Frames, HEADERS, INITIAL_WINDOW_SIZE,
        PING, PRIORITY, RST_STREAM, SETTINGS,
    },
    get, ok,
    sidecar::{api, with},
    within,
};

/// Error codes of RFC 9113 §7.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// More than any limit allows, and little enough to be sent in seconds.
const MANY: usize = 50_000;

/// A sidecar before an application that answers all but `/held`, and what it holds when it has served something.
async fn sidecar() -> (App, Sidecar, Footprint) {
    let app = App::script(|mut connection| async move {
        while let Some(request) = connection.request().await {
            if request.target() == "/held" {
                connection.until_closed().await;
                return;
            }
            connection.send(ok("small")).await;
        }
    })
    .await;
    let config = json!({ "services": { "api": { "protocol": "http1" } }, "telemetry": { "log": { "level": "info" } } });
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), config)).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
    let footprint = Footprint::of(&sidecar);
    (app, sidecar, footprint)
}

/// What must hold after whatever a client has done: a request is served within a second, and nothing is kept.
async fn unharmed(sidecar: &Sidecar, before: Footprint) {
    let served = tokio::time::timeout(Duration::from_secs(1), get(sidecar.outbound(), "h", "/after")).await;
    assert_eq!(served.expect("an answer within a second").status, 200);
    before.is_reached_again(sidecar).await;
}

/// Sends `flood` [`MANY`] times behind `first`; the connection must end by it, for `reason` if the sidecar's own
/// limit does it, while another client is served.
async fn flooded(first: &[u8], flood: &[u8], reason: Option<&str>) -> Ending {
    let (_app, sidecar, before) = sidecar().await;
    let mut bystander = Client::connect(sidecar.outbound()).await;
    let mut client = Frames::connect(sidecar.outbound(), &[]).await;
    client.send(first).await;
    let flooding = client.flood(flood, MANY);
    let watching = async {
        assert_eq!(bystander.get("h", "/beside").await.status, 200);
    };
    let (ended, ()) = tokio::join!(flooding, watching);
    let ending = match ended {
        Some(ending) => ending,
        // All of it was written before the sidecar had read it.
        None => client.closed().await,
    };
    if let Some(reason) = reason {
        let label = format!("reason=\"{reason}\"");
        sidecar.until_metric("outrigger_http_rejected_total", &[label.as_str()], 1.0).await;
    }
    unharmed(&sidecar, before).await;
    ending
}

#[tokio::test]
async fn a_flood_of_pings_ends_its_connection() {
    flooded(&[], &frames::frame(PING, 0, 0, &[7; 8]), Some("h2_ping_flood")).await;
}

#[tokio::test]
async fn a_flood_of_settings_ends_its_connection() {
    flooded(&[], &frames::settings(&[(INITIAL_WINDOW_SIZE, 65_535)]), Some("h2_settings_flood")).await;
}

#[tokio::test]
async fn a_flood_of_priorities_ends_its_connection() {
    flooded(&[], &frames::frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 15]), Some("h2_priority_flood")).await;
}

#[tokio::test]
async fn a_flood_of_window_updates_by_one_ends_its_connection() {
    flooded(&[], &frames::window(0, 1), Some("h2_window_update_flood")).await;
}

#[tokio::test]
async fn a_flood_of_empty_data_ends_its_connection() {
    flooded(&frames::post(1, "/held"), &frames::frame(DATA, 0, 1, &[]), None).await;
}

#[tokio::test]
async fn a_flood_of_data_that_is_only_padding_ends_its_connection() {
    let padding = frames::frame(DATA, 8, 1, &[3, 0, 0, 0]);
    flooded(&frames::post(1, "/held"), &padding, None).await;
}

#[tokio::test]
async fn a_flood_of_frames_of_no_known_kind_ends_its_connection() {
    flooded(&[], &frames::frame(0x5c, 0, 0, b"?"), Some("h2_unknown_frame_flood")).await;
}

#[tokio::test]
async fn a_flood_of_empty_headers_ends_its_connection() {
    let ending = flooded(&[], &frames::frame(HEADERS, END_HEADERS | END_STREAM, 1, &[]), None).await;
    assert!(ending.frames > 0, "it was told something");
}

#[tokio::test]
async fn a_flood_of_continuations_ends_its_connection() {
    let first = frames::frame(HEADERS, 0, 1, &frames::request_fields("GET", "/"));
    flooded(&first, &frames::frame(CONTINUATION, 0, 1, &frames::field("x", "y")), None).await;
    flooded(&first, &frames::frame(CONTINUATION, 0, 1, &[]), None).await;
}

#[tokio::test]
async fn requests_that_are_reset_as_soon_as_they_are_made_end_their_connection() {
    let (app, sidecar, before) = sidecar().await;
    let mut client = Frames::connect(sidecar.outbound(), &[]).await;
    let mut flood = Vec::new();
    for number in 0..5_000 {
        flood.extend(frames::get(2 * number + 1, "/held"));
        flood.extend(frames::reset(2 * number + 1, 8));
    }
    let ending = match client.flood(&flood, 1).await {
        Some(ending) => ending,
        None => client.closed().await,
    };
    assert_eq!(ending.goaway.unwrap_or(ENHANCE_YOUR_CALM), ENHANCE_YOUR_CALM);
    assert!(app.accepted() < 1_000, "{} requests went through", app.accepted());
    unharmed(&sidecar, before).await;
}

#[tokio::test]
async fn a_slow_flood_of_resets_ends_its_connection_too() {
    // Each request reaches the application before it is taken back: the codec's own limit does not see these.
    let (app, sidecar, before) = sidecar().await;
    let mut client = Frames::connect(sidecar.outbound(), &[]).await;
    let mut number = 1;
    let cut = within("the end of the flood", async {
        loop {
            let (seen, request) = (app.requests().len(), frames::get(number, "/held"));
            if !client.send(request).await {
                return number;
            }
            let arrived = async {
                while app.requests().len() == seen {
                    tokio::task::yield_now().await;
                }
            };
            if tokio::time::timeout(Duration::from_millis(500), arrived).await.is_err() {
                return number;
            }
            client.send(frames::reset(number, 8)).await;
            number += 2;
        }
    })
    .await;
    assert!(cut > 2 * 200, "a burst of them is a client's right: {cut}");
    sidecar.until_metric("outrigger_http_rejected_total", &["reason=\"h2_reset_flood\""], 1.0).await;
    unharmed(&sidecar, before).await;
}

#[tokio::test]
async fn errors_that_make_the_sidecar_reset_stream_after_stream_end_the_connection() {
    // "MadeYouReset": the client resets nothing itself.
    let (app, sidecar, before) = sidecar().await;
    let mut client = Frames::connect(sidecar.outbound(), &[]).await;
    let mut flood = Vec::new();
    for number in 0..5_000 {
        flood.extend(frames::get(2 * number + 1, "/held"));
        flood.extend(frames::window(2 * number + 1, 0));
    }
    if client.flood(&flood, 1).await.is_none() {
        client.closed().await;
    }
    assert!(app.accepted() < 2_000, "{} requests went through", app.accepted());
    unharmed(&sidecar, before).await;
}

#[tokio::test]
async fn a_small_head_that_unpacks_to_a_large_one_is_refused() {
    let (app, sidecar, before) = sidecar().await;
    let mut client = Frames::connect(sidecar.outbound(), &[]).await;
    // A field of 4000 bytes is remembered, and then named a thousand times with a byte each.
    let mut fields = frames::request_fields("GET", "/bomb");
    fields.extend([0x40, 1, b'b', 0x7f, 0xa1, 0x1e]);
    fields.extend([b'x'; 4000]);
    fields.extend([0xbe; 1000]);
    client.send(frames::frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields)).await;
    let frame = client.next_of(&[HEADERS, RST_STREAM, frames::GOAWAY]).await.expect("a refusal");
    assert!(frame.kind != HEADERS || frame.status() != Some(200), "{frame:?}");
    assert!(app.requests().iter().all(|request| request.target() != "/bomb"));
    unharmed(&sidecar, before).await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_the_others_go_on() {
    let (app, sidecar, before) = sidecar().await;
    let mut client = Frames::connect(sidecar.outbound(), &[]).await;
    for number in 0..=100 {
        client.send(frames::get(2 * number + 1, "/held")).await;
    }
    let reset = client.until(RST_STREAM, 201).await.expect("the connection lives on");
    assert_eq!(reset.code(), REFUSED_STREAM);
    client.send(frames::reset(1, 8)).await;
    client.send(frames::get(203, "/small")).await;
    assert_eq!(client.until(HEADERS, 203).await.and_then(|frame| frame.status()), Some(200));
    drop(client);
    crate::support::wait_until("the application is left alone", || app.open() <= 2).await;
    unharmed(&sidecar, before).await;
}

#[tokio::test]
async fn windows_that_overflow_and_increments_of_zero_are_errors() {
    let (_app, sidecar, before) = sidecar().await;
    for (bytes, code) in [
        (frames::window(0, 0x7fff_ffff), FLOW_CONTROL_ERROR),
        (frames::window(0, 0), PROTOCOL_ERROR),
        // RFC 9113 wants FLOW_CONTROL_ERROR here; the codec says that the frame is malformed, and closes alike.
        (frames::settings(&[(INITIAL_WINDOW_SIZE, 0x8000_0000)]), PROTOCOL_ERROR),
    ] {
        let mut client = Frames::connect(sidecar.outbound(), &[]).await;
        client.send(bytes).await;
        assert_eq!(client.closed().await.goaway, Some(code));
    }
    let mut client = Frames::connect(sidecar.outbound(), &[]).await;
    client.send([frames::get(1, "/held"), frames::window(1, 0x7fff_ffff)].concat()).await;
    assert_eq!(client.until(RST_STREAM, 1).await.expect("only the stream ends").code(), FLOW_CONTROL_ERROR);
    unharmed(&sidecar, before).await;
}

#[tokio::test]
async fn heads_that_http2_does_not_allow_never_reach_the_application() {
    let (app, sidecar, before) = sidecar().await;
    let requests = app.requests().len();
    let extra = |name: &str, value: &str| {
        [frames::request_fields("GET", "/bad"), frames::field(name, value)].concat()
    };
    let bad = [
        extra("connection", "close"),
        extra("transfer-encoding", "chunked"),
        extra("keep-alive", "1"),
        extra("proxy-connection", "x"),
        extra("upgrade", "websocket"),
        extra("X-Upper", "1"),
        extra("te", "gzip"),
        extra("x-cr", "a\rb"),
        extra("x-lf", "a\nb"),
        extra("x-nul", "a\0b"),
        extra("", "a"),
        extra(":path", "/twice"),
        extra(":unknown", "x"),
        extra("host", "other"),
        [frames::field("x", "first"), frames::request_fields("GET", "/bad")].concat(),
        frames::field(":method", "GET"),
        frames::request_fields("GET", ""),
        frames::request_fields("GET", "no-slash"),
        frames::request_fields("GET", "/a b"),
        frames::request_fields("G T", "/bad"),
    ];
    for fields in &bad {
        let mut client = Frames::connect(sidecar.outbound(), &[]).await;
        client.send(frames::frame(HEADERS, END_HEADERS | END_STREAM, 1, fields)).await;
        let frame = client.next_of(&[HEADERS, RST_STREAM, frames::GOAWAY]).await.expect("a refusal");
        assert_ne!(frame.status(), Some(200), "{}", String::from_utf8_lossy(fields));
    }
    assert_eq!(app.requests().len(), requests);
    unharmed(&sidecar, before).await;
}

#[tokio::test]
async fn a_body_that_contradicts_its_content_length_is_never_a_whole_request() {
    let (app, sidecar, before) = sidecar().await;
    let fields = [frames::request_fields("POST", "/up"), frames::field("content-length", "5")].concat();
    for body in [&b"1234"[..], b"123456"] {
        let mut client = Frames::connect(sidecar.outbound(), &[]).await;
        client.send(frames::frame(HEADERS, END_HEADERS, 1, &fields)).await;
        client.send(frames::frame(DATA, END_STREAM, 1, body)).await;
        let frame = client.next_of(&[HEADERS, RST_STREAM, frames::GOAWAY]).await.expect("a refusal");
        assert_ne!(frame.status(), Some(200), "{body:?}");
    }
    for request in app.requests() {
        assert!(request.target() != "/up" || !request.body.complete, "{request:?}");
    }
    unharmed(&sidecar, before).await;
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_their_connection_and_no_other() {
    let (_app, sidecar, before) = sidecar().await;
    let mut bystander = Client::connect(sidecar.outbound()).await;
    for bytes in [
        frames::frame(DATA, 0, 0, b"on no stream"),
        frames::frame(HEADERS, END_HEADERS, 2, &frames::request_fields("GET", "/")),
        frames::frame(CONTINUATION, END_HEADERS, 1, &[]),
        frames::frame(PING, 0, 0, b"short"),
        frames::frame(SETTINGS, 1, 0, b"an ack with content"),
        frames::frame(RST_STREAM, 0, 1, &[0; 4]),
        frames::frame(DATA, 0, 99, b"idle stream"),
        [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 100]].concat(),
        frames::frame(HEADERS, END_HEADERS, 1, &[0xff; 50]),
    ] {
        let mut client = Frames::connect(sidecar.outbound(), &[]).await;
        client.send(&bytes).await;
        assert!(client.closed().await.goaway.is_some(), "{bytes:?}");
        assert_eq!(bystander.get("h", "/beside").await.status, 200);
    }
    unharmed(&sidecar, before).await;
}
