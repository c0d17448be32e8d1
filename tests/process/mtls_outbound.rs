//! Endpoints that are not who they should be, or speak no proper TLS: not a byte of a request reaches them. And services
//! outside of the mesh, which prove themselves by a name.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::{
    mtls::{HANDSHAKES, bilingual, calling, lines, proving},
    support::{
        App, Client, Sidecar,
        authority::{Asked, Authority, Credentials, Folder, HOUR},
        get, send,
        sidecar::{api, with},
        tls::Front,
    },
};

const PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

/// The sidecar of `web`, before it calls anybody.
struct Caller {
    authority: Authority,
    folder: Folder,
    app: App,
}

impl Caller {
    async fn new() -> Self {
        let authority = Authority::new("mesh");
        let folder = Folder::of(&authority, "web");
        Self { authority, folder, app: bilingual().await }
    }

    /// An endpoint that shows `credentials`.
    async fn endpoint(&self, credentials: &Credentials) -> Front {
        Front::before(self.app.address, credentials, &PROTOCOLS).await
    }

    /// Calls to an endpoint at `address` fail with `status`; they are counted as `reason` and told once. As soon as
    /// there is another endpoint, it is used.
    async fn avoids(&self, address: String, status: u16, reason: &str) {
        let limits = json!({ "defaults": { "connect_timeout": "300ms" } });
        let config = with(calling(&self.folder, std::slice::from_ref(&address)), limits);
        let mut sidecar = Sidecar::start(config).await;
        let post = "POST /secret HTTP/1.1\r\nhost: api\r\ncontent-length: 6\r\n\r\nsecret";
        let answer = send(sidecar.outbound(), post).await;
        assert_eq!((answer.status, answer.flag()), (status, "upstream_connect"), "{}", answer.text());
        let labels = ["direction=\"outbound\"", &format!("result=\"{reason}\"")];
        let tried = sidecar.metric(HANDSHAKES, &labels).await;
        assert!(tried >= 1.0 && tried == sidecar.metric(HANDSHAKES, &[]).await, "{tried}");
        let lines = lines(&sidecar, "no TLS with an endpoint");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!((&lines[0]["reason"], &lines[0]["endpoint"]), (&json!(reason), &json!(address)));
        assert_eq!(self.app.requests().len(), 0);

        let good = self.endpoint(&self.authority.service("api")).await;
        sidecar.edit(json!({ "services": { "api": { "endpoints": [address, good.endpoint()] } } }));
        assert_eq!(sidecar.reload().await.0, 200);
        let mut client = Client::connect(sidecar.outbound()).await;
        for _ in 0..4 {
            client.send(post).await;
            assert_eq!(client.response().await.text(), "HTTP/2.0 from nobody");
        }
        assert_eq!(good.callers()[0], tls_leaf(&self.folder));
    }
}

fn tls_leaf(folder: &Folder) -> rustls::pki_types::CertificateDer<'static> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_file(folder.path("tls.pem")).expect("we wrote it")
}

#[tokio::test]
async fn an_endpoint_that_is_another_service_gets_no_request() {
    let caller = Caller::new().await;
    let other = caller.endpoint(&caller.authority.service("billing")).await;
    caller.avoids(other.endpoint(), 502, "wrong_service").await;
    assert_eq!(other.carried(), 0);
}

#[tokio::test]
async fn an_endpoint_of_another_trust_domain_gets_no_request() {
    let caller = Caller::new().await;
    let uris = vec!["spiffe://other.mesh/service/api".to_owned()];
    let other = caller.endpoint(&caller.authority.issue(&Asked { uris, ..Asked::of("api") })).await;
    caller.avoids(other.endpoint(), 502, "identity").await;
    assert_eq!(other.carried(), 0);
}

#[tokio::test]
async fn an_endpoint_of_another_authority_gets_no_request() {
    let caller = Caller::new().await;
    let other = caller.endpoint(&Authority::new("another").service("api")).await;
    caller.avoids(other.endpoint(), 502, "unknown_issuer").await;
    assert_eq!(other.carried(), 0);
}

#[tokio::test]
async fn an_endpoint_whose_certificate_has_expired_gets_no_request() {
    let caller = Caller::new().await;
    let now = SystemTime::now();
    let asked = Asked { from: now - 3 * HOUR, until: now - HOUR, ..Asked::of("api") };
    let other = caller.endpoint(&caller.authority.issue(&asked)).await;
    caller.avoids(other.endpoint(), 502, "expired").await;
    assert_eq!(other.carried(), 0);
}

#[tokio::test]
async fn an_endpoint_with_a_name_of_dns_instead_of_an_identity_gets_no_request() {
    let caller = Caller::new().await;
    let other = caller.endpoint(&caller.authority.issue(&Asked::named("api.mesh.local"))).await;
    caller.avoids(other.endpoint(), 502, "identity").await;
    assert_eq!(other.carried(), 0);
}

#[tokio::test]
async fn an_endpoint_that_agrees_on_no_protocol_gets_no_request() {
    let caller = Caller::new().await;
    let good = caller.authority.service("api");
    let other = Front::before(caller.app.address, &good, &[]).await;
    caller.avoids(other.endpoint(), 502, "alpn").await;
    assert_eq!(other.carried(), 0);
}

#[tokio::test]
async fn an_endpoint_without_tls_gets_no_request() {
    let caller = Caller::new().await;
    let plain = App::script(|mut connection| async move {
        connection.wire.some().await;
        connection.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    caller.avoids(plain.endpoint(), 502, "plaintext").await;
    assert_eq!(plain.requests().len(), 0);
}

#[tokio::test]
async fn an_endpoint_that_stalls_in_the_handshake_is_given_up_in_time() {
    let caller = Caller::new().await;
    let stalling = App::script(|mut connection| async move { connection.until_closed().await }).await;
    caller.avoids(stalling.endpoint(), 504, "timeout").await;
}

#[tokio::test]
async fn an_endpoint_that_closes_in_the_handshake_gets_no_request() {
    let caller = Caller::new().await;
    let closing = App::script(|mut connection| async move {
        connection.wire.some().await;
    })
    .await;
    caller.avoids(closing.endpoint(), 502, "closed").await;
}

#[tokio::test]
async fn who_does_not_believe_us_gets_no_request_either() {
    let app = App::saying("hello").await;
    let authority = Authority::new("mesh");
    // It shows a certificate that we believe, and finds ours on its list.
    let folder = Folder::of(&authority, "api");
    let shown = authority.service("web");
    folder.revoke(&authority.revoke(&[shown.serial]));
    let server = Sidecar::start(crate::mtls::serving(&app, &folder, "strict")).await;
    let folder = Folder::new(&shown, &authority.root());
    let sidecar = Sidecar::start(calling(&folder, &[server.inbound().to_string()])).await;
    assert_eq!(get(sidecar.outbound(), "api", "/").await.status, 502);
    server.until_metric(HANDSHAKES, &["result=\"revoked\""], 1.0).await;
    assert_eq!(app.accepted(), 0);
}

#[tokio::test]
async fn a_service_that_is_to_be_encrypted_from_now_on_gets_nothing_over_open_plaintext_connections() {
    let caller = Caller::new().await;
    let plain = json!({ "services": { "api": { "tls": { "mode": "disabled" }, "protocol": "http1" } } });
    let config = with(calling(&caller.folder, &[caller.app.endpoint()]), plain);
    let mut sidecar = Sidecar::start(config).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    assert_eq!(client.get("api", "/").await.text(), "HTTP/1.1 from nobody");
    sidecar.edit(json!({ "services": { "api": { "tls": { "mode": "mesh" } } } }));
    assert_eq!(sidecar.reload().await.0, 200);
    assert_eq!(client.get("api", "/").await.flag(), "upstream_connect");
    assert_eq!(caller.app.requests().len(), 1);
}

#[tokio::test]
async fn a_reload_that_leaves_tls_to_the_outside_alone_costs_no_connection() {
    let caller = Caller::new().await;
    let public = Authority::new("public");
    let front = caller.endpoint(&public.issue(&Asked::named("pay.example"))).await;
    caller.folder.write("public.pem", &public.root());
    let ca = caller.folder.path("public.pem");
    let tls = json!({ "mode": "simple", "ca_file": ca, "server_name": "pay.example" });
    let mut sidecar = Sidecar::start(outside(&caller.folder, &front, &tls)).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    assert_eq!(client.get("api", "/").await.status, 200);
    sidecar.edit(json!({ "defaults": { "connect_timeout": "900ms" } }));
    assert_eq!(sidecar.reload().await.0, 200);
    assert_eq!(client.get("api", "/").await.status, 200);
    assert_eq!(front.shaken(), 1);
    // Other roots of the same path are another matter.
    caller.folder.write("public.pem", &Authority::new("public").root());
    assert_eq!(sidecar.reload().await.0, 200);
    assert_eq!(client.get("api", "/").await.status, 502);
}

/// The sidecar of `web`, whose application calls a service outside of the mesh with this section `tls`.
fn outside(folder: &Folder, front: &Front, tls: &Value) -> Value {
    let service = json!({ "services": { "api": { "tls": tls } } });
    proving("web", folder, "strict", with(api(&[front.endpoint()]), service))
}

#[tokio::test]
async fn a_service_outside_of_the_mesh_proves_its_name() {
    let caller = Caller::new().await;
    let public = Authority::new("public");
    let front = caller.endpoint(&public.issue(&Asked::named("pay.example"))).await;
    caller.folder.write("public.pem", &public.root());
    let ca = caller.folder.path("public.pem");
    let simple = |name: &str| json!({ "mode": "simple", "ca_file": ca, "server_name": name });
    let mut sidecar = Sidecar::start(outside(&caller.folder, &front, &simple("pay.example"))).await;
    assert_eq!(get(sidecar.outbound(), "api", "/").await.text(), "HTTP/1.1 from nobody");
    // It is none of its business who we are.
    assert_eq!((front.shaken(), front.callers().len()), (1, 0));

    sidecar.edit(json!({ "services": { "api": { "tls": simple("bank.example") } } }));
    assert_eq!(sidecar.reload().await.0, 200);
    let carried = front.carried();
    let answer = get(sidecar.outbound(), "api", "/").await;
    assert_eq!((answer.status, answer.flag()), (502, "upstream_connect"));
    assert_eq!((front.carried(), caller.app.requests().len()), (carried, 1));
    let labels = ["direction=\"outbound\"", "result=\"wrong_service\""];
    assert!(sidecar.metric(HANDSHAKES, &labels).await >= 1.0);
}

#[tokio::test]
async fn a_service_outside_of_the_mesh_is_not_believed_by_the_authority_of_the_mesh() {
    let caller = Caller::new().await;
    let front = caller.endpoint(&caller.authority.issue(&Asked::named("pay.example"))).await;
    let public = Authority::new("public");
    caller.folder.write("public.pem", &public.root());
    let tls = json!({
        "mode": "simple", "ca_file": caller.folder.path("public.pem"), "server_name": "pay.example",
    });
    let sidecar = Sidecar::start(outside(&caller.folder, &front, &tls)).await;
    let answer = get(sidecar.outbound(), "api", "/").await;
    assert_eq!((answer.status, answer.flag()), (502, "upstream_connect"));
    assert_eq!(front.carried(), 0);
}

#[tokio::test]
async fn a_service_outside_of_the_mesh_may_ask_for_a_certificate_of_its_own() {
    let caller = Caller::new().await;
    let public = Authority::new("public");
    let front = caller.endpoint(&public.issue(&Asked::named("pay.example"))).await;
    let shown = public.issue(&Asked::named("client.example"));
    caller.folder.write("public.pem", &public.root());
    caller.folder.write("client.pem", &shown.chain);
    caller.folder.write("client.key", &shown.key);
    let tls = json!({
        "mode": "mutual",
        "ca_file": caller.folder.path("public.pem"),
        "server_name": "pay.example",
        "cert_file": caller.folder.path("client.pem"),
        "key_file": caller.folder.path("client.key"),
    });
    let sidecar = Sidecar::start(outside(&caller.folder, &front, &tls)).await;
    assert_eq!(get(sidecar.outbound(), "api", "/").await.text(), "HTTP/1.1 from nobody");
    assert_eq!(front.callers(), [shown.leaf()]);
}
