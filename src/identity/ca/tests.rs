//! What the authority promises, at chosen times, in directories of their own.

mod copies;

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject as _};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer as _, revocation_list::CertificateRevocationList,
};

use super::*;
use crate::types::{SpiffeId, TrustDomain};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A directory with an authority, gone with the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("outrigger-ca-{}-{number}", std::process::id())))
    }

    fn init(&self) -> Authority {
        Authority::init(&self.0, &key(), &params(), start()).unwrap()
    }

    fn open(&self) -> Result<Authority, CaError> {
        Authority::open(&self.0, &key())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> HashSet<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn key() -> MasterKey {
    MasterKey::from_hex(&"07".repeat(32), "test").unwrap()
}

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn params() -> Params {
    Params {
        trust_domain: "mesh.local".parse::<TrustDomain>().unwrap(),
        leaf_ttl: DAY,
        root_ttl: 3650 * DAY,
        crl_ttl: 7 * DAY,
    }
}

fn identity(service: &str) -> SpiffeId {
    params().trust_domain.service(service).unwrap()
}

fn order(service: &str, node: &str) -> Order {
    Order { identity: identity(service), node: Some(node.parse().unwrap()), ttl: None }
}

/// A request of a key that was made for it, asking for `params`.
fn request(params: &CertificateParams) -> String {
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Number and serials of each list.
fn lists(pem: &str) -> Vec<(u64, Vec<String>)> {
    let list = |der: Result<CertificateRevocationListDer<'_>, _>| {
        let der = der.unwrap();
        let (_, list) = CertificateRevocationList::from_der(&der).unwrap();
        let number = list.crl_number().unwrap().iter_u64_digits().next().unwrap_or(0);
        let serials = list.iter_revoked_certificates().map(|entry| hex::encode(entry.raw_serial()));
        (number, serials.collect())
    };
    CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()).map(list).collect()
}

#[test]
fn a_leaf_says_who_its_bearer_is_and_nothing_else() {
    let place = Place::new();
    let issued = place.init().issue(&order("web", "web-1"), start()).unwrap();
    let der = certificate(&issued.signed.certificate);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    let root_der = certificate(&issued.signed.bundle);
    let (_, root) = X509Certificate::from_der(&root_der).unwrap();
    leaf.verify_signature(Some(root.public_key())).unwrap();
    assert_eq!(leaf.issuer(), root.subject());
    assert_eq!(root.subject().to_string(), "CN=Outrigger CA mesh.local 1");

    let described = crate::identity::inspect::describe(issued.signed.certificate.as_bytes(), start().into());
    let [described] = &described.unwrap()[..] else { panic!("one certificate") };
    assert_eq!(described.identity, Some(identity("web")));
    assert_eq!(described.uris, ["spiffe://mesh.local/service/web"]);
    assert_eq!((described.problems.as_slice(), described.is_ca), (&[][..], false));
    assert_eq!(described.key, "ECDSA P-256");
    assert_eq!(described.serial, issued.signed.leaf.serial.to_string());
    assert_eq!(described.not_before, Stamp::from(start() - Duration::from_secs(300)));
    assert_eq!(described.not_after, Stamp::from(start() + DAY));

    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(!constraints.value.ca && constraints.critical);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digitalSignature alone");
    let constraints = root.basic_constraints().unwrap().unwrap().value;
    assert_eq!((constraints.ca, constraints.path_len_constraint), (true, Some(0)));
    let usage = root.key_usage().unwrap().unwrap().value;
    assert_eq!((usage.key_cert_sign(), usage.crl_sign(), usage.digital_signature()), (true, true, false));
}

#[test]
fn a_request_gives_its_key_and_nothing_else_to_the_certificate() {
    let place = Place::new();
    let mut forged = CertificateParams::new(vec!["admin.mesh.local".to_owned()]).unwrap();
    forged.subject_alt_names.push(SanType::URI("spiffe://mesh.local/service/admin".try_into().unwrap()));
    forged.distinguished_name.push(DnType::CommonName, "admin");
    forged.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    forged.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    forged.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let signed = place.init().sign(&request(&forged), &order("web", "1"), start()).unwrap();
    let der = certificate(&signed.certificate);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(leaf.subject().to_string(), "CN=web");
    assert!(!leaf.is_ca() && !leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.code_signing);
    let described =
        crate::identity::inspect::describe(signed.certificate.as_bytes(), start().into()).unwrap();
    assert_eq!(described[0].uris, ["spiffe://mesh.local/service/web"]);
    assert!(!signed.certificate.contains("admin"));
    assert_eq!(leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
}

#[test]
fn requests_are_refused_that_prove_nothing_or_have_a_weak_key() {
    let place = Place::new();
    let authority = place.init();
    let refusal = |pem: &str| match authority.sign(pem, &order("web", "1"), start()) {
        Err(CaError::Request(why)) => why,
        other => panic!("{other:?}"),
    };
    let good = request(&CertificateParams::default());
    assert_eq!(refusal(""), RequestError::Malformed);
    assert_eq!(refusal(&good.repeat(2)), RequestError::Malformed);
    assert_eq!(refusal(&good.replace("REQUEST", "THING")), RequestError::Malformed);
    assert_eq!(refusal(&format!("{good}{}", " ".repeat(16 * 1024))), RequestError::TooLong);
    let with = |algorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::default().serialize_request(&key).unwrap()
    };
    let p521 = with(&rcgen::PKCS_ECDSA_P521_SHA512);
    assert_eq!(refusal(&p521.pem().unwrap()), RequestError::Key);

    // The last byte belongs to the signature.
    let der = with(&rcgen::PKCS_ED25519).der().to_vec();
    let (last, rest) = der.split_last().unwrap();
    let forged = [rest, &[last ^ 1]].concat();

    assert_eq!(csr::public_key(&armored(&forged)).err(), Some(RequestError::Signature));
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P256_SHA256] {
        authority.sign(&with(algorithm).pem().unwrap(), &order("web", "1"), start()).unwrap();
    }
    assert_eq!(authority.status(start()).unwrap().leaves.len(), 3, "the refused ones left nothing");
}

/// PEM, for what no library would write.
fn armored(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", lines.join("\n"))
}

#[test]
fn identities_of_other_meshes_are_not_signed() {
    let place = Place::new();
    let foreign = Order { identity: "spiffe://other/service/web".parse().unwrap(), node: None, ttl: None };
    let refused = place.init().issue(&foreign, start()).unwrap_err();
    assert!(matches!(refused, CaError::Foreign { .. }), "{refused}");
}

#[test]
fn no_leaf_outlives_its_root_and_a_root_at_its_end_signs_no_more() {
    let place = Place::new();
    let authority = place.init();
    let late = start() + 3650 * DAY - HOUR;
    let issued = authority.issue(&order("web", "1"), late).unwrap();
    assert_eq!(issued.signed.leaf.not_after, Stamp::from(start() + 3650 * DAY));
    let refused = authority.issue(&order("web", "1"), start() + 3650 * DAY).unwrap_err();
    assert!(matches!(refused, CaError::RootExpired { generation: 1, .. }), "{refused}");
    let short = Order { ttl: Some(Duration::from_secs(59)), ..order("web", "1") };
    assert!(matches!(authority.issue(&short, start()), Err(CaError::Lifetime { .. })));
}

#[test]
fn files_are_for_their_owner_only() {
    let place = Place::new();
    place.init().issue(&order("web", "1"), start()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.0), 0o700);
    let names = place.names();
    let expected = ["ca.state", "root-1.key", "root-1.pem", "bundle.pem", "crl.pem", "lock"];
    assert_eq!(names, expected.map(str::to_owned).into());
    for name in names {
        assert_eq!(mode(&place.file(&name)), 0o600, "{name}");
    }
    let sealed = fs::read(place.file("root-1.key")).unwrap();
    assert!(sealed.starts_with(b"outrgcak") && !sealed.windows(4).any(|window| window == b"BEGI"));
}

#[test]
fn a_file_that_was_changed_or_cut_off_is_refused_by_name() {
    for name in ["ca.state", "root-1.key"] {
        let place = Place::new();
        place.init();
        let whole = fs::read(place.file(name)).unwrap();
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        for broken in [&changed[..], &whole[..whole.len() / 2], &[]] {
            fs::write(place.file(name), broken).unwrap();
            let refused = place.open().and_then(|authority| authority.status(start())).unwrap_err();
            assert!(matches!(refused, CaError::Damaged { .. }), "{refused}");
            assert!(refused.to_string().contains(name), "{refused}");
        }
        fs::write(place.file(name), whole).unwrap();
        place.open().unwrap().status(start()).unwrap();
    }
}

#[test]
fn the_key_of_another_root_is_refused_although_it_is_whole() {
    let (place, other) = (Place::new(), Place::new());
    place.init();
    other.init();
    fs::copy(other.file("root-1.key"), place.file("root-1.key")).unwrap();
    let refused = place.open().unwrap().issue(&order("web", "1"), start()).unwrap_err();
    assert!(refused.to_string().contains("not the key of its certificate"), "{refused}");
}

#[test]
fn a_wrong_key_is_told_from_a_damaged_file() {
    let place = Place::new();
    place.init();
    let wrong = MasterKey::from_hex(&"08".repeat(32), "test").unwrap();
    let refused = Authority::open(&place.0, &wrong).err().unwrap();
    assert!(matches!(refused, CaError::WrongKey { .. }), "{refused}");
    assert!(refused.to_string().contains("ca.state"), "{refused}");
}

#[test]
fn each_encryption_of_a_root_has_a_nonce_of_its_own() {
    let nonces: HashSet<Vec<u8>> = (0..16)
        .map(|_| {
            let place = Place::new();
            place.init();
            // Magic, version, algorithm, length, `private key of root 1`, name of the key: then the nonce.
            fs::read(place.file("root-1.key")).unwrap()[11 + 21 + 8..][..12].to_vec()
        })
        .collect();
    assert_eq!(nonces.len(), 16);
}

#[test]
fn an_authority_is_not_made_where_there_is_one_or_something_else() {
    let place = Place::new();
    place.init();
    let again = Authority::init(&place.0, &key(), &params(), start()).err().unwrap();
    assert!(matches!(again, CaError::Exists(_)), "{again}");
    let other = Place::new();
    fs::create_dir(&other.0).unwrap();
    fs::write(other.file("notes.txt"), "mine").unwrap();
    let refused = Authority::init(&other.0, &key(), &params(), start()).err().unwrap();
    assert!(matches!(refused, CaError::NotEmpty(_)), "{refused}");
    assert!(matches!(other.open(), Err(CaError::Absent(_))));
}

#[test]
fn what_an_interrupted_start_left_behind_is_no_obstacle() {
    let place = Place::new();
    place.init();
    fs::remove_file(place.file("ca.state")).unwrap();
    fs::write(place.file(".ca.state.draft"), "half").unwrap();
    place.init();
    place.open().unwrap().issue(&order("web", "1"), start()).unwrap();
    assert!(!place.names().contains(".ca.state.draft"));
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let place = Place::new();
    fs::create_dir(&place.0).unwrap();
    let file = place.file("ca.key");
    key().write(&file).unwrap();
    MasterKey::read(&file).unwrap();
    assert!(matches!(key().write(&file), Err(CaError::File { .. })), "a key is never replaced");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = MasterKey::read(&file).unwrap_err();
    assert!(matches!(refused, CaError::KeyExposed { mode: 0o640, .. }), "{refused}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, "07").unwrap();
    assert!(matches!(MasterKey::read(&file), Err(CaError::KeyText { .. })));
}

#[test]
fn a_pipe_in_the_place_of_the_key_file_is_refused_and_not_waited_for() {
    let place = Place::new();
    fs::create_dir(&place.0).unwrap();
    let pipe = place.file("ca.key");
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap().success());
    let (send, receive) = mpsc::channel();
    // Past the end of the test if it waits after all.
    thread::spawn(move || send.send(MasterKey::read(&pipe).map(|_| ())));
    let refused = receive.recv_timeout(Duration::from_secs(30)).unwrap().unwrap_err();
    assert!(matches!(refused, CaError::File { .. }), "{refused}");
}

#[test]
fn copies_that_somebody_changed_are_noticed_and_put_right() {
    let place = Place::new();
    let authority = place.init();
    fs::write(place.file("bundle.pem"), "forged").unwrap();
    assert_eq!(authority.status(start()).unwrap().stale_copies, [place.file("bundle.pem")]);
    assert!(authority.bundle().unwrap().starts_with("-----BEGIN CERTIFICATE"));
    authority.issue(&order("web", "1"), start()).unwrap();
    assert!(authority.status(start()).unwrap().stale_copies.is_empty());
    assert_eq!(fs::read_to_string(place.file("bundle.pem")).unwrap(), authority.bundle().unwrap());
}

#[test]
fn a_revoked_certificate_is_listed_until_it_expires() {
    let place = Place::new();
    let authority = place.init();
    let serial = authority.issue(&order("web", "1"), start()).unwrap().signed.leaf.serial;
    let other = authority.issue(&order("web", "2"), start()).unwrap().signed;
    let before = lists(&other.crl);
    assert_eq!(before.len(), 1);
    assert!(before[0].1.is_empty());
    let revoked = authority.revoke(serial, Reason::KeyCompromise, start() + HOUR).unwrap();
    assert_eq!(revoked.revoked.unwrap().at, Stamp::from(start() + HOUR));
    let listed = lists(&authority.crl(start() + HOUR).unwrap());
    assert_eq!(listed[0].1, [serial.to_string()]);
    assert!(listed[0].0 > before[0].0, "{listed:?} after {before:?}");

    let again = authority.revoke(serial, Reason::Superseded, start() + 2 * HOUR).unwrap();
    assert_eq!(again.revoked, revoked.revoked, "the first revocation stays");
    assert_eq!(lists(&authority.crl(start() + 2 * HOUR).unwrap()), listed);
    let expired = lists(&authority.crl(start() + DAY).unwrap());
    assert!(expired[0].1.is_empty() && expired[0].0 > listed[0].0);
    let unknown = "40".repeat(16).parse().unwrap();
    assert!(matches!(
        authority.revoke(unknown, Reason::Unspecified, start()),
        Err(CaError::UnknownSerial(_))
    ));
}

#[test]
fn a_list_is_made_anew_after_half_its_time_and_its_number_never_falls() {
    let place = Place::new();
    let authority = place.init();
    let number = |at: SystemTime| lists(&authority.crl(at).unwrap())[0].0;
    let first = number(start());
    assert_eq!(number(start() + 3 * DAY), first);
    let second = number(start() + 4 * DAY);
    assert!(second > first);
    // The clock was wrong, and was set right.
    let third = number(start());
    assert!(third > second, "{third} after {second}");
    let pem = authority.crl(start()).unwrap();
    let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, list) = CertificateRevocationList::from_der(&der).unwrap();
    let next = list.next_update().unwrap().timestamp();
    assert_eq!(next, i64::try_from(Stamp::from(start() + 7 * DAY).unix()).unwrap());
}

#[test]
fn roots_change_in_three_steps() {
    let place = Place::new();
    let authority = place.init();
    let old = authority.issue(&order("web", "1"), start()).unwrap().signed;
    assert_eq!(authority.rotation(start()).unwrap().step, Step::Trust);

    authority.rotate(Force::No, start() + HOUR).unwrap();
    let status = authority.status(start()).unwrap();
    assert_eq!(status.phase, Phase::Trust);
    assert_eq!(status.roots.iter().map(|root| root.is_signing).collect::<Vec<_>>(), [true, false]);
    assert_eq!(CertificateDer::pem_slice_iter(authority.bundle().unwrap().as_bytes()).count(), 2);
    assert_eq!(lists(&authority.crl(start() + HOUR).unwrap()).len(), 2, "one list for each root");
    let next = authority.rotation(start() + HOUR).unwrap();
    assert_eq!(next.step, Step::Reissue);
    assert_eq!(
        next.unaware,
        std::slice::from_ref(&old.leaf),
        "it was handed out before there was a new root"
    );
    match authority.rotate(Force::No, start() + HOUR) {
        Err(CaError::Unaware(leaves)) => assert_eq!(leaves, [old.leaf]),
        other => panic!("{other:?}"),
    }
    let aware = authority.issue(&order("web", "1"), start() + HOUR).unwrap().signed;
    assert_eq!(aware.leaf.root, 1, "the old root signs still");
    assert!(authority.rotation(start() + HOUR).unwrap().unaware.is_empty());

    authority.rotate(Force::No, start() + 2 * HOUR).unwrap();
    assert_eq!(authority.status(start()).unwrap().phase, Phase::Reissue);
    let new = authority.issue(&order("web", "1"), start() + 2 * HOUR).unwrap().signed;
    assert_eq!(new.leaf.root, 2);
    let roots: Vec<CertificateDer<'_>> =
        CertificateDer::pem_slice_iter(new.bundle.as_bytes()).map(Result::unwrap).collect();
    let leaf = certificate(&new.certificate);
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let verified = roots.iter().map(|root| {
        let (_, root) = X509Certificate::from_der(root).unwrap();
        leaf.verify_signature(Some(root.public_key())).is_ok()
    });
    assert_eq!(verified.collect::<Vec<_>>(), [false, true]);

    let dropped = authority.rotate(Force::No, start() + 3 * HOUR).unwrap();
    assert_eq!((dropped.step, dropped.old, dropped.new), (Step::Drop, 1, 2));
    let status = authority.status(start() + 3 * HOUR).unwrap();
    assert_eq!((status.phase, status.roots.len(), status.roots[0].generation), (Phase::Steady, 1, 2));
    let names = place.names();
    assert!(!names.contains("root-1.key") && !names.contains("root-1.pem") && names.contains("root-2.key"));
    assert_eq!(lists(&authority.crl(start() + 3 * HOUR).unwrap()).len(), 1);
    assert_eq!(authority.rotation(start()).unwrap().new, 3);
}

#[test]
fn an_old_root_stays_while_somebody_presents_a_certificate_of_it() {
    let place = Place::new();
    let authority = place.init();
    let leaf = |service, node, at| authority.issue(&order(service, node), at).unwrap().signed.leaf;
    let blocking = leaf("web", "1", start());
    let expiring = {
        let order = Order { ttl: Some(HOUR), ..order("web", "2") };
        authority.issue(&order, start()).unwrap().signed.leaf
    };
    let revoked = leaf("web", "3", start());
    leaf("web", "4", start());
    authority.rotate(Force::No, start()).unwrap();
    authority.rotate(Force::Yes, start()).unwrap();
    leaf("web", "4", start());
    // The same node of another service is another instance.
    leaf("api", "1", start());
    let blockers = |at| match authority.rotate(Force::No, at) {
        Err(CaError::InTheWay(leaves)) => leaves,
        other => panic!("{other:?}"),
    };
    assert_eq!(blockers(start()), [blocking.clone(), expiring, revoked.clone()]);
    authority.revoke(revoked.serial, Reason::CessationOfOperation, start()).unwrap();
    assert_eq!(blockers(start() + HOUR), [blocking]);
    assert_eq!(authority.status(start()).unwrap().phase, Phase::Reissue, "a refused step changes nothing");
    let forced = authority.rotate(Force::Yes, start() + HOUR).unwrap();
    assert_eq!((forced.step, forced.in_the_way.len()), (Step::Drop, 1));
    assert_eq!(authority.status(start()).unwrap().roots.len(), 1);
}

#[test]
fn a_successor_that_is_revoked_itself_is_none() {
    let place = Place::new();
    let authority = place.init();
    authority.issue(&order("web", "1"), start()).unwrap();
    authority.rotate(Force::No, start()).unwrap();
    authority.rotate(Force::Yes, start()).unwrap();
    let successor = authority.issue(&order("web", "1"), start()).unwrap().signed.leaf;
    authority.revoke(successor.serial, Reason::KeyCompromise, start()).unwrap();
    assert!(matches!(authority.rotate(Force::No, start()), Err(CaError::InTheWay(_))));
    authority.rotate(Force::No, start() + DAY).unwrap();
}

#[test]
fn a_step_that_was_interrupted_before_its_state_was_written_is_taken_again() {
    let place = Place::new();
    let authority = place.init();
    // What a crash after the key of root 2 and before the state leaves.
    fs::write(place.file("root-2.key"), "half").unwrap();
    authority.rotate(Force::No, start()).unwrap();
    authority.rotate(Force::No, start()).unwrap();
    assert_eq!(authority.issue(&order("web", "1"), start()).unwrap().signed.leaf.root, 2);
    // What a crash after the state without root 1 leaves.
    let key = fs::read(place.file("root-1.key")).unwrap();
    authority.rotate(Force::No, start()).unwrap();
    fs::write(place.file("root-1.key"), key).unwrap();
    authority.issue(&order("web", "1"), start()).unwrap();
    assert!(!place.names().contains("root-1.key"));
}

#[test]
fn a_token_lets_its_service_join_once() {
    let place = Place::new();
    let authority = place.init();
    let (bearer, token) = authority.create_token(&identity("api"), HOUR, start()).unwrap();
    let bearer: JoinToken = bearer.reveal().parse().unwrap();
    assert_eq!(bearer.pins(), [Fingerprint::of(&certificate(&authority.bundle().unwrap()))]);
    let csr = request(&CertificateParams::default());
    let join = |at| authority.join(&csr, &bearer, Wish::default(), at);
    assert!(matches!(
        authority.join("no request", &bearer, Wish::default(), start()),
        Err(CaError::Request(RequestError::Malformed))
    ));
    assert!(authority.tokens().unwrap()[0].is_usable(start().into()), "a refused request costs no token");
    assert_eq!(join(start()).unwrap().leaf.identity, identity("api"));
    assert!(matches!(join(start()), Err(CaError::Token(TokenError::Spent))));
    assert_eq!(authority.tokens().unwrap()[0].spent_at, Some(start().into()));
    assert_eq!(authority.status(start()).unwrap().usable_tokens, 0);
    assert_eq!(token.id, bearer.id());
}

#[test]
fn tokens_that_are_late_forged_or_taken_back_are_refused() {
    let place = Place::new();
    let authority = place.init();
    let (bearer, _) = authority.create_token(&identity("api"), HOUR, start()).unwrap();
    let csr = request(&CertificateParams::default());
    let refusal = |bearer: &JoinToken, at| match authority.join(&csr, bearer, Wish::default(), at) {
        Err(CaError::Token(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(&bearer, start() + HOUR), TokenError::Expired);
    let text = bearer.reveal();
    let secret = text.split('.').nth(2).unwrap();
    let forged: JoinToken = text.replace(secret, &"00".repeat(32)).parse().unwrap();
    assert_eq!(refusal(&forged, start()), TokenError::Unknown);
    assert_eq!(refusal(&forged, start() + HOUR), TokenError::Unknown, "the secret comes first");
    assert!(authority.remove_token(bearer.id(), start()).unwrap());
    assert!(!authority.remove_token(bearer.id(), start()).unwrap());
    assert_eq!(refusal(&bearer, start()), TokenError::Unknown);
    let too_long = authority.create_token(&identity("api"), 31 * DAY, start());
    assert!(matches!(too_long, Err(CaError::Lifetime { .. })));
}

#[test]
fn the_secret_of_a_token_is_in_no_file_and_no_debug_output() {
    let place = Place::new();
    let authority = place.init();
    let (bearer, _) = authority.create_token(&identity("api"), HOUR, start()).unwrap();
    let text = bearer.reveal();
    let secret = text.split('.').nth(2).unwrap();
    assert_eq!(secret.len(), 64);
    for name in place.names() {
        let content = fs::read(place.file(&name)).unwrap();
        assert!(!String::from_utf8_lossy(&content).contains(secret), "{name}");
    }
    assert!(!format!("{bearer:?}").contains(secret));
    for wrong in ["", "ort1", "ort2.a.b.c", &text.replace("ort1", "ort2"), &format!("{text}.x"), &text[..90]]
    {
        assert_eq!(wrong.parse::<JoinToken>().err(), Some(TokenError::Malformed), "{wrong:?}");
    }
}

#[test]
fn a_token_made_during_a_rotation_pins_both_roots_and_an_older_one_is_told() {
    let place = Place::new();
    let authority = place.init();
    authority.create_token(&identity("api"), HOUR, start()).unwrap();
    authority.rotate(Force::No, start()).unwrap();
    let (bearer, _) = authority.create_token(&identity("api"), HOUR, start()).unwrap();
    assert_eq!(bearer.pins().len(), 2);
    assert_eq!(bearer.reveal().parse::<JoinToken>().unwrap(), bearer);
    assert_eq!(authority.rotation(start()).unwrap().stale_tokens, 1);
    assert_eq!(authority.rotation(start() + HOUR).unwrap().stale_tokens, 0);
}

#[test]
fn a_request_for_another_identity_costs_no_token() {
    let place = Place::new();
    let authority = place.init();
    let (bearer, _) = authority.create_token(&identity("api"), HOUR, start()).unwrap();
    let join = |service: &str| {
        let asked = KeyRequest::new(&identity(service)).unwrap();
        authority.join(&asked.request, &bearer, Wish::default(), start())
    };
    assert!(matches!(join("web"), Err(CaError::Request(RequestError::Identity))));
    assert!(authority.tokens().unwrap()[0].is_usable(start().into()));
    assert_eq!(join("api").unwrap().leaf.identity, identity("api"));
}

/// What somebody has proved to hold.
fn presented(leaf: &Leaf) -> Presented {
    Presented::of(&crate::identity::Facts {
        id: leaf.identity.clone(),
        serial: leaf.serial.to_string(),
        not_before: start(),
        not_after: leaf.not_after.system_time(),
    })
    .unwrap()
}

#[test]
fn a_certificate_is_renewed_for_its_own_identity_and_instance_while_it_is_good() {
    let place = Place::new();
    let authority = place.init();
    let first = authority.issue(&order("web", "1"), start()).unwrap().signed.leaf;
    let csr = KeyRequest::new(&identity("web")).unwrap().request;
    let renew = |leaf: &Leaf, at| authority.renew(&csr, &presented(leaf), Some(HOUR), at);
    let why = |outcome| match outcome {
        Err(CaError::Renewal(why)) => why,
        other => panic!("{other:?}"),
    };
    let second = renew(&first, start()).unwrap().leaf;
    assert_eq!((&second.identity, &second.node), (&first.identity, &first.node));
    assert_eq!(second.not_after, Stamp::from(start() + HOUR));
    assert_eq!(why(renew(&second, start() + HOUR)), RenewalError::Expired);
    let other = KeyRequest::new(&identity("api")).unwrap().request;
    let stolen = authority.renew(&other, &presented(&first), None, start());
    assert!(matches!(stolen, Err(CaError::Request(RequestError::Identity))));
    let renamed = Leaf { identity: identity("api"), ..first.clone() };
    assert_eq!(why(authority.renew(&other, &presented(&renamed), None, start())), RenewalError::Unknown);
    authority.revoke(first.serial, Reason::KeyCompromise, start()).unwrap();
    assert_eq!(why(renew(&first, start())), RenewalError::Revoked);
    let mut last = second;
    let refused = loop {
        match renew(&last, start()) {
            Ok(signed) => last = signed.leaf,
            Err(error) => break why(Err(error)),
        }
    };
    assert_eq!(refused, RenewalError::TooMany, "one instance does not fill the authority");
}

#[test]
fn a_rotation_waits_until_a_peer_has_shown_that_it_uses_what_it_was_sent() {
    let place = Place::new();
    let authority = place.init();
    let first = authority.issue(&order("web", "1"), start()).unwrap().signed.leaf;
    let csr = KeyRequest::new(&identity("web")).unwrap().request;
    authority.rotate(Force::No, start()).unwrap();
    let lost = authority.renew(&csr, &presented(&first), None, start()).unwrap().leaf;
    assert_eq!(lost.newest_root, 2);
    let unaware = authority.rotation(start()).unwrap().unaware;
    assert_eq!(unaware, std::slice::from_ref(&first), "the answer may be lost");
    authority.acknowledge(&presented(&first), start()).unwrap();
    assert!(authority.rotation(start()).unwrap().unaware.is_empty());

    authority.rotate(Force::No, start()).unwrap();
    let arrived = authority.renew(&csr, &presented(&first), None, start()).unwrap().leaf;
    assert_eq!(arrived.root, 2);
    assert!(matches!(authority.rotate(Force::No, start()), Err(CaError::InTheWay(_))));
    authority.acknowledge(&presented(&arrived), start()).unwrap();
    authority.rotate(Force::No, start()).unwrap();
    assert_eq!(authority.published(start()).unwrap().phase, Phase::Steady);
}

#[test]
fn what_ended_a_day_ago_is_forgotten() {
    let place = Place::new();
    let authority = place.init();
    let first = authority.issue(&order("web", "1"), start()).unwrap().signed.leaf;
    authority.create_token(&identity("api"), HOUR, start()).unwrap();
    authority.issue(&order("web", "2"), start() + 2 * DAY).unwrap();
    assert!(matches!(
        authority.revoke(first.serial, Reason::Unspecified, start() + 2 * DAY),
        Err(CaError::UnknownSerial(_))
    ));
    assert!(authority.tokens().unwrap().is_empty());
}

#[test]
fn two_processes_that_issue_at_once_lose_nothing() {
    let place = Place::new();
    place.init();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let place = &place;
            scope.spawn(move || {
                let authority = place.open().unwrap();
                for number in 0..8 {
                    let node = format!("{worker}-{number}");
                    authority.issue(&order("web", &node), start()).unwrap();
                }
            });
        }
    });
    assert_eq!(place.open().unwrap().status(start()).unwrap().leaves.len(), 32);
}

#[test]
fn what_a_sidecar_would_refuse_is_told_of_a_certificate() {
    use crate::identity::inspect::{InspectError, Problem, describe};
    let now = Stamp::from(start());
    let key = KeyPair::generate().unwrap();
    let problems = |uris: &[&str], usages: &[ExtendedKeyUsagePurpose], days: [i64; 2]| {
        let at = |days: i64| Stamp::from_unix(now.unix().saturating_add_signed(days * 86_400)).system_time();
        let mut params = CertificateParams::default();
        let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
        params.subject_alt_names = uris.iter().map(uri).collect();
        params.extended_key_usages = usages.to_vec();
        (params.not_before, params.not_after) = (at(days[0]).into(), at(days[1]).into());
        let pem = params.self_signed(&key).unwrap().pem();
        describe(pem.as_bytes(), now).unwrap().remove(0).problems
    };
    let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
    let both = [server.clone(), client.clone()];
    let web = "spiffe://mesh.local/service/web";
    assert_eq!(problems(&[web], &both, [-1, 1]), []);
    assert_eq!(problems(&[web], &[], [-1, 1]), [], "no list of usages permits all");
    assert_eq!(problems(&[web], &both, [-2, -1]), [Problem::Expired]);
    assert_eq!(problems(&[web], &both, [1, 2]), [Problem::NotYetValid]);
    assert_eq!(problems(&[], &both, [-1, 1]), [Problem::NoUri]);
    assert_eq!(problems(&[web, web], &both, [-1, 1]), [Problem::SeveralUris(2)]);
    assert!(matches!(problems(&["https://web"], &both, [-1, 1])[..], [Problem::NoIdentity { .. }]));
    assert_eq!(problems(&[web], &[server], [-1, 1]), [Problem::NoClientAuth]);
    assert_eq!(problems(&[web], &[client], [-1, 1]), [Problem::NoServerAuth]);
    assert_eq!(describe(b"nothing", now), Err(InspectError::Empty));
    let half = "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(describe(half.as_bytes(), now), Err(InspectError::Malformed(1)));
}

#[test]
fn a_name_in_a_certificate_gives_a_terminal_no_commands() {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "web\u{1b}[2J\nfake");
    let pem = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    let described = crate::identity::inspect::describe(pem.as_bytes(), start().into()).unwrap();
    assert!(!described[0].subject.contains(char::is_control), "{:?}", described[0].subject);
}
