//! Who may call this service: what a caller gets that may, and one that may not, whatever it speaks.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    support::{
        App, Client, Sidecar, eventually, get,
        http2::Http2,
        send,
        sidecar::{api, with},
        streams::{Tunnel, connect, echoing, speaking, websocket},
    },
    tcp::{echo, line},
};

const DECISIONS: &str = "outrigger_authz_decisions_total";

/// The application behind rules about its callers.
fn guarded(app: &App, intentions: Value) -> Value {
    let mut config = json!({ "service": { "address": app.endpoint(), "protocol": "http1" } });
    config["intentions"] = intentions;
    config
}

/// One rule about callers without an identity, with `more` in it.
fn anonymous(action: &str, more: Value) -> Value {
    json!({ "rules": [with(json!({ "name": "secret-name", "source": "anonymous", "action": action }), more)] })
}

/// Everybody may do everything but what is under `/admin`.
fn all_but_admin() -> Value {
    let mut intentions = anonymous("deny", json!({ "permissions": [{ "path_prefix": "/admin" }] }));
    intentions["default_action"] = json!("allow");
    intentions
}

/// Refuses everybody who is not a certain caller, which without identities is everybody.
fn nobody() -> Value {
    json!({ "rules": [{ "source": "web", "action": "allow" }] })
}

fn paths(app: &App) -> Vec<String> {
    let path = |start: &str| start.split(' ').nth(1).unwrap_or_default().to_owned();
    app.requests().iter().map(|request| path(&request.head.start)).collect()
}

#[tokio::test]
async fn a_caller_may_do_what_a_rule_allows_and_nothing_else() {
    let app = App::saying("hello").await;
    let rule = anonymous("allow", json!({ "permissions": [{ "methods": ["GET"], "path": "/healthz" }] }));
    let sidecar = Sidecar::start(guarded(&app, rule)).await;
    let mut client = Client::connect(sidecar.inbound()).await;
    assert_eq!(client.get("h", "/healthz").await.status, 200);
    let refused = client.get("h", "/pay?card=4111").await;
    assert_eq!((refused.status, refused.flag()), (403, "denied"));
    let status = refused.field("proxy-status");
    assert_eq!(status, Some("outrigger; error=http_request_denied; details=\"intentions\""));
    assert!(
        !refused.text().contains("secret-name") && refused.text().contains("denied"),
        "{}",
        refused.text()
    );
    client.send("POST /healthz HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(client.response().await.status, 403);
    // The connection is none the worse for it.
    assert_eq!(client.get("h", "/healthz").await.text(), "hello");
    assert_eq!(paths(&app), ["/healthz", "/healthz"]);

    let count = async |action, reason| {
        let labels = ["source=\"anonymous\"", action, reason];
        sidecar.metric(DECISIONS, &labels).await
    };
    assert_eq!(count("action=\"allow\"", "reason=\"intention\"").await, 2.0);
    assert_eq!(count("action=\"deny\"", "reason=\"no_identity\"").await, 2.0);
    assert_eq!(sidecar.metric(DECISIONS, &[]).await, 4.0);
    let logged = sidecar.logged("/pay").await;
    assert_eq!((&logged["status"], &logged["flag"]), (&json!(403), &json!("denied")));
    assert_eq!(logged["rule"], "default_action");
    assert_eq!(sidecar.logged("/healthz").await["rule"], Value::Null);
}

#[tokio::test]
async fn the_access_log_names_the_rule_that_refused() {
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(guarded(&app, all_but_admin())).await;
    assert_eq!(get(sidecar.inbound(), "h", "/admin").await.status, 403);
    assert_eq!(sidecar.logged("/admin").await["rule"], "secret-name");
}

#[tokio::test]
async fn the_log_names_the_rule_and_says_it_once_in_a_while() {
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(guarded(&app, all_but_admin())).await;
    let began = Instant::now();
    let mut client = Client::connect(sidecar.inbound()).await;
    for _ in 0..50 {
        assert_eq!(client.get("h", "/admin/users?token=hunter2").await.status, 403);
    }
    let log = sidecar.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("a caller was refused")).collect();
    for part in ["secret-name", "anonymous", "GET", "/admin/users"] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
    assert!(!log.contains("hunter2"));
    // Another one for every ten seconds that a slow machine takes.
    let most = 1 + began.elapsed().as_secs() / 10;
    assert!((1..=most).contains(&(lines.len() as u64)), "{}", lines.len());
    assert_eq!(sidecar.metric(DECISIONS, &["action=\"deny\"", "reason=\"intention\""]).await, 50.0);
}

#[tokio::test]
async fn http2_and_grpc_callers_are_refused_in_their_own_words() {
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(guarded(&app, all_but_admin())).await;
    let client = Http2::connect(sidecar.inbound()).await;
    assert_eq!(client.get("h", "/public").await.expect("an answer").status, 200);
    let refused = client.get("h", "/admin").await.expect("an answer");
    assert_eq!((refused.status, refused.field("x-outrigger-flag")), (403, Some("denied")));
    let call = http::Request::post("http://h/admin/Get")
        .header("content-type", "application/grpc")
        .body(Bytes::from_static(b"\0\0\0\0\0"))
        .expect("a request");
    let refused = client.send(call).await.expect("an answer");
    assert_eq!((refused.status, refused.field("grpc-status")), (200, Some("7")));
    assert_eq!(refused.field("grpc-message"), Some("denied"));
    assert_eq!(paths(&app), ["/public"]);
}

#[tokio::test]
async fn a_denied_path_cannot_be_reached_by_writing_it_differently() {
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(guarded(&app, all_but_admin())).await;
    let h2 = Http2::connect(sidecar.inbound()).await;
    for (target, expected) in [
        ("/x/../admin", 403),
        ("/x/%2e%2E/admin", 403),
        ("/%61dmin", 403),
        ("//admin", 403),
        ("/admin;x=1", 403),
        ("/admin%2fusers", 403),
        ("/x%2f..%2fadmin", 400),
        ("/x/..;/admin", 400),
        ("/x/..%3b/admin", 400),
        // Paths are case-sensitive (RFC 3986 §6.2.2.1): this is another one, and the application is told so.
        ("/ADMIN", 200),
        ("/x/admin", 200),
    ] {
        assert_eq!(get(sidecar.inbound(), "h", target).await.status, expected, "{target}");
        assert_eq!(h2.get("h", target).await.expect("an answer").status, expected, "{target} on HTTP/2");
    }
    assert_eq!(paths(&app), ["/ADMIN", "/ADMIN", "/x/admin", "/x/admin"]);
}

#[tokio::test]
async fn an_allowed_path_does_not_let_others_in_by_writing_them_differently() {
    let app = App::saying("hello").await;
    let rule = anonymous("allow", json!({ "permissions": [{ "path_prefix": "/admin" }] }));
    let sidecar = Sidecar::start(guarded(&app, rule)).await;
    for (target, expected) in [
        ("/admin", 200),
        ("/x/../admin/users", 200),
        ("/admin/../secret", 403),
        ("/%61dmin", 403),
        ("//admin", 403),
        ("/admin;x=1", 403),
        ("/ADMIN", 403),
        ("/administrator", 403),
    ] {
        assert_eq!(get(sidecar.inbound(), "h", target).await.status, expected, "{target}");
    }
    // What was allowed is what was sent.
    assert_eq!(paths(&app), ["/admin", "/admin/users"]);
}

#[tokio::test]
async fn a_change_of_the_rules_is_felt_by_the_next_request_of_an_open_connection() {
    let app = App::saying("hello").await;
    let mut sidecar = Sidecar::start(guarded(&app, anonymous("allow", json!({})))).await;
    let mut client = Client::connect(sidecar.inbound()).await;
    let h2 = Http2::connect(sidecar.inbound()).await;
    assert_eq!(client.get("h", "/").await.status, 200);
    assert_eq!(h2.get("h", "/").await.expect("an answer").status, 200);
    sidecar.edit(json!({ "intentions": anonymous("deny", json!({})) }));
    let (status, diff) = sidecar.reload().await;
    assert_eq!(status, 200, "{diff}");
    assert_eq!(client.get("h", "/").await.status, 403);
    assert_eq!(h2.get("h", "/").await.expect("an answer").status, 403);
    sidecar.edit(json!({ "intentions": { "mode": "audit" } }));
    assert_eq!(sidecar.reload().await.0, 200);
    assert_eq!(client.get("h", "/").await.status, 200);
}

#[tokio::test]
async fn an_audit_refuses_nothing_and_tells_what_it_would_have() {
    let app = echo().await;
    let http = App::saying("hello").await;
    let audit = |mut intentions: Value| {
        intentions["mode"] = json!("audit");
        intentions
    };
    let sidecar = Sidecar::start(guarded(&http, audit(all_but_admin()))).await;
    assert_eq!(get(sidecar.inbound(), "h", "/admin").await.status, 200);
    assert_eq!(sidecar.metric(DECISIONS, &["action=\"audit_deny\"", "reason=\"intention\""]).await, 1.0);
    assert!(sidecar.log().contains("a caller would be refused"));
    assert_eq!(sidecar.logged("/admin").await["flag"], "");

    let tcp = with(guarded(&app, audit(nobody())), json!({ "service": { "protocol": "tcp" } }));
    let sidecar = Sidecar::start(tcp).await;
    let mut client = Client::connect(sidecar.inbound()).await;
    client.send("x").await;
    assert_eq!(client.bytes(1).await, b"x");
    assert_eq!(sidecar.metric(DECISIONS, &["action=\"audit_deny\"", "reason=\"no_identity\""]).await, 1.0);
}

#[tokio::test]
async fn without_a_section_everybody_passes_and_with_an_empty_one_nobody() {
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(json!({ "service": { "address": app.endpoint() } })).await;
    assert_eq!(get(sidecar.inbound(), "h", "/").await.status, 200);
    assert_eq!(sidecar.metric(DECISIONS, &[]).await, 0.0);
    let sidecar = Sidecar::start(guarded(&app, json!({}))).await;
    assert_eq!(get(sidecar.inbound(), "h", "/").await.status, 403);
}

#[tokio::test]
async fn requests_of_the_application_itself_are_not_held_against_the_rules() {
    let app = App::saying("hello").await;
    let config = with(api(&[app.endpoint()]), json!({ "intentions": nobody() }));
    let sidecar = Sidecar::start(config).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
}

#[tokio::test]
async fn a_refusal_costs_neither_a_rate_limit_nor_the_body() {
    let app = App::saying("hello").await;
    let limit = json!({ "service": { "rate_limit": { "rate": "1/h" } } });
    let sidecar = Sidecar::start(with(guarded(&app, all_but_admin()), limit)).await;
    for _ in 0..3 {
        // The body is announced and never comes.
        let head = "POST /admin HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\n";
        assert_eq!(send(sidecar.inbound(), head).await.status, 403);
    }
    assert_eq!(get(sidecar.inbound(), "h", "/").await.status, 200);
    assert_eq!(get(sidecar.inbound(), "h", "/").await.status, 429);
    assert_eq!(get(sidecar.inbound(), "h", "/admin").await.status, 403);
}

#[tokio::test]
async fn conditions_on_methods_and_headers_are_held_against_the_request() {
    let app = App::saying("hello").await;
    let permission = json!({ "methods": ["POST"], "headers": [{ "name": "x-env", "exact": "prod" }] });
    let rule = anonymous("allow", json!({ "permissions": [permission] }));
    let sidecar = Sidecar::start(guarded(&app, rule)).await;
    for (method, fields, expected) in [
        ("POST", "x-env: prod\r\n", 200),
        ("GET", "x-env: prod\r\n", 403),
        ("POST", "x-env: test\r\n", 403),
        ("POST", "x-env: prod\r\nx-env: test\r\n", 403),
        ("POST", "", 403),
    ] {
        let request = format!("{method} / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n{fields}\r\n");
        assert_eq!(send(sidecar.inbound(), request).await.status, expected, "{method} {fields}");
    }
}

#[tokio::test]
async fn upgrades_and_tunnels_are_refused_like_any_request() {
    let app = echoing().await;
    let rule = anonymous("allow", json!({ "permissions": [{ "methods": ["GET"], "path": "/chat" }] }));
    let sidecar = Sidecar::start(guarded(&app, rule)).await;
    let client = Http2::connect(sidecar.inbound()).await;
    let upgrade = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
        )
    };
    assert_eq!(send(sidecar.inbound(), upgrade("/secret")).await.status, 403);
    assert_eq!(Tunnel::open(&client, websocket("/secret")).await.0, 403);
    // Nothing is known of these but who asks, and who asks may not do everything.
    assert_eq!(Tunnel::open(&client, connect("h:80")).await.0, 403);
    assert_eq!(Tunnel::open(&client, speaking("other", "/chat")).await.0, 403);
    let refused = send(sidecar.inbound(), "CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\n\r\n").await;
    assert_eq!((refused.status, refused.flag()), (403, "denied"));
    assert_eq!(app.accepted(), 0);
    let mut websocket_client = Client::connect(sidecar.inbound()).await;
    websocket_client.send(upgrade("/chat")).await;
    assert_eq!(websocket_client.head().await.expect("an answer").start, "HTTP/1.1 101 Switching Protocols");
    assert_eq!(Tunnel::open(&client, websocket("/chat")).await.0, 200);
}

/// Whether bytes come back through the inbound listener.
async fn echoes(sidecar: &Sidecar) -> bool {
    let mut client = Client::connect(sidecar.inbound()).await;
    client.send("\0hello").await;
    client.bytes(6).await == b"\0hello"
}

#[tokio::test]
async fn a_connection_that_is_denied_reaches_nobody() {
    let app = echo().await;
    let tcp = json!({ "service": { "protocol": "tcp" } });
    for intentions in [
        nobody(),
        anonymous("deny", json!({})),
        // It cannot be seen whether the condition holds.
        anonymous("allow", json!({ "permissions": [{ "path_prefix": "/" }] })),
        anonymous("allow", json!({ "claims": { "role": ["admin"] } })),
        all_but_admin(),
    ] {
        let sidecar = Sidecar::start(with(guarded(&app, intentions.clone()), tcp.clone())).await;
        assert!(!echoes(&sidecar).await, "{intentions}");
        let line = line(&sidecar, "denied").await;
        assert_eq!((&line["bytes_in"], &line["attempts"]), (&json!(0), &json!(0)));
        assert_eq!(sidecar.metric(DECISIONS, &["source=\"anonymous\"", "action=\"deny\""]).await, 1.0);
        assert!(sidecar.log().contains("a caller was refused"));
    }
    assert_eq!(app.accepted(), 0);
    let sidecar = Sidecar::start(with(guarded(&app, anonymous("allow", json!({}))), tcp)).await;
    assert!(echoes(&sidecar).await);
}

#[tokio::test]
async fn new_connections_follow_a_change_of_the_rules_and_open_ones_go_on() {
    let app = echo().await;
    let tcp = json!({ "service": { "protocol": "tcp" } });
    let mut sidecar = Sidecar::start(with(guarded(&app, anonymous("allow", json!({}))), tcp)).await;
    let mut open = Client::connect(sidecar.inbound()).await;
    open.send("x").await;
    assert_eq!(open.bytes(1).await, b"x");
    sidecar.edit(json!({ "intentions": anonymous("deny", json!({})) }));
    assert_eq!(sidecar.reload().await.0, 200);
    assert!(!echoes(&sidecar).await);
    open.send("y").await;
    assert_eq!(open.bytes(1).await, b"y");
}

#[tokio::test]
async fn bytes_on_the_port_of_http_are_held_against_the_rules_too() {
    let app = echo().await;
    let detect = json!({
        "service": { "protocol": "auto" },
        "listeners": { "inbound": { "detect": true } },
    });
    let rule = anonymous("allow", json!({ "permissions": [{ "path_prefix": "/" }] }));
    let mut sidecar = Sidecar::start(with(guarded(&app, rule), detect)).await;
    assert!(!echoes(&sidecar).await);
    assert_eq!(app.accepted(), 0);
    sidecar.edit(json!({ "intentions": anonymous("allow", json!({})) }));
    assert_eq!(sidecar.reload().await.0, 200);
    eventually("bytes pass", async || echoes(&sidecar).await.then_some(())).await;
}

#[tokio::test]
async fn grpc_on_http1_is_refused_in_its_own_words() {
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(guarded(&app, nobody())).await;
    let head = "POST /shop.Cart/Get HTTP/1.1\r\nhost: h\r\ncontent-type: application/grpc\r\n";
    let refused = send(sidecar.inbound(), format!("{head}content-length: 0\r\n\r\n")).await;
    assert_eq!((refused.status, refused.field("grpc-status")), (200, Some("7")));
}
