//! One inbound port for HTTP and for what is none.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{
    support::{App, Client, Sidecar, get, ok},
    tcp::{echo, line},
};

fn detecting(app: &App, over: Value) -> Value {
    let mut listeners = json!({ "inbound": { "detect": true } });
    if let Value::Object(over) = over {
        listeners.as_object_mut().expect("an object").extend(over);
    }
    json!({ "service": { "address": app.endpoint() }, "listeners": listeners })
}

#[tokio::test]
async fn http_is_served_as_http_also_in_tiny_writes() {
    let app = App::answering(|_| ok("hello")).await;
    let sidecar = Sidecar::start(detecting(&app, Value::Null)).await;
    assert_eq!(get(sidecar.inbound(), "web", "/whole").await.text(), "hello");
    let mut client = Client::connect(sidecar.inbound()).await;
    for byte in b"\r\nGET /drip HTTP/1.1\r\nhost: web\r\n\r\n" {
        client.send([*byte]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(client.response().await.text(), "hello");
    assert_eq!(sidecar.logged("/drip").await["status"], 200);
    // Malformed, but no other protocol: still an answer.
    let mut client = Client::connect(sidecar.inbound()).await;
    client.send("GET nonsense\r\n\r\n").await;
    assert_eq!(client.response().await.status, 400);
}

#[tokio::test]
async fn http2_is_served_as_http2() {
    let app = App::answering(|_| ok("hello")).await;
    let sidecar = Sidecar::start(detecting(&app, Value::Null)).await;
    let mut stream = tokio::net::TcpStream::connect(sidecar.inbound()).await.expect("it listens");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("it is open");
    let mut frame = [0; 9];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut frame).await.expect("a frame");
    assert_eq!(frame[3], 4, "SETTINGS come first");
}

#[tokio::test]
async fn what_is_no_http_reaches_the_application_byte_for_byte() {
    let app = echo().await;
    let sidecar = Sidecar::start(detecting(&app, Value::Null)).await;
    for bytes in [&b"EHLO mail.example\r\n"[..], b"\x16\x03\x01 something like TLS", b"*1\r\n$4\r\nPING\r\n"]
    {
        let mut client = Client::connect(sidecar.inbound()).await;
        client.send(bytes).await;
        assert_eq!(client.bytes(bytes.len()).await, bytes);
        client.finish().await;
        client.closed().await;
    }
    assert_eq!(line(&sidecar, "closed").await["listener"], "inbound");
}

#[tokio::test]
async fn a_silent_client_is_given_to_an_application_that_speaks_first_if_so_configured() {
    let app = App::script(|mut connection| async move {
        connection.send("220 ready").await;
        connection.until_closed().await;
    })
    .await;
    let sidecar = Sidecar::start(detecting(&app, json!({ "detect_timeout": "50ms" }))).await;
    assert_eq!(Client::connect(sidecar.inbound()).await.bytes(9).await, b"220 ready");
}

#[tokio::test]
async fn a_silent_client_is_otherwise_one_of_http_and_closed_in_time() {
    let app = App::answering(|_| ok("")).await;
    let sidecar = Sidecar::start(detecting(&app, json!({ "header_timeout": "200ms" }))).await;
    Client::connect(sidecar.inbound()).await.closed().await;
    assert_eq!(app.accepted(), 0);
}

#[tokio::test]
async fn without_detection_what_is_no_http_is_answered_400() {
    let app = echo().await;
    let sidecar = Sidecar::start(json!({ "service": { "address": app.endpoint() } })).await;
    let mut client = Client::connect(sidecar.inbound()).await;
    client.send("EHLO mail.example\r\n\r\n").await;
    assert_eq!(client.response().await.status, 400);
    assert_eq!(app.accepted(), 0);
}
