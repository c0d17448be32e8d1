//! The admin API over real sockets, with a backend that tells what it was asked.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::{server::serve_within, *};
use crate::{
    membership::{KeyringError, KeyringReport},
    net::bind_unix,
    store::MemoryStore,
    telemetry::metrics::{AdminMetrics, Registry},
};

pub(super) const SOON: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(super) struct Fake {
    unready: AtomicBool,
    level: Mutex<String>,
    reloads: Mutex<Vec<ReloadMode>>,
    /// A reload waits for `go_on` if `slow`, and says so through `waiting`.
    go_on: Notify,
    waiting: Notify,
    slow: AtomicBool,
    /// In no mesh, and without a store.
    pub(super) alone: AtomicBool,
    pub(super) store: Option<Store>,
    orders: Mutex<Vec<KeyringOrder>>,
}

impl Fake {
    fn meshed(&self, told: Value) -> Result<Value, Problem> {
        let none = || Problem::new(StatusCode::NOT_FOUND, "the sidecar is in no mesh");
        if self.alone.load(Ordering::Relaxed) { Err(none()) } else { Ok(told) }
    }
}

impl Backend for Fake {
    fn liveness(&self) -> Vec<Check> {
        vec![]
    }

    fn readiness(&self) -> Vec<Check> {
        let ok = !self.unready.load(Ordering::Relaxed);
        vec![Check { name: "listeners", ok, detail: "inbound on 127.0.0.1:1".into() }]
    }

    fn metrics(&self) -> String {
        "# TYPE up gauge\nup 1\n".into()
    }

    fn status(&self) -> Value {
        json!({ "generation": 7 })
    }

    fn config(&self) -> Value {
        json!({ "token": "***" })
    }

    fn services(&self) -> Value {
        json!([{ "name": "shop" }])
    }

    fn routes(&self) -> Value {
        json!([{ "name": "shop/all" }])
    }

    fn certificates(&self) -> Result<Value, Problem> {
        Ok(json!({ "chain_pem": "" }))
    }

    fn members(&self) -> Result<Value, Problem> {
        self.meshed(json!({ "kind": "MemberList" }))
    }

    fn keyring(&self) -> Result<Value, Problem> {
        self.meshed(json!({ "kind": "KeyList" }))
    }

    fn keyring_order(self: Arc<Self>, order: KeyringOrder) -> ReloadFuture {
        Box::pin(async move {
            let mark = order_mark(&order);
            self.orders.lock().unwrap().push(order.clone());
            match order {
                KeyringOrder::Remove(mark) => Err(KeyringError::InUse { mark, names: "web-1".into() }.into()),
                KeyringOrder::Install(_) | KeyringOrder::Use(_) => {
                    self.meshed(keyring_report(mark, &KeyringReport::default()))
                }
            }
        })
    }

    fn intentions(&self) -> Value {
        json!({ "items": [] })
    }

    fn policies(&self) -> Value {
        json!({ "items": [] })
    }

    fn rate_limits(&self) -> Value {
        json!({ "items": [] })
    }

    fn check_shared(self: Arc<Self>, kind: SharedKind, _: String, text: Bytes) -> ReloadFuture {
        Box::pin(async move {
            if text == "wrong" {
                let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "wrong");
                return Err(problem.with("findings", json!({ "errors": 1 })));
            }
            Ok(json!({ "warnings": (kind == SharedKind::Intention).then_some("beware") }))
        })
    }

    fn check_all_shared(
        self: Arc<Self>,
        entries: Vec<(String, Bytes)>,
        changed: HashSet<String>,
    ) -> ReloadFuture {
        Box::pin(async move {
            let is_wrong = |(key, text): &(String, Bytes)| changed.contains(key) && text == "wrong";
            match entries.iter().any(is_wrong) {
                true => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "wrong")
                    .with("findings", json!({ "errors": 1 }))),
                false => Ok(Value::Null),
            }
        })
    }

    fn store(&self) -> Option<Store> {
        self.store.clone().filter(|_| !self.alone.load(Ordering::Relaxed))
    }

    fn reload(self: Arc<Self>, mode: ReloadMode) -> ReloadFuture {
        Box::pin(async move {
            if self.slow.load(Ordering::Relaxed) {
                self.waiting.notify_one();
                self.go_on.notified().await;
            }
            self.reloads.lock().unwrap().push(mode);
            if self.unready.load(Ordering::Relaxed) {
                let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the file has 1 problem");
                return Err(problem.with("problems", json!(["E001"])));
            }
            Ok(json!({ "changed": mode == ReloadMode::Apply }))
        })
    }

    fn renew(self: Arc<Self>) -> ReloadFuture {
        Box::pin(async { Ok(json!({ "serial": "4a" })) })
    }

    fn log_level(&self) -> String {
        self.level.lock().unwrap().clone()
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        if level == "loud" {
            return Err("`loud` is no log level".into());
        }
        level.clone_into(&mut self.level.lock().unwrap());
        Ok(())
    }
}

pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) backend: Arc<Fake>,
    drain: watch::Sender<bool>,
    server: JoinHandle<()>,
    registry: Arc<Registry>,
}

pub(super) async fn start(scope: Scope) -> Running {
    start_within(scope, SOON).await
}

async fn start_within(scope: Scope, head_timeout: Duration) -> Running {
    start_for(Access::default(), scope, head_timeout).await
}

/// One that asks for [`TOKEN`].
async fn start_guarded(scope: Scope) -> Running {
    start_for(Access { token: Some(Secret::new(TOKEN)), hosts: Vec::new() }, scope, SOON).await
}

const TOKEN: &str = "0123456789abcdef";

async fn start_for(access: Access, scope: Scope, head_timeout: Duration) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let store = Some(Store::Memory(MemoryStore::new("admin of shop")));
    let backend = Arc::new(Fake { store, ..Fake::default() });
    let registry = Registry::new(100, 1);
    let (drain, draining) = watch::channel(false);
    let serving = Serving {
        backend: Arc::<Fake>::clone(&backend),
        scope,
        access,
        metrics: AdminMetrics::resolve(&registry),
    };
    let server = tokio::spawn(serve_within(Listener::Tcp(listener), serving, draining, head_timeout));
    Running { address, backend, drain, server, registry }
}

pub(super) struct Reply {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    fn has(&self, field: &str) -> bool {
        self.head.lines().any(|line| line.eq_ignore_ascii_case(field))
    }
}

impl Running {
    /// Sends bytes, reads until the server closes.
    async fn raw(&self, bytes: &[u8]) -> String {
        converse(TcpStream::connect(self.address).await.unwrap(), bytes).await
    }

    /// Requests that ended so.
    fn counted(&self, result: &str) -> f64 {
        let line = format!("outrigger_admin_requests_total{{result=\"{result}\"}} ");
        let text = self.registry.render(crate::types::Mono::ZERO);
        text.lines().find_map(|text| text.strip_prefix(&line)).unwrap().parse().unwrap()
    }

    pub(super) async fn send(&self, line: &str, fields: &str, body: &str) -> Reply {
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!("{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        let all = self.raw(format!("{head}{fields}{length}\r\n{body}").as_bytes()).await;
        let (head, body) = all.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {all:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head: head.into(), body: body.into() }
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path}"), "", "").await
    }
}

/// Sends bytes, reads until the server closes.
async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut all = Vec::new();
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut all)).await.expect("the server closes");
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn every_listed_path_answers() {
    let api = start(Scope::Full).await;
    let index = api.get("/").await.json();
    let listed = index["endpoints"].as_array().unwrap();
    assert_eq!(listed.len(), 34);
    for endpoint in listed {
        if endpoint["methods"].as_array().unwrap().contains(&json!("GET")) {
            let path = endpoint["path"].as_str().unwrap();
            let reply = api.get(path).await;
            // The store of the fake has neither leader nor voters.
            assert_eq!(reply.status, if path.starts_with("/v1/raft") { 404 } else { 200 }, "{endpoint}");
            assert!(reply.has("cache-control: no-store"), "{}", reply.head);
        }
    }
    assert_eq!(api.get("/v1/status").await.json(), json!({ "generation": 7 }));
    assert_eq!(api.get("/v1/config").await.json(), json!({ "token": "***" }));
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let api = start(Scope::MetricsOnly).await;
    let reply = api.get("/metrics").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "# TYPE up gauge\nup 1\n"));
    assert!(reply.has("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", reply.head);
}

#[tokio::test]
async fn head_has_the_head_of_get_without_its_body() {
    let api = start(Scope::Full).await;
    let reply = api.send("HEAD /v1/status", "", "").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
}

#[tokio::test]
async fn readiness_is_503_while_a_check_fails_and_names_it_when_asked() {
    let api = start(Scope::MetricsOnly).await;
    assert_eq!(api.get("/readyz").await.json(), json!({ "ok": true }));
    api.backend.unready.store(true, Ordering::Relaxed);
    let reply = api.get("/readyz?verbose").await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json()["checks"][0]["name"], "listeners");
    assert_eq!(reply.json()["reason"], "inbound on 127.0.0.1:1");
    assert_eq!(api.get("/livez").await.status, 200);
}

#[tokio::test]
async fn the_metrics_listener_has_nothing_else() {
    let api = start(Scope::MetricsOnly).await;
    for path in ["/v1/status", "/v1/config", "/v1/log", "/metrics/", "/Metrics", "/x"] {
        let reply = api.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.has("content-type: application/problem+json"), "{}", reply.head);
        assert_eq!(reply.json()["status"], 404);
    }
    assert_eq!(api.send("POST /v1/reload", "X-Outrigger: 1\r\n", "").await.status, 404);
    assert_eq!(api.get("/").await.json()["endpoints"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let api = start(Scope::Full).await;
    let reply = api.send("POST /v1/status", "X-Outrigger: 1\r\n", "").await;
    assert!(reply.status == 405 && reply.has("allow: GET, HEAD"), "{}", reply.head);
    let reply = api.get("/v1/reload").await;
    assert!(reply.status == 405 && reply.has("allow: POST"), "{}", reply.head);
}

#[tokio::test]
async fn a_reload_reports_what_became_of_it() {
    let api = start(Scope::Full).await;
    let own = "X-Outrigger: 1\r\n";
    assert_eq!(api.send("POST /v1/reload", own, "").await.json(), json!({ "changed": true }));
    assert_eq!(api.send("POST /v1/reload?dry_run", own, "").await.json(), json!({ "changed": false }));
    assert_eq!(*api.backend.reloads.lock().unwrap(), [ReloadMode::Apply, ReloadMode::DryRun]);

    api.backend.unready.store(true, Ordering::Relaxed);
    let reply = api.send("POST /v1/reload", own, "").await;
    assert_eq!((reply.status, &reply.json()["problems"]), (422, &json!(["E001"])));
}

#[tokio::test]
async fn a_misspelt_dry_run_does_not_reload() {
    let api = start(Scope::Full).await;
    for query in ["dryrun", "dry_run=maybe", "dry_run&x", "x=1"] {
        let reply = api.send(&format!("POST /v1/reload?{query}"), "X-Outrigger: 1\r\n", "").await;
        assert_eq!(reply.status, 400, "{query}");
    }
    assert!(api.backend.reloads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_reload_goes_on_when_its_client_goes_away() {
    let api = start(Scope::Full).await;
    api.backend.slow.store(true, Ordering::Relaxed);
    let head = format!("POST /v1/reload HTTP/1.1\r\nHost: {}\r\nX-Outrigger: 1\r\n\r\n", api.address);
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    api.backend.waiting.notified().await;
    drop(stream);
    // Gives the server the time to see that the client is gone.
    assert_eq!(api.get("/livez").await.status, 200);
    api.backend.go_on.notify_one();
    let reloaded = async {
        while api.backend.reloads.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, reloaded).await.expect("the reload ran to its end");
}

#[tokio::test]
async fn the_log_level_can_be_read_and_changed() {
    let api = start(Scope::Full).await;
    let kind = "Content-Type: application/json\r\n";
    let reply = api.send("PUT /v1/log", kind, r#"{"level":"debug"}"#).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "level": "debug" })));
    assert_eq!(api.get("/v1/log").await.json(), json!({ "level": "debug" }));
    for (body, status) in [(r#"{"level":"loud"}"#, 422), (r#"{"lvl":"info"}"#, 400), ("", 400), ("[", 400)] {
        assert_eq!(api.send("PUT /v1/log", kind, body).await.status, status, "{body}");
    }
    assert_eq!(api.backend.log_level(), "debug");
}

#[tokio::test]
async fn a_change_without_a_sign_that_it_was_meant_is_refused() {
    let api = start(Scope::Full).await;
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    assert_eq!(api.send("POST /v1/reload", form, "a=b").await.status, 415);
    assert_eq!(api.send("POST /v1/reload", "", "").await.status, 415);
    assert!(api.backend.reloads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_foreign_host_or_origin_is_refused() {
    let api = start(Scope::Full).await;
    let all = api.raw(b"GET /v1/config HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    assert!(all.starts_with("HTTP/1.1 403 ") && !all.contains("***"), "{all}");
    assert_eq!(api.send("GET /v1/config", "Origin: http://evil.example\r\n", "").await.status, 403);
}

#[tokio::test]
async fn with_a_token_everything_but_health_asks_for_it() {
    let api = start_guarded(Scope::Full).await;
    for path in ["/livez", "/readyz?verbose"] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    for path in ["/", "/metrics", "/v1/status", "/v1/config", "/v1/certificates", "/nothing"] {
        let reply = api.get(path).await;
        assert_eq!(reply.status, 401, "{path}");
        assert!(reply.has("www-authenticate: Bearer realm=\"outrigger\""), "{}", reply.head);
        let with_it = api.send(&format!("GET {path}"), &bearer, "").await;
        assert_ne!(with_it.status, 401, "{path}");
    }
    let reply = api.send("GET /v1/config", "Authorization: Bearer 0123456789abcdeF\r\n", "").await;
    assert_eq!(reply.status, 401);
    assert!(reply.head.contains("error=\"invalid_token\""), "{}", reply.head);
    assert!(!reply.body.contains("***") && !reply.body.contains(TOKEN), "{}", reply.body);
    // Health is read without it, and nothing else is done there.
    assert_eq!(api.send("POST /livez", "X-Outrigger: 1\r\n", "").await.status, 401);
    // Two for health, five with the token and one of those is 404.
    let counts = ["ok", "unauthenticated", "refused", "failed"].map(|result| api.counted(result));
    assert_eq!(counts, [7.0, 8.0, 1.0, 0.0]);
}

#[tokio::test]
async fn a_change_without_the_token_does_nothing() {
    let api = start_guarded(Scope::Full).await;
    assert_eq!(api.send("POST /v1/reload", "X-Outrigger: 1\r\n", "").await.status, 401);
    assert!(api.backend.reloads.lock().unwrap().is_empty());
    let fields = format!("X-Outrigger: 1\r\nAuthorization: Bearer {TOKEN}\r\n");
    assert_eq!(api.send("POST /v1/reload", &fields, "").await.status, 200);
}

#[tokio::test]
async fn the_token_does_not_replace_the_checks_against_browsers() {
    let api = start_guarded(Scope::Full).await;
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let foreign = api.send("GET /v1/config", &format!("{bearer}Origin: http://evil.example\r\n"), "").await;
    assert_eq!(foreign.status, 403);
    let form = format!("{bearer}Content-Type: text/plain\r\n");
    assert_eq!(api.send("POST /v1/reload", &form, "x").await.status, 415);
}

#[tokio::test]
async fn the_metrics_listener_asks_for_no_token() {
    let api = start_guarded(Scope::MetricsOnly).await;
    assert_eq!(api.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn a_configured_name_reaches_the_api() {
    let access = Access { token: None, hosts: vec!["admin.test".to_owned()] };
    let api = start_for(access, Scope::Full, SOON).await;
    let ask = |host: &str| format!("GET /v1/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    assert!(api.raw(ask("Admin.test:15000").as_bytes()).await.starts_with("HTTP/1.1 200 "));
    assert!(api.raw(ask("other.test").as_bytes()).await.starts_with("HTTP/1.1 403 "));
}

#[tokio::test]
async fn a_unix_socket_asks_for_no_token_and_goes_with_its_server() {
    let folder = std::env::temp_dir().join(format!("outrigger-admin-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("admin.sock");
    let (socket, place) = bind_unix(&path).unwrap();
    let listener = Listener::Unix(UnixListener::from_std(socket).unwrap(), Arc::new(place));
    let store = Store::Memory(MemoryStore::new("node/web"));
    let backend = Arc::new(Fake { store: Some(store), ..Fake::default() });
    let serving = Serving {
        backend: Arc::<Fake>::clone(&backend),
        scope: Scope::Full,
        access: Access { token: Some(Secret::new(TOKEN)), hosts: Vec::new() },
        metrics: AdminMetrics::resolve(&Registry::new(100, 1)),
    };
    let (drain, draining) = watch::channel(false);
    let server = tokio::spawn(serve_within(listener, serving, draining, SOON));
    let request = b"POST /v1/reload HTTP/1.1\r\nHost: any\r\nX-Outrigger: 1\r\nConnection: close\r\n\r\n";
    let answer = converse(UnixStream::connect(&path).await.unwrap(), request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(*backend.reloads.lock().unwrap(), [ReloadMode::Apply]);
    // Who writes into the store is the user at the other end of the socket.
    let head = "HTTP/1.1\r\nHost: any\r\nX-Outrigger: 1\r\nConnection: close\r\nContent-Length: 23\r\n\r\n";
    let put = format!("PUT /v1/kv {head}{{\"key\":\"a\",\"value\":\"1\"}}");
    let answer = converse(UnixStream::connect(&path).await.unwrap(), put.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let watch = b"GET /v1/kv?watch=a&after=0 HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n";
    let answer = converse(UnixStream::connect(&path).await.unwrap(), watch).await;
    let author = answer.lines().find(|line| line.contains("\"author\"")).unwrap_or_default();
    let is_user = author.contains("\"user/") || author.contains("\"uid/");
    assert!(is_user && author.contains(" via node/web\""), "{answer}");
    drain.send(true).unwrap();
    tokio::time::timeout(SOON, server).await.expect("the server ends").unwrap();
    assert!(!path.exists());
    std::fs::remove_dir(&folder).unwrap();
}

#[tokio::test]
async fn without_a_mesh_there_are_neither_members_nor_keys() {
    let api = start(Scope::Full).await;
    api.backend.alone.store(true, Ordering::Relaxed);
    for path in ["/v1/members", "/v1/keyring"] {
        let reply = api.get(path).await;
        assert_eq!(
            (reply.status, &reply.json()["detail"]),
            (404, &json!("the sidecar is in no mesh")),
            "{path}"
        );
    }
    let order = api.send("POST /v1/keyring", JSON, r#"{"use":"0a1b2c3d"}"#).await;
    assert_eq!(order.status, 404);
}

pub(super) const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn an_order_to_the_keyring_is_given_and_told_of_by_its_mark() {
    let api = start(Scope::Full).await;
    let key = "0f".repeat(32);
    let body = json!({ "install": key }).to_string();
    let reply = api.send("POST /v1/keyring", JSON, &body).await;
    let order = api.backend.orders.lock().unwrap().pop().expect("an order");
    assert_eq!((reply.status, &reply.json()["mark"]), (200, &json!(order_mark(&order).to_string())));
    assert!(matches!(&order, KeyringOrder::Install(installed) if installed.expose() == key));
    assert!(!reply.body.contains(&key), "{}", reply.body);

    let refused = api.send("POST /v1/keyring", JSON, r#"{"remove":"0a1b2c3d"}"#).await;
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("web-1"), "{}", refused.body);
}

#[tokio::test]
async fn what_is_no_order_to_the_keyring_is_none() {
    let api = start(Scope::Full).await;
    for (body, status) in
        [("", 400), (r#"{"use":1}"#, 400), (r#"{"use":"x"}"#, 422), (r#"{"install":"ab"}"#, 422)]
    {
        assert_eq!(api.send("POST /v1/keyring", JSON, body).await.status, status, "{body}");
    }
    assert_eq!(api.send("POST /v1/keyring?use=0a1b2c3d", JSON, r#"{"use":"0a1b2c3d"}"#).await.status, 400);
    let long = format!("{{\"use\":\"{}\"}}", "0".repeat(1 << 20));
    assert_eq!(api.send("POST /v1/keyring", JSON, &long).await.status, 413);
    assert_eq!(*api.backend.orders.lock().unwrap(), []);
}

#[tokio::test]
async fn the_keyring_is_guarded_like_everything_that_changes() {
    let api = start_guarded(Scope::Full).await;
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let order = r#"{"use":"0a1b2c3d"}"#;
    let statuses = [
        (JSON.to_owned(), 401),
        (format!("{bearer}Content-Type: text/plain\r\n"), 415),
        (format!("{bearer}{JSON}Origin: http://evil.example\r\n"), 403),
    ];
    for (fields, status) in statuses {
        assert_eq!(api.send("POST /v1/keyring", &fields, order).await.status, status, "{fields}");
    }
    assert_eq!(*api.backend.orders.lock().unwrap(), []);
    for path in ["/v1/members", "/v1/keyring"] {
        assert_eq!(api.get(path).await.status, 401, "{path}");
    }
    assert_eq!(api.send("POST /v1/keyring", &format!("{bearer}{JSON}"), order).await.status, 200);
    assert_eq!(start(Scope::MetricsOnly).await.get("/v1/members").await.status, 404);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused() {
    let api = start(Scope::Full).await;
    let long = " ".repeat((1 << 20) + 1);
    let reply = api.send("PUT /v1/log", "Content-Type: application/json\r\n", &long).await;
    assert_eq!(reply.status, 413);
}

#[tokio::test]
async fn connections_beyond_the_cap_are_refused_and_places_become_free_again() {
    let api = start(Scope::Full).await;
    let mut held = Vec::new();
    let (mut served, mut refused) = (0, 0);
    for _ in 0..70 {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        let head = format!("GET /livez HTTP/1.1\r\nHost: {}\r\n\r\n", api.address);
        let _ = stream.write_all(head.as_bytes()).await;
        let mut start = [0; 12];
        match stream.read_exact(&mut start).await {
            Ok(_) if &start[9..] == b"200" => served += 1,
            // Refused: with a word, or by a reset that overtook it.
            _ => refused += 1,
        }
        held.push(stream);
    }
    assert_eq!((served, refused), (64, 6));
    held.clear();
    let again = async {
        while api
            .raw(
                format!("GET /livez HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", api.address)
                    .as_bytes(),
            )
            .await
            .get(9..12)
            != Some("200")
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, again).await.expect("a place became free");
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_cut_off() {
    let api = start_within(Scope::Full, Duration::from_millis(20)).await;
    for unfinished in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"] {
        let all = api.raw(unfinished).await;
        assert!(!all.contains(" 200 "), "{all}");
    }
}

#[tokio::test]
async fn draining_answers_what_is_in_flight_and_ends() {
    let api = start(Scope::Full).await;
    api.backend.slow.store(true, Ordering::Relaxed);
    let head = format!("POST /v1/reload HTTP/1.1\r\nHost: {}\r\nX-Outrigger: 1\r\n\r\n", api.address);
    let mut in_flight = TcpStream::connect(api.address).await.unwrap();
    in_flight.write_all(head.as_bytes()).await.unwrap();
    let idle = TcpStream::connect(api.address).await.unwrap();
    tokio::time::timeout(SOON, api.backend.waiting.notified()).await.expect("the request is being served");

    api.drain.send(true).unwrap();
    api.backend.go_on.notify_one();
    let mut all = Vec::new();
    tokio::time::timeout(SOON, in_flight.read_to_end(&mut all)).await.expect("closed").unwrap();
    assert!(all.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&all));
    drop(idle);
    tokio::time::timeout(SOON, api.server).await.expect("the server ends").unwrap();
    assert!(TcpStream::connect(api.address).await.is_err());
}
