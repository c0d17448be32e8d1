//! What is no proper handshake: plaintext where TLS is wanted and the reverse, old versions, wrong names and protocols,
//! garbage, silence, floods of it. Each ends in time, is counted, and leaves others alone.

use rustls::AlertDescription as Alert;
use serde_json::{Value, json};

use crate::{
    mtls::{HANDSHAKES, lines, proving, serving},
    support::{
        App, Client, Sidecar,
        authority::{Authority, Folder},
        eventually, get,
        sidecar::with,
        tls::Dialer,
        within,
    },
    tcp::echo,
};

/// The service `api` behind a sidecar, and a caller that it likes.
struct Service {
    app: App,
    sidecar: Sidecar,
    authority: Authority,
    _folder: Folder,
    liked: Dialer,
}

impl Service {
    async fn start(over: Value) -> Self {
        let authority = Authority::new("mesh");
        let folder = Folder::of(&authority, "api");
        let app = App::saying("hello").await;
        let sidecar = Sidecar::start(with(serving(&app, &folder, "strict"), over)).await;
        let liked = Dialer::showing(&authority.service("web"));
        Self { app, sidecar, authority, _folder: folder, liked }
    }

    /// A good caller is served, and nothing else ever reached the application.
    async fn still_serves(&self) {
        let mut client = self.liked.http1(self.sidecar.inbound()).await;
        assert_eq!(client.get("api", "/good").await.text(), "hello");
        let paths: Vec<_> = self.app.requests().iter().map(|request| request.target().to_owned()).collect();
        assert!(paths.iter().all(|path| path == "/good"), "{paths:?}");
    }

    async fn refused(&self, reason: &str, times: f64) {
        let labels = ["direction=\"inbound\"", &format!("result=\"{reason}\"")];
        self.sidecar.until_metric(HANDSHAKES, &labels, times).await;
        assert_eq!(self.sidecar.metric(HANDSHAKES, &labels).await, times);
        let lines = lines(&self.sidecar, "a caller was refused by TLS");
        assert!(lines.iter().any(|line| line["reason"] == reason), "{lines:?}");
    }
}

#[tokio::test]
async fn plaintext_to_a_strict_port_is_told_so_in_http_and_otherwise_closed() {
    let service = Service::start(json!({})).await;
    let mut client = Client::connect(service.sidecar.inbound()).await;
    let answer = client.get("api", "/bad").await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.text(), "this port speaks mutual TLS only; call through a sidecar\n");
    assert_eq!(answer.field("connection"), Some("close"));
    client.closed().await;
    service.refused("plaintext", 1.0).await;

    let mut client = Client::connect(service.sidecar.inbound()).await;
    client.send(b"\0\x01\x02 what is this?").await;
    assert_eq!(client.rest().await, b"");
    service.refused("plaintext", 2.0).await;
    let refused = ["result=\"refused\""];
    assert_eq!(service.sidecar.metric("outrigger_mtls_plaintext_connections_total", &refused).await, 2.0);
    service.still_serves().await;
}

#[tokio::test]
async fn plaintext_of_http2_to_a_strict_port_is_not_served() {
    let service = Service::start(json!({})).await;
    let mut client = Client::connect(service.sidecar.inbound()).await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert!(client.rest().await.starts_with(b"HTTP/1.1 400 "));
    service.refused("plaintext", 1.0).await;
    service.still_serves().await;
}

#[tokio::test]
async fn tls_to_a_plaintext_port_ends_without_a_handshake() {
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(json!({ "service": { "address": app.endpoint() } })).await;
    let dialer = Dialer::showing(&Authority::new("mesh").service("web"));
    assert!(dialer.speaking("h2").connect(sidecar.inbound()).await.is_err());
    assert_eq!(get(sidecar.inbound(), "api", "/").await.text(), "hello");
    assert_eq!(app.requests().len(), 1);
}

#[tokio::test]
async fn tls_1_2_is_refused_unless_it_is_asked_for() {
    let service = Service::start(json!({})).await;
    let old = Dialer::of_old(&service.authority.service("web"));
    let alert = old.clone().speaking("http/1.1").refusal(service.sidecar.inbound()).await;
    assert_eq!(alert, Alert::ProtocolVersion);
    service.refused("protocol", 1.0).await;
    service.still_serves().await;

    let service = Service::start(json!({ "mtls": { "min_version": "1.2" } })).await;
    let old = Dialer::of_old(&service.authority.service("web"));
    assert_eq!(old.http1(service.sidecar.inbound()).await.get("api", "/good").await.text(), "hello");
    // What is refused in 1.3 is refused in 1.2.
    let foreign = Dialer::of_old(&Authority::new("another").service("web"));
    assert_eq!(foreign.refusal(service.sidecar.inbound()).await, Alert::UnknownCA);
    service.refused("unknown_issuer", 1.0).await;
    service.still_serves().await;
}

#[tokio::test]
async fn who_asks_for_somebody_else_is_refused() {
    let service = Service::start(json!({})).await;
    let lost = service.liked.clone().asking_for("billing.mesh.local");
    assert_eq!(lost.refusal(service.sidecar.inbound()).await, Alert::AccessDenied);
    service.refused("server_name", 1.0).await;
    for name in ["api", "api.mesh.local", "API.mesh.local"] {
        let mut client = service.liked.clone().asking_for(name).http1(service.sidecar.inbound()).await;
        assert_eq!(client.get("api", "/good").await.text(), "hello", "{name}");
    }
    service.still_serves().await;
}

#[tokio::test]
async fn without_a_protocol_in_common_there_is_no_connection() {
    let service = Service::start(json!({})).await;
    let lost = service.liked.clone().speaking("smtp");
    assert_eq!(lost.refusal(service.sidecar.inbound()).await, Alert::NoApplicationProtocol);
    service.refused("alpn", 1.0).await;
    // Who names none speaks HTTP.
    let stream = service.liked.connect(service.sidecar.inbound()).await.expect("a handshake");
    assert_eq!(Client::over(stream).get("api", "/good").await.text(), "hello");
    service.still_serves().await;
}

#[tokio::test]
async fn who_wants_bytes_passed_on_never_gets_past_the_checks_of_http() {
    let service = Service::start(json!({})).await;
    let mut client = service.liked.bytes(service.sidecar.inbound()).await;
    client.send("GET /bad HTTP/1.1\r\nhost: api\r\n\r\n").await;
    assert_eq!(client.rest().await, b"");
    service.refused("alpn", 1.0).await;
    assert_eq!(service.app.accepted(), 0);
    service.still_serves().await;
}

#[tokio::test]
async fn an_application_of_bytes_gets_them_whatever_protocol_was_named() {
    let app = echo().await;
    let authority = Authority::new("mesh");
    let folder = Folder::of(&authority, "api");
    let tcp = json!({ "service": { "address": app.endpoint(), "protocol": "tcp" } });
    let sidecar = Sidecar::start(proving("api", &folder, "strict", tcp)).await;
    let dialer = Dialer::showing(&authority.service("web"));
    for protocol in ["http/1.1", "h2", "outrigger/bytes"] {
        let stream = dialer.clone().speaking(protocol).connect(sidecar.inbound()).await;
        let mut client = Client::over(stream.expect("a handshake"));
        client.send("\0hello").await;
        assert_eq!(client.bytes(6).await, b"\0hello", "{protocol}");
    }
}

#[tokio::test]
async fn a_handshake_that_stalls_is_closed_in_time() {
    let limits = json!({
        "mtls": { "handshake_timeout": "300ms" },
        "listeners": { "header_timeout": "200ms" },
    });
    let service = Service::start(limits).await;
    let mut silent = Client::connect(service.sidecar.inbound()).await;
    let mut stalled = Client::connect(service.sidecar.inbound()).await;
    // The beginning of a record that never ends.
    stalled.send(b"\x16\x03\x01\x02\x00\x01").await;
    stalled.closed().await;
    silent.closed().await;
    service.refused("timeout", 2.0).await;
    service.still_serves().await;
}

#[tokio::test]
async fn a_flood_of_stalled_handshakes_is_bounded_and_passes() {
    let limits = json!({ "mtls": { "handshake_timeout": "500ms", "max_handshakes": 4 } });
    let service = Service::start(limits).await;
    let mut open = service.liked.http1(service.sidecar.inbound()).await;
    assert_eq!(open.get("api", "/good").await.text(), "hello");
    let mut flood = Vec::new();
    for _ in 0..40 {
        let mut client = Client::connect(service.sidecar.inbound()).await;
        client.send(b"\x16\x03\x01\x02\x00\x01").await;
        flood.push(client);
    }
    // Whoever is in already does not notice.
    assert_eq!(open.get("api", "/good").await.text(), "hello");
    for client in &mut flood {
        client.closed().await;
    }
    let count = async |result: &str| {
        let labels = ["direction=\"inbound\"", &format!("result=\"{result}\"")];
        service.sidecar.metric(HANDSHAKES, &labels).await
    };
    eventually("all of them are counted", async || {
        let (late, beyond) = (count("timeout").await, count("overflow").await);
        (late >= 4.0 && beyond >= 1.0 && late + beyond == 40.0).then_some(())
    })
    .await;
    // One line for each reason and second, not one for each of them.
    assert!(lines(&service.sidecar, "a caller was refused by TLS").len() < 10);
    service.still_serves().await;
}

#[tokio::test]
async fn garbage_that_begins_like_tls_is_refused() {
    let service = Service::start(json!({})).await;
    let handshake = |length: u16, rest: &[u8]| {
        let [high, low] = length.to_be_bytes();
        [&[0x16, 3, 1, high, low], rest].concat()
    };
    // A message of 16 MiB, in as many records as it takes until somebody has had enough.
    let mut oversized = handshake(0x4000, &[&[1, 0xff, 0xff, 0xff][..], &[0; 0x3ffc]].concat());
    for _ in 0..8 {
        oversized.extend(handshake(0x4000, &[0; 0x4000]));
    }
    let cases = [
        ("a record that is longer than any", handshake(0xffff, &[1; 0x8000])),
        ("no ClientHello", handshake(4, &[2, 0, 0, 0])),
        ("a ClientHello of noise", handshake(0x40, &[&[1, 0, 0, 0x3c][..], &[0xaa; 0x3c]].concat())),
        ("an empty record", handshake(0, &[])),
        ("text", [&b"\x16"[..], &[b'x'; 4096]].concat()),
        ("a hello of 16 MiB", oversized),
    ];
    let mut times = 0.0;
    for (what, bytes) in cases {
        let mut client = Client::connect(service.sidecar.inbound()).await;
        client.send(&bytes).await;
        client.finish().await;
        let rest = client.rest().await;
        // Nothing, or an alert.
        assert!(rest.is_empty() || rest[0] == 0x15, "{what}: {rest:?}");
        times += 1.0;
        eventually(what, async || {
            let count = async |result: &str| {
                let labels = ["direction=\"inbound\"", &format!("result=\"{result}\"")];
                service.sidecar.metric(HANDSHAKES, &labels).await
            };
            (count("protocol").await + count("closed").await == times).then_some(())
        })
        .await;
    }
    service.still_serves().await;
}

#[tokio::test]
async fn a_client_that_goes_away_within_the_handshake_is_counted() {
    let service = Service::start(json!({})).await;
    let mut half = Client::connect(service.sidecar.inbound()).await;
    half.send(b"\x16\x03\x01\x02\x00\x01").await;
    half.finish().await;
    half.closed().await;
    service.refused("closed", 1.0).await;
    let mut gone = Client::connect(service.sidecar.inbound()).await;
    gone.send(b"\x16\x03\x01\x02\x00\x01").await;
    gone.reset();
    service.refused("closed", 2.0).await;
    let unused = within("connect", tokio::net::TcpStream::connect(service.sidecar.inbound())).await;
    drop(unused);
    service.refused("closed", 3.0).await;
    service.still_serves().await;
}
