//! Requests and answers that are more than a head and a body: interim answers, expectations, answers without a
//! body, trailers, tunnels.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{
    App, Client, Sidecar, eventually, get,
    http2::{self, Http2},
    ok, send,
    sidecar::{api, with},
    wait_until,
};

#[tokio::test]
async fn an_expectation_is_met_and_the_body_follows() {
    let app = App::answering(|request| ok(&String::from_utf8_lossy(&request.body.data))).await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send("POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
    let interim = client.head().await.expect("an interim answer");
    assert!(interim.start.starts_with("HTTP/1.1 100"), "{interim:?}");
    client.send("hello").await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(client.get("h", "/").await.status, 200, "the connection can be used again");
}

#[tokio::test]
async fn a_request_that_is_refused_before_its_body_gets_no_100() {
    let sidecar = Sidecar::start(json!({})).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send("POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.informational.len()), (404, 0));
}

#[tokio::test]
async fn interim_answers_are_never_taken_for_the_final_one() {
    let app = App::answering(|request| {
        let mut answer = Vec::new();
        for interim in
            ["100 Continue", "102 Processing", "103 Early Hints", "100 Continue", "103 Early Hints"]
        {
            answer.extend_from_slice(format!("HTTP/1.1 {interim}\r\nlink: </a>\r\n\r\n").as_bytes());
        }
        answer.extend_from_slice(&ok(request.target()));
        answer
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for path in ["/1", "/2", "/3"] {
        let answer = client.get("h", path).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, path));
    }
    assert_eq!(app.accepted(), 1);
}

#[tokio::test]
async fn answers_without_a_body_leave_both_connections_in_step() {
    let app = App::answering(|request| match request.target() {
        "/head" => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".to_vec(),
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\netag: \"e\"\r\n\r\n".to_vec(),
        _ => ok("next"),
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..3 {
        client.send("HEAD /head HTTP/1.1\r\nhost: h\r\n\r\n").await;
        let head = client.response_to_head().await;
        assert_eq!((head.status, head.field("content-length")), (200, Some("5")));
        assert_eq!(client.get("h", "/204").await.status, 204);
        let unchanged = client.get("h", "/304").await;
        assert_eq!((unchanged.status, unchanged.field("etag")), (304, Some("\"e\"")));
        assert_eq!(client.get("h", "/").await.text(), "next");
    }
    assert_eq!(app.accepted(), 1, "the pooled connection was kept");
}

#[tokio::test]
async fn errors_of_the_sidecar_answer_head_without_a_body() {
    let sidecar = Sidecar::start(json!({})).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nhost: h\r\n\r\n").await;
        assert_eq!(client.response_to_head().await.status, 404);
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_arrives_whole() {
    let app = App::script(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\n\r\nto the end").await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..2 {
        let answer = client.get("h", "/").await;
        assert_eq!((answer.text().as_str(), answer.is_complete()), ("to the end", true));
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"), "the client's connection lives on");
    }
}

#[tokio::test]
async fn an_http10_client_gets_an_answer_that_it_can_read() {
    let app = App::answering(|_| {
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec()
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let answer = send(sidecar.outbound(), "GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!((answer.field("transfer-encoding"), answer.text().as_str()), (None, "hello"));
}

#[tokio::test]
async fn an_http10_answer_is_passed_on_as_http11_and_the_client_keeps_its_connection() {
    let app = App::script(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold").await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..2 {
        let answer = client.get("h", "/").await;
        assert_eq!((answer.head.start.as_str(), answer.text().as_str()), ("HTTP/1.1 200 OK", "old"));
        assert_eq!(answer.field("connection"), None);
    }
}

#[tokio::test]
async fn a_chunked_body_reaches_the_application_whole_whatever_the_method() {
    let app = App::saying("read").await;
    let config = with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http1" } } }));
    let sidecar = Sidecar::start(config).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    let methods = ["GET", "POST", "DELETE"];
    for method in methods {
        client
            .send(format!(
                "{method} / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n\
                 5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
            ))
            .await;
        assert_eq!(client.response().await.text(), "read", "{method}");
    }
    let seen = app.requests();
    assert_eq!(seen.len(), methods.len(), "no body is taken for a request: {seen:#?}");
    for (request, method) in seen.iter().zip(methods) {
        assert!(request.head.start.starts_with(method), "{request:?}");
        assert_eq!(request.head.all("transfer-encoding"), ["chunked"], "{method}");
        assert!(request.field("content-length").is_none(), "{method}");
        assert_eq!((request.body.data.as_slice(), request.body.complete), (&b"hello world"[..], true));
    }
}

#[tokio::test]
async fn an_answer_with_chunks_and_a_length_is_read_by_its_chunks_and_loses_the_length() {
    let app = App::answering(|_| {
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n\
          5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
            .to_vec()
    })
    .await;
    let config = with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http1" } } }));
    let sidecar = Sidecar::start(config).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..2 {
        let answer = client.get("h", "/").await;
        assert_eq!((answer.text().as_str(), answer.is_complete()), ("hello world", true));
        assert_eq!(answer.head.all("transfer-encoding"), ["chunked"]);
        assert_eq!(answer.field("content-length"), None);
    }
    let answer = Http2::connect(sidecar.outbound()).await.get("h", "/").await.expect("an answer");
    assert_eq!((answer.data.as_slice(), answer.field("content-length")), (&b"hello world"[..], None));
}

#[tokio::test]
async fn chunks_pass_as_they_come() {
    let (next, gate) = tokio::sync::mpsc::channel::<&'static str>(8);
    let gate = std::sync::Arc::new(tokio::sync::Mutex::new(gate));
    let app = App::script(move |mut connection| {
        let gate = std::sync::Arc::clone(&gate);
        async move {
            connection.request().await;
            connection.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while let Some(word) = gate.lock().await.recv().await {
                connection.send(format!("{:x}\r\n{word}\r\n", word.len())).await;
            }
        }
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(client.head().await.is_some(), "the head does not wait for the body");
    for word in ["one", "two", "three"] {
        next.send(word).await.expect("the application listens");
        let expected = format!("{:x}\r\n{word}\r\n", word.len());
        assert_eq!(String::from_utf8_lossy(&client.bytes(expected.len()).await), expected);
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_is_passed_on_at_once() {
    let app = App::script(|mut connection| async move {
        connection.head().await;
        connection.send("HTTP/1.1 413 Too Much\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig").await;
        connection.until_closed().await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\nsome").await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 413);
}

#[tokio::test]
async fn an_endpoint_that_answers_and_no_longer_reads_the_upload_does_not_keep_its_connection() {
    let app = App::script(|mut connection| async move {
        connection.head().await;
        connection.send("HTTP/1.1 413 Too Much\r\ncontent-length: 3\r\n\r\nbig").await;
        std::future::pending::<()>().await;
    })
    .await;
    let limits = json!({ "max_connections": 1 });
    let sidecar =
        Sidecar::start(with(api(&[app.endpoint()]), json!({ "services": { "api": { "limits": limits } } })))
            .await;
    // More than all buffers on the way can hold.
    let parts = 64;
    let part = vec![b'x'; 1_000_000];
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {parts}000000\r\n\r\n")).await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
    for _ in 0..parts {
        client.send(&part).await;
    }
    eventually("the connection to the endpoint is closed", async || {
        (sidecar.metric("outrigger_upstream_connections", &["service=\"api\""]).await == 0.0).then_some(())
    })
    .await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 413, "its place is free again");
}

#[tokio::test]
async fn trailers_of_http1_pass_in_both_directions_without_those_that_would_change_the_message() {
    let app = App::answering(|_| {
        b"HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
          5\r\nhello\r\n0\r\nx-sum: down\r\n\r\n"
            .to_vec()
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let answer = send(
        sidecar.outbound(),
        "POST / HTTP/1.1\r\nhost: h\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\n\
         transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: up\r\n\r\n",
    )
    .await;
    let seen = app.only_request();
    assert_eq!(seen.field("te"), Some("trailers"));
    assert_eq!(seen.body.trailers, [("x-sum".to_owned(), "up".to_owned())]);
    assert_eq!(answer.body.trailers, [("x-sum".to_owned(), "down".to_owned())]);
    assert!(answer.is_complete());
}

#[tokio::test]
async fn trailers_of_http2_pass_in_both_directions() {
    let app = App::script(|connection| async move {
        http2::serve_all(connection, h2::server::Builder::new(), |request, mut respond| async move {
            assert_eq!(request.headers().get("te").map(http::HeaderValue::as_bytes), Some(&b"trailers"[..]));
            let mut upload = request.into_body();
            while let Some(Ok(part)) = upload.data().await {
                upload.flow_control().release_capacity(part.len()).expect("an open stream");
            }
            let trailers = upload.trailers().await.expect("an open stream").unwrap_or_default();
            let mut body = respond.send_response(http::Response::new(()), false).expect("an open stream");
            body.send_data("data".into(), false).expect("an open stream");
            body.send_trailers(trailers).expect("an open stream");
        })
        .await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let call = http::Request::post("http://h/").header("te", "trailers").body("up".into()).expect("valid");
    let trailers = http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), 0_u16.into())]);
    let answer = http2::Answer::read(client.begin(call, Some(trailers)).await).await.expect("an answer");
    assert_eq!((answer.status, answer.data.as_slice()), (200, &b"data"[..]));
    let trailers = answer.trailers.expect("trailers");
    assert_eq!(trailers.get("grpc-status").map(http::HeaderValue::as_bytes), Some(&b"0"[..]));
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_also_those_sent_ahead() {
    let app = App::script(|mut connection| async move {
        let request = connection.head().await.expect("a request");
        assert_eq!(request.field("upgrade"), Some("websocket"));
        assert_eq!(request.field("connection"), Some("upgrade"));
        connection
            .send(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nahead from the server|",
            )
            .await;
        assert_eq!(connection.wire.exactly(22).await, b"ahead from the client|");
        let echoed = connection.wire.exactly(6).await;
        connection.send(echoed).await;
        connection.until_closed().await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(format!("{UPGRADE}ahead from the client|")).await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.field("upgrade")), (101, Some("websocket")));
    assert_eq!(answer.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(client.bytes(22).await, b"ahead from the server|");
    client.send("hello!").await;
    assert_eq!(client.bytes(6).await, b"hello!");
    drop(client);
    wait_until("the tunnel is closed", || app.open() == 0).await;
    assert_eq!(sidecar.logged("/chat").await["status"], 101);
}

#[tokio::test]
async fn a_client_that_resets_while_its_upgrade_is_granted_gives_back_the_endpoints_connection() {
    let granted = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&granted);
    let app = App::script(move |mut connection| {
        let gate = Arc::clone(&gate);
        async move {
            while let Some(request) = connection.head().await {
                if request.field("upgrade").is_none() {
                    connection.send(ok("plain")).await;
                    continue;
                }
                gate.acquire().await.expect("it is never closed").forget();
                connection
                    .send(
                        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
                    )
                    .await;
                connection.until_closed().await;
            }
        }
    })
    .await;
    let limits = json!({ "max_connections": 1 });
    let sidecar =
        Sidecar::start(with(api(&[app.endpoint()]), json!({ "services": { "api": { "limits": limits } } })))
            .await;
    for round in 1..=3 {
        let mut client = Client::connect(sidecar.outbound()).await;
        // The bytes behind the request keep the sidecar from reading on, so that it learns of the reset late.
        client.send(format!("{UPGRADE}early bytes")).await;
        wait_until("the endpoint has the request", || app.requests().len() == 2 * round - 1).await;
        client.reset();
        granted.add_permits(1);
        wait_until("the endpoint's connection is closed", || app.open() == 0).await;
        assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "plain", "its place is free again");
    }
}

#[tokio::test]
async fn one_side_of_a_tunnel_may_finish_before_the_other() {
    let app = App::script(|mut connection| async move {
        connection.head().await;
        connection
            .send(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            )
            .await;
        let all = connection.wire.rest().await;
        connection.send(all).await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(UPGRADE).await;
    assert_eq!(client.response().await.status, 101);
    client.send("the last word").await;
    client.finish().await;
    assert_eq!(client.rest().await, b"the last word");
}

#[tokio::test]
async fn a_refused_upgrade_leaves_http_as_it_was() {
    let app = App::answering(|request| match request.field("upgrade") {
        Some(_) => b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno".to_vec(),
        None => ok("still HTTP"),
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(UPGRADE).await;
    let refused = client.response().await;
    assert_eq!((refused.status, refused.text().as_str()), (403, "no"));
    assert_eq!(client.get("h", "/").await.text(), "still HTTP");
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_an_error() {
    let app = App::script(|mut connection| async move {
        connection.request().await;
        connection
            .send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nbytes")
            .await;
        connection.until_closed().await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 502);
}

#[tokio::test]
async fn a_large_body_passes_unchanged_in_both_directions() {
    let app = App::answering(|request| {
        let mut answer =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.body.data.len()).into_bytes();
        answer.extend_from_slice(&request.body.data);
        answer
    })
    .await;
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), json!({}))).await;
    let mut noise = fastrand::Rng::with_seed(7);
    let body: Vec<u8> = std::iter::repeat_with(|| noise.u8(..)).take(3_000_000).collect();
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n", body.len())).await;
    client.send(&body).await;
    let answer = client.response().await;
    assert!(answer.body.data == body, "{} bytes came back", answer.body.data.len());
}

#[tokio::test]
async fn an_encoded_answer_passes_byte_for_byte_with_the_fields_that_describe_it() {
    // No gzip stream, but who does not look inside cannot know.
    const DATA: &[u8] = b"\x1f\x8b\x08\x00\x00\xff\xfe\r\n\r\n\x00end";
    let app = App::answering(|_| {
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncontent-encoding: gzip\r\netag: \"a-1\"\r\nvary: accept-encoding\r\n\r\n",
            DATA.len()
        )
        .into_bytes();
        answer.extend_from_slice(DATA);
        answer
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client
        .send("GET / HTTP/1.1\r\nhost: h\r\naccept-encoding: gzip, br\r\nif-none-match: \"b-2\"\r\n\r\n")
        .await;
    let answer = client.response().await;
    assert_eq!(answer.body.data, DATA);
    assert_eq!(
        ["content-encoding", "etag", "vary"].map(|name| answer.field(name).unwrap_or_default()),
        ["gzip", "\"a-1\"", "accept-encoding"]
    );
    let seen = app.only_request();
    assert_eq!(
        (seen.field("accept-encoding"), seen.field("if-none-match")),
        (Some("gzip, br"), Some("\"b-2\""))
    );
}
