//! The guard with the real codec behind it, on a scripted socket: what arrives at the service, and what the
//! client reads.

mod hyper_server;
mod property;
mod sockets;

use std::rc::Rc;

use hyper_server::{Event, LIMITS, Script, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Detected, GuardedIo};
use crate::proxy::framing::{CoarseClock, ConnState, H2_PREFACE, Reject, RejectReason};

const HOST: &str = " HTTP/1.1\r\nHost: a\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /dump{HOST}{fields}\r\n{body}")
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target}{HOST}{fields}\r\n")
}

/// One word per request: `ok`, or `<status> <reason>`.
fn outcome(input: impl AsRef<[u8]>) -> Vec<String> {
    let served = serve(Script::whole(input.as_ref()));
    let words = served.events.iter().map(|event| match event {
        Event::Request { .. } => "ok".to_owned(),
        Event::Refused(reject) => format!("{} {}", reject.status, reject.reason.as_str()),
        Event::BodyError => "body error".to_owned(),
    });
    words.collect()
}

#[test]
fn ambiguous_framing_is_answered_and_never_served() {
    let te = |value: &str| post(&format!("Transfer-Encoding: {value}\r\n"), "1\r\nx\r\n0\r\n\r\n");
    let cases = [
        (post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "1\r\nx\r\n0\r\n\r\n"), "400 cl_te"),
        (post("Content-Length: 1\r\nContent-Length: 1\r\n", "x"), "400 content_length"),
        (post("Content-Length: 1\r\nContent-Length: 2\r\n", "xy"), "400 content_length"),
        (post("Content-Length: 1, 1\r\n", "x"), "400 content_length"),
        (post("Content-Length: +1\r\n", "x"), "400 content_length"),
        (te("identity, chunked"), "400 transfer_encoding"),
        (te("gzip, chunked"), "400 transfer_encoding"),
        (te("chunked\r\nTransfer-Encoding: chunked"), "400 transfer_encoding"),
        (te("xchunked"), "400 transfer_encoding"),
        (post("Transfer-Encoding : chunked\r\n", "1\r\nx\r\n0\r\n\r\n"), "400 header_field"),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".into(), "400 transfer_encoding"),
        (get("/", "X: a\r\n b\r\n"), "400 header_field"),
        ("GET / HTTP/1.1\nHost: a\n\n".into(), "400 line_end"),
        (get("/", "X: a\rb\r\n"), "400 header_field"),
        (get("/", "X: a\0b\r\n"), "400 header_field"),
        (te("chunked").replace("1\r\nx", "1\nx"), "400 chunk"),
        (te("chunked").replace("1\r\nx", "0x1\r\nx"), "400 chunk"),
        (te("chunked").replace("1\r\nx", "ffffffffffffffff1\r\nx"), "400 chunk"),
        (te("chunked").replace("1\r\nx", "1;a\nb\r\nx"), "400 chunk"),
        (te("chunked").replace("0\r\n", "0\r\nContent-Length: 3\r\n"), "400 trailer"),
    ];
    for (input, expected) in cases {
        assert_eq!(outcome(&input), [expected], "{}", input.escape_debug());
    }
}

#[test]
fn doubtful_targets_hosts_and_versions_are_answered_and_never_served() {
    let cases: [(Vec<u8>, &str); 21] = [
        ("GET / HTTP/1.1\r\n\r\n".into(), "400 host"),
        (get("/", "Host: b\r\n").into(), "400 host"),
        (get("a:80", "").into(), "400 target"),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".into(), "405 method"),
        (get("/?%zz", "").into(), "400 target"),
        (b"GET /?\x80 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "400 target"),
        (get("/#f", "").into(), "400 target"),
        (get("/?a b", "").into(), "400 target"),
        (get("/a\\b", "").into(), "400 target"),
        (get("/%00", "").into(), "400 target"),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".into(), "400 host"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), "400 host"),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n".into(), "505 version"),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(), "505 version"),
        ("GET /\r\n\r\n".into(), "400 request_line"),
        (get("/", &"X: a\r\n".repeat(101)).into(), "431 too_many_headers"),
        (get("/", &format!("X: {}\r\n", "a".repeat(102_400))).into(), "431 too_large"),
        (get("/", &format!("X: {}\r\n", "a".repeat(512_000))).into(), "431 too_large"),
        (get(&format!("/?{}", "a".repeat(71_680)), "").into(), "414 target_too_long"),
        (get("/", "Expect: bogus\r\n").into(), "417 expect"),
        ("OUTRIGGER-REJECT / HTTP/1.1\r\nHost: a\r\n\r\n".into(), "400 method"),
    ];
    for (input, expected) in cases {
        assert_eq!(outcome(&input), [expected], "{}", input.escape_ascii());
    }
}

#[test]
fn unusual_but_unambiguous_requests_are_served() {
    let cases = [
        (get("http://b/dump", ""), 1),
        (format!("OPTIONS *{HOST}\r\n"), 1),
        (format!("\r\n\r\n{}", get("/", "")), 1),
        (get("/", "Connection: x-secret, close\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n"), 1),
        (format!("{}x", get("/", "Content-Length: 1\r\n")), 1),
        (post("Expect: 100-continue\r\nContent-Length: 1\r\n", "x"), 1),
        (get("/", "").repeat(2), 2),
        (get("/", "X_A: 1\r\n"), 1),
        ("GET / HTTP/1.0\r\n\r\n".into(), 1),
        (post("Content-Length: 1\r\n", &format!("x{}", get("/", ""))), 2),
        (get("/", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n").repeat(2), 2),
    ];
    for (input, requests) in cases {
        assert_eq!(outcome(&input), vec!["ok"; requests], "{}", input.escape_debug());
    }
}

#[test]
fn requests_before_a_refused_one_are_served_and_none_after_it() {
    let input =
        [get("/1", ""), post("Content-Length: 3\r\n", "abc"), "BAD\r\n\r\n".into(), get("/2", "")].concat();
    assert_eq!(outcome(&input), ["ok", "ok", "400 request_line"]);
}

#[test]
fn bytes_after_a_request_that_closes_are_never_served() {
    let input = get("/", "Connection: close\r\n") + &get("/smuggled", "");
    assert_eq!(outcome(&input), ["ok"]);
    let input = "POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\nx".to_owned() + &get("/smuggled", "");
    assert_eq!(outcome(&input), ["ok"]);
}

#[test]
fn the_answer_to_a_refused_head_closes_the_connection() {
    let served = serve(Script::whole(b"GET / HTTP/1.1\r\n\r\n"));
    let text = String::from_utf8(served.written).unwrap();
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("connection: close\r\n"), "{text}");
    assert!(served.finished);
    assert_eq!(served.state.rejected().map(|reject| reject.reason), Some(RejectReason::Host));
}

#[test]
fn the_answer_to_a_broken_body_closes_the_connection() {
    let input = post("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\nzz\r\n") + &get("/smuggled", "");
    for script in [Script::whole(input.as_bytes()), Script::cut(input.as_bytes(), &[input.len() / 2])] {
        let served = serve(script);
        let text = String::from_utf8(served.written).unwrap();
        assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
        assert!(served.finished);
        assert_eq!(served.events, [Event::Refused(Reject::new(RejectReason::Chunk))]);
    }
}

#[test]
fn a_head_cut_off_by_the_client_is_counted_and_not_served() {
    let served = serve(Script { ends: true, ..Script::whole(b"GET / HTTP/1.1\r\nHo") });
    assert!(served.events.is_empty() && served.finished && served.written.is_empty());
    assert!(served.state.head_truncated());
}

#[tokio::test]
async fn whole_messages_are_passed_in_place_and_a_held_tail_is_freed() {
    let (mut client, socket) = tokio::io::duplex(4096);
    let state = ConnState::new(CoarseClock::default());
    let mut guarded = GuardedIo::new(socket, state, Rc::new(LIMITS));
    let mut buffer = [0; 4096];
    let message = get("/", "");

    client.write_all(message.as_bytes()).await.unwrap();
    assert_eq!(guarded.detect().await.unwrap(), Detected::Http1);
    assert_eq!(guarded.read(&mut buffer).await.unwrap(), message.len());
    assert_eq!(guarded.held.capacity(), 0);

    client.write_all(message.as_bytes()).await.unwrap();
    assert_eq!(guarded.read(&mut buffer).await.unwrap(), message.len());
    assert_eq!(guarded.held.capacity(), 0);

    let (first, second) = message.split_at(7);
    client.write_all((message.clone() + first).as_bytes()).await.unwrap();
    assert_eq!(guarded.read(&mut buffer).await.unwrap(), message.len());
    assert_eq!(guarded.held, first.as_bytes());
    client.write_all(second.as_bytes()).await.unwrap();
    assert_eq!(guarded.read(&mut buffer).await.unwrap(), message.len());
    assert_eq!(&buffer[..message.len()], message.as_bytes());
    assert_eq!(guarded.held.capacity(), 0);
}

#[tokio::test]
async fn a_small_reader_gets_every_byte_in_order() {
    let (mut client, socket) = tokio::io::duplex(4096);
    let mut guarded = GuardedIo::new(socket, ConnState::new(CoarseClock::default()), Rc::new(LIMITS));
    let stream = get("/1", "") + &post("Content-Length: 5\r\n", "hello") + &get("/2", "");
    client.write_all(stream.as_bytes()).await.unwrap();
    assert_eq!(guarded.detect().await.unwrap(), Detected::Http1);
    let mut received = Vec::new();
    while received.len() < stream.len() {
        let mut buffer = [0; 3];
        let count = guarded.read(&mut buffer).await.unwrap();
        received.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(received, stream.as_bytes());
}

#[tokio::test]
async fn what_detection_read_is_not_lost_to_whoever_takes_over() {
    let (mut client, socket) = tokio::io::duplex(4096);
    let mut guarded = GuardedIo::new(socket, ConnState::new(CoarseClock::default()), Rc::new(LIMITS));
    let stream = [H2_PREFACE.as_slice(), b"frames"].concat();
    client.write_all(&stream).await.unwrap();
    assert_eq!(guarded.detect().await.unwrap(), Detected::Http2);
    let mut preface = [0; H2_PREFACE.len()];
    guarded.read_exact(&mut preface).await.unwrap();
    assert_eq!(guarded.take_leftover(), b"frames");
    client.write_all(b"more").await.unwrap();
    let mut more = [0; 4];
    guarded.read_exact(&mut more).await.unwrap();
    assert_eq!(&more, b"more");
}
