//! Requests that two readers could read in two ways are refused, and nothing of them reaches an application.

use serde_json::json;

use crate::support::{
    App, Client, Sidecar, ok,
    sidecar::{api, with},
};

#[tokio::test]
async fn ambiguous_and_malformed_requests_are_refused_and_never_forwarded() {
    let app = App::saying("served").await;
    let config = with(api(&[app.endpoint()]), json!({ "service": { "address": app.endpoint() } }));
    let sidecar = Sidecar::start(config).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n";
    for (request, status, reason) in [
        (
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "cl_te",
        ),
        (
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
            400,
            "cl_te",
        ),
        (
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\ncontent-length: 44\r\n\r\n",
            400,
            "content_length",
        ),
        ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: +0\r\n\r\n", 400, "content_length"),
        ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0, 0\r\n\r\n", 400, "content_length"),
        ("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: xchunked\r\n\r\n", 400, "transfer_encoding"),
        ("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 0, "transfer_encoding"),
        (
            "POST / HTTP/1.0\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "transfer_encoding",
        ),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, "host"),
        ("GET / HTTP/1.1\r\nx: 1\r\n\r\n", 400, "host"),
        ("GET / HTTP/1.1\r\nhost: h\r\nx: 1\r\n folded\r\n\r\n", 400, "header_field"),
        ("GET / HTTP/1.1\r\nhost: h\r\nx : 1\r\n\r\n", 400, "header_field"),
        ("GET / HTTP/1.1\r\nhost: h\r\nx: a\0b\r\n\r\n", 400, "header_field"),
        ("GET / HTTP/1.1\nhost: h\n\n", 400, "line_end"),
        ("GET / HTTP/1.1\r\nhost: h\rx: 1\r\n\r\n", 400, ""),
        ("GET /a b HTTP/1.1\r\nhost: h\r\n\r\n", 400, ""),
        ("GET /%00 HTTP/1.1\r\nhost: h\r\n\r\n", 400, "target"),
        ("GET /#f HTTP/1.1\r\nhost: h\r\n\r\n", 400, "target"),
        ("GET / HTTP/2.0\r\nhost: h\r\n\r\n", 505, "version"),
        ("GET /\r\n", 400, ""),
        (
            "POST / HTTP/1.1\r\nhost: h\r\nexpect: the-unexpected\r\ncontent-length: 2\r\n\r\nhi",
            417,
            "expect",
        ),
    ] {
        for to in [sidecar.outbound(), sidecar.inbound()] {
            let mut client = Client::connect(to).await;
            client.send(format!("{request}{smuggled}")).await;
            let answer = client.response().await;
            let accepted =
                if status == 0 { matches!(answer.status, 400 | 501) } else { answer.status == status };
            assert!(accepted, "{request:?}: {answer:?}");
            assert_eq!(answer.flag(), "bad_request", "{request:?}");
            let details = answer.field("proxy-status").unwrap_or_default();
            assert!(details.contains(reason), "{request:?}: {details}");
            client.closed().await;
        }
    }
    assert!(app.requests().is_empty(), "{:?}", app.requests());
    sidecar.until_metric("outrigger_http_rejected_total", &["reason=\"cl_te\"", "inbound"], 2.0).await;
}

#[tokio::test]
async fn a_body_whose_chunks_are_malformed_is_refused_and_broken_off_at_the_endpoint() {
    for chunks in [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "11111111111111111\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\ncontent-length: 5\r\n\r\n",
    ] {
        let app = App::saying("served").await;
        let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
        let mut client = Client::connect(sidecar.outbound()).await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n{chunks}\
                 GET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n"
            ))
            .await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.flag()), (400, "bad_request"), "{chunks:?}");
        client.closed().await;
        let seen = app.requests();
        assert!(seen.iter().all(|request| !request.body.complete), "{chunks:?} was passed on: {seen:?}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let app = App::answering(|request| ok(request.target())).await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    let mut all = String::new();
    for number in 0..20 {
        let one = if number % 3 == 0 {
            format!("POST /{number} HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nbody")
        } else {
            format!("GET /{number} HTTP/1.1\r\nhost: h\r\n\r\n")
        };
        all.push_str(&one);
    }
    client.send(all).await;
    for number in 0..20 {
        assert_eq!(client.response().await.text(), format!("/{number}"));
    }
}

#[tokio::test]
async fn a_good_request_before_a_bad_one_is_answered_first() {
    let app = App::saying("good").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client
        .send(
            "GET / HTTP/1.1\r\nhost: h\r\n\r\nGET / HTTP/1.1\r\nhost: h\r\nhost: h\r\n\r\n\
             GET /late HTTP/1.1\r\nhost: h\r\n\r\n",
        )
        .await;
    assert_eq!(client.response().await.text(), "good");
    assert_eq!(client.response().await.status, 400);
    client.closed().await;
    assert_eq!(app.requests().len(), 1);
}

#[tokio::test]
async fn a_request_split_at_any_byte_is_the_same_request() {
    let app = App::answering(|request| ok(&String::from_utf8_lossy(&request.body.data))).await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let request = "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let mut client = Client::connect(sidecar.outbound()).await;
    for at in 1..request.len() {
        client.send(&request[..at]).await;
        tokio::task::yield_now().await;
        client.send(&request[at..]).await;
        assert_eq!(client.response().await.text(), "hello", "split at {at}");
    }
}

#[tokio::test]
async fn connect_and_trace_are_not_served() {
    let app = App::saying("served").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    for request in ["CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\n\r\n", "TRACE / HTTP/1.1\r\nhost: h\r\n\r\n"] {
        let mut client = Client::connect(sidecar.outbound()).await;
        client.send(request).await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.flag()), (405, "bad_request"), "{request}");
    }
    assert!(app.requests().is_empty());
}

#[tokio::test]
async fn the_authority_of_an_absolute_target_wins_over_host() {
    let app = App::saying("served").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send("GET http://real:81/x?y HTTP/1.1\r\nhost: claimed\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
    let seen = app.only_request();
    assert_eq!((seen.target(), seen.head.all("host")), ("/x?y", vec!["real:81"]));
}

#[tokio::test]
async fn a_refused_request_is_counted_on_the_listener_that_refused_it() {
    let app = App::saying("served").await;
    let config = with(api(&[app.endpoint()]), json!({ "service": { "address": app.endpoint() } }));
    let sidecar = Sidecar::start(config).await;
    for (to, direction) in [(sidecar.inbound(), "inbound"), (sidecar.outbound(), "outbound")] {
        let mut client = Client::connect(to).await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await;
        assert_eq!(client.response().await.status, 400);
        let direction = format!("direction=\"{direction}\"");
        let labels = [direction.as_str(), "flag=\"bad_request\"", "status=\"400\""];
        sidecar.until_metric("outrigger_http_requests_total", &labels, 1.0).await;
        assert_eq!(sidecar.metric("outrigger_http_requests_total", &["flag=\"bad_request\""]).await, {
            if to == sidecar.inbound() { 1.0 } else { 2.0 }
        });
    }
}
