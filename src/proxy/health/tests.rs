//! Checks against real servers on loopback. Times are only ever limits: no test asserts how long a check took.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixListener},
};

use super::*;

/// More than any of these checks needs on a busy machine.
const AMPLE: Duration = Duration::from_secs(20);
/// Short, for checks that are to time out.
const SHORT: Duration = Duration::from_millis(50);

type Reply = Response<BoxBody<Bytes, Infallible>>;

async fn listener() -> (TcpListener, EndpointAddress) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = EndpointAddress::Tcp(listener.local_addr().unwrap());
    (listener, address)
}

/// Serves every connection over `protocol` with `answer`.
async fn serve<F, A>(protocol: Protocol, answer: F) -> EndpointAddress
where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Reply> + Send + 'static,
{
    let (listener, address) = listener().await;
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let reply = answer(request);
                async move { Ok::<_, Infallible>(reply.await) }
            });
            let stream = TokioIo::new(stream);
            if protocol == Protocol::Http2 {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(stream, service));
            } else {
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
            }
        }
    });
    address
}

fn reply(status: u16) -> Reply {
    Response::builder().status(status).body(Full::new(Bytes::from_static(b"body")).boxed()).unwrap()
}

fn get(path: &str) -> HealthCheckKind {
    HealthCheckKind::Http {
        path: path.into(),
        host: None,
        headers: Vec::new(),
        expected: vec![StatusRange { first: 200, last: 299 }, StatusRange { first: 401, last: 401 }],
    }
}

async fn check(
    kind: &HealthCheckKind,
    protocol: Protocol,
    address: &EndpointAddress,
    timeout: Duration,
) -> Result<(), String> {
    let outcome = check_once(kind, protocol, "orders", address, &UpstreamTls::None, timeout).await;
    outcome.map_err(|failure| failure.to_string())
}

#[tokio::test]
async fn an_http_check_asks_for_path_host_and_headers_in_both_versions() {
    for protocol in [Protocol::Auto, Protocol::Http1, Protocol::Http2] {
        let address = serve(protocol, move |request| async move {
            let host = match request.uri().authority() {
                Some(authority) => authority.as_str().to_owned(),
                None => request.headers()["host"].to_str().unwrap().to_owned(),
            };
            let as_asked = request.uri().path_and_query().unwrap() == "/ready?deep=1"
                && request.headers()["x-probe"] == "yes"
                && request.headers()["user-agent"].to_str().unwrap().starts_with("outrigger-health/");
            reply(if as_asked && host == "orders.internal" { 200 } else { 400 })
        });
        let kind = HealthCheckKind::Http {
            path: "/ready?deep=1".into(),
            host: Some("orders.internal".into()),
            headers: vec![("x-probe".parse().unwrap(), "yes".parse().unwrap())],
            expected: vec![StatusRange { first: 200, last: 200 }],
        };
        assert_eq!(check(&kind, protocol, &address.await, AMPLE).await, Ok(()), "{protocol:?}");
    }
}

#[tokio::test]
async fn the_service_name_stands_in_for_a_missing_host() {
    let address = serve(Protocol::Http1, |request| async move {
        reply(if request.headers()["host"] == "orders" { 200 } else { 400 })
    });
    assert_eq!(check(&get("/"), Protocol::Auto, &address.await, AMPLE).await, Ok(()));
}

#[tokio::test]
async fn only_expected_statuses_pass() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (status, outcome) in [
            (204, Ok(())),
            (401, Ok(())),
            (302, Err("status 302 is not in 200-299, 401".to_owned())),
            (503, Err("status 503 is not in 200-299, 401".to_owned())),
        ] {
            let address = serve(protocol, move |_| async move { reply(status) }).await;
            assert_eq!(check(&get("/"), protocol, &address, AMPLE).await, outcome, "{protocol:?}");
        }
    }
}

#[tokio::test]
async fn a_slow_answer_within_the_timeout_passes() {
    let slow = |_| async {
        tokio::time::sleep(SHORT).await;
        reply(200)
    };
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let address = serve(protocol, slow).await;
        assert_eq!(check(&get("/"), protocol, &address, AMPLE).await, Ok(()), "{protocol:?}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_too_late_fails() {
    let never = |_| std::future::pending::<Reply>();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let address = serve(protocol, never).await;
        let outcome = check(&get("/"), protocol, &address, SHORT).await;
        assert_eq!(outcome, Err("timed out waiting for the answer after 50ms".into()), "{protocol:?}");
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_fails_every_check_but_tcp() {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    let grpc = HealthCheckKind::Grpc { service: String::new() };
    let late = Err("timed out waiting for the answer after 50ms".to_owned());
    assert_eq!(check(&get("/"), Protocol::Http1, &address, SHORT).await, late);
    assert_eq!(check(&get("/"), Protocol::Http2, &address, SHORT).await, late);
    assert_eq!(check(&grpc, Protocol::Auto, &address, SHORT).await, late);
    assert_eq!(check(&HealthCheckKind::Tcp, Protocol::Auto, &address, AMPLE).await, Ok(()));
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_refused() {
    let (closed, address) = listener().await;
    drop(closed);
    for kind in [get("/"), HealthCheckKind::Tcp, HealthCheckKind::Grpc { service: String::new() }] {
        let outcome = check_once(&kind, Protocol::Auto, "orders", &address, &UpstreamTls::None, AMPLE).await;
        let Err(CheckFailure::Connect(error)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_fails() {
    let (listener, address) = listener().await;
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let grpc = HealthCheckKind::Grpc { service: String::new() };
    for (kind, protocol) in [(get("/"), Protocol::Http1), (get("/"), Protocol::Http2), (grpc, Protocol::Auto)]
    {
        let outcome = check_once(&kind, protocol, "orders", &address, &UpstreamTls::None, AMPLE).await;
        assert!(matches!(outcome, Err(CheckFailure::Broken(_))), "{protocol:?}: {outcome:?}");
    }
}

/// Answers every connection with these bytes, and closes.
async fn serve_raw(answer: &'static [u8]) -> EndpointAddress {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer).await;
        }
    });
    address
}

#[tokio::test]
async fn an_answer_counts_although_the_server_closes_behind_it() {
    let address = serve_raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbody without length").await;
    for _ in 0..50 {
        assert_eq!(check(&get("/"), Protocol::Http1, &address, AMPLE).await, Ok(()));
    }
}

#[tokio::test]
async fn what_is_not_http_fails() {
    let address = serve_raw(b"220 mail.example ESMTP\r\n").await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let outcome = check_once(&get("/"), protocol, "orders", &address, &UpstreamTls::None, AMPLE).await;
        assert!(matches!(outcome, Err(CheckFailure::Broken(_))), "{protocol:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_checked_like_any_other() {
    let path = std::env::temp_dir().join(format!("outrigger-health-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let address = EndpointAddress::Unix(path.clone());
    let http = check(&get("/"), Protocol::Auto, &address, AMPLE).await;
    let tcp = check(&HealthCheckKind::Tcp, Protocol::Auto, &address, AMPLE).await;
    std::fs::remove_file(&path).unwrap();
    assert_eq!((http, tcp), (Ok(()), Ok(())));
}

/// A health service that knows `payments` and `down`, and the server as a whole.
async fn grpc_server() -> EndpointAddress {
    serve(Protocol::Http2, |request| async move {
        let well_formed = request.uri().path() == "/grpc.health.v1.Health/Check"
            && request.method() == "POST"
            && request.headers()["content-type"] == "application/grpc"
            && request.headers()["te"] == "trailers";
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let status = match &body[5..] {
            _ if !well_formed => return grpc_error("13"),
            b"" | b"\x0a\x08payments" => 1,
            b"\x0a\x04down" => 2,
            _ => return grpc_error("5"),
        };
        grpc_reply(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]))
    })
    .await
}

fn grpc_reply(body: Bytes) -> Reply {
    let trailers = async { Some(Ok([("grpc-status", "0")].into_iter().map(header).collect())) };
    let body = Full::new(body).with_trailers(trailers).boxed();
    Response::builder().header("content-type", "application/grpc+proto").body(body).unwrap()
}

/// A status without a message stands in the head.
fn grpc_error(code: &str) -> Reply {
    let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", code);
    head.body(Full::default().boxed()).unwrap()
}

fn header((name, value): (&'static str, &'static str)) -> (::http::HeaderName, ::http::HeaderValue) {
    (name.parse().unwrap(), value.parse().unwrap())
}

#[tokio::test]
async fn a_grpc_check_passes_only_if_the_service_serves() {
    let address = grpc_server().await;
    for (service, outcome) in [
        ("", Ok(())),
        ("payments", Ok(())),
        ("down", Err("health status NOT_SERVING".to_owned())),
        ("other", Err("grpc status 5 (NOT_FOUND)".to_owned())),
    ] {
        let kind = HealthCheckKind::Grpc { service: service.into() };
        assert_eq!(check(&kind, Protocol::Auto, &address, AMPLE).await, outcome, "{service}");
    }
}

#[tokio::test]
async fn answers_that_are_no_health_answers_fail_a_grpc_check() {
    let kind = HealthCheckKind::Grpc { service: String::new() };
    let plain = serve(Protocol::Http2, |_| async { reply(200) }).await;
    let failing = serve(Protocol::Http2, |_| async { reply(503) }).await;
    let empty = serve(Protocol::Http2, |_| async { grpc_reply(Bytes::new()) }).await;
    let huge = serve(Protocol::Http2, |_| async { grpc_reply(Bytes::from(vec![0; 1 << 20])) }).await;
    let reasons = [
        (plain, "not a grpc health answer: its content type is not application/grpc"),
        (failing, "status 503 is not in 200"),
        (empty, "not a grpc health answer: it has no message"),
        (huge, "no valid answer: the body is longer than 64 KiB"),
    ];
    for (address, reason) in reasons {
        assert_eq!(check(&kind, Protocol::Auto, &address, AMPLE).await, Err(reason.to_owned()));
    }
}

#[tokio::test]
async fn a_check_that_is_dropped_closes_its_connection() {
    let (listener, address) = listener().await;
    let kind = get("/");
    let accepted = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 16]).await.unwrap();
        stream
    };
    let mut stream = tokio::select! {
        outcome = check_once(&kind, Protocol::Http2, "orders", &address, &UpstreamTls::None, AMPLE) => panic!("{outcome:?}"),
        stream = accepted => stream,
    };
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(AMPLE, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection stayed open");
}

#[test]
fn a_check_can_run_on_any_thread() {
    fn needs_send(_: impl Send) {}
    let address = "127.0.0.1:1".parse().unwrap();
    needs_send(check_once(
        &HealthCheckKind::Tcp,
        Protocol::Auto,
        "orders",
        &address,
        &UpstreamTls::None,
        AMPLE,
    ));
}
