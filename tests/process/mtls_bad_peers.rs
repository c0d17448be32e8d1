//! Callers with a certificate that is no good, or with none: each is refused with an alert, counted by its reason, told
//! once in the log, and nobody else notices.

use std::time::SystemTime;

use rcgen::ExtendedKeyUsagePurpose as Usage;
use rustls::AlertDescription as Alert;
use serde_json::json;

use crate::{
    mtls::{HANDSHAKES, lines, serving},
    support::{
        App, Sidecar,
        authority::{Asked, Authority, Credentials, Folder, HOUR},
        get,
        tls::Dialer,
    },
};

/// The service `api` behind a sidecar, and a caller that it likes.
struct Service {
    app: App,
    sidecar: Sidecar,
    authority: Authority,
    _folder: Folder,
    liked: Dialer,
}

impl Service {
    async fn start() -> Self {
        let authority = Authority::new("mesh");
        let folder = Folder::of(&authority, "api");
        Self::start_in(authority, folder).await
    }

    async fn start_in(authority: Authority, folder: Folder) -> Self {
        let app = App::saying("hello").await;
        let sidecar = Sidecar::start(serving(&app, &folder, "strict")).await;
        let liked = Dialer::showing(&authority.service("web"));
        Self { app, sidecar, authority, _folder: folder, liked }
    }

    /// `bad` is refused with `alert` and counted as `reason`, with one line of the log; a good caller is served before,
    /// meanwhile and afterwards.
    async fn refuses(&self, bad: &Dialer, alert: Alert, reason: &str) {
        let mut open = self.liked.http1(self.sidecar.inbound()).await;
        assert_eq!(open.get("api", "/").await.text(), "hello");
        assert_eq!(bad.clone().speaking("h2").refusal(self.sidecar.inbound()).await, alert);
        assert_eq!(open.get("api", "/").await.text(), "hello");
        let mut again = self.liked.http1(self.sidecar.inbound()).await;
        assert_eq!(again.get("api", "/").await.text(), "hello");
        assert_eq!(self.app.requests().len(), 3);

        let result = format!("result=\"{reason}\"");
        self.sidecar.until_metric(HANDSHAKES, &["direction=\"inbound\"", &result], 1.0).await;
        assert_eq!(self.sidecar.metric(HANDSHAKES, &[]).await, 3.0);
        let lines = lines(&self.sidecar, "a caller was refused by TLS");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!((&lines[0]["reason"], &lines[0]["level"]), (&json!(reason), &json!("WARN")));
        let (peer, detail) = (lines[0]["peer"].as_str(), lines[0]["detail"].as_str());
        assert!(peer.is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{peer:?}");
        assert!(detail.is_some_and(|text| !text.is_empty() && !text.contains('(')), "{detail:?}");
        assert!(!self.sidecar.log().contains("PRIVATE KEY"));
    }

    /// A certificate that says something else than a good one.
    fn but(&self, change: impl FnOnce(&mut Asked)) -> Dialer {
        let mut asked = Asked::of("web");
        change(&mut asked);
        Dialer::showing(&self.authority.issue(&asked))
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let service = Service::start().await;
    let bad = service.but(|asked| {
        asked.from = SystemTime::now() - 3 * HOUR;
        asked.until = SystemTime::now() - HOUR;
    });
    service.refuses(&bad, Alert::CertificateExpired, "expired").await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_is_refused() {
    let service = Service::start().await;
    let bad = service.but(|asked| {
        asked.from = SystemTime::now() + HOUR;
        asked.until = SystemTime::now() + 3 * HOUR;
    });
    service.refuses(&bad, Alert::CertificateExpired, "not_yet_valid").await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let service = Service::start().await;
    let bad = Dialer::showing(&Authority::new("another").service("web"));
    service.refuses(&bad, Alert::UnknownCA, "unknown_issuer").await;
}

#[tokio::test]
async fn a_certificate_of_an_authority_that_only_has_the_same_name_is_refused() {
    let service = Service::start().await;
    let bad = Dialer::showing(&Authority::new("mesh").service("web"));
    service.refuses(&bad, Alert::UnknownCA, "unknown_issuer").await;
}

#[tokio::test]
async fn an_identity_of_another_trust_domain_is_refused() {
    let service = Service::start().await;
    let bad = service.but(|asked| asked.uris = vec!["spiffe://other.mesh/service/web".to_owned()]);
    service.refuses(&bad, Alert::CertificateUnknown, "identity").await;
}

#[tokio::test]
async fn a_certificate_without_an_identity_is_refused() {
    let service = Service::start().await;
    let bad = service.but(|asked| asked.uris.clear());
    service.refuses(&bad, Alert::CertificateUnknown, "identity").await;
}

#[tokio::test]
async fn a_certificate_with_a_name_of_dns_instead_of_an_identity_is_refused() {
    let service = Service::start().await;
    let bad = service.but(|asked| *asked = Asked::named("web.mesh.local"));
    service.refuses(&bad, Alert::CertificateUnknown, "identity").await;
}

#[tokio::test]
async fn a_certificate_with_two_identities_is_refused() {
    let service = Service::start().await;
    let bad = service.but(|asked| asked.uris.push("spiffe://mesh.local/service/admin".to_owned()));
    service.refuses(&bad, Alert::CertificateUnknown, "identity").await;
}

#[tokio::test]
async fn an_identity_that_is_none_of_spiffe_is_refused() {
    let service = Service::start().await;
    let bad = service.but(|asked| asked.uris = vec!["https://mesh.local/service/web".to_owned()]);
    service.refuses(&bad, Alert::CertificateUnknown, "identity").await;
}

#[tokio::test]
async fn a_certificate_for_servers_only_is_refused() {
    let service = Service::start().await;
    let bad = service.but(|asked| asked.usages = vec![Usage::ServerAuth]);
    service.refuses(&bad, Alert::UnsupportedCertificate, "wrong_usage").await;
}

#[tokio::test]
async fn the_certificate_of_an_authority_is_refused_as_that_of_a_caller() {
    let service = Service::start().await;
    let bad = service.but(|asked| asked.is_ca = true);
    service.refuses(&bad, Alert::UnsupportedCertificate, "wrong_usage").await;
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let authority = Authority::new("mesh");
    let revoked = authority.service("web");
    let folder = Folder::of(&authority, "api");
    folder.revoke(&authority.revoke(&[revoked.serial]));
    let service = Service::start_in(authority, folder).await;
    service.refuses(&Dialer::showing(&revoked), Alert::CertificateRevoked, "revoked").await;
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_refused() {
    let service = Service::start().await;
    service.refuses(&Dialer::anonymous(), Alert::CertificateRequired, "no_certificate").await;
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    let service = Service::start().await;
    let stolen = service.authority.service("web");
    let other = service.authority.service("web");
    let pretended = Credentials { key: other.key, ..stolen };
    service.refuses(&Dialer::pretending(&pretended), Alert::DecryptError, "bad_certificate").await;
}

#[tokio::test]
async fn a_permissive_port_takes_no_bad_certificate_for_none() {
    let authority = Authority::new("mesh");
    let folder = Folder::of(&authority, "api");
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(serving(&app, &folder, "permissive")).await;
    let foreign = Dialer::showing(&Authority::new("another").service("web")).speaking("h2");
    assert_eq!(foreign.refusal(sidecar.inbound()).await, Alert::UnknownCA);
    let without = Dialer::anonymous().speaking("h2");
    assert_eq!(without.refusal(sidecar.inbound()).await, Alert::CertificateRequired);
    assert_eq!(app.accepted(), 0);
    assert_eq!(get(sidecar.inbound(), "api", "/").await.text(), "hello");
}
