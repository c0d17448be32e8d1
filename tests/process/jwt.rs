//! Tokens of end users: what is good gets in with its claims, what is not is refused in one word, and keys come and go
//! without a request that should have been let in being kept out.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs::default_provider,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        version::TLS13,
    },
};

use crate::support::{
    App, Response, Sidecar, eventually,
    http2::{self, Http2},
    ok, send,
    sidecar::Directory,
    wire::Wire,
};

const ISSUER: &str = "https://idp.test";
const SECRET: &str = "a secret of more than thirty-two bytes";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}

/// A key of an issuer.
struct Key {
    pair: EcdsaKeyPair,
    id: &'static str,
}

impl Key {
    fn new(id: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key can be made");
        Self { pair, id }
    }

    fn jwks(&self) -> String {
        let point = self.pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        let (x, y) = (base64(x), base64(y));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": self.id, "x": x, "y": y }] }).to_string()
    }

    fn token(&self, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": self.id });
        let message =
            format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).expect("it can sign");
        format!("{message}.{}", base64(signature.as_ref()))
    }
}

fn claims(more: Value) -> Value {
    let mut claims = json!({ "iss": ISSUER, "aud": "web", "sub": "ada", "exp": now() + 300 });
    if let Value::Object(more) = more {
        claims.as_object_mut().expect("an object").extend(more);
    }
    claims
}

/// Written aside and renamed: nobody sees half of it.
fn write(path: &Path, content: &str) {
    let aside = path.with_extension("new");
    fs::write(&aside, content).expect("the directory is ours");
    fs::rename(&aside, path).expect("the directory is ours");
}

/// A sidecar before `app` that takes the tokens of `issuer`, whose other keys have defaults for tests.
async fn sidecar(app: &App, issuer: Value) -> Sidecar {
    let mut entry = json!({
        "issuer": ISSUER,
        "audiences": ["web"],
        "required": true,
        "forward_claims": { "sub": "x-user", "realm_access.roles": "x-roles" },
    });
    if let Value::Object(issuer) = issuer {
        entry.as_object_mut().expect("an object").extend(issuer);
    }
    Sidecar::start(json!({
        "service": { "name": "web", "address": app.endpoint() },
        "intentions": { "jwt": [entry] },
    }))
    .await
}

async fn ask(address: SocketAddr, fields: &str) -> Response {
    send(address, format!("GET / HTTP/1.1\r\nhost: web\r\n{fields}\r\n")).await
}

async fn ask_with(sidecar: &Sidecar, token: &str) -> Response {
    ask(sidecar.inbound(), &format!("authorization: Bearer {token}\r\n")).await
}

async fn until_refused_as(sidecar: &Sidecar, result: &str) {
    let label = format!("result=\"{result}\"");
    sidecar.until_metric("outrigger_jwt_verifications_total", &[&label], 1.0).await;
}

/// Asserts that `response` is the refusal of a token, which says nothing of the reason.
fn assert_refused(response: &Response) {
    assert_eq!((response.status, response.flag()), (401, "unauthenticated"), "{}", response.text());
    assert_eq!(response.field("www-authenticate"), Some("Bearer error=\"invalid_token\""));
    assert_eq!(response.field("proxy-status"), Some("outrigger; error=http_request_denied"));
}

#[tokio::test]
async fn a_good_token_gets_in_and_its_claims_are_told_to_the_application() {
    let (app, key, folder) = (App::saying("hello").await, Key::new("one"), Directory::new());
    write(&folder.0.join("jwks.json"), &key.jwks());
    let sidecar = sidecar(&app, json!({ "jwks_file": folder.0.join("jwks.json") })).await;
    let token = key.token(&claims(json!({ "realm_access": { "roles": ["admin", "dev"] } })));
    // The first request after the start already finds the keys.
    assert_eq!(ask_with(&sidecar, &token).await.text(), "hello");
    let request = app.only_request();
    assert_eq!((request.field("x-user"), request.field("x-roles")), (Some("ada"), Some("admin,dev")));
    assert_eq!(request.field("authorization"), Some(&*format!("Bearer {token}")));
    until_refused_as(&sidecar, "accepted").await;
}

#[tokio::test]
async fn headers_of_claims_are_taken_from_every_request_in_any_spelling() {
    let (app, key, folder) = (App::saying("hello").await, Key::new("one"), Directory::new());
    write(&folder.0.join("jwks.json"), &key.jwks());
    let issuer =
        json!({ "jwks_file": folder.0.join("jwks.json"), "required": false, "forward_token": false });
    let sidecar = sidecar(&app, issuer).await;
    let spoof = "X-User: root\r\nx-user: root\r\nx_user: root\r\nx-roles: admin\r\n";
    assert_eq!(ask(sidecar.inbound(), spoof).await.status, 200);
    let token = key.token(&claims(json!({})));
    let fields = format!("{spoof}authorization: Bearer {token}\r\n");
    assert_eq!(ask(sidecar.inbound(), &fields).await.status, 200);
    let requests = app.requests();
    for name in ["x-user", "x_user", "x-roles", "authorization"] {
        assert_eq!(requests[0].field(name), None, "{name}");
    }
    assert_eq!(requests[1].head.all("x-user"), ["ada"]);
    for name in ["x_user", "x-roles", "authorization"] {
        assert_eq!(requests[1].field(name), None, "{name}");
    }
}

#[tokio::test]
async fn trailers_cannot_say_what_only_a_token_may() {
    let (app, key, folder) = (App::saying("hello").await, Key::new("one"), Directory::new());
    write(&folder.0.join("jwks.json"), &key.jwks());
    let sidecar = sidecar(&app, json!({ "jwks_file": folder.0.join("jwks.json"), "required": false })).await;
    let head = "POST / HTTP/1.1\r\nhost: web\r\ntrailer: x-user, x_user, x-sum\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = "1\r\na\r\n0\r\nX-User: root\r\nx_user: root\r\nx-roles: admin\r\nx-sum: 1\r\n\r\n";
    assert_eq!(send(sidecar.inbound(), format!("{head}{body}")).await.status, 200);
    assert_eq!(app.only_request().body.trailers, [("x-sum".to_owned(), "1".to_owned())]);
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_counted_and_not_told() {
    let (app, key, folder) = (App::saying("hello").await, Key::new("one"), Directory::new());
    write(&folder.0.join("jwks.json"), &key.jwks());
    let sidecar = sidecar(&app, json!({ "jwks_file": folder.0.join("jwks.json") })).await;
    let good = key.token(&claims(json!({})));
    let (message, _) = good.rsplit_once('.').expect("three parts");
    let none =
        format!("{}.{}.", base64(br#"{"alg":"none"}"#), base64(claims(json!({})).to_string().as_bytes()));
    let hs256 = {
        let message =
            format!("{}.{}", base64(br#"{"alg":"HS256","kid":"one"}"#), good.split('.').nth(1).unwrap());
        let secret = hmac::Key::new(hmac::HMAC_SHA256, key.pair.public_key().as_ref());
        format!("{message}.{}", base64(hmac::sign(&secret, message.as_bytes()).as_ref()))
    };
    let crit = format!("{}.{}.AA", base64(br#"{"alg":"ES256","crit":["x"],"x":1}"#), base64(b"{}"));
    let bomb = format!("{}.{}.AA", base64("[".repeat(9000).as_bytes()), base64(b"{}"));
    for (result, token) in [
        ("signature", format!("{message}.{}", base64(&[7; 64]))),
        ("issuer", key.token(&claims(json!({ "iss": "https://evil.test" })))),
        ("audience", key.token(&claims(json!({ "aud": "shop" })))),
        ("expired", key.token(&claims(json!({ "exp": now() - 100 })))),
        ("not_yet_valid", key.token(&claims(json!({ "nbf": now() + 1000 })))),
        ("algorithm", none),
        ("algorithm", hs256),
        ("unknown_key", Key::new("two").token(&claims(json!({})))),
        ("malformed", "a.b.c".to_owned()),
        ("malformed", crit),
        ("malformed", bomb),
        ("malformed", key.token(&claims(json!({ "sub": "ada\r\nx-admin: yes" })))),
        ("too_large", "x".repeat(20_000)),
    ] {
        assert_refused(&ask_with(&sidecar, &token).await);
        until_refused_as(&sidecar, result).await;
    }
    assert!(app.requests().is_empty());
    assert!(sidecar.log().contains("a request is refused for its token"));
    assert_eq!(ask_with(&sidecar, &good).await.status, 200);
}

#[tokio::test]
async fn a_token_of_a_megabyte_harms_nobody() {
    let (app, key, folder) = (App::saying("hello").await, Key::new("one"), Directory::new());
    write(&folder.0.join("jwks.json"), &key.jwks());
    let sidecar = sidecar(&app, json!({ "jwks_file": folder.0.join("jwks.json") })).await;
    // Longer than a head may be at all.
    assert_eq!(ask_with(&sidecar, &"x".repeat(1024 * 1024)).await.status, 431);
    assert_eq!(ask_with(&sidecar, &key.token(&claims(json!({})))).await.status, 200);
}

#[tokio::test]
async fn two_authorization_headers_are_refused() {
    let (app, key, folder) = (App::saying("hello").await, Key::new("one"), Directory::new());
    write(&folder.0.join("jwks.json"), &key.jwks());
    let sidecar = sidecar(&app, json!({ "jwks_file": folder.0.join("jwks.json") })).await;
    let token = key.token(&claims(json!({})));
    for second in [&*token, "x.y.z"] {
        let fields = format!("authorization: Bearer {token}\r\nauthorization: Bearer {second}\r\n");
        assert_refused(&ask(sidecar.inbound(), &fields).await);
    }
    assert!(app.requests().is_empty());
}

#[tokio::test]
async fn a_request_without_a_token_is_refused_where_one_is_required() {
    let (app, folder) = (App::saying("hello").await, Directory::new());
    write(&folder.0.join("jwks.json"), &Key::new("one").jwks());
    let sidecar = sidecar(&app, json!({ "jwks_file": folder.0.join("jwks.json") })).await;
    for fields in ["", "authorization: Basic YTpi\r\n"] {
        let response = ask(sidecar.inbound(), fields).await;
        assert_eq!((response.status, response.flag()), (401, "unauthenticated"));
        assert_eq!(response.field("www-authenticate"), Some("Bearer"));
    }
    until_refused_as(&sidecar, "missing").await;
    assert!(app.requests().is_empty());
}

#[tokio::test]
async fn callers_of_grpc_are_told_in_their_own_way() {
    let (app, folder) = (App::saying("hello").await, Directory::new());
    write(&folder.0.join("jwks.json"), &Key::new("one").jwks());
    let sidecar = sidecar(&app, json!({ "jwks_file": folder.0.join("jwks.json") })).await;
    let client = Http2::connect(sidecar.inbound()).await;
    let call = Request::post("http://web/shop.Cart/Get").header("content-type", "application/grpc");
    let call = call.header("authorization", "Bearer a.b.c").body(Bytes::new()).expect("a valid request");
    let answer = client.send(call).await.expect("an answer");
    assert_eq!((answer.status, answer.field("grpc-status")), (200, Some("16")));
    let plain = client.send(http2::get("web", "/")).await.expect("an answer");
    assert_eq!((plain.status, plain.field("www-authenticate")), (401, Some("Bearer")));
    assert!(app.requests().is_empty());
}

#[tokio::test]
async fn a_secret_file_verifies_hs256_unless_others_can_read_it() {
    let (app, folder) = (App::saying("hello").await, Directory::new());
    let path = folder.0.join("secret");
    fs::write(&path, format!("{SECRET}\n")).expect("the directory is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let sidecar = sidecar(&app, json!({ "secret_file": path })).await;
    let message =
        format!("{}.{}", base64(br#"{"alg":"HS256"}"#), base64(claims(json!({})).to_string().as_bytes()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let token = format!("{message}.{}", base64(hmac::sign(&key, message.as_bytes()).as_ref()));
    assert_eq!(ask_with(&sidecar, &token).await.status, 200);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
    sidecar.until_metric("outrigger_jwks_refreshes_total", &["result=\"failure\""], 1.0).await;
    assert!(sidecar.log().contains("others can read or change it"));
    assert!(!sidecar.log().contains(SECRET));
    // The secret of before stays: to lose it would lock everybody out.
    assert_eq!(ask_with(&sidecar, &token).await.status, 200);
}

#[tokio::test]
async fn a_changed_file_changes_the_keys_and_a_broken_one_does_not() {
    let (app, folder) = (App::saying("hello").await, Directory::new());
    let (old, new) = (Key::new("old"), Key::new("new"));
    let path = folder.0.join("jwks.json");
    write(&path, &old.jwks());
    let sidecar = sidecar(&app, json!({ "jwks_file": path })).await;
    let (by_old, by_new) = (old.token(&claims(json!({}))), new.token(&claims(json!({}))));
    assert_eq!(ask_with(&sidecar, &by_old).await.status, 200);
    assert_refused(&ask_with(&sidecar, &by_new).await);

    write(&path, "{\"keys\": [ half");
    sidecar.until_metric("outrigger_jwks_refreshes_total", &["result=\"failure\""], 1.0).await;
    assert_eq!(ask_with(&sidecar, &by_old).await.status, 200);

    write(&path, &new.jwks());
    eventually("the new key is good", async || {
        (ask_with(&sidecar, &by_new).await.status == 200).then_some(())
    })
    .await;
    assert_refused(&ask_with(&sidecar, &by_old).await);
}

/// What a server of keys answers, to be changed while it runs.
type Answering = Arc<Mutex<Vec<u8>>>;

async fn server(first: Vec<u8>) -> (App, Answering) {
    let answer: Answering = Arc::new(Mutex::new(first));
    let shared = Arc::clone(&answer);
    (App::answering(move |_| shared.lock().expect("nobody panics with it").clone()).await, answer)
}

#[tokio::test]
async fn keys_behind_a_url_are_fetched_again_when_a_token_names_one_that_is_not_there() {
    let app = App::saying("hello").await;
    let (old, new) = (Key::new("old"), Key::new("new"));
    let (idp, answer) = server(ok(&old.jwks())).await;
    let url = format!("http://{}/keys?a=b", idp.address);
    let sidecar = sidecar(&app, json!({ "jwks_url": url, "jwks_refresh": "1h" })).await;
    let (by_old, by_new) = (old.token(&claims(json!({}))), new.token(&claims(json!({}))));
    eventually("the keys are fetched", async || {
        (ask_with(&sidecar, &by_old).await.status == 200).then_some(())
    })
    .await;
    let fetched = idp.requests()[0].clone();
    assert_eq!((fetched.target(), fetched.field("host")), ("/keys?a=b", Some(&*idp.endpoint())));

    *answer.lock().expect("nobody panics with it") = ok(&new.jwks());
    let before = idp.requests().len();
    eventually("the new key is fetched", async || {
        (ask_with(&sidecar, &by_new).await.status == 200).then_some(())
    })
    .await;
    // However many tokens asked for it.
    assert!(idp.requests().len() - before <= 2, "{}", idp.requests().len());
    assert_refused(&ask_with(&sidecar, &by_old).await);
}

#[tokio::test]
async fn a_server_of_keys_that_fails_in_any_way_takes_no_keys_away() {
    let app = App::saying("hello").await;
    let key = Key::new("one");
    let (idp, answer) = server(ok(&key.jwks())).await;
    let url = format!("http://{}/keys", idp.address);
    let sidecar = sidecar(&app, json!({ "jwks_url": url, "jwks_refresh": "1s" })).await;
    let token = key.token(&claims(json!({})));
    eventually("the keys are fetched", async || {
        (ask_with(&sidecar, &token).await.status == 200).then_some(())
    })
    .await;
    let huge = ok(&format!("{{\"keys\":[{}", " ".repeat(2 * 1024 * 1024)));
    let elsewhere = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    for fault in [
        b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_vec(),
        elsewhere.to_vec(),
        ok("<html>maintenance</html>"),
        ok("{\"keys\":[]}"),
        huge,
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"keys\"".to_vec(),
        b"garbage\r\n\r\n".to_vec(),
    ] {
        let failures = sidecar.metric("outrigger_jwks_refreshes_total", &["result=\"failure\""]).await;
        *answer.lock().expect("nobody panics with it") = fault;
        sidecar.until_metric("outrigger_jwks_refreshes_total", &["result=\"failure\""], failures + 1.0).await;
        assert_eq!(ask_with(&sidecar, &token).await.status, 200);
    }
    // Nobody there at all.
    let failures = sidecar.metric("outrigger_jwks_refreshes_total", &["result=\"failure\""]).await;
    idp.stop().await;
    sidecar.until_metric("outrigger_jwks_refreshes_total", &["result=\"failure\""], failures + 1.0).await;
    assert_eq!(ask_with(&sidecar, &token).await.status, 200);
    assert_refused(&ask_with(&sidecar, &Key::new("two").token(&claims(json!({})))).await);
}

#[tokio::test]
async fn until_there_are_keys_nobody_gets_in() {
    let app = App::saying("hello").await;
    let idp = App::script(|mut connection| async move {
        // Never answers.
        connection.until_closed().await;
    })
    .await;
    let url = format!("http://{}/keys", idp.address);
    let sidecar = sidecar(&app, json!({ "jwks_url": url })).await;
    assert_refused(&ask_with(&sidecar, &Key::new("one").token(&claims(json!({})))).await);
    sidecar.until_metric("outrigger_jwks_refreshes_total", &["result=\"failure\""], 1.0).await;
    assert!(sidecar.log().contains("no answer within 5s"));
    assert!(app.requests().is_empty());
}

/// A server of keys that proves to be `localhost`, with the certificate that vouches for it.
async fn tls_server(jwks: String) -> (App, String) {
    let made =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate can be made");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3 is there")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("they belong together");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let app = App::script(move |connection| {
        let (acceptor, jwks) = (acceptor.clone(), jwks.clone());
        async move {
            let Ok(stream) = acceptor.accept(connection.wire.stream).await else { return };
            let mut wire = Wire::new(stream);
            if wire.head().await.is_some() {
                let _ = wire.write(&ok(&jwks)).await;
            }
        }
    })
    .await;
    (app, made.cert.pem())
}

#[tokio::test]
async fn a_server_of_keys_must_prove_who_it_is() {
    let (app, folder, key) = (App::saying("hello").await, Directory::new(), Key::new("one"));
    let (idp, certificate) = tls_server(key.jwks()).await;
    let (_, other) = tls_server(String::new()).await;
    let (good, bad) = (folder.0.join("good.pem"), folder.0.join("bad.pem"));
    write(&good, &certificate);
    write(&bad, &other);
    let url = format!("https://localhost:{}/keys", idp.address.port());
    let token = key.token(&claims(json!({})));

    let trusting = sidecar(&app, json!({ "jwks_url": url, "ca_file": good })).await;
    eventually("the keys are fetched", async || {
        (ask_with(&trusting, &token).await.status == 200).then_some(())
    })
    .await;

    let wary = sidecar(&app, json!({ "jwks_url": url, "ca_file": bad })).await;
    wary.until_metric("outrigger_jwks_refreshes_total", &["result=\"failure\""], 1.0).await;
    assert!(wary.log().contains("the server does not prove who it is"), "{}", wary.log());
    assert_refused(&ask_with(&wary, &token).await);
}

#[tokio::test]
async fn a_reload_changes_who_is_let_in_on_connections_that_are_open() {
    let (app, folder, key) = (App::saying("hello").await, Directory::new(), Key::new("one"));
    write(&folder.0.join("jwks.json"), &key.jwks());
    let mut sidecar =
        sidecar(&app, json!({ "jwks_file": folder.0.join("jwks.json"), "required": false })).await;
    let mut client = crate::support::Client::connect(sidecar.inbound()).await;
    assert_eq!(client.get("web", "/").await.status, 200);
    let entry = json!({
        "issuer": ISSUER, "audiences": ["web"], "jwks_file": folder.0.join("jwks.json"), "required": true,
    });
    sidecar.edit(json!({ "intentions": { "jwt": [entry] } }));
    assert_eq!(sidecar.reload().await.0, 200);
    assert_eq!(client.get("web", "/").await.status, 401);
    // The issuer is the same: its keys are there without another look.
    assert_eq!(ask_with(&sidecar, &key.token(&claims(json!({})))).await.status, 200);
}
