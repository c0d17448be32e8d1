//! WebSockets between the versions of HTTP: extended CONNECT (RFC 8441) from the client, to the endpoint, or both.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use h2::Reason;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{
    App, Client, Sidecar,
    frames::{Frames, GOAWAY, SETTINGS},
    get,
    http2::{self, Http2, reply},
    ok,
    sidecar::{api, with},
    streams::{End, Tunnel, echoing, granted, serve_echo, speaking, websocket},
    wait_until,
};

const ENABLE_CONNECT_PROTOCOL: [u8; 6] = [0, 8, 0, 0, 0, 1];

const HANDSHAKE: &str = "GET /chat?x=1 HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-protocol: chat\r\n\r\n";

fn with_protocol(app: &App, protocol: &str) -> Value {
    with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": protocol } } }))
}

/// An endpoint of HTTP/2 that grants each extended CONNECT and sends back what it gets; other requests are answered
/// with 200. What came with the requests is checked by `check`.
async fn echoing_streams(check: fn(&http::Request<h2::RecvStream>)) -> App {
    App::script(move |connection| {
        let mut settings = h2::server::Builder::new();
        settings.enable_connect_protocol();
        http2::serve_all(connection, settings, move |request, mut respond| async move {
            if request.method() != http::Method::CONNECT {
                return reply(&mut respond, "plain");
            }
            check(&request);
            let mut tunnel = Tunnel::grant(request, respond);
            loop {
                match tunnel.bytes(5).await {
                    bytes if bytes.is_empty() => return tunnel.finish(),
                    bytes => tunnel.say(bytes),
                }
            }
        })
    })
    .await
}

#[tokio::test]
async fn the_sidecar_says_that_it_takes_extended_connect() {
    let app = echoing().await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    for to in [sidecar.inbound(), sidecar.outbound()] {
        let mut client = Frames::connect(to, &[]).await;
        let settings = client.next_of(&[SETTINGS]).await.expect("SETTINGS come first");
        assert!(settings.payload.chunks(6).any(|setting| setting == ENABLE_CONNECT_PROTOCOL), "{settings:?}");
    }
}

#[tokio::test]
async fn a_client_of_http2_reaches_an_application_of_http1() {
    let app = App::script(|mut connection| async move {
        let Some(request) = connection.head().await else { return };
        let answer = granted(&request, "sec-websocket-protocol: chat\r\n");
        connection.send([answer.as_bytes(), b"ahead from the server|"].concat()).await;
        let all = connection.wire.rest().await;
        connection.send(all).await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let mut head = websocket("/chat?x=1");
    for (name, value) in
        [("sec-websocket-protocol", "chat"), ("sec-websocket-version", "13"), ("origin", "o")]
    {
        head.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    let (status, fields, mut tunnel) = Tunnel::open(&client, head).await;
    assert_eq!((status, fields["sec-websocket-protocol"].as_bytes()), (200, &b"chat"[..]));
    for name in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(fields.get(name).is_none(), "{fields:?}");
    }
    assert_eq!(tunnel.bytes(22).await, b"ahead from the server|");
    tunnel.say("hello");
    tunnel.finish();
    assert_eq!(tunnel.rest().await, (b"hello".to_vec(), End::Orderly));

    let request = app.only_request();
    assert_eq!(request.head.start, "GET /chat?x=1 HTTP/1.1");
    for (name, value) in [
        ("host", "h"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat"),
        ("origin", "o"),
    ] {
        assert_eq!(request.head.all(name), [value]);
    }
    assert_eq!(request.field("sec-websocket-key").map(str::len), Some(24));
    let line = sidecar.logged("/chat").await;
    assert_eq!(
        (&line["method"], &line["status"], &line["flag"]),
        (&json!("CONNECT"), &json!(200), &json!(""))
    );
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(5), &json!(27)));
    let counted = ["method=\"CONNECT\"", "status=\"200\""];
    assert_eq!(sidecar.metric("outrigger_http_requests_total", &counted).await, 1.0);
}

#[tokio::test]
async fn every_handshake_of_the_sidecar_has_a_key_and_the_version_of_its_own() {
    let app = echoing().await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let mut tunnels = Vec::new();
    for said in ["first", "other"] {
        let mut head = websocket("/");
        head.headers_mut().insert("sec-websocket-key", http::HeaderValue::from_static("the client's"));
        let (status, _, mut tunnel) = Tunnel::open(&client, head).await;
        assert_eq!(status, 200);
        tunnel.say(said);
        assert_eq!(tunnel.bytes(5).await, said.as_bytes());
        tunnels.push(tunnel);
    }
    let requests = app.requests();
    let keys = [&requests[0], &requests[1]].map(|request| request.head.all("sec-websocket-key"));
    assert!(keys[0].len() == 1 && keys[1].len() == 1 && keys[0] != keys[1], "{keys:?}");
    assert_eq!(requests[0].field("sec-websocket-version"), Some("13"));
    drop(tunnels);
    wait_until("the endpoint's connections are closed", || app.open() == 0).await;
}

#[tokio::test]
async fn an_answer_that_is_no_handshake_is_no_tunnel() {
    let app = App::script(|mut connection| async move {
        let Some(request) = connection.head().await else { return };
        let wrong = granted(&request, "");
        connection
            .send(match request.target() {
                "/accept" => wrong.replace("sec-websocket-accept: ", "sec-websocket-accept: A"),
                "/missing" => wrong.replace("sec-websocket-accept", "x"),
                "/protocol" => wrong.replace("upgrade: websocket", "upgrade: other"),
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain".to_owned(),
            })
            .await;
        connection.until_closed().await;
    })
    .await;
    let sidecar = Sidecar::start(with_protocol(&app, "http1")).await;
    let client = Http2::connect(sidecar.outbound()).await;
    for target in ["/accept", "/missing", "/protocol", "/plain"] {
        let (status, fields, _) = Tunnel::open(&client, websocket(target)).await;
        assert_eq!(
            (status, fields["x-outrigger-flag"].as_bytes()),
            (502, &b"upstream_reset"[..]),
            "{target}"
        );
        let details = if target == "/plain" { "status" } else { "handshake" };
        let said = format!("outrigger; error=http_upgrade_failed; details=\"{details}\"");
        assert_eq!(fields["proxy-status"].as_bytes(), said.as_bytes());
        assert_eq!(sidecar.logged(target).await["status"], 502);
    }
    wait_until("the endpoint's connections are closed", || app.open() == 0).await;
    // The client's own handshake is held to the same.
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(HANDSHAKE.replace("/chat?x=1", "/accept")).await;
    assert_eq!(client.response().await.status, 502);
}

#[tokio::test]
async fn a_refusal_is_passed_on_as_the_answer_it_is() {
    let app = App::answering(|request| match request.target() {
        "/401" => {
            b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\ncontent-length: 2\r\n\r\nno".to_vec()
        }
        "/404" => {
            b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n".to_vec()
        }
        _ => ok("plain"),
    })
    .await;
    let sidecar = Sidecar::start(with_protocol(&app, "http1")).await;
    let client = Http2::connect(sidecar.outbound()).await;
    for (target, status) in [("/401", 401), ("/404", 404)] {
        let (told, fields, mut tunnel) = Tunnel::open(&client, websocket(target)).await;
        assert_eq!((told, fields.get("x-outrigger-flag")), (status, None));
        assert_eq!(tunnel.rest().await.0, b"no");
    }
    assert_eq!(client.get("h", "/").await.expect("an answer").data, b"plain");
    assert_eq!(app.accepted(), 1, "the endpoint's connection lives on");
}

#[tokio::test]
async fn bytes_before_the_answer_are_the_tunnels_or_nobodys() {
    let gate = Arc::new(Semaphore::new(0));
    let shared = Arc::clone(&gate);
    let app = App::script(move |mut connection| {
        let gate = Arc::clone(&shared);
        async move {
            while let Some(request) = connection.head().await {
                gate.acquire().await.expect("it is never closed").forget();
                if request.target() == "/refused" {
                    connection.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
                    continue;
                }
                connection.send(granted(&request, "")).await;
                let all = connection.wire.rest().await;
                connection.send(all).await;
                return;
            }
        }
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let early = "GET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n";
    for (number, target) in ["/refused", "/granted"].into_iter().enumerate() {
        let (response, mut send) = client.open(websocket(target)).await;
        send.send_data(early.into(), true).expect("an open stream");
        wait_until("the endpoint has the request", || app.requests().len() == number + 1).await;
        gate.add_permits(1);
        let (head, receive) = response.await.expect("an answer").into_parts();
        let rest = Tunnel::new(send, receive).rest().await;
        if target == "/refused" {
            assert_eq!((head.status.as_u16(), rest), (403, (Vec::new(), End::Orderly)));
        } else {
            assert_eq!((head.status.as_u16(), rest), (200, (early.into(), End::Orderly)));
        }
    }
    assert_eq!(app.requests().len(), 2, "nothing of it was taken for a request");
}

#[tokio::test]
async fn other_protocols_than_websocket_are_501() {
    let app = echoing().await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let client = Http2::connect(sidecar.outbound()).await;
    for protocol in ["connect-udp", "websocket2", "h2c"] {
        let (status, fields, _) = Tunnel::open(&client, speaking(protocol, "/")).await;
        assert_eq!((status, fields["x-outrigger-flag"].as_bytes()), (501, &b"bad_request"[..]));
    }
    assert_eq!(sidecar.metric("outrigger_http_rejected_total", &["reason=\"protocol\""]).await, 3.0);
    assert!(app.requests().is_empty());
    assert_eq!(Tunnel::open(&client, websocket("/")).await.0, 200);
}

#[tokio::test]
async fn routes_see_the_handshake_that_http1_would_have() {
    let app = echoing().await;
    let config = json!({
        "routes": [
            { "match": { "path": "/chat", "methods": ["GET"] }, "service": "api" },
            { "match": { "path": "/said" }, "direct_response": { "status": 200, "body": "said" } },
            { "match": { "path": "/gone" }, "redirect": { "path": "/there" } },
        ],
        "services": { "api": { "endpoints": [app.endpoint()] } },
    });
    let sidecar = Sidecar::start(config).await;
    let client = Http2::connect(sidecar.outbound()).await;
    for (target, expected) in [("/chat", 200), ("/said", 502), ("/other", 404)] {
        assert_eq!(Tunnel::open(&client, websocket(target)).await.0, expected, "{target}");
    }
    assert!((300..400).contains(&Tunnel::open(&client, websocket("/gone")).await.0));
    // An error that gRPC would be told with 200.
    let mut head = websocket("/other");
    head.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    assert_eq!(Tunnel::open(&client, head).await.0, 404);
}

#[tokio::test]
async fn a_side_that_breaks_off_is_seen_to_break_off() {
    let resets = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&resets);
    let app = App::script(move |mut connection| {
        let count = Arc::clone(&count);
        async move {
            let Some(request) = connection.head().await else { return };
            connection.send(granted(&request, "")).await;
            if request.target() == "/breaks" {
                connection.reset();
            } else if connection.wire.ends_with_reset().await {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (_, _, mut tunnel) = Tunnel::open(&client, websocket("/stays")).await;
    tunnel.send.send_reset(Reason::CANCEL);
    wait_until("the endpoint's connection is reset", || resets.load(Ordering::SeqCst) == 1).await;
    assert_eq!(sidecar.logged("/stays").await["flag"], "downstream_closed");
    let (_, _, mut tunnel) = Tunnel::open(&client, websocket("/breaks")).await;
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Reset(Reason::CANCEL)));
    assert_eq!(sidecar.logged("/breaks").await["flag"], "upstream_reset");
}

#[tokio::test]
async fn a_tunnel_on_which_nothing_moves_ends_at_the_idle_timeout() {
    let app = echoing().await;
    let limits = json!({ "listeners": { "stream_idle_timeout": "400ms" } });
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), limits)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (_, _, mut tunnel) = Tunnel::open(&client, websocket("/")).await;
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Reset(Reason::CANCEL)));
    wait_until("the endpoint's connection is closed", || app.open() == 0).await;
    assert_eq!(Tunnel::open(&client, websocket("/")).await.0, 200, "the client's connection lives on");
}

#[tokio::test]
async fn a_tunnel_lasts_until_the_drain_deadline() {
    let app = echoing().await;
    let shutdown = json!({ "shutdown": { "grace": "0s", "drain_timeout": "1s" } });
    let mut sidecar = Sidecar::start(with(api(&[app.endpoint()]), shutdown)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (_, _, mut tunnel) = Tunnel::open(&client, websocket("/")).await;
    sidecar.signal("TERM");
    while sidecar.ask("GET", "/readyz", "").await.is_some_and(|answer| answer.status == 200) {}
    tunnel.say("hello");
    assert_eq!(tunnel.bytes(5).await, b"hello", "it still passes bytes");
    assert_eq!(sidecar.ended().await.code(), Some(0));
    assert_eq!(tunnel.bytes(1).await, b"");
}

#[tokio::test]
async fn a_client_of_http1_reaches_an_endpoint_of_http2() {
    let app = echoing_streams(|request| {
        assert_eq!(request.uri(), "http://h/chat?x=1");
        let protocol = request.extensions().get::<h2::ext::Protocol>().expect("extended CONNECT");
        assert_eq!(protocol.as_str(), "websocket");
        assert_eq!(request.headers()["sec-websocket-protocol"], "chat");
        assert_eq!(request.headers()["sec-websocket-version"], "13");
        for name in ["sec-websocket-key", "upgrade", "connection", "host"] {
            assert!(request.headers().get(name).is_none(), "{name}");
        }
    })
    .await;
    let sidecar = Sidecar::start(with_protocol(&app, "http2")).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send([HANDSHAKE, "early"].concat()).await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.field("upgrade")), (101, Some("websocket")));
    assert_eq!(answer.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(client.bytes(5).await, b"early");
    client.send("later").await;
    client.finish().await;
    assert_eq!(client.rest().await, b"later");
    let line = sidecar.logged("/chat").await;
    assert_eq!(
        (&line["status"], &line["bytes_in"], &line["bytes_out"]),
        (&json!(101), &json!(10), &json!(10))
    );
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "plain");
    assert_eq!(app.accepted(), 1, "requests and tunnels share a connection");
}

#[tokio::test]
async fn a_websocket_stays_on_http2_from_sidecar_to_sidecar() {
    let app = echoing().await;
    let local = json!({ "service": { "name": "tested", "address": app.endpoint() } });
    let far = Sidecar::start(local).await;
    let endpoint = far.inbound().to_string();
    let near = Sidecar::start(json!({
        "routes": [{ "service": "api" }],
        "services": { "api": { "endpoints": [endpoint], "protocol": "http2" } },
    }))
    .await;
    let client = Http2::connect(near.outbound()).await;
    let (status, _, mut tunnel) = Tunnel::open(&client, websocket("/chat")).await;
    assert_eq!(status, 200);
    tunnel.say("hello");
    assert_eq!(tunnel.bytes(5).await, b"hello");
    tunnel.finish();
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Orderly));
    let mut old = Client::connect(near.outbound()).await;
    old.send(HANDSHAKE).await;
    assert_eq!(old.response().await.status, 101);
    old.send("hello").await;
    assert_eq!(old.bytes(5).await, b"hello");
    old.finish().await;
    old.closed().await;
    wait_until("both are written down", || far.access_log().len() == 2).await;
    for line in far.access_log() {
        assert_eq!((&line["method"], &line["protocol"]), (&json!("CONNECT"), &json!("HTTP/2")), "{line}");
        assert_eq!(
            (&line["flag"], &line["bytes_in"], &line["bytes_out"]),
            (&json!(""), &json!(5), &json!(5))
        );
    }
}

#[tokio::test]
async fn breaking_off_passes_through_two_sidecars() {
    let resets = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&resets);
    let app = App::script(move |mut connection| {
        let count = Arc::clone(&count);
        async move {
            let Some(request) = connection.head().await else { return };
            connection.send(granted(&request, "")).await;
            if request.target() == "/breaks" {
                connection.reset();
            } else if connection.wire.ends_with_reset().await {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let far = Sidecar::start(json!({ "service": { "name": "tested", "address": app.endpoint() } })).await;
    let endpoint = far.inbound().to_string();
    let near = Sidecar::start(json!({
        "routes": [{ "service": "api" }],
        "services": { "api": { "endpoints": [endpoint], "protocol": "http2" } },
    }))
    .await;
    let mut client = Client::connect(near.outbound()).await;
    client.send(HANDSHAKE).await;
    assert_eq!(client.response().await.status, 101);
    client.reset();
    wait_until("the endpoint's connection is reset", || resets.load(Ordering::SeqCst) == 1).await;
    let client = Http2::connect(near.outbound()).await;
    let (_, _, mut tunnel) = Tunnel::open(&client, websocket("/breaks")).await;
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Reset(Reason::CANCEL)));
}

#[tokio::test]
async fn an_endpoint_of_http2_that_takes_no_extended_connect_is_asked_in_http1() {
    // The first connection is one of HTTP/2, which does not offer it.
    let app = App::script(|connection| async move {
        if connection.number == 0 {
            let settings = h2::server::Builder::new();
            http2::serve_all(connection, settings, |_, mut respond| async move {
                reply(&mut respond, "plain");
            })
            .await;
        } else {
            serve_echo(connection).await;
        }
    })
    .await;
    let sidecar = Sidecar::start(with_protocol(&app, "http2")).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(HANDSHAKE).await;
    assert_eq!(client.response().await.status, 101);
    client.send("hello").await;
    assert_eq!(client.bytes(5).await, b"hello");
    let client = Http2::connect(sidecar.outbound()).await;
    let (status, _, mut tunnel) = Tunnel::open(&client, websocket("/chat")).await;
    assert_eq!(status, 200);
    tunnel.say("hello");
    assert_eq!(tunnel.bytes(5).await, b"hello");
    assert_eq!(app.requests().len(), 2);
    assert_eq!(client.get("h", "/").await.expect("an answer").data, b"plain");
}

#[tokio::test]
async fn an_endpoint_that_knows_neither_way_is_no_worse_for_it() {
    let app = App::script(|connection| {
        http2::serve_all(connection, h2::server::Builder::new(), |_, mut respond| async move {
            reply(&mut respond, "plain");
        })
    })
    .await;
    let sidecar = Sidecar::start(with_protocol(&app, "http2")).await;
    for _ in 0..10 {
        let mut client = Client::connect(sidecar.outbound()).await;
        client.send(HANDSHAKE).await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.flag()), (502, "upstream_reset"));
        assert!(answer.field("proxy-status").is_some_and(|said| said.contains("http_upgrade_failed")));
    }
    assert_eq!(sidecar.endpoint_state(&app.endpoint()).await.as_deref(), Some("healthy"));
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "plain");
}

#[tokio::test]
async fn a_refusal_by_an_endpoint_of_http2_is_passed_on_to_either_client() {
    let app = App::script(|connection| {
        let mut settings = h2::server::Builder::new();
        settings.enable_connect_protocol();
        http2::serve_all(connection, settings, |request, mut respond| async move {
            if request.method() != http::Method::CONNECT {
                reply(&mut respond, "plain");
                return;
            }
            let status = if request.uri().path() == "/chat" { 403 } else { 204 };
            let head = http::Response::builder().status(status).body(()).expect("a valid head");
            let _ = respond.send_response(head, true);
        })
    })
    .await;
    let sidecar = Sidecar::start(with_protocol(&app, "http2")).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(HANDSHAKE).await;
    assert_eq!(client.response().await.status, 403);
    assert_eq!(client.get("h", "/").await.text(), "plain", "the connection is one of HTTP still");
    let client = Http2::connect(sidecar.outbound()).await;
    assert_eq!(Tunnel::open(&client, websocket("/chat")).await.0, 403);
    assert_eq!(Tunnel::open(&client, websocket("/odd")).await.0, 502, "204 would be a tunnel");
}

#[tokio::test]
async fn a_side_that_does_not_read_ends_the_tunnel_at_the_idle_timeout_on_both_sides() {
    // An endpoint that opens no window beyond the first, and tells how its stream ended.
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    let app = App::script(move |connection| {
        let count = Arc::clone(&count);
        let mut settings = h2::server::Builder::new();
        settings.enable_connect_protocol();
        http2::serve_all(connection, settings, move |request, respond| {
            let count = Arc::clone(&count);
            async move {
                let mut tunnel = Tunnel::grant(request, respond);
                if std::future::poll_fn(|cx| tunnel.send.poll_reset(cx)).await.is_ok() {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
    })
    .await;
    let limits = json!({ "listeners": { "stream_idle_timeout": "400ms" } });
    let sidecar = Sidecar::start(with(with_protocol(&app, "http2"), limits.clone())).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(HANDSHAKE).await;
    assert_eq!(client.response().await.status, 101);
    client.send(vec![0; 8 * 1024 * 1024]).await;
    wait_until("the endpoint's stream is reset", || ended.load(Ordering::SeqCst) == 1).await;
    client.rest().await;

    // A client that does not read what the application sends without end.
    let app = App::script(|mut connection| async move {
        let Some(request) = connection.head().await else { return };
        connection.send(granted(&request, "")).await;
        while connection.wire.write(&[0; 64 * 1024]).await.is_ok() {}
    })
    .await;
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), limits)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (status, _, unread) = Tunnel::open(&client, websocket("/")).await;
    assert_eq!(status, 200);
    wait_until("the endpoint's connection is closed", || app.open() == 0).await;
    let (_, _, other) = Tunnel::open(&client, websocket("/")).await;
    drop((unread, other));
}

#[tokio::test]
async fn a_connection_whose_only_use_is_a_tunnel_is_not_idle() {
    let app = echoing().await;
    let limits = json!({ "listeners": { "idle_timeout": "300ms" } });
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), limits)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (_, _, mut tunnel) = Tunnel::open(&client, websocket("/")).await;
    let mut idle = Frames::connect(sidecar.outbound(), &[]).await;
    assert!(idle.next_of(&[GOAWAY]).await.is_some(), "one without any use is");
    tunnel.say("hello");
    assert_eq!(tunnel.bytes(5).await, b"hello");
}

#[tokio::test]
async fn tunnels_count_among_the_connections_of_their_endpoint() {
    let app = echoing().await;
    let limits = json!({ "max_connections": 1, "queue_timeout": "100ms" });
    let config = with(api(&[app.endpoint()]), json!({ "services": { "api": { "limits": limits } } }));
    let sidecar = Sidecar::start(config).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (_, _, mut first) = Tunnel::open(&client, websocket("/first")).await;
    let (status, fields, _) = Tunnel::open(&client, websocket("/beyond")).await;
    assert_eq!((status, fields["x-outrigger-flag"].as_bytes()), (503, &b"upstream_overflow"[..]));
    first.finish();
    assert_eq!(first.rest().await.1, End::Orderly);
    sidecar.logged("/first").await;
    assert_eq!(Tunnel::open(&client, websocket("/")).await.0, 200);
}

#[tokio::test]
async fn a_client_that_goes_before_the_answer_leaves_nothing_behind() {
    let app = App::script(|mut connection| async move {
        connection.head().await;
        connection.until_closed().await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (response, mut send) = client.open(websocket("/")).await;
    wait_until("the endpoint has the request", || app.requests().len() == 1).await;
    send.send_reset(Reason::CANCEL);
    wait_until("the endpoint's connection is closed", || app.open() == 0).await;
    assert_eq!(sidecar.logged("/").await["flag"], "downstream_closed");
    drop(response);
}
