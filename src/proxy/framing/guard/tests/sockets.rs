//! The whole life of connections on real loopback sockets, driven as the proxy drives them.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::hyper_server::{Events, LIMITS, answer};
use crate::{
    proxy::framing::{CoarseClock, ConnState, Detected, Expired, GuardedIo, Phase, TimeLimits},
    types::Mono,
};

const TIMES: TimeLimits = TimeLimits {
    header: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    stream_idle: Duration::from_secs(300),
};

fn at(seconds: u64) -> Mono {
    Mono::ZERO.after(Duration::from_secs(seconds))
}

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// Serves one connection to its end.
async fn drive<S>(socket: S, state: Rc<ConnState>, events: Events)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut guarded = GuardedIo::new(socket, Rc::clone(&state), Rc::new(LIMITS));
    let service = service_fn(|request| answer(Rc::clone(&state), Rc::clone(&events), request));
    match guarded.detect().await.unwrap() {
        Detected::Closed => {}
        Detected::Http1 => {
            let mut builder = hyper::server::conn::http1::Builder::new();
            let mut connection =
                builder.header_read_timeout(None).serve_connection(TokioIo::new(guarded), service);
            // How it ended shows in what the client read.
            let _ = (&mut connection).await;
            connection.into_parts().io.into_inner().close().await;
        }
        Detected::Http2 => {
            let service = service_fn(async |_| Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new())));
            let builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
            let _ = builder.serve_connection(TokioIo::new(guarded), service).await;
        }
    }
}

#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// What a client reads that sends `input` and waits for the end.
async fn exchange(input: &[u8]) -> String {
    let (mut client, socket) = connected().await;
    let talk = async {
        client.write_all(input).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        drop(client);
        answer
    };
    let state = ConnState::new(CoarseClock::default());
    tokio::join!(drive(socket, state, Events::default()), talk).1
}

#[tokio::test]
async fn a_refused_client_reads_its_answer_and_then_the_end() {
    let flood = "x".repeat(200_000);
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n".to_owned(), "417"),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "405"),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), "505"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(101)), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(80_000)), "431"),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(66_000)), "414"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(), "400"),
        (format!("GET / HTTP/1.1\r\n\r\n{}", &flood[..60_000]), "400"),
    ];
    for (input, status) in cases {
        let answer = exchange(input.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn valid_requests_are_answered_in_order() {
    let input = "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = exchange(input.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
}

/// Sends `input`, lets time pass until a limit expires, and returns it with what the client then reads.
async fn overdue(input: &[u8], phase: Phase) -> (Option<Expired>, String) {
    let (mut client, socket) = tokio::io::duplex(64 * 1024);
    let clock = CoarseClock::default();
    let state = ConnState::new(Rc::clone(&clock));
    let talk = async {
        client.write_all(input).await.unwrap();
        while state.phase() != phase || state.active_requests() != u32::from(phase == Phase::Body) {
            tokio::task::yield_now().await;
        }
        // The reader has to be back at waiting for bytes.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        clock.set(at(1000));
        let expired = state.sweep(at(1000), &TIMES);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        drop(client);
        (expired, answer)
    };
    tokio::join!(drive(socket, Rc::clone(&state), Events::default()), talk).1
}

#[tokio::test]
async fn slow_clients_are_cut_with_the_answer_that_fits() {
    assert_eq!(overdue(b"", Phase::Detect).await, (Some(Expired::Silent), String::new()));
    let (expired, answer) = overdue(b"PRI * HT", Phase::Detect).await;
    assert_eq!(expired, Some(Expired::Header));
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let (expired, answer) = overdue(b"GET / HTTP/1.1\r\nHo", Phase::Head).await;
    assert_eq!(expired, Some(Expired::Header));
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let (expired, answer) = overdue(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Phase::Idle).await;
    assert_eq!(expired, Some(Expired::Idle));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (expired, answer) =
        overdue(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", Phase::Body).await;
    assert_eq!(expired, Some(Expired::Body));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn an_upgraded_connection_becomes_a_tunnel_that_loses_no_byte() {
    let (mut client, socket) = connected().await;
    let state = ConnState::new(CoarseClock::default());
    let server = async {
        let mut guarded = GuardedIo::new(socket, Rc::clone(&state), Rc::new(LIMITS));
        assert_eq!(guarded.detect().await.unwrap(), Detected::Http1);
        let service = service_fn(async |_request| {
            let active = state.begin_request();
            let mut response = Response::new(Empty::<Bytes>::new());
            assert!(active.grant_upgrade());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            Ok::<_, hyper::Error>(response)
        });
        let builder = hyper::server::conn::http1::Builder::new();
        let mut connection = builder.serve_connection(TokioIo::new(guarded), service);
        (&mut connection).await.unwrap();
        let parts = connection.into_parts();
        assert!(state.upgrade_granted() && parts.read_buf.is_empty());
        let mut tunnel = parts.io.into_inner();
        tunnel.start_tunnel();
        assert_eq!(state.phase(), Phase::Tunnel);
        let mut received = [0; 10];
        tunnel.read_exact(&mut received).await.unwrap();
        tunnel.write_all(&received).await.unwrap();
        tunnel.close().await;
    };
    let talk = async {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nearly";
        client.write_all(request).await.unwrap();
        client.write_all(b" late").await.ok();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (answer, ()) = tokio::join!(talk, server);
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\nearly late"), "{answer}");
}

#[tokio::test]
async fn http2_with_prior_knowledge_passes_untouched() {
    let (client, socket) = connected().await;
    let state = ConnState::new(CoarseClock::default());
    let talk = async {
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client));
        let (mut sender, connection) = handshake.await.unwrap();
        let request = Request::get("http://a/").body(Full::new(Bytes::new())).unwrap();
        let send = async {
            let response = sender.send_request(request).await.unwrap();
            drop(sender);
            response.into_body().collect().await.unwrap();
        };
        let _ = tokio::join!(connection, send);
    };
    let local = tokio::task::LocalSet::new();
    local.run_until(async { tokio::join!(drive(socket, Rc::clone(&state), Events::default()), talk) }).await;
    assert_eq!(state.phase(), Phase::H2);
}
