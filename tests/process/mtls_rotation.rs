//! Certificates that change under a running sidecar, sessions that are taken up again, and what a sidecar does not start
//! with.

use std::{fs, os::unix::fs::PermissionsExt};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    mtls::{HANDSHAKES, Pair, lines, serving},
    support::{
        App, Client, Sidecar,
        authority::{Asked, Authority, Credentials, Folder},
        eventually, frames,
        http2::Answer,
        sidecar::Directory,
        tls::{Dialer, Secure, is_resumed, shown},
        within,
    },
};

/// One phase of a rotation in the folder of a service.
type Phase<'a> = &'a dyn Fn(&Folder, &str);
/// Makes good files bad.
type Spoil<'a> = &'a dyn Fn(&Folder);

const RENEWALS: &str = "outrigger_certificate_renewals_total";

/// The service `api`, its certificates, and a caller that it likes.
struct Service {
    app: App,
    sidecar: Sidecar,
    authority: Authority,
    folder: Folder,
    liked: Dialer,
    caller: Credentials,
}

impl Service {
    /// With a revocation list that revokes nobody.
    async fn start() -> Self {
        let authority = Authority::new("mesh");
        let folder = Folder::of(&authority, "api");
        folder.revoke(&authority.revoke(&[]));
        let app = App::saying("hello").await;
        let sidecar = Sidecar::start(serving(&app, &folder, "strict")).await;
        let caller = authority.service("web");
        let liked = Dialer::showing(&caller);
        Self { app, sidecar, authority, folder, liked, caller }
    }

    async fn renewed(&self, result: &str) -> f64 {
        self.sidecar.metric(RENEWALS, &[&format!("result=\"{result}\"")]).await
    }

    async fn until_renewed(&self, result: &str, times: f64) {
        self.sidecar.until_metric(RENEWALS, &[&format!("result=\"{result}\"")], times).await;
    }

    /// A connection over which a request was answered, so that its ticket is here, too.
    async fn visit(&self) -> Secure {
        let stream = self.liked.clone().speaking("http/1.1").connect(self.sidecar.inbound()).await;
        let mut client = Client::over(stream.expect("a handshake"));
        assert_eq!(client.get("api", "/").await.text(), "hello");
        client.into_stream()
    }
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_open_connections_go_on() {
    let service = Service::start().await;
    let mut open = service.liked.http1(service.sidecar.inbound()).await;
    let open_h2 = service.liked.http2(service.sidecar.inbound()).await;
    assert_eq!(open.get("api", "/").await.text(), "hello");
    assert_eq!(open_h2.get("api", "/").await.expect("an answer").status, 200);
    let next = service.authority.service("api");
    service.folder.put(&next);
    service.until_renewed("ok", 1.0).await;
    assert_eq!(open.get("api", "/").await.text(), "hello");
    assert_eq!(open_h2.get("api", "/").await.expect("an answer").status, 200);
    let fresh = Dialer::showing(&service.caller).connect(service.sidecar.inbound()).await;
    assert_eq!(shown(&fresh.expect("a handshake")), next.leaf());
    assert_eq!((service.renewed("ok").await, service.renewed("failed").await), (1.0, 0.0));
    let lines = lines(&service.sidecar, "new certificates are in use");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["serial"], format!("{:x}", next.serial));
    assert_eq!(lines[0]["trust_changed"], json!(false));
}

/// Files that are no good are told once, the old ones stay; good ones are then taken up.
async fn survives(what: &str, spoil: impl FnOnce(&Service), word: &str) {
    let service = Service::start().await;
    let before = Dialer::showing(&service.caller).connect(service.sidecar.inbound()).await;
    let before = shown(&before.expect("a handshake"));
    spoil(&service);
    service.until_renewed("failed", 1.0).await;
    let problems = lines(&service.sidecar, "the new certificates cannot be used; those in use go on");
    assert_eq!(problems.len(), 1, "{what}: {problems:?}");
    let problem = problems[0]["problem"].as_str().unwrap_or_default();
    assert!(problem.contains(word), "{what}: {problem}");
    assert!(!problem.contains("PRIVATE"), "{what}: {problem}");
    let again = Dialer::showing(&service.caller).connect(service.sidecar.inbound()).await;
    assert_eq!(shown(&again.expect("a handshake")), before, "{what}");
    service.visit().await;

    let next = service.authority.service("api");
    service.folder.put(&next);
    service.folder.write("ca.pem", &service.authority.root());
    service.folder.revoke(&service.authority.revoke(&[]));
    service.until_renewed("ok", 1.0).await;
    let fresh = Dialer::showing(&service.caller).connect(service.sidecar.inbound()).await;
    assert_eq!(shown(&fresh.expect("a handshake")), next.leaf(), "{what}");
    assert_eq!(service.renewed("failed").await, 1.0, "{what}");
}

/// Everything but the last `left_out` bytes.
fn cut(text: &str, left_out: usize) -> &str {
    &text[..text.len() - left_out]
}

// One test: each of them waits for the sidecar to look at its files, and they can wait together.
#[tokio::test]
async fn files_that_are_no_good_are_told_once_and_change_nothing() {
    tokio::join!(
        survives(
            "half a CA file",
            |service| service.folder.write("ca.pem", cut(&service.authority.root(), 60)),
            "ca.pem: the CA file"
        ),
        survives(
            "a key of another certificate",
            |service| service.folder.write("tls.key", &service.authority.service("api").key),
            "tls.key: the private key does not belong to the certificate"
        ),
        survives(
            "half a key",
            |service| service.folder.write("tls.key", cut(&service.authority.service("api").key, 60)),
            "tls.key: "
        ),
        survives(
            "the certificate of another service",
            |service| service.folder.put(&service.authority.service("billing")),
            "spiffe://mesh.local/service/billing"
        ),
        survives(
            "a certificate that our own roots do not vouch for",
            |service| service.folder.put(&Authority::new("another").service("api")),
            "the certificate cannot be used"
        ),
        survives(
            "a file that is gone",
            |service| fs::remove_file(service.folder.path("tls.pem")).expect("it is there"),
            "tls.pem"
        ),
        survives(
            "a key that others can read",
            |service| {
                let anybody = fs::Permissions::from_mode(0o644);
                fs::set_permissions(service.folder.path("tls.key"), anybody).expect("it is ours");
            },
            "tls.key"
        ),
        survives("noise for a list", |service| service.folder.revoke("noise"), "crl.pem: "),
        survives(
            "an empty file",
            |service| service.folder.write("tls.pem", ""),
            "tls.pem: the certificate file"
        ),
    );
}

#[tokio::test]
async fn a_session_is_taken_up_until_it_changes_whom_we_believe() {
    let service = Service::start().await;
    assert!(!is_resumed(&service.visit().await));
    assert!(is_resumed(&service.visit().await));
    let resumed = ["direction=\"inbound\"", "result=\"resumed\""];
    assert_eq!(service.sidecar.metric(HANDSHAKES, &resumed).await, 1.0);
    // The application hears the same of a caller whose session was taken up.
    let said: Vec<_> = service.app.requests().iter().map(forwarded).collect();
    assert!(said[0].is_some() && said[0] == said[1], "{said:?}");

    // Somebody else is revoked: nobody is believed on the word of before.
    service.folder.revoke(&service.authority.revoke(&[1]));
    service.until_renewed("ok", 1.0).await;
    assert!(!is_resumed(&service.visit().await));
    assert!(is_resumed(&service.visit().await));

    let another = Authority::new("another");
    service.folder.write("ca.pem", &[service.authority.root(), another.root()].concat());
    service.until_renewed("ok", 2.0).await;
    assert!(!is_resumed(&service.visit().await));
    let mut other = Dialer::showing(&another.service("batch")).http1(service.sidecar.inbound()).await;
    assert_eq!(other.get("api", "/").await.text(), "hello");
    assert_eq!(service.sidecar.metric(HANDSHAKES, &resumed).await, 2.0);
}

fn forwarded(request: &crate::support::app::Request) -> Option<String> {
    request.field("x-forwarded-client-cert").map(str::to_owned)
}

#[tokio::test]
async fn a_revocation_ends_open_connections_in_order_and_lets_nobody_in_again() {
    let service = Service::start().await;
    let mut open = service.liked.http1(service.sidecar.inbound()).await;
    assert_eq!(open.get("api", "/").await.text(), "hello");
    let open_h2 = service.liked.http2(service.sidecar.inbound()).await;
    // A request in the middle of its body is not broken off.
    let head = http::Request::post("http://api/slow").body(()).expect("a request");
    let (answer, mut body) = open_h2.open(head).await;
    body.send_data(Bytes::from_static(b"first"), false).expect("an open stream");
    service.folder.revoke(&service.authority.revoke(&[service.caller.serial]));
    service.until_renewed("ok", 1.0).await;

    open.closed().await;
    body.send_data(Bytes::from_static(b", last"), true).expect("an open stream");
    let answer = Answer::read(answer).await.expect("an answer");
    assert_eq!((answer.status, answer.data), (200, b"hello".to_vec()));
    eventually("the connection takes no more requests", async || open_h2.is_over().await.then_some(())).await;
    let alert = service.liked.clone().speaking("h2").refusal(service.sidecar.inbound()).await;
    assert_eq!(alert, rustls::AlertDescription::CertificateRevoked);
    // Others come in as before.
    let other = Dialer::showing(&service.authority.service("batch"));
    let mut client = other.http1(service.sidecar.inbound()).await;
    assert_eq!(client.get("api", "/").await.text(), "hello");
}

#[tokio::test]
async fn a_root_is_replaced_in_phases_without_a_failed_request() {
    let app = App::saying("hello").await;
    let pair = Pair::start(&app).await;
    let next = Authority::new("next");
    let both = [pair.authority.root(), next.root()].concat();
    let mut client = Client::connect(pair.web.outbound()).await;
    let phases: [Phase<'_>; 3] = [
        &|folder, _| folder.write("ca.pem", &both),
        &|folder, service| folder.put(&next.service(service)),
        &|folder, _| folder.write("ca.pem", &next.root()),
    ];
    let mut served = 0;
    for (phase, times) in phases.iter().zip([1.0, 2.0, 3.0]) {
        for (folder, service) in [(&pair.web_folder, "web"), (&pair.api_folder, "api")] {
            phase(folder, service);
        }
        let done = ["result=\"ok\""];
        eventually("both have it", async || {
            assert_eq!(client.get("api", "/").await.text(), "hello");
            served += 1;
            let both = (pair.web.metric(RENEWALS, &done).await, pair.api.metric(RENEWALS, &done).await);
            (both == (times, times)).then_some(())
        })
        .await;
    }
    assert_eq!(client.get("api", "/").await.text(), "hello");
    assert_eq!(app.requests().len(), served + 1);
    // Nobody believes the old root any more.
    let old = Dialer::showing(&pair.authority.service("web")).speaking("h2");
    assert_eq!(old.refusal(pair.api.inbound()).await, rustls::AlertDescription::UnknownCA);
}

/// What the binary says when it does not start with `mtls`.
fn refusal(mtls: &Value) -> String {
    let directory = Directory::new();
    let config = json!({
        "version": 1,
        "service": { "name": "api", "address": "127.0.0.1:9" },
        "listeners": { "inbound": { "address": "127.0.0.1:0" }, "outbound": { "address": "127.0.0.1:0" } },
        "admin": { "address": "127.0.0.1:0", "metrics_address": "none" },
        "mtls": mtls,
    });
    let path = directory.0.join("outrigger.yaml");
    fs::write(&path, config.to_string()).expect("the directory is ours");
    let output = crate::support::sidecar::run(&["run", "--config", &path.to_string_lossy()]);
    assert!(!output.status.success(), "it started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("PRIVATE KEY"), "{said}");
    said
}

#[test]
fn a_sidecar_without_a_good_certificate_does_not_start_and_names_the_file() {
    let authority = Authority::new("mesh");
    let cases: [(&str, Spoil<'_>, &[&str]); 8] = [
        ("no certificate", &|f| fs::remove_file(f.path("tls.pem")).expect("ours"), &["tls.pem"]),
        ("no key", &|f| fs::remove_file(f.path("tls.key")).expect("ours"), &["tls.key"]),
        ("no roots", &|f| fs::remove_file(f.path("ca.pem")).expect("ours"), &["ca.pem"]),
        (
            "another service",
            &|f| f.put(&authority.service("billing")),
            &["tls.pem", "spiffe://mesh.local/service/billing", "spiffe://mesh.local/service/api"],
        ),
        ("expired", &|f| f.put(&authority.issue(&expired())), &["tls.pem", "Expired"]),
        (
            "no key of it",
            &|f| f.write("tls.key", &authority.service("api").key),
            &["tls.key", "does not belong"],
        ),
        ("no PEM", &|f| f.write("ca.pem", "noise"), &["ca.pem"]),
        (
            "a key for everybody",
            &|f| fs::set_permissions(f.path("tls.key"), fs::Permissions::from_mode(0o604)).expect("ours"),
            &["tls.key", "others can read"],
        ),
    ];
    for (what, spoil, words) in cases {
        let folder = Folder::of(&authority, "api");
        spoil(&folder);
        let said = refusal(&folder.mtls("strict"));
        for word in words {
            assert!(said.contains(word), "{what}: {word}: {said}");
        }
    }
}

fn expired() -> Asked {
    let now = std::time::SystemTime::now();
    let hour = crate::support::authority::HOUR;
    Asked { from: now - 3 * hour, until: now - hour, ..Asked::of("api") }
}

/// Frames until the head of the answer on `stream`.
async fn head_of(secure: &mut Secure, stream: u32) -> Option<frames::Frame> {
    loop {
        let mut start = [0; 9];
        within("a frame", secure.read_exact(&mut start)).await.ok()?;
        let number = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        let mut payload = vec![0; number(&start[..3]) as usize];
        within("its payload", secure.read_exact(&mut payload)).await.ok()?;
        let frame = frames::Frame { kind: start[3], flags: start[4], stream: number(&start[5..]), payload };
        if frame.kind == frames::HEADERS && frame.stream == stream {
            return Some(frame);
        }
    }
}

#[tokio::test]
async fn a_revoked_caller_that_does_not_leave_is_answered_no_more() {
    let service = Service::start().await;
    // It never answers a PING, so GOAWAY alone does not keep new streams away.
    let dialer = service.liked.clone().speaking("h2");
    let mut secure = dialer.connect(service.sidecar.inbound()).await.expect("a handshake");
    let beginning = [frames::PREFACE, &frames::settings(&[]), &frames::get(1, "/before")].concat();
    secure.write_all(&beginning).await.expect("it is open");
    assert_eq!(head_of(&mut secure, 1).await.expect("an answer").status(), Some(200));
    service.folder.revoke(&service.authority.revoke(&[service.caller.serial]));
    service.until_renewed("ok", 1.0).await;
    // The connection may be gone already, which is as good.
    if secure.write_all(&frames::get(3, "/after")).await.is_ok()
        && let Some(head) = head_of(&mut secure, 3).await
    {
        assert_ne!(head.status(), Some(200));
    }
    let seen: Vec<String> = service.app.requests().iter().map(|seen| seen.target().to_owned()).collect();
    assert_eq!(seen, ["/before"]);
}

#[tokio::test]
async fn a_caller_who_is_still_good_is_served_over_a_change_of_trust() {
    let service = Service::start().await;
    let dialer = service.liked.clone().speaking("h2");
    let mut secure = dialer.connect(service.sidecar.inbound()).await.expect("a handshake");
    let beginning = [frames::PREFACE, &frames::settings(&[]), &frames::get(1, "/before")].concat();
    secure.write_all(&beginning).await.expect("it is open");
    assert_eq!(head_of(&mut secure, 1).await.expect("an answer").status(), Some(200));
    service.folder.revoke(&service.authority.revoke(&[1]));
    service.until_renewed("ok", 1.0).await;
    // Within the time that a client may take to hear of GOAWAY.
    secure.write_all(&frames::get(3, "/after")).await.expect("it is open");
    assert_eq!(head_of(&mut secure, 3).await.expect("an answer").status(), Some(200));
}

#[tokio::test]
async fn plaintext_from_before_is_not_served_once_the_listener_is_strict() {
    let authority = Authority::new("mesh");
    let folder = Folder::of(&authority, "api");
    let app = App::saying("hello").await;
    let mut sidecar = Sidecar::start(serving(&app, &folder, "permissive")).await;
    let mut plain = Client::connect(sidecar.inbound()).await;
    assert_eq!(plain.get("api", "/before").await.status, 200);
    sidecar.edit(json!({ "mtls": { "mode": "strict" } }));
    assert_eq!(sidecar.reload().await.0, 200);
    let refused = plain.get("api", "/after").await;
    assert_eq!((refused.status, refused.flag()), (403, "denied"));
    plain.closed().await;
    assert!(app.requests().iter().all(|seen| seen.target() != "/after"));
}
