//! Endpoints that fail: the client learns of it in a way that cannot be mistaken for an answer.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    App, Client, Sidecar, get,
    http2::{self, Http2},
    ok, send,
    sidecar::{api, free_address, with},
    wait_until,
};

#[tokio::test]
async fn a_request_without_a_route_is_answered_404_and_says_so() {
    let sidecar = Sidecar::start(json!({})).await;
    let answer = get(sidecar.outbound(), "nobody", "/lost").await;
    assert_eq!((answer.status, answer.flag()), (404, "no_route"));
    assert_eq!(answer.field("proxy-status"), Some("outrigger; error=destination_not_found"));
    let id = answer.field("x-request-id").expect("an id to ask about");
    assert!(answer.text().contains(id));
    let line = sidecar.logged("/lost").await;
    assert_eq!(
        (&line["flag"], &line["code"], &line["status"]),
        (&json!("no_route"), &json!("NR"), &json!(404))
    );
}

#[tokio::test]
async fn a_refused_connection_is_answered_502() {
    let sidecar = Sidecar::start(api(&[free_address().to_string()])).await;
    let answer = get(sidecar.outbound(), "h", "/").await;
    assert_eq!((answer.status, answer.flag()), (502, "upstream_connect"));
    assert_eq!(answer.field("proxy-status"), Some("outrigger; error=connection_refused"));
    sidecar.until_metric("outrigger_http_requests_total", &["flag=\"upstream_connect\""], 1.0).await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_complete_connections_is_given_up_after_the_connect_timeout() {
    // The kernel drops handshakes when nobody accepts and the queue is full.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("loopback can be bound");
    socket.listen(0).expect("a bound socket");
    let address = socket.local_addr().expect("bound").as_socket().expect("IPv4");
    let mut queued = Vec::new();
    loop {
        let attempt = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(300), attempt).await {
            Ok(connected) => queued.push(connected),
            Err(_) => break,
        }
    }
    let config = with(api(&[address.to_string()]), json!({ "defaults": { "connect_timeout": "300ms" } }));
    let sidecar = Sidecar::start(config).await;
    let answer = get(sidecar.outbound(), "h", "/").await;
    assert_eq!((answer.status, answer.flag()), (504, "upstream_connect"));
    assert_eq!(answer.field("proxy-status"), Some("outrigger; error=connection_timeout"));
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_given_up_after_the_timeout_of_the_route() {
    let app = App::script(|mut connection| async move {
        connection.request().await;
        connection.until_closed().await;
    })
    .await;
    let config = with(api(&[app.endpoint()]), json!({ "defaults": { "timeout": "300ms" } }));
    let sidecar = Sidecar::start(config).await;
    let answer = get(sidecar.outbound(), "h", "/slow").await;
    assert_eq!((answer.status, answer.flag()), (504, "upstream_timeout"));
    assert_eq!(answer.field("proxy-status"), Some("outrigger; error=http_response_timeout"));
    assert_eq!(app.requests().len(), 1, "a timeout is not tried again");
    wait_until("the request is cancelled at the endpoint", || app.open() == 0).await;
}

#[tokio::test]
async fn the_timeout_of_the_route_also_ends_a_body_that_takes_too_long() {
    let app = App::script(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        connection.until_closed().await;
    })
    .await;
    let config = with(api(&[app.endpoint()]), json!({ "defaults": { "timeout": "300ms" } }));
    let sidecar = Sidecar::start(config).await;
    let answer = get(sidecar.outbound(), "h", "/half").await;
    assert_eq!((answer.text().as_str(), answer.is_complete()), ("half", false));
    assert_eq!(sidecar.logged("/half").await["flag"], "upstream_timeout");
}

/// An endpoint that sends `head` and a piece of the body, and then breaks.
async fn breaking(head: &'static str, orderly: bool) -> App {
    App::script(move |mut connection| async move {
        connection.request().await;
        connection.send(head).await;
        connection.send("6\r\npiece1\r\n").await;
        if !orderly {
            connection.reset();
        }
    })
    .await
}

const LENGTH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn an_endpoint_that_dies_within_a_body_breaks_the_transfer_to_an_http1_client() {
    for head in [LENGTH, CHUNKED] {
        for orderly in [true, false] {
            let app = breaking(head, orderly).await;
            let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
            // Head and body may be lost together with the connection: then the answer is an error as a whole.
            let mut client = Client::connect(sidecar.outbound()).await;
            client.send("GET /cut HTTP/1.1\r\nhost: h\r\n\r\n").await;
            let answer = client.response().await;
            assert!(answer.status == 502 || !answer.is_complete(), "{head} looks complete: {answer:?}");
            client.closed().await;
            let line = sidecar.logged("/cut").await;
            assert_eq!(line["flag"], "upstream_reset", "{line}");
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_dies_within_a_body_resets_the_stream_of_an_http2_client() {
    for head in [LENGTH, CHUNKED] {
        let app = App::script(move |mut connection| async move {
            while connection.request().await.is_some() {
                if connection.number == 0 {
                    connection.send(head).await;
                    connection.send("6\r\npiece1\r\n").await;
                    return;
                }
                connection.send(ok("well")).await;
            }
        })
        .await;
        let config = with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http1" } } }));
        let sidecar = Sidecar::start(config).await;
        let client = Http2::connect(sidecar.outbound()).await;
        let broken = client.get("h", "/").await.expect_err("half an answer looks complete");
        assert!(broken.is_reset(), "{broken}");
        let next = client.get("h", "/").await.expect("the client's connection lives on");
        assert_eq!(next.data, b"well");
    }
}

#[tokio::test]
async fn an_http2_stream_that_its_endpoint_resets_is_never_a_complete_answer() {
    let app = App::script(|connection| async move {
        http2::serve_all(connection, h2::server::Builder::new(), |_, mut respond| async move {
            let mut body = respond.send_response(http::Response::new(()), false).expect("an open stream");
            body.send_data("piece".into(), false).expect("an open stream");
            tokio::task::yield_now().await;
            body.send_reset(h2::Reason::INTERNAL_ERROR);
        })
        .await;
    })
    .await;
    let config = with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http2" } } }));
    let sidecar = Sidecar::start(config).await;
    let client = Http2::connect(sidecar.outbound()).await;
    match client.get("h", "/").await {
        Ok(answer) => assert_eq!(answer.status, 502, "it looks complete"),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    let answer = get(sidecar.outbound(), "h", "/").await;
    assert!(answer.status == 502 || !answer.is_complete(), "it looks complete: {answer:?}");
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_a_502_and_is_not_asked_for_again() {
    for garbage in
        ["SSH-2.0-OpenSSH_9.9\r\n\r\n", "HTTP/1.1 2000 Huh\r\n\r\n", "HTTP/1.1 200 OK\r\nbad field\r\n\r\n"]
    {
        let app = App::script(move |mut connection| async move {
            connection.request().await;
            connection.send(garbage).await;
            connection.until_closed().await;
        })
        .await;
        let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
        let answer = get(sidecar.outbound(), "h", "/").await;
        assert_eq!((answer.status, answer.flag()), (502, "upstream_reset"), "{garbage}");
        assert_eq!(answer.field("proxy-status"), Some("outrigger; error=http_protocol_error"), "{garbage}");
        assert_eq!(app.requests().len(), 1, "{garbage}");
    }
}

#[tokio::test]
async fn an_answer_with_two_lengths_is_not_passed_on() {
    let app = App::script(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nhello").await;
        connection.until_closed().await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 502);
}

#[tokio::test]
async fn bytes_behind_an_answer_are_never_taken_for_the_next_one() {
    let app = App::script(|mut connection| async move {
        while connection.request().await.is_some() {
            let mut answer = ok("mine");
            answer.extend_from_slice(&ok("planted"));
            connection.send(answer).await;
        }
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..10 {
        let answer = client.get("h", "/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "mine"));
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_with_it() {
    let app = App::script(|mut connection| async move {
        connection.head().await;
        connection.until_closed().await;
    })
    .await;
    let config = with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http1" } } }));
    let sidecar = Sidecar::start(config).await;

    let mut before = Client::connect(sidecar.outbound()).await;
    before.send("GET /gone HTTP/1.1\r\nhost: h\r\n\r\n").await;
    wait_until("the request is there", || app.requests().len() == 1).await;
    drop(before);
    wait_until("the connection is closed", || app.open() == 0).await;
    assert_eq!(sidecar.logged("/gone").await["flag"], "downstream_closed");

    let client = Http2::connect(sidecar.outbound()).await;
    let response = client.begin(http2::get("h", "/cancelled"), None).await;
    wait_until("the second request is there", || app.requests().len() == 2).await;
    drop(response);
    wait_until("the connection is closed", || app.open() == 0).await;
    let line = sidecar.logged("/cancelled").await;
    assert_eq!(line["flag"], "downstream_closed", "{line}");
}

#[tokio::test]
async fn an_http1_client_that_closes_its_sending_side_has_gone_away() {
    // An orderly close and a half-close look alike until something is sent; nobody waits for ever to find out.
    let app = App::script(|mut connection| async move {
        while connection.request().await.is_some() {
            connection.until_closed().await;
        }
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send("GET /half HTTP/1.1\r\nhost: h\r\n\r\n").await;
    wait_until("the request is at the endpoint", || app.open() == 1).await;
    client.finish().await;
    client.closed().await;
    wait_until("it is cancelled there", || app.open() == 0).await;
    assert_eq!(sidecar.logged("/half").await["flag"], "downstream_closed");
}

#[tokio::test]
async fn a_client_that_goes_away_within_a_body_closes_the_endpoints_connection() {
    let app = App::script(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
        connection.until_closed().await;
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(client.head().await.is_some());
    drop(client);
    wait_until("the connection is closed", || app.open() == 0).await;
}

#[tokio::test]
async fn an_upload_that_its_client_breaks_off_is_broken_off_at_the_endpoint_too() {
    for framing in ["content-length: 100", "transfer-encoding: chunked"] {
        let app = App::script(|mut connection| async move {
            connection.request().await;
            connection.send(ok("taken")).await;
        })
        .await;
        let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
        let mut client = Client::connect(sidecar.outbound()).await;
        client.send(format!("POST / HTTP/1.1\r\nhost: h\r\n{framing}\r\n\r\n5\r\nfirst\r\n")).await;
        wait_until("the connection is there", || app.accepted() == 1).await;
        drop(client);
        wait_until("the endpoint has seen the end", || app.requests().len() == 1).await;
        assert!(!app.only_request().body.complete, "{framing}: a broken upload looks complete");
    }
}

#[tokio::test]
async fn a_grpc_client_is_told_in_its_own_terms() {
    let sidecar = Sidecar::start(json!({
        "routes": [{ "match": { "hosts": ["down"] }, "service": "down" }],
        "services": { "down": { "endpoints": [free_address().to_string()] } },
    }))
    .await;
    let client = Http2::connect(sidecar.outbound()).await;
    for (host, code) in [("down", "14"), ("nowhere", "12")] {
        let mut call = http2::get(host, "/shop.Ledger/Add");
        *call.method_mut() = http::Method::POST;
        call.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
        let answer = client.send(call).await.expect("an answer");
        assert_eq!((answer.status, answer.field("grpc-status")), (200, Some(code)), "{host}");
        assert_eq!(answer.field("content-type"), Some("application/grpc"));
    }
}

#[tokio::test]
async fn a_fault_of_one_endpoint_is_not_noticed_by_clients_of_another() {
    let sick = App::script(|mut connection| async move {
        connection.request().await;
        connection.send(LENGTH).await;
        connection.reset();
    })
    .await;
    let well = App::saying("well").await;
    let sidecar = Sidecar::start(json!({
        "routes": [{ "match": { "hosts": ["sick"] }, "service": "sick" }, { "service": "well" }],
        "services": {
            "sick": { "endpoints": [sick.endpoint()] },
            "well": { "endpoints": [well.endpoint()] },
        },
    }))
    .await;
    let mut unaffected = Client::connect(sidecar.outbound()).await;
    for _ in 0..20 {
        let mut client = Client::connect(sidecar.outbound()).await;
        client.send("GET / HTTP/1.1\r\nhost: sick\r\n\r\n").await;
        client.rest().await;
        assert_eq!(unaffected.get("well", "/").await.text(), "well");
    }
    assert_eq!(send(sidecar.outbound(), "GET / HTTP/1.1\r\nhost: well\r\n\r\n").await.status, 200);
}
