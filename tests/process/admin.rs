//! The admin API and who may use it: sockets, tokens, what is written down of changes, what it tells of the identity; and
//! the command line that asks it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use serde_json::{Value, json};

use crate::support::{
    Sidecar, eventually,
    sidecar::{Directory, free_address, run, with},
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Standard output, or standard error, as text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// What `outrigger` with these arguments ends with, and what it says: the answer, or the complaint.
fn told(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = run(arguments);
    (status.code(), text(if status.success() { &stdout } else { &stderr }))
}

/// A sidecar with its admin API on this socket.
async fn behind(socket: &Path) -> Sidecar {
    let metrics = free_address().to_string();
    let address = format!("unix:{}", socket.display());
    Sidecar::start(json!({ "admin": { "address": address, "metrics_address": metrics } })).await
}

/// The lines of the audit log.
fn audited(sidecar: &Sidecar) -> Vec<Value> {
    let log = sidecar.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "outrigger::audit").collect()
}

#[tokio::test]
async fn a_socket_is_its_owners_and_goes_with_the_process() {
    let folder = Directory::new();
    let socket = folder.0.join("admin.sock");
    let mut sidecar = behind(&socket).await;
    assert_eq!(fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);
    let place = format!("unix:{}", socket.display());
    let (code, status) = told(&["status", "-a", &place, "--fail"]);
    assert_eq!(code, Some(0), "{status}");
    assert!(status.contains("state        ready"), "{status}");
    assert!(status.contains("identity     none (mTLS is disabled)"), "{status}");
    sidecar.signal("TERM");
    assert!(sidecar.ended().await.success());
    assert!(!socket.exists());
    let (code, complaint) = told(&["status", "-a", &place]);
    assert_eq!(code, Some(4), "{complaint}");
    assert!(complaint.contains("hint: is it running?"), "{complaint}");
}

#[tokio::test]
async fn the_socket_of_a_process_that_was_killed_is_replaced_and_a_live_one_is_not() {
    let folder = Directory::new();
    let socket = folder.0.join("admin.sock");
    // Dropping kills it.
    drop(behind(&socket).await);
    assert!(socket.exists());
    let sidecar = behind(&socket).await;

    let file = folder.0.join("second.yaml");
    let config = json!({
        "version": 1,
        "service": { "name": "second", "address": "127.0.0.1:9" },
        "listeners": { "inbound": { "address": "127.0.0.1:0" }, "outbound": { "address": "127.0.0.1:0" } },
        "mtls": { "mode": "disabled" },
        "admin": { "address": format!("unix:{}", socket.display()), "metrics_address": "none" },
    });
    fs::write(&file, config.to_string()).expect("the directory is ours");
    let (code, complaint) = told(&["run", "--config", shown(&file)]);
    assert_eq!(code, Some(1), "{complaint}");
    assert!(complaint.contains("another process listens on"), "{complaint}");

    let (code, _) = told(&["status", "-a", &format!("unix:{}", socket.display())]);
    assert_eq!(code, Some(0), "{}", sidecar.log());
}

#[tokio::test]
async fn a_change_through_a_socket_is_written_down_with_its_user() {
    let folder = Directory::new();
    let socket = folder.0.join("admin.sock");
    let sidecar = behind(&socket).await;
    let mut stream = tokio::net::UnixStream::connect(&socket).await.expect("it listens");
    let request =
        b"POST /v1/reload?dry_run HTTP/1.1\r\nhost: any\r\nx-outrigger: 1\r\nconnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.expect("it listens");
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let line = eventually("a line of the audit log", async || audited(&sidecar).first().cloned()).await;
    assert_eq!((&line["what"], &line["outcome"]), (&json!("/v1/reload?dry_run"), &json!("ok")));
    let who = line["who"].as_str().expect("text");
    assert!(who.starts_with("unix socket, uid "), "{who}");
}

#[tokio::test]
async fn with_a_token_the_command_line_is_let_in_with_it_alone() {
    let folder = Directory::new();
    let (right, wrong) = (folder.0.join("token"), folder.0.join("wrong"));
    fs::write(&right, format!("{TOKEN}\n")).expect("the directory is ours");
    fs::write(&wrong, "another-token-of-the-length\n").expect("the directory is ours");
    let sidecar =
        Sidecar::start(json!({ "admin": { "token": format!("${{file:{}}}", right.display()) } })).await;
    let place = format!("http://{}", sidecar.admin());

    assert_eq!(told(&["status", "-a", &place, "--token-file", shown(&right)]).0, Some(0));
    let asked = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["status", "-o", "json"])
        .envs([("OUTRIGGER_ADMIN", place.as_str()), ("OUTRIGGER_TOKEN_FILE", shown(&right))])
        .output()
        .expect("the binary can be run");
    assert_eq!(asked.status.code(), Some(0), "{}", text(&asked.stderr));
    let status: Value = serde_json::from_slice(&asked.stdout).expect("JSON");
    assert_eq!((&status["state"], &status["identity"]), (&json!("ready"), &Value::Null));

    for denied in [
        &["status", "-a", &place][..],
        &["status", "-a", &place, "--token-file", shown(&wrong)],
        &["cert", "show", "-a", &place],
    ] {
        let (code, complaint) = told(denied);
        assert_eq!(code, Some(6), "{complaint}");
        assert!(complaint.contains("hint: name the file with its token"), "{complaint}");
    }
    let nowhere = folder.0.join("none");
    assert_eq!(told(&["status", "-a", &place, "--token-file", shown(&nowhere)]).0, Some(1));

    // The token is nowhere to be read.
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    let config = sidecar.ask_with("GET", "/v1/config", &bearer).await.text();
    assert!(config.contains("\"token\": \"***\"") && !config.contains(TOKEN), "{config}");
    assert!(!sidecar.log().contains(TOKEN));
}

#[tokio::test]
async fn a_change_without_the_token_is_refused_written_down_and_counted() {
    let sidecar = Sidecar::start(json!({ "admin": { "token": TOKEN } })).await;
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    let guess = "authorization: Bearer aaaaaaaaaaaaaaaaaaaaaaaa\r\n";
    let refused = sidecar.ask_with("POST", "/v1/reload", guess).await;
    assert_eq!(refused.status, 401);
    let challenge = "Bearer realm=\"outrigger\", error=\"invalid_token\"";
    assert_eq!(refused.field("www-authenticate"), Some(challenge));
    assert_eq!(sidecar.ask_with("POST", "/v1/reload?dry_run", &bearer).await.status, 200);
    assert_eq!(sidecar.ask_with("POST", "/v1/nothing", &bearer).await.status, 404);

    let lines = eventually("three lines of the audit log", async || {
        Some(audited(&sidecar)).filter(|lines| lines.len() == 3)
    })
    .await;
    let outcomes: Vec<&str> = lines.iter().filter_map(|line| line["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["unauthenticated", "ok", "refused"]);
    assert!(lines.iter().all(|line| line["who"].as_str().is_some_and(|who| who.starts_with("127."))));
    let metrics = sidecar.ask_with("GET", "/metrics", &bearer).await.text();
    let counted = metrics.lines().find(|line| {
        line.starts_with("outrigger_admin_requests_total") && line.contains("result=\"unauthenticated\"")
    });
    // The harness asked for the status without it.
    assert!(counted.is_some_and(|line| line.ends_with(" 2")), "{counted:?}");
    let log = sidecar.log();
    assert!(log.contains("a request to the admin API was denied") && !log.contains("aaaaaaaa"), "{log}");
}

#[test]
fn an_address_that_others_can_reach_is_refused_without_a_token_and_warned_of_with_one() {
    let folder = Directory::new();
    let file = folder.0.join("outrigger.yaml");
    let check = |admin: Value| {
        let config = json!({
            "version": 1,
            "service": { "name": "web", "address": "127.0.0.1:9" },
            "mtls": { "mode": "disabled" },
            "admin": admin,
        });
        fs::write(&file, format!("{config:#}")).expect("the directory is ours");
        let output = run(&["check", shown(&file)]);
        (output.status.code(), text(&output.stdout))
    };
    let (code, findings) = check(json!({ "address": "0.0.0.0:15000" }));
    assert!(code == Some(3) && findings.contains("error[OR208]"), "{findings}");
    let (code, findings) = check(json!({ "address": "0.0.0.0:15000", "token": "short" }));
    assert!(code == Some(3) && findings.contains("16 to 1024 bytes"), "{findings}");
    let (code, findings) = check(json!({ "address": "0.0.0.0:15000", "token": TOKEN }));
    assert!(code == Some(0) && findings.contains("warning[OR306]"), "{findings}");
    let (code, findings) = check(json!({ "address": "unix:/run/outrigger/admin.sock" }));
    assert!(code == Some(0) && findings.ends_with("ok\n"), "{findings}");
}

/// Certificates of `web` that are good for a day, and the configuration that names them.
fn certified(folder: &Directory) -> Value {
    let (ca, tls) = (folder.0.join("ca"), folder.0.join("tls"));
    for arguments in [
        &["ca", "init", "--dir", shown(&ca), "--trust-domain", "mesh.test"][..],
        &["ca", "issue", "--dir", shown(&ca), "web", "--out", shown(&tls)],
    ] {
        let (code, said) = told(arguments);
        assert_eq!(code, Some(0), "{said}");
    }
    naming(&tls)
}

/// The same with a certificate that expires `left` from now: sooner than the authority would sign.
fn expiring(folder: &Directory, left: Duration) -> Value {
    let now = SystemTime::now();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root.not_after = (now + 10 * left).into();
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().expect("a key")).expect("a root");
    let mut leaf = CertificateParams::default();
    let id = "spiffe://mesh.test/service/web".try_into().expect("a URI");
    leaf.subject_alt_names = vec![SanType::URI(id)];
    leaf.not_after = (now + left).into();
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("a key");
    let leaf = leaf.signed_by(&key, &root).expect("a certificate");
    for (name, text) in [("tls.crt", leaf.pem()), ("tls.key", key.serialize_pem()), ("ca.crt", root.pem())] {
        let path = folder.0.join(name);
        fs::write(&path, text).expect("the directory is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    }
    naming(&folder.0)
}

fn naming(tls: &Path) -> Value {
    json!({
        "service": { "name": "web" },
        "intentions": { "rules": [] },
        "mtls": {
            "mode": "strict",
            "trust_domain": "mesh.test",
            "ca": {
                "mode": "files",
                "cert_file": tls.join("tls.crt"),
                "key_file": tls.join("tls.key"),
                "ca_file": tls.join("ca.crt"),
            },
        },
    })
}

#[tokio::test]
async fn the_identity_is_told_with_its_certificates_and_never_with_its_key() {
    let folder = Directory::new();
    let sidecar = Sidecar::start(certified(&folder)).await;
    let place = sidecar.admin().to_string();
    let identity = sidecar.status().await["identity"].clone();
    assert_eq!(identity["spiffe_id"], "spiffe://mesh.test/service/web");
    assert_eq!((&identity["mode"], &identity["trust_domain"]), (&json!("strict"), &json!("mesh.test")));
    assert_eq!((&identity["roots"], &identity["trust_epoch"]), (&json!(1), &json!(0)));
    assert_eq!(identity["problem"], Value::Null);
    let left = identity["remaining_seconds"].as_u64().expect("a number");
    assert!((80_000..=86_400).contains(&left), "{left}");
    let (_, status) = told(&["status", "-a", &place]);
    assert!(status.contains("spiffe://mesh.test/service/web (expires in 23h)"), "{status}");

    let (code, shown_by) = told(&["cert", "show", "-a", &place, "-o", "json"]);
    assert_eq!(code, Some(0), "{shown_by}");
    let list: Value = serde_json::from_str(&shown_by).expect("JSON");
    let items = list["items"].as_array().expect("a list");
    assert_eq!((items.len(), &items[0]["identity"]), (2, &identity["spiffe_id"]));
    assert_eq!(items[0]["serial"], identity["serial"]);
    assert_eq!(items[1]["fingerprint_sha256"], identity["root_fingerprints_sha256"][0]);
    let told_by = sidecar.admin_get("/v1/certificates").await.text();
    assert!(told_by.contains("BEGIN CERTIFICATE") && !told_by.contains("PRIVATE KEY"), "{told_by}");

    // What cannot be used is told, and goes on not being used.
    fs::write(folder.0.join("tls").join("tls.crt"), "half a file").expect("the directory is ours");
    let problem = eventually("the problem is told", async || {
        let status = sidecar.status().await;
        status["identity"]["problem"]["text"].as_str().map(str::to_owned)
    })
    .await;
    assert!(problem.contains("certificate file"), "{problem}");
    let (_, status) = told(&["status", "-a", &place]);
    assert!(status.contains("PROBLEM      since"), "{status}");
}

#[tokio::test]
async fn without_mtls_there_are_no_certificates_to_show() {
    let sidecar = Sidecar::start(json!({})).await;
    let (code, complaint) = told(&["cert", "show", "-a", &sidecar.admin().to_string()]);
    assert_eq!(code, Some(5), "{complaint}");
    assert!(complaint.contains("mTLS is disabled"), "{complaint}");
}

#[tokio::test]
async fn a_sidecar_whose_certificate_has_expired_is_not_ready_and_says_why() {
    let folder = Directory::new();
    let metrics = free_address();
    let admin = json!({ "admin": { "metrics_address": metrics.to_string() } });
    let sidecar = Sidecar::start(with(expiring(&folder, Duration::from_secs(4)), admin)).await;
    let answer = eventually("it is not ready", async || {
        let answer = sidecar.admin_get("/readyz").await;
        (answer.status == 503).then(|| answer.text())
    })
    .await;
    assert!(answer.contains("the certificate expired at"), "{answer}");
    assert_eq!(sidecar.status().await["state"], "certificate_invalid");
    assert_eq!(crate::support::get(metrics, "any", "/readyz").await.status, 503);
    let place = sidecar.admin().to_string();
    let (code, status) = told(&["status", "-a", &place]);
    assert!(code == Some(0) && status.contains("(EXPIRED)"), "{status}");
    assert_eq!(told(&["status", "-a", &place, "--fail", "-q"]).0, Some(9));
}

#[tokio::test]
async fn a_sidecar_in_no_mesh_says_so() {
    let sidecar = Sidecar::start(json!({})).await;
    let place = sidecar.admin().to_string();
    for verb in
        [&["members"][..], &["members", "--watch"], &["keyring", "ls"], &["keyring", "use", "0a1b2c3d"]]
    {
        let (code, complaint) = told(&[verb, &["-a", &place]].concat());
        assert_eq!(code, Some(5), "{verb:?}: {complaint}");
        assert!(complaint.contains("in no mesh"), "{verb:?}: {complaint}");
    }
    assert_eq!(sidecar.status().await["members"], Value::Null);
}

#[tokio::test]
async fn a_key_of_the_gossip_is_never_written_down() {
    let sidecar = Sidecar::start(json!({})).await;
    let (code, key) = told(&["keyring", "generate"]);
    let key = key.trim();
    assert!(code == Some(0) && key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
    let folder = Directory::new();
    let file = folder.0.join("key");
    fs::write(&file, key).expect("the directory is ours");
    let place = sidecar.admin().to_string();
    let (code, complaint) = told(&["keyring", "install", "--file", shown(&file), "-a", &place]);
    assert_eq!(code, Some(5), "{complaint}");
    // Where it does not belong.
    let target = format!("/v1/keyring?install={key}");
    assert_eq!(sidecar.ask("POST", &target, &json!(key).to_string()).await.expect("an answer").status, 400);
    let lines = eventually("both orders are written down", async || {
        let lines = audited(&sidecar);
        (lines.len() == 2).then_some(lines)
    })
    .await;
    assert_eq!((&lines[0]["what"], &lines[1]["what"]), (&json!("/v1/keyring"), &json!("/v1/keyring")));
    let detail = lines[0]["detail"].as_str().expect("text");
    assert!(detail.starts_with("install ") && detail.ends_with("no `mesh`"), "{detail}");
    assert!(!sidecar.log().contains(key));

    fs::write(&file, "no key").expect("the directory is ours");
    let (code, complaint) = told(&["keyring", "install", "--file", shown(&file), "-a", &place]);
    assert_eq!(code, Some(1), "{complaint}");
    assert!(complaint.contains("64 hexadecimal digits"), "{complaint}");
}
