//! TCP services: what a connection that is passed on as bytes can rely on.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{App, Client, Sidecar, eventually, sidecar, wait_until, within};

/// A listener `db` for a service `postgres`.
pub(crate) fn postgres(endpoints: &[String]) -> Value {
    json!({
        "listeners": { "tcp": [{ "name": "db", "address": "127.0.0.1:0", "service": "postgres" }] },
        "services": { "postgres": { "protocol": "tcp", "endpoints": endpoints } },
    })
}

/// Where the TCP listener `name` listens.
pub(crate) async fn address(sidecar: &Sidecar, name: &str) -> SocketAddr {
    sidecar.status().await["listeners"]["tcp"][name]
        .as_str()
        .expect("it listens")
        .parse()
        .expect("an address")
}

/// The line of the access log about the first TCP connection that ended with `result`.
pub(crate) async fn line(sidecar: &Sidecar, result: &str) -> Value {
    eventually(&format!("a line about a connection that ended with {result}"), async || {
        sidecar.access_log().into_iter().find(|line| line["result"] == result)
    })
    .await
}

/// Sends back what it gets, and ends when the client does.
pub(crate) async fn echo() -> App {
    App::script(|mut connection| async move {
        loop {
            let mut buffer = vec![0; 16 * 1024];
            match tokio::io::AsyncReadExt::read(&mut connection.wire.stream, &mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => connection.send(&buffer[..count]).await,
            }
        }
    })
    .await
}

/// Says its name and waits for the end.
async fn greeting(name: &'static str) -> App {
    App::script(move |mut connection| async move {
        connection.send(name).await;
        connection.until_closed().await;
    })
    .await
}

/// An address where nobody listens.
fn nobody() -> String {
    sidecar::free_address().to_string()
}

#[tokio::test]
async fn bytes_pass_both_ways_and_are_counted_exactly() {
    let app = echo().await;
    let sidecar = Sidecar::start(postgres(&[app.endpoint()])).await;
    let mut client = Client::connect(address(&sidecar, "db").await).await;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let mut back = Vec::new();
    for part in sent.chunks(50_000) {
        client.send(part).await;
        back.extend(client.bytes(part.len()).await);
    }
    assert!(back == sent);
    client.finish().await;
    client.closed().await;
    let line = line(&sidecar, "closed").await;
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(1_000_000), &json!(1_000_000)));
    assert_eq!((&line["listener"], &line["service"]), (&json!("db"), &json!("postgres")));
    assert_eq!((&line["endpoint"], &line["attempts"]), (&json!(app.endpoint()), &json!(1)));
    for side in ["received", "sent"] {
        let labels = ["direction=\"outbound\"", "service=\"postgres\"", &format!("side=\"{side}\"")];
        assert_eq!(sidecar.metric("outrigger_tcp_bytes_total", &labels).await, 1e6);
    }
    let labels = ["service=\"postgres\"", "result=\"closed\""];
    assert_eq!(sidecar.metric("outrigger_tcp_connections_total", &labels).await, 1.0);
    assert_eq!(sidecar.metric("outrigger_tcp_connections", &["service=\"postgres\""]).await, 0.0);
}

#[tokio::test]
async fn a_service_may_speak_first() {
    let app = greeting("hello from the database").await;
    let sidecar = Sidecar::start(postgres(&[app.endpoint()])).await;
    let mut client = Client::connect(address(&sidecar, "db").await).await;
    assert_eq!(client.bytes(23).await, b"hello from the database");
}

#[tokio::test]
async fn a_client_that_sends_no_more_still_gets_its_answer() {
    let app = App::script(|mut connection| async move {
        let question = connection.wire.rest().await;
        connection.send(format!("{} bytes", question.len())).await;
    })
    .await;
    let sidecar = Sidecar::start(postgres(&[app.endpoint()])).await;
    let mut client = Client::connect(address(&sidecar, "db").await).await;
    client.send(vec![b'x'; 100_000]).await;
    client.finish().await;
    assert_eq!(client.rest().await, b"100000 bytes");
    line(&sidecar, "closed").await;
}

#[tokio::test]
async fn a_service_that_sends_no_more_still_gets_what_the_client_sends() {
    let app = App::script(|mut connection| async move {
        connection.send("that is all").await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut connection.wire.stream).await;
        // The application's request log stands for what arrived after its own end.
        connection.request().await;
    })
    .await;
    let sidecar = Sidecar::start(postgres(&[app.endpoint()])).await;
    let mut client = Client::connect(address(&sidecar, "db").await).await;
    assert_eq!(client.rest().await, b"that is all");
    client.send("GET /after HTTP/1.1\r\n\r\n").await;
    wait_until("the rest arrives", || app.requests().len() == 1).await;
    client.finish().await;
    line(&sidecar, "closed").await;
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_passed_over() {
    let app = greeting("up").await;
    let sidecar = Sidecar::start(postgres(&[nobody(), nobody(), app.endpoint()])).await;
    let listener = address(&sidecar, "db").await;
    for _ in 0..8 {
        let mut client = Client::connect(listener).await;
        assert_eq!(client.bytes(2).await, b"up");
    }
    let refused = ["service=\"postgres\"", "result=\"refused\""];
    assert!(sidecar.metric("outrigger_upstream_connects_total", &refused).await > 0.0);
}

#[tokio::test]
async fn with_all_endpoints_down_the_connection_is_closed_at_once() {
    let sidecar = Sidecar::start(postgres(&[nobody(), nobody()])).await;
    let began = Instant::now();
    Client::connect(address(&sidecar, "db").await).await.closed().await;
    // Far below any timeout: nobody waited for one.
    assert!(began.elapsed() < Duration::from_secs(10));
    let line = line(&sidecar, "upstream_connect").await;
    assert_eq!(line["attempts"], 2);
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_closed() {
    let app = echo().await;
    let config = json!({ "listeners": { "tcp": [
        { "name": "db", "address": "127.0.0.1:0", "service": "postgres", "idle_timeout": "300ms" }
    ] } });
    let sidecar = Sidecar::start(sidecar::with(postgres(&[app.endpoint()]), config)).await;
    let mut client = Client::connect(address(&sidecar, "db").await).await;
    // Each message, though small, starts the time anew.
    for _ in 0..4 {
        client.send("x").await;
        assert_eq!(client.bytes(1).await, b"x");
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    client.closed().await;
    wait_until("the endpoint's connection is closed too", || app.open() == 0).await;
    let line = line(&sidecar, "idle_timeout").await;
    assert!(line["duration_ms"].as_f64().expect("a number") >= 750.0, "{line}");
}

#[tokio::test]
async fn connections_go_where_fewest_are() {
    let apps = [greeting("a").await, greeting("b").await, greeting("c").await];
    let endpoints: Vec<String> = apps.iter().map(App::endpoint).collect();
    let sidecar = Sidecar::start(postgres(&endpoints)).await;
    let listener = address(&sidecar, "db").await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = Client::connect(listener).await;
        client.bytes(1).await;
        clients.push(client);
    }
    let open: Vec<usize> = apps.iter().map(App::open).collect();
    // The better of two choices keeps them close; three at random would be further apart.
    assert!(open.iter().all(|count| (8..=12).contains(count)), "{open:?}");
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset_and_named() {
    let app = App::script(|mut connection| async move {
        connection.wire.exactly(1).await;
        connection.reset();
    })
    .await;
    let sidecar = Sidecar::start(postgres(&[app.endpoint()])).await;
    let mut stream = tokio::net::TcpStream::connect(address(&sidecar, "db").await).await.expect("it listens");
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await.expect("it is open");
    let mut buffer = [0; 8];
    let read = within("the reset", tokio::io::AsyncReadExt::read(&mut stream, &mut buffer)).await;
    assert_eq!(read.expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
    line(&sidecar, "upstream_reset").await;
}

#[tokio::test]
async fn a_listener_at_its_limit_closes_further_connections() {
    let app = echo().await;
    let config = json!({ "listeners": { "tcp": [
        { "name": "db", "address": "127.0.0.1:0", "service": "postgres", "max_connections": 1 }
    ] } });
    let sidecar = Sidecar::start(sidecar::with(postgres(&[app.endpoint()]), config)).await;
    let listener = address(&sidecar, "db").await;
    let mut first = Client::connect(listener).await;
    first.send("x").await;
    first.bytes(1).await;
    Client::connect(listener).await.closed().await;
    let labels = ["service=\"postgres\"", "result=\"overload\""];
    sidecar.until_metric("outrigger_tcp_connections_total", &labels, 1.0).await;
    first.send("y").await;
    assert_eq!(first.bytes(1).await, b"y");
}

#[tokio::test]
async fn a_service_at_its_limit_takes_no_further_connection() {
    let app = echo().await;
    let limits = json!({ "services": { "postgres": { "limits": { "max_connections": 1 } } } });
    let sidecar = Sidecar::start(sidecar::with(postgres(&[app.endpoint()]), limits)).await;
    let listener = address(&sidecar, "db").await;
    let mut first = Client::connect(listener).await;
    first.send("x").await;
    first.bytes(1).await;
    Client::connect(listener).await.closed().await;
    line(&sidecar, "upstream_overflow").await;
    drop(first);
    eventually("there is room again", async || {
        let mut client = Client::connect(listener).await;
        client.send("z").await;
        (client.bytes(1).await == b"z").then_some(())
    })
    .await;
}

#[tokio::test]
async fn open_connections_live_until_the_drain_deadline_and_are_then_cut() {
    let app = echo().await;
    let config = json!({ "shutdown": { "grace": "0s", "drain_timeout": "1s" } });
    let mut sidecar = Sidecar::start(sidecar::with(postgres(&[app.endpoint()]), config)).await;
    let listener = address(&sidecar, "db").await;
    let mut client = Client::connect(listener).await;
    client.send("x").await;
    client.bytes(1).await;
    sidecar.signal("TERM");
    eventually("the listener closes", async || tokio::net::TcpStream::connect(listener).await.err()).await;
    client.send("y").await;
    assert_eq!(client.bytes(1).await, b"y");
    client.closed().await;
    assert!(sidecar.ended().await.success());
}

#[tokio::test]
async fn a_connection_that_ends_lets_the_drain_end() {
    let app = echo().await;
    let config = json!({ "shutdown": { "grace": "0s", "drain_timeout": "1h" } });
    let mut sidecar = Sidecar::start(sidecar::with(postgres(&[app.endpoint()]), config)).await;
    let mut client = Client::connect(address(&sidecar, "db").await).await;
    client.send("x").await;
    client.bytes(1).await;
    sidecar.signal("TERM");
    client.finish().await;
    client.closed().await;
    assert!(sidecar.ended().await.success());
}

#[tokio::test]
async fn an_application_that_speaks_no_http_gets_the_bytes_of_the_network() {
    let app = greeting("220 mail ready\r\n").await;
    let config = json!({ "service": { "protocol": "tcp", "address": app.endpoint() } });
    let sidecar = Sidecar::start(config).await;
    let mut client = Client::connect(sidecar.inbound()).await;
    assert_eq!(client.bytes(16).await, b"220 mail ready\r\n");
    client.finish().await;
    client.closed().await;
    let line = line(&sidecar, "closed").await;
    assert_eq!((&line["direction"], &line["bytes_out"]), (&json!("inbound"), &json!(16)));
}

#[tokio::test]
async fn endpoints_are_hot_and_open_connections_outlive_their_removal() {
    let (old, new) = (greeting("old").await, greeting("new").await);
    let mut sidecar = Sidecar::start(postgres(&[old.endpoint()])).await;
    let listener = address(&sidecar, "db").await;
    let mut first = Client::connect(listener).await;
    assert_eq!(first.bytes(3).await, b"old");
    sidecar.edit(json!({ "services": { "postgres": { "endpoints": [new.endpoint()] } } }));
    assert_eq!(sidecar.reload().await.0, 200);
    assert_eq!(Client::connect(listener).await.bytes(3).await, b"new");
    first.send("still here").await;
    first.finish().await;
    first.closed().await;
}
