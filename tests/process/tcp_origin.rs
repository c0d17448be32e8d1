//! Whose connection it is and where it goes: PROXY headers in and out, services by server name.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{
    support::{App, Client, Sidecar, get, ok, sidecar},
    tcp::{address, echo, line, postgres},
};

const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.8 1234 5432\r\n";

fn binary(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, payload].concat()
}

fn tcp_with(listener: &Value, endpoints: &[String]) -> Value {
    let mut config = postgres(endpoints);
    for (key, value) in listener.as_object().expect("an object") {
        config["listeners"]["tcp"][0][key] = value.clone();
    }
    config
}

/// A TLS handshake record with a ClientHello that asks for `name`.
fn client_hello(name: Option<&str>) -> Vec<u8> {
    let long =
        |content: &[u8]| [&u16::try_from(content.len()).expect("short").to_be_bytes()[..], content].concat();
    let mut extensions = vec![0, 43, 0, 3, 2, 3, 4];
    if let Some(name) = name {
        let list = long(&[&[0][..], &long(name.as_bytes())].concat());
        extensions.extend([&[0, 0][..], &long(&list)].concat());
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(long(&extensions));
    let message = [&[1, 0][..], &long(&body)].concat();
    [&[22, 3, 1][..], &long(&message)].concat()
}

/// Two named services and a default, each of which says who it is and then sends back what it gets.
struct Named {
    sidecar: Sidecar,
    listener: SocketAddr,
    _apps: [App; 3],
}

impl Named {
    async fn start() -> Self {
        let named = |name: &'static str| {
            App::script(move |mut connection| async move {
                let hello = connection.wire.exactly(5).await;
                let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
                connection.wire.exactly(length).await;
                connection.send(name).await;
                connection.until_closed().await;
            })
        };
        let apps = [named("a").await, named("b").await, named("d").await];
        let service = |app: &App| json!({ "protocol": "tcp", "endpoints": [app.endpoint()] });
        let sidecar = Sidecar::start(json!({
            "listeners": {
                "header_timeout": "500ms",
                "tcp": [
                    { "name": "tls", "address": "127.0.0.1:0", "service": "d", "routes": [
                        { "sni": ["a.example"], "service": "a" },
                        { "sni": ["*.b.example"], "service": "b" },
                    ] },
                    { "name": "strict", "address": "127.0.0.1:0", "routes": [
                        { "sni": ["a.example"], "service": "a" },
                    ] },
                ],
            },
            "services": { "a": service(&apps[0]), "b": service(&apps[1]), "d": service(&apps[2]) },
        }))
        .await;
        let listener = address(&sidecar, "tls").await;
        Self { sidecar, listener, _apps: apps }
    }

    async fn service_of(&self, name: Option<&str>) -> Vec<u8> {
        let mut client = Client::connect(self.listener).await;
        client.send(client_hello(name)).await;
        client.bytes(1).await
    }
}

#[tokio::test]
async fn the_server_name_chooses_the_service() {
    let named = Named::start().await;
    assert_eq!(named.service_of(Some("a.example")).await, b"a");
    assert_eq!(named.service_of(Some("A.Example")).await, b"a");
    assert_eq!(named.service_of(Some("x.y.b.example")).await, b"b");
    assert_eq!(named.service_of(Some("b.example")).await, b"d");
    assert_eq!(named.service_of(Some("else.example")).await, b"d");
    assert_eq!(named.service_of(None).await, b"d");
    let line = line(&named.sidecar, "closed").await;
    assert_eq!((&line["server_name"], &line["service"]), (&json!("a.example"), &json!("a")));
}

#[tokio::test]
async fn a_hello_in_many_tiny_writes_reaches_the_service_byte_for_byte() {
    let app = echo().await;
    let routes = json!({ "routes": [{ "sni": ["*.example"], "service": "postgres" }] });
    let mut config = tcp_with(&routes, &[app.endpoint()]);
    config["listeners"]["tcp"][0].as_object_mut().expect("an object").remove("service");
    let sidecar = Sidecar::start(config).await;
    let mut stream = tokio::net::TcpStream::connect(address(&sidecar, "db").await).await.expect("it listens");
    stream.set_nodelay(true).expect("it is open");
    let hello = [&client_hello(Some("db.example"))[..], b"and what follows"].concat();
    for byte in &hello {
        stream.write_all(std::slice::from_ref(byte)).await.expect("it is open");
        tokio::task::yield_now().await;
    }
    let mut back = vec![0; hello.len()];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut back).await.expect("an echo");
    assert_eq!(back, hello);
}

#[tokio::test]
async fn without_a_default_service_other_names_are_closed() {
    let named = Named::start().await;
    let strict = address(&named.sidecar, "strict").await;
    for name in [Some("b.example"), None] {
        let mut client = Client::connect(strict).await;
        client.send(client_hello(name)).await;
        client.closed().await;
    }
    let labels = ["service=\"none\"", "result=\"no_route\""];
    named.sidecar.until_metric("outrigger_tcp_connections_total", &labels, 2.0).await;
}

#[tokio::test]
async fn garbage_instead_of_a_hello_is_closed_and_counted() {
    let named = Named::start().await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[22, 3, 1, 0, 0], &[22, 3, 1, 0, 4, 9, 9, 9, 9]] {
        let mut client = Client::connect(named.listener).await;
        client.send(garbage).await;
        client.closed().await;
    }
    let mut half = Client::connect(named.listener).await;
    half.send(&client_hello(Some("a.example"))[..30]).await;
    half.finish().await;
    half.closed().await;
    let labels = ["service=\"d\"", "result=\"bad_request\""];
    named.sidecar.until_metric("outrigger_tcp_connections_total", &labels, 4.0).await;
    assert_eq!(named.service_of(Some("a.example")).await, b"a");
}

#[tokio::test]
async fn a_hello_that_does_not_come_in_time_is_closed() {
    let named = Named::start().await;
    let mut silent = Client::connect(named.listener).await;
    let mut slow = Client::connect(named.listener).await;
    slow.send(&client_hello(Some("a.example"))[..30]).await;
    silent.closed().await;
    slow.closed().await;
    let labels = ["service=\"d\"", "result=\"downstream_timeout\""];
    named.sidecar.until_metric("outrigger_tcp_connections_total", &labels, 2.0).await;
}

#[tokio::test]
async fn a_proxy_header_tells_whose_connection_it_is() {
    let app = echo().await;
    let config = tcp_with(&json!({ "proxy_protocol": "required" }), &[app.endpoint()]);
    let sidecar = Sidecar::start(config).await;
    let listener = address(&sidecar, "db").await;
    let v2 = binary(0x21, 0x11, &[192, 0, 2, 9, 198, 51, 100, 8, 4, 210, 21, 56]);
    for (header, client_address) in [
        (LINE.as_bytes(), "192.0.2.7"),
        (&v2, "192.0.2.9"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (&binary(0x20, 0x11, b""), "127.0.0.1"),
    ] {
        let mut client = Client::connect(listener).await;
        let (first, second) = header.split_at(11);
        client.send(first).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.send([second, b"x"].concat()).await;
        assert_eq!(client.bytes(1).await, b"x", "nothing but what follows the header");
        client.finish().await;
        client.closed().await;
        let seen = crate::support::eventually("its line", async || {
            sidecar.access_log().into_iter().any(|line| line["client"] == client_address).then_some(())
        });
        seen.await;
    }
}

#[tokio::test]
async fn anything_but_a_proxy_header_is_refused_and_counted() {
    let app = echo().await;
    let mut config = tcp_with(&json!({ "proxy_protocol": "required" }), &[app.endpoint()]);
    config["listeners"]["header_timeout"] = json!("300ms");
    let sidecar = Sidecar::start(config).await;
    let listener = address(&sidecar, "db").await;
    for wrong in ["hello", "PROXY TCP4 1.2.3.4\r\n", "\r\n\r\n\0\r\nQUIT\n\u{1}"] {
        let mut client = Client::connect(listener).await;
        client.send(wrong).await;
        assert!(client.rest().await.is_empty());
    }
    let labels = ["service=\"postgres\"", "result=\"bad_request\""];
    sidecar.until_metric("outrigger_tcp_connections_total", &labels, 3.0).await;
    let mut slow = Client::connect(listener).await;
    slow.send("PROXY TCP4 ").await;
    assert!(slow.rest().await.is_empty());
    line(&sidecar, "downstream_timeout").await;
    assert_eq!(app.accepted(), 0);
}

#[tokio::test]
async fn a_proxy_header_on_an_http_listener_sets_the_client_of_its_requests() {
    let app = App::saying("hello").await;
    let listeners = json!({ "listeners": { "outbound": { "proxy_protocol": "required" } } });
    let sidecar = Sidecar::start(sidecar::with(sidecar::api(&[app.endpoint()]), listeners)).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(format!("{LINE}GET /first HTTP/1.1\r\nhost: api\r\n\r\n")).await;
    assert_eq!(client.response().await.text(), "hello");
    // Only the first bytes of a connection may be a header.
    client.send("GET /second HTTP/1.1\r\nhost: api\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
    for path in ["/first", "/second"] {
        assert_eq!(sidecar.logged(path).await["client"], "192.0.2.7");
    }
}

#[tokio::test]
async fn an_http_listener_that_needs_a_proxy_header_serves_nobody_without() {
    let app = App::saying("hello").await;
    let listeners = json!({ "listeners": { "outbound": { "proxy_protocol": "required" } } });
    let sidecar = Sidecar::start(sidecar::with(sidecar::api(&[app.endpoint()]), listeners)).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send("GET / HTTP/1.1\r\nhost: api\r\n\r\n").await;
    assert!(client.rest().await.is_empty());
    let reason = ["reason=\"proxy_protocol\""];
    sidecar.until_metric("outrigger_http_rejected_total", &reason, 1.0).await;
    assert_eq!(app.accepted(), 0);
}

#[tokio::test]
async fn where_it_is_off_a_proxy_header_is_a_malformed_request() {
    let app = App::answering(|_| ok("")).await;
    let sidecar = Sidecar::start(sidecar::api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(LINE).await;
    assert_eq!(client.response().await.status, 400);
    assert_eq!(get(sidecar.outbound(), "api", "/").await.status, 200);
}

#[tokio::test]
async fn an_endpoint_is_told_whose_connection_it_gets() {
    for (version, is_header) in
        [("v1", b"PROXY TCP4 ".as_slice()), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c")]
    {
        let app = echo().await;
        let sends = json!({ "services": { "postgres": { "send_proxy_protocol": version } } });
        let sidecar = Sidecar::start(sidecar::with(postgres(&[app.endpoint()]), sends)).await;
        let mut client = Client::connect(address(&sidecar, "db").await).await;
        let header = client.bytes(is_header.len()).await;
        assert_eq!(header, is_header, "{version}");
        if version == "v1" {
            let rest = String::from_utf8(client.bytes(19).await).expect("text");
            assert!(rest.starts_with("127.0.0.1 127.0.0.1"), "{rest}");
        }
    }
}

#[tokio::test]
async fn a_chain_of_proxies_keeps_the_client_and_counts_no_header() {
    let app = echo().await;
    let sends = json!({ "services": { "postgres": { "send_proxy_protocol": "v1" } } });
    let config = tcp_with(&json!({ "proxy_protocol": "required" }), &[app.endpoint()]);
    let sidecar = Sidecar::start(sidecar::with(config, sends)).await;
    let mut client = Client::connect(address(&sidecar, "db").await).await;
    client.send(format!("{LINE}abc")).await;
    assert_eq!(client.bytes(LINE.len() + 3).await, format!("{LINE}abc").as_bytes());
    client.finish().await;
    client.closed().await;
    let line = line(&sidecar, "closed").await;
    // The application sent the header back: those bytes are its own.
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(3), &json!(LINE.len() + 3)));
}
