//! What is believed, and what is taken up, with certificates made for the purpose and at a time of the test's choosing.

use rcgen::ExtendedKeyUsagePurpose as Usage;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{
    material::unix,
    refusal::to_tls,
    test_authority::{Asked, Authority, HOUR, now},
    trust::{Purpose, Trust},
    *,
};
use crate::types::{SpiffeId, TrustDomain};

const WEB: &str = "spiffe://mesh.local/service/web";
const SHOP: &str = "spiffe://mesh.local/service/shop";

fn domain() -> TrustDomain {
    "mesh.local".parse().unwrap()
}

fn web() -> SpiffeId {
    WEB.parse().unwrap()
}

fn read(files: &PemFiles) -> Result<Material, MaterialError> {
    Material::read(files, &domain(), &web(), now())
}

/// Why a caller with this certificate is refused by one who trusts `trusted`.
fn refusal(trusted: &Authority, shown: &PemFiles, lists: &[u8], purpose: Purpose) -> Option<TlsRefusal> {
    let certificates = |pem: &[u8]| {
        CertificateDer::pem_slice_iter(pem).map(|one| one.unwrap().into_owned()).collect::<Vec<_>>()
    };
    let lists: Vec<_> = rustls::pki_types::CertificateRevocationListDer::pem_slice_iter(lists)
        .map(|one| one.unwrap())
        .collect();
    let trust = Trust::new(domain(), certificates(&trusted.root()), &lists).unwrap();
    let leaf = &certificates(&shown.chain)[0];
    let distrust = trust.judge(leaf, &[], unix(now()), purpose).err()?;
    let error = std::io::Error::new(std::io::ErrorKind::InvalidData, to_tls(&distrust));
    Some(TlsRefusal::of_io(&error))
}

#[test]
fn each_bad_certificate_is_refused_for_its_own_reason() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = || Asked::good(SHOP);
    let cases = [
        ("good", good(), None),
        (
            "expired",
            Asked { from: now() - 3 * HOUR, until: now() - HOUR, ..good() },
            Some(TlsRefusal::Expired),
        ),
        (
            "early",
            Asked { from: now() + HOUR, until: now() + 2 * HOUR, ..good() },
            Some(TlsRefusal::NotYetValid),
        ),
        (
            "other domain",
            Asked { uris: vec!["spiffe://other/service/shop"], ..good() },
            Some(TlsRefusal::Identity),
        ),
        ("nobody", Asked { uris: vec![], ..good() }, Some(TlsRefusal::Identity)),
        ("two", Asked { uris: vec![SHOP, WEB], ..good() }, Some(TlsRefusal::Identity)),
        (
            "no spiffe",
            Asked { uris: vec!["https://mesh.local/service/shop"], ..good() },
            Some(TlsRefusal::Identity),
        ),
        (
            "dots",
            Asked { uris: vec!["spiffe://mesh.local/service/x/../web"], ..good() },
            Some(TlsRefusal::Identity),
        ),
        ("server only", Asked { usages: vec![Usage::ServerAuth], ..good() }, Some(TlsRefusal::WrongUsage)),
        ("authority", Asked { is_ca: true, ..good() }, Some(TlsRefusal::WrongUsage)),
    ];
    for (name, asked, expected) in cases {
        assert_eq!(refusal(&ours, &ours.issue(&asked), b"", Purpose::Client), expected, "{name}");
    }
    let foreign = theirs.issue(&good());
    assert_eq!(refusal(&ours, &foreign, b"", Purpose::Client), Some(TlsRefusal::UnknownIssuer));
    // The same name does not make it the same authority.
    let twin = Authority::new("ours").issue(&good());
    assert_eq!(refusal(&ours, &twin, b"", Purpose::Client), Some(TlsRefusal::UnknownIssuer));
}

#[test]
fn a_certificate_for_clients_is_no_certificate_for_servers() {
    let ours = Authority::new("ours");
    let client = ours.issue(&Asked { usages: vec![Usage::ClientAuth], ..Asked::good(SHOP) });
    assert_eq!(refusal(&ours, &client, b"", Purpose::Client), None);
    assert_eq!(refusal(&ours, &client, b"", Purpose::Server), Some(TlsRefusal::WrongUsage));
}

#[test]
fn a_revoked_certificate_is_refused_and_others_of_the_same_authority_are_not() {
    let ours = Authority::new("ours");
    let list = ours.revoke(7);
    let revoked = ours.issue(&Asked::good(SHOP));
    let other = ours.issue(&Asked { serial: 8, ..Asked::good(SHOP) });
    assert_eq!(refusal(&ours, &revoked, &list, Purpose::Client), Some(TlsRefusal::Revoked));
    assert_eq!(refusal(&ours, &other, &list, Purpose::Client), None);
    // Somebody else's list says nothing of ours.
    let elsewhere = Authority::new("theirs").revoke(7);
    assert_eq!(refusal(&ours, &revoked, &elsewhere, Purpose::Client), None);
}

#[test]
fn good_files_make_a_material() {
    let ours = Authority::new("ours");
    let material = read(&ours.issue(&Asked::good(WEB))).unwrap();
    assert_eq!(material.leaf.facts.id, web());
    assert_eq!(material.leaf.facts.not_after, now() + HOUR);
    assert_eq!((material.leaf.facts.serial.as_str(), material.roots().count()), ("07", 1));
}

#[test]
fn files_that_do_not_fit_together_make_none_and_say_why() {
    let ours = Authority::new("ours");
    let good = ours.issue(&Asked::good(WEB));
    let other = ours.issue(&Asked::good(WEB));
    let cut = |text: &[u8]| text[..text.len() / 2].to_vec();
    let said = |files: PemFiles| read(&files).unwrap_err().to_string();
    let cases = [
        (PemFiles { key: other.key.clone(), ..good.clone() }, "does not belong to the certificate"),
        (PemFiles { key: b"nonsense".to_vec(), ..good.clone() }, "no private key"),
        (PemFiles { key: cut(&good.key), ..good.clone() }, "no private key"),
        (PemFiles { chain: Vec::new(), ..good.clone() }, "the certificate file holds no complete"),
        (PemFiles { chain: cut(&good.chain), ..good.clone() }, "the certificate file holds no complete"),
        (PemFiles { roots: cut(&good.roots), ..good.clone() }, "the CA file holds no complete"),
        (PemFiles { roots: Authority::new("theirs").root(), ..good.clone() }, "UnknownIssuer"),
        (PemFiles { lists: b"nonsense".to_vec(), ..good.clone() }, "the CRL file"),
        (ours.issue(&Asked::good(SHOP)), "but this sidecar is spiffe://mesh.local/service/web"),
        (ours.issue(&Asked { until: now() - HOUR / 2, ..Asked::good(WEB) }), "CertExpired"),
        (ours.issue(&Asked { usages: vec![Usage::ServerAuth], ..Asked::good(WEB) }), "cannot be used"),
    ];
    for (files, expected) in cases {
        let said = said(files);
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
    }
    let many = good.roots.repeat(65);
    assert!(said(PemFiles { roots: many, ..good.clone() }).contains("more than 64"));
}

#[test]
fn a_secret_is_not_shown_by_what_holds_it() {
    let files = Authority::new("ours").issue(&Asked::good(WEB));
    let shown = format!("{files:?} {:?}", read(&files).unwrap());
    assert!(!shown.contains("PRIVATE"), "{shown}");
    let key = String::from_utf8(files.key).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!shown.contains(secret), "{shown}");
}

#[test]
fn no_session_outlives_the_material_that_it_was_made_with() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let mesh = MeshTls::new(read(&ours.issue(&Asked::good(WEB))).unwrap(), TlsVersion::V13).unwrap();
    let peer = mesh.peer("shop").unwrap();
    let (before, called) = (mesh.inbound().config(), peer.config(Alpn::Http2));
    let ticket = before.ticketer.encrypt(b"a session").unwrap();
    assert!(std::sync::Arc::ptr_eq(&called, &peer.config(Alpn::Http2)));
    // A new leaf of the same authority: nobody else is believed, but the old leaf must not be shown any more.
    assert!(!mesh.replace(read(&ours.issue(&Asked::good(WEB))).unwrap()));
    assert_eq!((mesh.epoch(), peer.epoch()), (0, 1));
    assert_eq!(mesh.inbound().config().ticketer.decrypt(&ticket), None);
    // A handshake that goes on meanwhile makes tickets that are good for nothing.
    let late = before.ticketer.encrypt(b"a late one").unwrap();
    assert_eq!(mesh.inbound().config().ticketer.decrypt(&late), None);
    assert!(!std::sync::Arc::ptr_eq(&called, &peer.config(Alpn::Http2)));
    // One more root, then a revocation list.
    let mut both = ours.issue(&Asked::good(WEB));
    both.roots.extend(theirs.root());
    assert!(mesh.replace(read(&both).unwrap()));
    both.lists = ours.revoke(9);
    assert!(mesh.replace(read(&both).unwrap()));
    assert_eq!((mesh.epoch(), peer.epoch()), (2, 3));
}

#[test]
fn a_list_with_our_own_certificate_on_it_counts_for_the_others() {
    let ours = Authority::new("ours");
    let mesh = MeshTls::new(read(&ours.issue(&Asked::good(WEB))).unwrap(), TlsVersion::V13).unwrap();
    let other = ours.issue(&Asked::good(SHOP));
    let shown: Vec<_> = CertificateDer::pem_slice_iter(&other.chain).map(Result::unwrap).collect();
    assert!(mesh.believes(&shown, now()) && !mesh.believes(&shown, now() + 2 * HOUR));
    assert!(!mesh.believes(&[], now()));
    // Both have the serial 7.
    let files = PemFiles { lists: ours.revoke(7), ..ours.issue(&Asked::good(WEB)) };
    assert!(matches!(read(&files), Err(MaterialError::Gone(_))));
    assert!(mesh.replace_trust(NewTrust::read(&files, &domain()).unwrap()));
    assert!(!mesh.believes(&shown, now()));
    assert_eq!(mesh.material().leaf.facts.id, web());
}

#[test]
fn a_service_is_asked_for_by_its_name_in_the_trust_domain() {
    let ours = Authority::new("ours");
    let mesh = MeshTls::new(read(&ours.issue(&Asked::good(WEB))).unwrap(), TlsVersion::V13).unwrap();
    let name = |service: &str| mesh.peer(service).unwrap().server_name().to_str().into_owned();
    assert_eq!(name("shop"), "shop.mesh.local");
    // No name of DNS: then none is sent, and the identity alone decides, as it does anyway.
    assert_eq!(name("shop..x"), "0.0.0.0");
    assert!(mesh.peer("..").is_err());
    assert_eq!(mesh.peer("shop").unwrap().expected().as_str(), SHOP);
}
