//! The built-in authority as a service of the mesh: who gets a certificate, who does not, and what becomes of sidecars
//! while nobody signs.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger::{
    identity::{
        AuthorityCall, Material, PemFiles,
        ca::{JoinToken, KeyRequest},
    },
    net::{
        self, Stream,
        tls::{self, TlsTo},
    },
    peer::{Proof, Source, Wanted},
    types::{EndpointAddress, SpiffeId, TrustDomain},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{
    Sidecar, eventually,
    sidecar::{Directory, free_address, run},
    wait_until, within,
};

const LIMIT: Duration = Duration::from_secs(20);
const REQUESTS: &str = "outrigger_ca_requests_total";

/// An authority on disk and the address at which it answers once somebody holds it.
pub(crate) struct Desk {
    directory: Directory,
    pub(crate) address: SocketAddr,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let desk = Self { directory: Directory::new(), address: free_address() };
        desk.ca(&["init", "--trust-domain", "mesh.local"]);
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    pub(crate) fn ca(&self, arguments: &[&str]) -> String {
        let place = self.path("ca");
        let place = place.to_string_lossy();
        let arguments = [&["ca"], arguments, &["--dir", &*place]].concat();
        let output = run(&arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn token(&self, service: &str) -> JoinToken {
        self.ca(&["token", "create", service]).trim().parse().unwrap()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ca(&["status", "-o", "json"])).unwrap()
    }

    /// The configuration of the sidecar that holds the authority.
    pub(crate) fn holder(&self) -> Value {
        let authority = json!({ "dir": self.path("ca"), "address": self.address.to_string() });
        json!({
            "service": { "name": "desk" },
            "mtls": {
                "mode": "strict",
                "ca": { "mode": "builtin", "authority": authority, "dir": self.path("desk"), "node": "desk-1" },
            },
        })
    }

    /// The configuration of one that asks it.
    pub(crate) fn member(&self, service: &str) -> Value {
        json!({
            "service": { "name": service },
            "mtls": {
                "mode": "strict",
                "ca": {
                    "mode": "builtin",
                    "servers": [self.address.to_string()],
                    "token_file": self.path(&format!("{service}.token")),
                    "dir": self.path(service),
                    "node": format!("{service}-1"),
                },
            },
        })
    }

    pub(crate) fn write_token(&self, service: &str, text: &str) {
        let path = self.path(&format!("{service}.token"));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn servers(&self) -> Vec<EndpointAddress> {
        vec![EndpointAddress::Tcp(self.address)]
    }

    /// A connection on which the authority has proved itself.
    async fn call(&self, call: &AuthorityCall) -> Option<Stream> {
        let stream = net::dial(&EndpointAddress::Tcp(self.address), LIMIT).await.ok()?;
        tls::connect(stream, TlsTo::Authority(call), outrigger::identity::Alpn::Http1, LIMIT).await.ok()
    }

    /// The answer to these bytes: its status, and its body.
    async fn raw(&self, token: &JoinToken, bytes: &[u8]) -> (u16, String) {
        let call = AuthorityCall::joining(&TrustDomain::default(), token.pins()).unwrap();
        let mut stream = self.call(&call).await.expect("the authority is there");
        // It may answer before it has read everything.
        let _ = stream.write_all(bytes).await;
        answer(&mut stream).await
    }

    async fn post(&self, token: &JoinToken, body: &str) -> (u16, String) {
        let head =
            format!("POST /v1/certificates HTTP/1.1\r\nhost: ca\r\ncontent-length: {}\r\n\r\n", body.len());
        self.raw(token, format!("{head}{body}").as_bytes()).await
    }
}

async fn answer(stream: &mut Stream) -> (u16, String) {
    let mut bytes = Vec::new();
    let _ = within("the authority answers", stream.read_to_end(&mut bytes)).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn identity(service: &str) -> SpiffeId {
    TrustDomain::default().service(service).unwrap()
}

fn request(service: &str, token: &str) -> String {
    let csr = KeyRequest::new(&identity(service)).unwrap().request;
    json!({ "csr": csr, "node": "x", "token": token }).to_string()
}

fn wanted(service: &str) -> Wanted {
    Wanted {
        domain: TrustDomain::default(),
        own: identity(service),
        node: Some("x".parse().unwrap()),
        ttl: Duration::from_secs(3600),
    }
}

fn material(files: &PemFiles, service: &str) -> Arc<Material> {
    let read = Material::read(files, &TrustDomain::default(), &identity(service), SystemTime::now());
    Arc::new(read.unwrap())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_sidecar_joins_with_a_token_and_keeps_its_certificate_over_restarts() {
    let desk = Desk::new();
    let holder = Sidecar::start(desk.holder()).await;
    desk.write_token("api", &desk.token("api").reveal());
    let first = Sidecar::start(desk.member("api")).await;
    assert_eq!(first.document("/v1/config").await["mtls"]["ca"]["mode"], "builtin");
    assert_eq!(mode(&desk.path("api/current/tls.key")), 0o600);
    let kept = fs::read(desk.path("api/current/tls.crt")).unwrap();
    drop(first);
    fs::remove_file(desk.path("api.token")).unwrap();
    let again = Sidecar::start(desk.member("api")).await;
    assert_eq!(fs::read(desk.path("api/current/tls.crt")).unwrap(), kept, "the token is not needed any more");
    let admin = again.admin().to_string();
    let renewed = run(&["cert", "renew", "--admin", &admin]);
    assert!(renewed.status.success(), "{renewed:?}");
    assert_ne!(fs::read(desk.path("api/current/tls.crt")).unwrap(), kept);
    holder.until_metric(REQUESTS, &["request=\"join\"", "result=\"ok\""], 1.0).await;
    holder.until_metric(REQUESTS, &["request=\"renew\"", "result=\"ok\""], 1.0).await;
    let leaves = desk.status()["certificates"].as_array().unwrap().clone();
    let of_api = leaves.iter().filter(|leaf| leaf["identity"] == identity("api").as_str());
    assert!(of_api.clone().count() == 2 && of_api.clone().all(|leaf| leaf["node"] == "api-1"), "{leaves:?}");
}

#[tokio::test]
async fn tokens_that_are_wrong_used_or_of_another_service_are_refused_without_a_word() {
    let desk = Desk::new();
    let holder = Sidecar::start(desk.holder()).await;
    let token = desk.token("api");
    let text = token.reveal();
    let secret = text.split('.').nth(2).unwrap();
    let forged = text.replace(secret, &"00".repeat(32));
    let refused = (403, "{}".to_owned());
    for bad in [&forged, "ort1.x", ""] {
        assert_eq!(desk.post(&token, &request("api", bad)).await, refused, "{bad:?}");
    }
    assert_eq!(desk.post(&token, &request("web", &text)).await, refused, "a token of another service");
    let (status, body) = desk.post(&token, &request("api", &text)).await;
    assert_eq!(status, 200, "what was refused did not use it up: {body}");
    assert_eq!(desk.post(&token, &request("api", &text)).await, refused, "it is good for one time");
    let none = json!({ "csr": KeyRequest::new(&identity("api")).unwrap().request }).to_string();
    assert_eq!(desk.post(&token, &none).await, refused, "neither a token nor a certificate");
    let look = desk.raw(&token, b"GET /v1/bundle HTTP/1.1\r\nhost: ca\r\n\r\n").await;
    assert_eq!(look, refused, "the bundle is for members");
    for (result, count) in [("token", 4.0), ("csr", 1.0), ("certificate", 2.0)] {
        holder.until_metric(REQUESTS, &[&format!("result=\"{result}\"")], count).await;
    }
    assert!(!holder.log().contains(secret), "no secret is logged");
    assert!(holder.log().contains("it was used already"), "the log says why");
}

#[tokio::test]
async fn whoever_is_not_the_pinned_authority_is_told_no_token() {
    let desk = Desk::new();
    let other = Desk::new();
    let _holder = Sidecar::start(desk.holder()).await;
    let foreign = other.token("api");
    let call = AuthorityCall::joining(&TrustDomain::default(), foreign.pins()).unwrap();
    assert!(desk.call(&call).await.is_none());
    // A service of the mesh is not the authority, although the same root signed for it.
    let own = desk.token("api");
    desk.write_token("web", &desk.token("web").reveal());
    let elsewhere = Sidecar::start(desk.member("web")).await;
    let call = AuthorityCall::joining(&TrustDomain::default(), own.pins()).unwrap();
    let stream = net::dial(&EndpointAddress::Tcp(elsewhere.inbound()), LIMIT).await.unwrap();
    let alpn = outrigger::identity::Alpn::Http1;
    assert!(tls::connect(stream, TlsTo::Authority(&call), alpn, LIMIT).await.is_err());
}

#[tokio::test]
async fn a_certificate_is_renewed_until_it_is_revoked() {
    let desk = Desk::new();
    let holder = Sidecar::start(desk.holder()).await;
    let source = Source::Remote(desk.servers());
    let token = desk.token("api");
    let files = source.certificate(Proof::Token(&token), &wanted("api")).await.unwrap().files;
    let first = material(&files, "api");
    let files = source.certificate(Proof::Member(&first), &wanted("api")).await.unwrap().files;
    assert_ne!(material(&files, "api").leaf.facts.serial, first.leaf.facts.serial);
    let bundle = source.bundle(&first, &files.roots).await.unwrap();
    assert_eq!(bundle.bundle.as_bytes(), files.roots);
    let stolen = source.certificate(Proof::Member(&first), &wanted("web")).await.unwrap_err();
    assert!(stolen.is_refused(), "a request for another identity: {stolen}");
    desk.ca(&["revoke", &first.leaf.facts.serial]);
    let refused = source.certificate(Proof::Member(&first), &wanted("api")).await.unwrap_err();
    assert!(refused.is_refused(), "at once, whatever list is in force: {refused}");
    eventually("its bearer hears no more either", async || {
        let looked = source.bundle(&first, &files.roots).await;
        looked.is_err_and(|error| error.is_refused()).then_some(())
    })
    .await;
    holder.until_metric(REQUESTS, &["result=\"handshake\""], 1.0).await;
}

#[tokio::test]
async fn what_is_too_long_or_no_request_is_refused_and_harms_nobody() {
    let desk = Desk::new();
    let _holder = Sidecar::start(desk.holder()).await;
    let token = desk.token("api");
    let text = token.reveal();
    let long = json!({ "csr": "x".repeat(40_000), "token": text }).to_string();
    assert_eq!(desk.post(&token, &long).await.0, 413);
    for garbage in
        ["", "{", "[]", "\u{0}", "{\"csr\": 1}", &format!("{}{}", "[".repeat(9000), "]".repeat(9000))]
    {
        assert_eq!(desk.post(&token, garbage).await.0, 400, "{garbage:.20?}");
    }
    let unknown = json!({ "csr": "", "token": text, "validity": "forever" }).to_string();
    assert_eq!(desk.post(&token, &unknown).await.0, 400, "what is not understood is not left out");
    let node = json!({ "csr": "", "token": text, "node": "a b" }).to_string();
    assert_eq!(desk.post(&token, &node).await.0, 400);
    for csr in ["", "-----BEGIN CERTIFICATE REQUEST-----\nMAAA\n-----END CERTIFICATE REQUEST-----\n"] {
        let body = json!({ "csr": csr, "token": text }).to_string();
        assert_eq!(desk.post(&token, &body).await.0, 403, "{csr:?}");
    }
    assert_eq!(desk.raw(&token, b"GET / HTTP/1.1\r\nhost: ca\r\n\r\n").await.0, 404);
    assert_eq!(desk.raw(&token, b"\x00\x01\x02\r\n\r\n").await.0, 400);
    assert_eq!(desk.post(&token, &request("api", &text)).await.0, 200);
}

#[tokio::test]
async fn clients_that_stall_are_left_behind_while_others_are_served() {
    let desk = Desk::new();
    let holder = Sidecar::start(desk.holder()).await;
    let token = desk.token("api");
    let mut silent = tokio::net::TcpStream::connect(desk.address).await.unwrap();
    let call = AuthorityCall::joining(&TrustDomain::default(), token.pins()).unwrap();
    let mut slow = desk.call(&call).await.unwrap();
    slow.write_all(b"POST /v1/certificates HTTP/1.1\r\nhost: ca\r\ncontent-length: 9\r\n\r\n{")
        .await
        .unwrap();
    assert_eq!(desk.post(&token, &request("api", &token.reveal())).await.0, 200);
    let mut nothing = Vec::new();
    let _ = within("the silent one is closed", silent.read_to_end(&mut nothing)).await;
    assert_eq!(answer(&mut slow).await, (0, String::new()), "the slow one is closed without an answer");
    for result in ["handshake", "timeout"] {
        holder.until_metric(REQUESTS, &[&format!("result=\"{result}\"")], 1.0).await;
    }
}

#[tokio::test]
async fn a_sidecar_that_finds_no_authority_waits_and_says_why() {
    let desk = Desk::new();
    let mut api = Sidecar::begin(desk.member("api"));
    let why = async |api: &Sidecar, part: &str| {
        eventually(&format!("readiness says {part}"), async || {
            tokio::net::TcpStream::connect(api.admin()).await.ok()?;
            let answer = api.ask("GET", "/readyz?verbose", "").await?;
            (answer.status == 503 && answer.text().contains(part)).then_some(())
        })
        .await;
    };
    why(&api, "api.token").await;
    assert_eq!(api.status().await["state"], "waiting");
    desk.write_token("api", "no token");
    why(&api, "holds no join token").await;
    desk.write_token("api", &desk.token("api").reveal());
    why(&api, "connection failed").await;
    let _holder = Sidecar::start(desk.holder()).await;
    api.until_ready().await;
    let mut never = Sidecar::begin(desk.member("web"));
    why(&never, "web.token").await;
    never.signal("TERM");
    assert!(never.ended().await.success(), "it can be told to leave while it waits");
}

#[tokio::test]
async fn an_authority_that_is_gone_stops_nobody_and_is_found_again() {
    let desk = Desk::new();
    let holder = Sidecar::start(desk.holder()).await;
    desk.write_token("api", &desk.token("api").reveal());
    let api = Sidecar::start(desk.member("api")).await;
    drop(holder);
    let (status, _) = renew(&api).await;
    assert_eq!(status, 502);
    assert!(api.metric("outrigger_certificate_renewals_total", &["result=\"failed\""]).await >= 1.0);
    assert_eq!(api.admin_get("/readyz").await.status, 200, "the certificate in use goes on");
    let _holder = Sidecar::start(desk.holder()).await;
    eventually("the authority is found again", async || (renew(&api).await.0 == 200).then_some(())).await;
}

async fn renew(sidecar: &Sidecar) -> (u16, String) {
    let answer = sidecar.ask("POST", "/v1/certificates/renew", "").await.expect("the admin API answers");
    (answer.status, answer.text())
}

#[tokio::test]
async fn an_authority_that_cannot_be_opened_stops_the_start_with_its_reason() {
    let desk = Desk::new();
    fs::remove_file(desk.path("ca.key")).unwrap();
    let mut holder = Sidecar::begin(desk.holder());
    assert!(!holder.ended().await.success());
    assert!(holder.log().contains("ca.key"), "{}", holder.log());
}

#[tokio::test]
async fn certificates_in_files_are_taken_up_at_once_when_somebody_says_so() {
    let desk = Desk::new();
    let tls = desk.path("tls");
    let issue = || desk.ca(&["issue", "api", "--out", &tls.to_string_lossy()]);
    issue();
    let files = json!({ "cert_file": tls.join("tls.crt"), "key_file": tls.join("tls.key"), "ca_file": tls.join("ca.crt") });
    let config = json!({ "service": { "name": "api" }, "mtls": { "mode": "strict", "ca": files } });
    let api = Sidecar::start(config).await;
    assert!(renew(&api).await.1.contains("\"changed\": false"));
    issue();
    let (status, said) = renew(&api).await;
    let serial = desk.status()["certificates"][1]["serial"].as_str().unwrap().to_owned();
    assert!(status == 200 && said.contains(&serial), "{said}");
    fs::write(tls.join("tls.crt"), "half").unwrap();
    assert_eq!(renew(&api).await.0, 502);
    wait_until("the log says why", || api.log().contains("holds no complete PEM certificate")).await;
}
