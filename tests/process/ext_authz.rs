//! A service that is asked before a request reaches the application: what it hears, what it may say, and what becomes of
//! requests when it says nothing.

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::support::{
    App, Response, Sidecar,
    app::Request as Seen,
    http2::Http2,
    send,
    sidecar::{api, with},
};

/// A sidecar before `app` that asks `authz`.
async fn sidecar(app: &App, authz: &App, more: Value) -> Sidecar {
    let asked = json!({
        "service": "api",
        "path": "/check",
        "timeout": "10s",
        "request_headers": ["authorization", "cookie"],
        "upstream_headers": ["x-team"],
    });
    Sidecar::start(with(
        with(
            api(&[authz.endpoint()]),
            json!({ "service": { "name": "web", "address": app.endpoint() }, "intentions": { "ext_authz": asked } }),
        ),
        json!({ "intentions": { "ext_authz": more } }),
    ))
    .await
}

async fn post(sidecar: &Sidecar, fields: &str) -> Response {
    let head = "POST /cart/1?x=y HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 4\r\n";
    send(sidecar.inbound(), format!("{head}{fields}\r\nbody")).await
}

async fn until_counted(sidecar: &Sidecar, result: &str) {
    sidecar.until_metric("outrigger_ext_authz_total", &[&format!("result=\"{result}\"")], 1.0).await;
}

fn saying(status: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[tokio::test]
async fn the_service_hears_the_head_and_the_application_what_the_service_said() {
    let app = App::saying("hello").await;
    let authz = App::answering(|_: &Seen| saying("200 OK", "x-team: blue\r\nx-other: 1\r\n", "")).await;
    let sidecar = sidecar(&app, &authz, json!({})).await;
    let fields = "authorization: Basic YTpi\r\nx-secret: 1\r\nx-team: red\r\nX-Team: admin\r\nx-forwarded-for: 9.9.9.9\r\n";
    assert_eq!(post(&sidecar, fields).await.text(), "hello");

    let question = authz.only_request();
    assert_eq!(question.head.start, "POST /check/cart/1?x=y HTTP/1.1");
    assert_eq!(question.field("host"), Some("shop.test"));
    assert_eq!(question.field("authorization"), Some("Basic YTpi"));
    assert_eq!(question.head.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(question.field("x-forwarded-uri"), Some("/cart/1?x=y"));
    assert_eq!((question.field("x-secret"), question.field("x-team")), (None, None));
    assert!(question.body.data.is_empty());

    let request = app.only_request();
    assert_eq!(request.head.all("x-team"), ["blue"]);
    assert_eq!((request.field("x-other"), request.field("x-secret")), (None, Some("1")));
    assert_eq!(request.body.data, b"body");
    until_counted(&sidecar, "allow").await;
}

#[tokio::test]
async fn what_the_service_does_not_say_the_client_cannot_say_either() {
    let app = App::saying("hello").await;
    let authz = App::answering(|_: &Seen| saying("204 No Content", "", "")).await;
    let sidecar = sidecar(&app, &authz, json!({})).await;
    // `X_Team` is `x-team` to an application behind CGI.
    assert_eq!(post(&sidecar, "x-team: admin\r\nX_Team: admin\r\nx-teams: 1\r\n").await.status, 200);
    let request = app.only_request();
    assert_eq!(["x-team", "x_team", "x-teams"].map(|name| request.field(name)), [None, None, Some("1")]);
}

#[tokio::test]
async fn a_refusal_is_told_as_the_service_worded_it_and_the_application_hears_nothing() {
    let app = App::saying("hello").await;
    let authz = App::answering(|request: &Seen| match request.field("cookie") {
        Some("go=login") => saying("302 Found", "location: https://login.test/\r\nx-inner: 1\r\n", ""),
        Some("go=away") => {
            saying("401 No", "www-authenticate: Basic\r\ncontent-type: text/html\r\n", "<b>no</b>")
        }
        _ => saying("403 No", "", &"x".repeat(200_000)),
    })
    .await;
    let sidecar = sidecar(&app, &authz, json!({})).await;
    let to_login = post(&sidecar, "cookie: go=login\r\n").await;
    assert_eq!((to_login.status, to_login.flag()), (302, "denied"));
    assert_eq!((to_login.field("location"), to_login.field("x-inner")), (Some("https://login.test/"), None));
    let away = post(&sidecar, "cookie: go=away\r\n").await;
    assert_eq!((away.status, away.field("content-type")), (401, Some("text/html")));
    assert_eq!((away.field("www-authenticate"), &*away.text()), (Some("Basic"), "<b>no</b>"));
    let long = post(&sidecar, "").await;
    assert_eq!((long.status, long.body.data.len(), long.is_complete()), (403, 64 * 1024, true));
    assert!(app.requests().is_empty());
    until_counted(&sidecar, "deny").await;
}

#[tokio::test]
async fn callers_of_grpc_are_refused_in_their_own_way() {
    let app = App::saying("hello").await;
    let authz = App::answering(|_: &Seen| saying("403 No", "content-type: text/html\r\n", "<b>no</b>")).await;
    let sidecar = sidecar(&app, &authz, json!({ "client_headers": ["content-type"] })).await;
    let call = Request::post("http://web/shop.Cart/Get").header("content-type", "application/grpc");
    let client = Http2::connect(sidecar.inbound()).await;
    let answer = client.send(call.body(Bytes::new()).expect("a valid request")).await.expect("an answer");
    assert_eq!((answer.status, answer.field("grpc-status")), (200, Some("7")));
    assert_eq!((answer.field("content-type"), answer.data.len()), (Some("application/grpc"), 0));
    // It was asked, over HTTP/1.1, and said so.
    until_counted(&sidecar, "deny").await;
    assert!(app.requests().is_empty());
}

#[tokio::test]
async fn without_an_answer_requests_are_refused() {
    let app = App::saying("hello").await;
    let broken = App::answering(|_: &Seen| saying("500 Oops", "x-team: admin\r\n", "")).await;
    let sidecar = sidecar(&app, &broken, json!({})).await;
    let refused = post(&sidecar, "").await;
    assert_eq!((refused.status, refused.flag()), (403, "denied"));
    until_counted(&sidecar, "error").await;
    broken.stop().await;
    assert_eq!(post(&sidecar, "").await.status, 403);
    assert!(app.requests().is_empty());
}

#[tokio::test]
async fn a_service_that_is_too_slow_lets_nobody_in() {
    let app = App::saying("hello").await;
    let silent = App::script(|mut connection| async move { connection.until_closed().await }).await;
    let sidecar = sidecar(&app, &silent, json!({ "timeout": "100ms" })).await;
    assert_eq!(post(&sidecar, "").await.status, 403);
    until_counted(&sidecar, "timeout").await;
    assert!(app.requests().is_empty());
}

#[tokio::test]
async fn where_it_fails_open_requests_pass_without_an_answer_but_not_against_one() {
    let app = App::saying("hello").await;
    let authz = App::answering(|request: &Seen| match request.field("cookie") {
        Some(_) => saying("403 No", "", ""),
        None => saying("503 Down", "", ""),
    })
    .await;
    let sidecar = sidecar(&app, &authz, json!({ "fail_open": true })).await;
    assert_eq!(post(&sidecar, "").await.text(), "hello");
    assert_eq!(post(&sidecar, "cookie: a=b\r\n").await.status, 403);
    until_counted(&sidecar, "failed_open").await;
    authz.stop().await;
    assert_eq!(post(&sidecar, "cookie: a=b\r\nx-team: admin\r\n").await.text(), "hello");
    assert!(app.requests().iter().all(|request| request.field("x-team").is_none()));
}
