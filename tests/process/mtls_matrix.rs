//! Every mode of mTLS against every kind of caller and protocol; and what travels between two sidecars must arrive as it
//! was sent: versions of HTTP, bodies, upgrades, bytes.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::{
    mtls::{Pair, bilingual, proving},
    support::{
        App, Client, Sidecar,
        app::answers,
        authority::{Authority, Folder},
        eventually,
        http2::{self, Answer, Http2},
        ok,
        sidecar::with,
        streams::echoing,
    },
    tcp::{address, echo, line},
};

const MODES: [&str; 3] = ["strict", "permissive", "disabled"];

/// How somebody speaks to an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
    Grpc,
    Tcp,
}

const ALL: [Speaks; 4] = [Speaks::Http1, Speaks::Http2, Speaks::Grpc, Speaks::Tcp];

impl Speaks {
    /// The service that takes it.
    fn service(self, mode: &str) -> String {
        if self == Self::Tcp { format!("db-{mode}") } else { format!("api-{mode}") }
    }

    /// What comes of it: what the application says, or how the caller is refused.
    async fn to(self, to: SocketAddr, host: &str) -> String {
        match self {
            Self::Http1 => match get_or_close(to, host).await {
                Some((200, text)) => text,
                Some((status, _)) => format!("refused with {status}"),
                None => "closed".to_owned(),
            },
            Self::Http2 => told(call_http2(to, host, None).await),
            Self::Grpc => told(call_http2(to, host, Some("application/grpc")).await),
            Self::Tcp => {
                let mut client = Client::connect(to).await;
                client.send("\0hello").await;
                match client.bytes(6).await.as_slice() {
                    b"\0hello" => "echoed".to_owned(),
                    _ => "closed".to_owned(),
                }
            }
        }
    }

    /// What the application says if `caller` reached it.
    fn served(self, caller: &str) -> String {
        match self {
            Self::Http1 => format!("HTTP/1.1 from {caller}"),
            Self::Http2 => format!("HTTP/2.0 from {caller}"),
            Self::Grpc => format!("HTTP/2.0 from {caller}, grpc-status 0"),
            Self::Tcp => "echoed".to_owned(),
        }
    }
}

async fn get_or_close(to: SocketAddr, host: &str) -> Option<(u16, String)> {
    let mut client = Client::connect(to).await;
    client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
    let answer = client.try_response().await?;
    Some((answer.status, answer.text()))
}

/// A call, of gRPC if it has that type; `None` if there is no HTTP/2 to be had.
async fn call_http2(to: SocketAddr, host: &str, grpc: Option<&str>) -> Option<Answer> {
    let mut request = http::Request::post(format!("http://{host}/shop.Cart/Get"));
    if let Some(kind) = grpc {
        request = request.header("content-type", kind).header("te", "trailers");
    }
    let request = request.body(Bytes::from_static(b"\0\0\0\0\0")).expect("a request");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", HeaderValue::from_static("yes"));
    let response = Http2::connect(to).await.try_begin(request, Some(trailers)).await?;
    Answer::read(response).await.ok()
}

fn told(answer: Option<Answer>) -> String {
    let Some(answer) = answer else { return "closed".to_owned() };
    let status = |headers: &HeaderMap| Some(headers.get("grpc-status")?.to_str().ok()?.to_owned());
    let at_the_end = answer.trailers.as_ref().and_then(status);
    let grpc = at_the_end.or_else(|| status(&answer.headers));
    match (answer.status, grpc) {
        (200, Some(code)) if answer.data.is_empty() => format!("refused with gRPC {code}"),
        (200, Some(code)) => format!("{}, grpc-status {code}", String::from_utf8_lossy(&answer.data)),
        (200, None) => String::from_utf8_lossy(&answer.data).into_owned(),
        (status, _) => format!("refused with {status}"),
    }
}

/// What must come of a call from `caller`, a service of the mesh or nobody, to a service with mTLS in this mode.
fn expected(mode: &str, mesh: bool, speaks: Speaks) -> String {
    match (mode, mesh, speaks) {
        ("strict" | "permissive", true, _) => speaks.served("web"),
        ("permissive", false, _) | ("disabled", false, _) => speaks.served("nobody"),
        // The sidecar of a caller finds nobody who proves to be the service.
        ("disabled", true, Speaks::Http1 | Speaks::Http2) => "refused with 502".to_owned(),
        ("disabled", true, Speaks::Grpc) => "refused with gRPC 14".to_owned(),
        ("strict", false, Speaks::Http1) => "refused with 400".to_owned(),
        ("strict", false, Speaks::Http2 | Speaks::Grpc | Speaks::Tcp) | ("disabled", true, Speaks::Tcp) => {
            "closed".to_owned()
        }
        _ => panic!("no row for {mode}"),
    }
}

/// A sidecar of each mode before each of the applications.
async fn servers(authority: &Authority, http: &App, tcp: &App) -> Vec<(String, Sidecar, Folder)> {
    let mut servers = Vec::new();
    for mode in MODES {
        for (speaks, app, protocol) in [(Speaks::Http1, http, "auto"), (Speaks::Tcp, tcp, "tcp")] {
            let name = speaks.service(mode);
            let folder = Folder::of(authority, &name);
            let own = json!({ "service": { "address": app.endpoint(), "protocol": protocol } });
            let config = match mode {
                "disabled" => with(json!({ "service": { "name": name } }), own),
                _ => proving(&name, &folder, mode, own),
            };
            servers.push((name, Sidecar::start(config).await, folder));
        }
    }
    servers
}

/// The sidecar of `web`, whose application reaches all `servers` by name, and the others by listeners of their own.
async fn caller(folder: &Folder, servers: &[(String, Sidecar, Folder)]) -> Sidecar {
    let (mut routes, mut services, mut listeners) = (Vec::new(), json!({}), Vec::new());
    for (name, sidecar, _) in servers {
        services[name] = json!({ "endpoints": [sidecar.inbound().to_string()] });
        if name.starts_with("db-") {
            services[name]["protocol"] = json!("tcp");
            listeners.push(json!({ "name": name, "address": "127.0.0.1:0", "service": name }));
        } else {
            routes.push(json!({ "name": name, "match": { "hosts": [name] }, "service": name }));
        }
    }
    let config = json!({ "routes": routes, "services": services, "listeners": { "tcp": listeners } });
    Sidecar::start(proving("web", folder, "strict", config)).await
}

#[tokio::test]
async fn every_mode_meets_every_caller_and_protocol() {
    let authority = Authority::new("mesh");
    let (http, tcp) = (bilingual().await, echo().await);
    let servers = servers(&authority, &http, &tcp).await;
    let folder = Folder::of(&authority, "web");
    let web = caller(&folder, &servers).await;
    let (mut wrong, mut cells) = (Vec::new(), 0);
    for mode in MODES {
        for speaks in ALL {
            let service = speaks.service(mode);
            let (_, server, _) = servers.iter().find(|(name, ..)| *name == service).expect("it runs");
            let to_mesh = if speaks == Speaks::Tcp { address(&web, &service).await } else { web.outbound() };
            for (mesh, to) in [(true, to_mesh), (false, server.inbound())] {
                let (found, wanted) = (speaks.to(to, &service).await, expected(mode, mesh, speaks));
                cells += 1;
                if found != wanted {
                    wrong.push(format!("{mode}, mesh: {mesh}, {speaks:?}: {found}, not {wanted}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(cells, 24);
    // Who is bytes is told by the log.
    let (_, strict, _) = servers.iter().find(|(name, ..)| name == "db-strict").expect("it runs");
    assert_eq!(line(strict, "closed").await["source"], "web");
}

#[tokio::test]
async fn http1_that_travels_over_http2_arrives_as_it_was_sent() {
    let app = App::script(answers(|request| match request.target() {
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n".to_vec(),
        "/head" => b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".to_vec(),
        "/trailers" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                         2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n"
            .to_vec(),
        "/echo" => {
            let length = request.body.data.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            [head.as_bytes(), &request.body.data].concat()
        }
        _ => ok("hello"),
    }))
    .await;
    let pair = Pair::start_with(&app, json!({}), json!({ "service": { "protocol": "auto" } })).await;
    let mut client = Client::connect(pair.web.outbound()).await;
    assert_eq!(client.get("api", "/plain?x=1").await.text(), "hello");
    let seen = app.only_request().head;
    assert_eq!((seen.start.as_str(), seen.field("host")), ("GET /plain?x=1 HTTP/1.1", Some("api")));

    let megabyte: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let head = format!("POST /echo HTTP/1.1\r\nhost: api\r\ncontent-length: {}\r\n\r\n", megabyte.len());
    client.send([head.as_bytes(), &megabyte].concat()).await;
    assert!(client.response().await.body.data == megabyte);
    client.send("POST /echo HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n").await;
    client.send("5\r\nhello\r\n0\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "hello");

    client.send("HEAD /head HTTP/1.1\r\nhost: api\r\n\r\n").await;
    let answer = client.response_to_head().await;
    assert_eq!((answer.status, answer.field("content-length")), (200, Some("1000")));
    assert_eq!(client.get("api", "/204").await.status, 204);
    let answer = client.get("api", "/304").await;
    assert_eq!((answer.status, answer.field("etag")), (304, Some("\"x\"")));
    client.send("GET /trailers HTTP/1.1\r\nhost: api\r\nte: trailers\r\nconnection: te\r\n\r\n").await;
    let answer = client.response().await;
    assert_eq!(
        (answer.text().as_str(), answer.body.trailers.as_slice()),
        ("hi", &[("x-sum".to_owned(), "7".to_owned())][..])
    );
    // All of it in step: the connection serves on, and all went over one connection between the sidecars.
    assert_eq!(client.get("api", "/last").await.text(), "hello");
    assert_eq!(pair.web.metric("outrigger_tls_handshakes_total", &["direction=\"outbound\""]).await, 1.0);
    for request in app.requests() {
        assert!(request.head.start.ends_with(" HTTP/1.1"), "{:?}", request.head);
        assert!(request.field("x-outrigger-carried").is_none(), "{:?}", request.head);
    }
}

#[tokio::test]
async fn a_client_of_http10_is_served_through_two_sidecars() {
    let app = App::saying("hello").await;
    let pair = Pair::start(&app).await;
    let mut client = Client::connect(pair.web.outbound()).await;
    client.send("GET / HTTP/1.0\r\nhost: api\r\n\r\n").await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    client.closed().await;
    client = Client::connect(pair.web.outbound()).await;
    client.send("GET / HTTP/1.0\r\nhost: api\r\nconnection: keep-alive\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "hello");
    client.send("GET / HTTP/1.0\r\nhost: api\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "hello");
}

#[tokio::test]
async fn http2_and_grpc_pass_with_bodies_and_trailers_both_ways() {
    let app = bilingual().await;
    let pair = Pair::start_with(&app, json!({}), json!({ "service": { "protocol": "auto" } })).await;
    let client = Http2::connect(pair.web.outbound()).await;
    let request = http::Request::post("http://api/shop.Cart/Put")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Bytes::from(vec![7; 1_000_000]))
        .expect("a request");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", HeaderValue::from_static("yes"));
    let answer = Answer::read(client.begin(request, Some(trailers)).await).await.expect("an answer");
    assert_eq!((answer.status, answer.data), (200, b"HTTP/2.0 from web".to_vec()));
    assert_eq!(answer.trailers.expect("trailers")["grpc-status"], "0");
}

#[tokio::test]
async fn a_websocket_passes_two_sidecars_over_mtls() {
    let app = echoing().await;
    let pair = Pair::start(&app).await;
    let mut client = Client::connect(pair.web.outbound()).await;
    let head = "GET /chat HTTP/1.1\r\nhost: api\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    client.send(head).await;
    assert_eq!(client.head().await.expect("an answer").start, "HTTP/1.1 101 Switching Protocols");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 249) as u8).collect();
    for part in sent.chunks(50_000) {
        client.send(part).await;
        assert!(client.bytes(part.len()).await == part);
    }
    assert_eq!(app.only_request().field("x-outrigger-source"), Some("web"));
    client.finish().await;
    client.closed().await;
}

/// The pair of `web` and `api`, of which `api` takes bytes, by the listener `db`.
async fn bytes_pair(app: &App) -> (Pair, SocketAddr) {
    let service = json!({ "protocol": "tcp" });
    let listener = json!([{ "name": "db", "address": "127.0.0.1:0", "service": "api" }]);
    let over = json!({ "routes": [], "services": { "api": service }, "listeners": { "tcp": listener } });
    let pair = Pair::start_with(app, over, json!({ "service": service })).await;
    let to = address(&pair.web, "db").await;
    (pair, to)
}

#[tokio::test]
async fn bytes_pass_two_sidecars_both_ways_and_are_flushed() {
    let app = echo().await;
    let (pair, to) = bytes_pair(&app).await;
    let mut client = Client::connect(to).await;
    // One byte is not kept back until there are more.
    client.send("x").await;
    assert_eq!(client.bytes(1).await, b"x");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 247) as u8).collect();
    for part in sent.chunks(100_000) {
        client.send(part).await;
        assert!(client.bytes(part.len()).await == part);
    }
    client.finish().await;
    client.closed().await;
    for sidecar in [&pair.web, &pair.api] {
        let line = line(sidecar, "closed").await;
        assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(1_000_001), &json!(1_000_001)));
    }
    assert_eq!(line(&pair.api, "closed").await["source"], "web");
}

#[tokio::test]
async fn an_end_in_one_direction_leaves_the_other_open_through_two_sidecars() {
    let app = App::script(|mut connection| async move {
        let question = connection.wire.rest().await;
        connection.send(vec![b'y'; question.len()]).await;
    })
    .await;
    let (_pair, to) = bytes_pair(&app).await;
    let mut client = Client::connect(to).await;
    client.send(vec![b'x'; 1_000_000]).await;
    client.finish().await;
    assert!(client.rest().await == vec![b'y'; 1_000_000]);
}

#[tokio::test]
async fn a_service_of_bytes_may_speak_first_through_two_sidecars() {
    let app = App::script(|mut connection| async move {
        connection.send("220 ready\r\n").await;
        connection.until_closed().await;
    })
    .await;
    let (_pair, to) = bytes_pair(&app).await;
    let mut client = Client::connect(to).await;
    assert_eq!(client.bytes(11).await, b"220 ready\r\n");
}

/// A check of `api` by `web`.
fn checked(kind: Value) -> Value {
    let check = with(
        json!({ "interval": "100ms", "timeout": "90ms", "healthy_threshold": 1, "unhealthy_threshold": 1 }),
        kind,
    );
    json!({ "services": { "api": { "health_check": check } } })
}

async fn state(pair: &Pair, wanted: &str) {
    let endpoint = pair.api.inbound().to_string();
    eventually(&format!("the endpoint is {wanted}"), async || {
        (pair.web.endpoint_state(&endpoint).await.as_deref() == Some(wanted)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn checks_of_http_go_over_mtls() {
    let app = App::script(answers(|request| match request.target() {
        "/healthz" => b"HTTP/1.1 503 Down\r\ncontent-length: 0\r\n\r\n".to_vec(),
        _ => ok("hello"),
    }))
    .await;
    let pair = Pair::start_with(&app, checked(json!({ "path": "/healthz" })), json!({})).await;
    state(&pair, "unhealthy").await;
    assert_eq!(app.requests()[0].field("x-outrigger-source"), Some("web"));
    let app = App::saying("hello").await;
    let pair = Pair::start_with(&app, checked(json!({ "path": "/healthz" })), json!({})).await;
    eventually("it is asked", async || (app.requests().len() > 1).then_some(())).await;
    state(&pair, "healthy").await;
}

#[tokio::test]
async fn checks_of_tcp_and_grpc_go_over_mtls() {
    let tcp = echo().await;
    let over = with(checked(json!({ "tcp": true })), json!({ "services": { "api": { "protocol": "tcp" } } }));
    let over = with(
        over,
        json!({ "routes": [], "listeners": { "tcp": [
        { "name": "db", "address": "127.0.0.1:0", "service": "api" },
    ] } }),
    );
    let pair = Pair::start_with(&tcp, over, json!({ "service": { "protocol": "tcp" } })).await;
    state(&pair, "healthy").await;
    // Each check is a handshake of its own, and none of them fails.
    let inbound = ["direction=\"inbound\""];
    pair.api.until_metric("outrigger_tls_handshakes_total", &inbound, 3.0).await;
    for failure in ["closed", "alpn", "timeout", "protocol"] {
        let result = format!("result=\"{failure}\"");
        assert_eq!(pair.api.metric("outrigger_tls_handshakes_total", &[&result]).await, 0.0, "{failure}");
    }

    let serving =
        App::script(|connection| http2::serve_all(connection, h2::server::Builder::new(), answer_check))
            .await;
    let grpc = json!({ "service": { "protocol": "http2" } });
    let over = checked(json!({ "grpc": {} }));
    let pair = Pair::start_with(&serving, over.clone(), grpc.clone()).await;
    eventually("it is asked", async || (serving.accepted() > 0).then_some(())).await;
    state(&pair, "healthy").await;
    let silent = App::script(|mut connection| async move { connection.until_closed().await }).await;
    let pair = Pair::start_with(&silent, over, grpc).await;
    state(&pair, "unhealthy").await;
}

/// `SERVING`, as grpc.health.v1 says it.
async fn answer_check(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let is_sidecar = request.headers().get("x-outrigger-source").is_some_and(|source| source == "web");
    let head = http::Response::builder().header("content-type", "application/grpc").body(());
    let Ok(mut stream) = respond.send_response(head.expect("a head"), false) else { return };
    let status = if is_sidecar { 1 } else { 2 };
    let _ = stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false);
    let mut end = HeaderMap::new();
    end.insert("grpc-status", HeaderValue::from_static("0"));
    let _ = stream.send_trailers(end);
}
