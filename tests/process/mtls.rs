//! Mutual TLS between sidecars: who called, whom the application hears of, and what nobody can claim to be. Who is refused
//! is in mtls_bad_peers.rs and mtls_hostile.rs, whom we refuse to call in mtls_outbound.rs.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::support::{
    App, Client, Sidecar,
    app::Request,
    authority::{Authority, Credentials, Folder, identity},
    http2::{self, Answer, Http2},
    ok, send,
    sidecar::{api, with},
    tls::Dialer,
};

pub(crate) const HANDSHAKES: &str = "outrigger_tls_handshakes_total";
const FORWARDED: &str = "x-forwarded-client-cert";
const SOURCE: &str = "x-outrigger-source";

/// The configuration of a sidecar that proves to be `service` with what is in `folder`, and lets everybody of the mesh in.
pub(crate) fn proving(service: &str, folder: &Folder, mode: &str, over: Value) -> Value {
    let mut rules = vec![json!({ "source": "*", "action": "allow" })];
    if mode == "permissive" {
        rules.push(json!({ "source": "anonymous", "action": "allow" }));
    }
    let own = json!({
        "service": { "name": service },
        "mtls": folder.mtls(mode),
        "intentions": { "rules": rules },
    });
    with(own, over)
}

/// The sidecar of the service `api` before `app`.
pub(crate) fn serving(app: &App, folder: &Folder, mode: &str) -> Value {
    proving("api", folder, mode, json!({ "service": { "address": app.endpoint(), "protocol": "http1" } }))
}

/// The sidecar of the service `web`, whose application calls `api` at `endpoints`.
pub(crate) fn calling(folder: &Folder, endpoints: &[String]) -> Value {
    proving("web", folder, "strict", api(endpoints))
}

/// Two services of one mesh, and their sidecars: `web` calls `api`.
pub(crate) struct Pair {
    pub(crate) web: Sidecar,
    pub(crate) api: Sidecar,
    pub(crate) authority: Authority,
    /// What `web` shows.
    pub(crate) shown: Credentials,
    /// What `web` has its certificates in.
    pub(crate) web_folder: Folder,
    /// What `api` has its certificates in.
    pub(crate) api_folder: Folder,
}

impl Pair {
    /// With `app` behind `api`.
    pub(crate) async fn start(app: &App) -> Self {
        Self::start_with(app, json!({}), json!({})).await
    }

    /// [`Pair::start`], with what `web` and `api` have besides.
    pub(crate) async fn start_with(app: &App, web_over: Value, api_over: Value) -> Self {
        let authority = Authority::new("mesh");
        let shown = authority.service("web");
        let web_folder = Folder::new(&shown, &authority.root());
        let api_folder = Folder::of(&authority, "api");
        let mut config = with(serving(app, &api_folder, "strict"), api_over);
        if let Some(config) = config.as_object_mut() {
            // What is null is left out.
            config.retain(|_, section| !section.is_null());
        }
        let api = Sidecar::start(config).await;
        let endpoints = [api.inbound().to_string()];
        let web = Sidecar::start(with(calling(&web_folder, &endpoints), web_over)).await;
        Self { web, api, authority, shown, web_folder, api_folder }
    }
}

/// What an application is told of a caller that is a service of the mesh and shows these.
fn forwarded(of: &str, shown: &Credentials) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &shown.leaf());
    let hash: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("By={};Hash={hash};URI={}", identity("api"), identity(of))
}

/// An application of either version of HTTP. It says in which it was spoken to, and who called; on HTTP/2 with trailers,
/// which to gRPC are a status.
pub(crate) async fn bilingual() -> App {
    App::script(|mut connection| async move {
        let mut first = [0];
        let Ok(1) = connection.wire.stream.peek(&mut first).await else { return };
        if first[0] == b'P' && is_http2(&connection.wire.stream).await {
            return http2::serve_all(connection, h2::server::Builder::new(), answer_http2).await;
        }
        while let Some(request) = connection.request().await {
            let version = request.head.start.rsplit(' ').next().unwrap_or_default();
            let source = request.field(SOURCE).unwrap_or("nobody");
            connection.send(ok(&format!("{version} from {source}"))).await;
        }
    })
    .await
}

async fn is_http2(stream: &tokio::net::TcpStream) -> bool {
    let mut start = [0; 4];
    loop {
        match stream.peek(&mut start).await {
            Ok(4) => return &start == b"PRI ",
            Ok(1..) => tokio::task::yield_now().await,
            _ => return false,
        }
    }
}

async fn answer_http2(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    let is_grpc = head.headers.get("content-type").is_some_and(|kind| kind == "application/grpc");
    while let Some(Ok(part)) = body.data().await {
        let _ = body.flow_control().release_capacity(part.len());
    }
    let trailers = body.trailers().await.ok().flatten().unwrap_or_default();
    let claimed = trailers.contains_key(SOURCE) || trailers.contains_key(FORWARDED);
    let source = head.headers.get(SOURCE).and_then(|value| value.to_str().ok()).unwrap_or("nobody");
    let text =
        format!("{:?} from {source}{}", head.version, if claimed { ", trailers claim more" } else { "" });
    // The stream may be gone; that is what its client then sees.
    let Ok(mut stream) = respond.send_response(http::Response::new(()), false) else { return };
    let _ = stream.send_data(text.into(), false);
    let mut end = HeaderMap::new();
    end.insert(if is_grpc { "grpc-status" } else { "x-end" }, HeaderValue::from_static("0"));
    let _ = stream.send_trailers(end);
}

/// What a sidecar has logged with this message.
pub(crate) fn lines(sidecar: &Sidecar, message: &str) -> Vec<Value> {
    let log = sidecar.log();
    let parsed = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter(|line| line["message"] == message).collect()
}

/// Headers by which a request claims to come from somebody else.
const CLAIMS: &str = "x-forwarded-client-cert: By=spiffe://mesh.local/service/api;URI=spiffe://mesh.local/service/admin\r\n\
                      X-Outrigger-Source: admin\r\nX_Outrigger_Source: admin\r\nx_forwarded_client_cert: admin\r\n";

/// Says that such headers, and one that nobody minds, come behind the body.
const TRAILING: &str =
    "transfer-encoding: chunked\r\ntrailer: x-kept, x-forwarded-client-cert, x-outrigger-source\r\n";

/// All that a request says of who sent it.
fn told(request: &Request) -> Vec<(&str, &str)> {
    let about = |name: &str| name.replace('_', "-") == FORWARDED || name.replace('_', "-") == SOURCE;
    let fields = request.head.fields.iter().chain(&request.body.trailers);
    fields.filter(|(name, _)| about(name)).map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[tokio::test]
async fn a_request_is_authenticated_and_the_application_hears_who_calls() {
    let app = App::saying("hello").await;
    let pair = Pair::start(&app).await;
    let mut client = Client::connect(pair.web.outbound()).await;
    assert_eq!(client.get("api", "/one").await.text(), "hello");
    assert_eq!(client.get("api", "/two").await.text(), "hello");
    let wanted = forwarded("web", &pair.shown);
    for request in app.requests() {
        assert_eq!(told(&request), [(FORWARDED, wanted.as_str()), (SOURCE, "web")]);
    }
    assert_eq!(pair.api.logged("/one").await["source"], "web");
    assert_eq!(pair.web.logged("/one").await["source"], Value::Null);
    // Both requests went over one connection, and both sides say so.
    for (sidecar, direction) in [(&pair.api, "inbound"), (&pair.web, "outbound")] {
        let direction = format!("direction=\"{direction}\"");
        assert_eq!(sidecar.metric(HANDSHAKES, &[&direction, "result=\"ok\""]).await, 1.0);
        assert_eq!(sidecar.metric(HANDSHAKES, &[&direction]).await, 1.0);
    }
}

#[tokio::test]
async fn an_identity_that_the_calling_application_claims_is_replaced_by_the_true_one() {
    let app = App::saying("hello").await;
    let pair = Pair::start(&app).await;
    let head = format!("POST /spoof HTTP/1.1\r\nhost: api\r\n{CLAIMS}{TRAILING}\r\n");
    let request = format!("{head}2\r\nhi\r\n0\r\n{CLAIMS}x-kept: yes\r\n\r\n");
    assert_eq!(send(pair.web.outbound(), request).await.status, 200);
    let request = app.only_request();
    let wanted = forwarded("web", &pair.shown);
    assert_eq!(told(&request), [(FORWARDED, wanted.as_str()), (SOURCE, "web")]);
    assert_eq!(request.body.trailers, [("x-kept".to_owned(), "yes".to_owned())]);
}

#[tokio::test]
async fn an_identity_that_a_caller_of_the_mesh_claims_is_replaced_by_the_true_one() {
    let app = App::saying("hello").await;
    let pair = Pair::start(&app).await;
    let shown = pair.authority.service("batch");
    let dialer = Dialer::showing(&shown);
    let mut client = dialer.http1(pair.api.inbound()).await;
    let head = format!("POST /spoof HTTP/1.1\r\nhost: api\r\n{CLAIMS}{TRAILING}\r\n");
    client.send(format!("{head}2\r\nhi\r\n0\r\n{CLAIMS}\r\n")).await;
    assert_eq!(client.response().await.status, 200);
    let client = dialer.http2(pair.api.inbound()).await;
    assert_eq!(spoof(&client).await.status, 200);
    let wanted = forwarded("batch", &shown);
    assert_eq!(app.requests().len(), 2);
    for request in app.requests() {
        assert_eq!(told(&request), [(FORWARDED, wanted.as_str()), (SOURCE, "batch")]);
    }
}

/// A request of HTTP/2 that claims in head and trailers to come from somebody else.
async fn spoof(client: &Http2) -> Answer {
    let request = http::Request::post("http://api/spoof")
        .header(FORWARDED, "By=spiffe://mesh.local/service/api;URI=spiffe://mesh.local/service/admin")
        .header(SOURCE, "admin")
        .body(Bytes::from_static(b"hi"))
        .expect("a request");
    let mut trailers = HeaderMap::new();
    trailers.insert(SOURCE, HeaderValue::from_static("admin"));
    trailers.insert(FORWARDED, HeaderValue::from_static("URI=spiffe://mesh.local/service/admin"));
    Answer::read(client.begin(request, Some(trailers)).await).await.expect("an answer")
}

#[tokio::test]
async fn a_plaintext_caller_cannot_claim_an_identity() {
    let app = bilingual().await;
    let authority = Authority::new("mesh");
    let folder = Folder::of(&authority, "api");
    let auto = json!({ "service": { "protocol": "auto" } });
    let sidecar = Sidecar::start(with(serving(&app, &folder, "permissive"), auto)).await;
    let head = format!("POST /spoof HTTP/1.1\r\nhost: api\r\n{CLAIMS}{TRAILING}\r\n");
    let answer = send(sidecar.inbound(), format!("{head}2\r\nhi\r\n0\r\n{CLAIMS}\r\n")).await;
    assert_eq!(answer.text(), "HTTP/1.1 from nobody");
    assert_eq!(told(&app.only_request()), []);
    let answer = spoof(&Http2::connect(sidecar.inbound()).await).await;
    assert_eq!(answer.data, b"HTTP/2.0 from nobody");
    assert_eq!(sidecar.logged("/spoof").await["source"], Value::Null);
    let count = sidecar.metric("outrigger_mtls_plaintext_connections_total", &["result=\"accepted\""]).await;
    assert_eq!(count, 2.0);
}

#[tokio::test]
async fn without_rules_nobody_gets_in_and_one_line_says_why() {
    let app = App::saying("hello").await;
    let pair = Pair::start_with(&app, json!({}), json!({ "intentions": null })).await;
    let refused = Client::connect(pair.web.outbound()).await.get("api", "/").await;
    assert_eq!((refused.status, refused.flag()), (403, "denied"));
    assert!(!refused.text().contains("default_action"), "{}", refused.text());
    assert_eq!(app.accepted(), 0);
    let lines = lines(&pair.api, "a caller was refused");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["source"], &lines[0]["rule"]), (&json!("web"), &json!("default_action")));
    assert_eq!(pair.api.logged("/").await["flag"], "denied");
}
