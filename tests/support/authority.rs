//! Certificates for running sidecars: an authority that makes good ones and any kind of bad ones, and the folder that a
//! sidecar has its own in. They are valid around the moment of the test. Speaks no TLS: that is tls.rs beside it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose as Usage, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};

use super::sidecar::Directory;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Serial numbers of leaves: no two of one run are the same.
static SERIAL: AtomicU64 = AtomicU64::new(0x1000);

/// An authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a leaf says.
pub(crate) struct Asked {
    pub(crate) uris: Vec<String>,
    pub(crate) names: Vec<&'static str>,
    pub(crate) from: SystemTime,
    pub(crate) until: SystemTime,
    pub(crate) usages: Vec<Usage>,
    pub(crate) is_ca: bool,
}

impl Asked {
    /// A leaf that nobody finds fault with, for a service of `mesh.local`.
    pub(crate) fn of(service: &str) -> Self {
        let now = SystemTime::now();
        Self {
            uris: vec![identity(service)],
            names: Vec::new(),
            from: now - HOUR,
            until: now + HOUR,
            usages: vec![Usage::ServerAuth, Usage::ClientAuth],
            is_ca: false,
        }
    }

    /// A leaf for a server outside of the mesh.
    pub(crate) fn named(name: &'static str) -> Self {
        Self { uris: Vec::new(), names: vec![name], ..Self::of("nobody") }
    }
}

/// The identity of a service of `mesh.local`.
pub(crate) fn identity(service: &str) -> String {
    format!("spiffe://mesh.local/service/{service}")
}

/// A leaf with its key.
#[derive(Clone)]
pub(crate) struct Credentials {
    /// PEM.
    pub(crate) chain: String,
    /// PEM.
    pub(crate) key: String,
    pub(crate) serial: u64,
}

impl Credentials {
    /// The leaf itself.
    pub(crate) fn leaf(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).expect("we made it")
    }

    /// Its key.
    pub(crate) fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("we made it")
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (SystemTime::now() - 24 * HOUR).into();
        params.not_after = (SystemTime::now() + 24 * HOUR).into();
        let key = KeyPair::generate().expect("a source of chance");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate that can be signed"))
    }

    /// Its own certificate, PEM.
    pub(crate) fn root(&self) -> String {
        self.0.pem()
    }

    /// A leaf as asked for.
    pub(crate) fn issue(&self, asked: &Asked) -> Credentials {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let key = KeyPair::generate().expect("a source of chance");
        let mut params = CertificateParams::default();
        let uris = asked.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().expect("ASCII")));
        let names = asked.names.iter().map(|name| SanType::DnsName((*name).try_into().expect("ASCII")));
        params.subject_alt_names = uris.chain(names).collect();
        params.not_before = asked.from.into();
        params.not_after = asked.until.into();
        params.extended_key_usages.clone_from(&asked.usages);
        params.serial_number = Some(SerialNumber::from(serial));
        if asked.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let leaf = params.signed_by(&key, &self.0).expect("a certificate that can be signed");
        Credentials { chain: leaf.pem(), key: key.serialize_pem(), serial }
    }

    /// A good leaf of a service.
    pub(crate) fn service(&self, name: &str) -> Credentials {
        self.issue(&Asked::of(name))
    }

    /// A list that revokes `serials`, PEM.
    pub(crate) fn revoke(&self, serials: &[u64]) -> String {
        let hour_ago = SystemTime::now() - HOUR;
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: hour_ago.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: hour_ago.into(),
            next_update: (SystemTime::now() + HOUR).into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).and_then(|list| list.pem()).expect("a list that can be signed")
    }
}

/// A folder with the files of one sidecar; removed when dropped.
pub(crate) struct Folder(Directory);

impl Folder {
    /// With these credentials, trusting `roots`, revoking nobody.
    pub(crate) fn new(credentials: &Credentials, roots: &str) -> Self {
        let folder = Self(Directory::new());
        folder.put(credentials);
        folder.write("ca.pem", roots);
        folder
    }

    /// Of a service, with everything from one authority.
    pub(crate) fn of(authority: &Authority, service: &str) -> Self {
        Self::new(&authority.service(service), &authority.root())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.0.join(name)
    }

    /// Puts a file in place, whole, for its owner alone.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let aside = self.path(&format!("{name}.new"));
        fs::write(&aside, text).expect("the directory is ours");
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o600)).expect("the directory is ours");
        fs::rename(&aside, self.path(name)).expect("the directory is ours");
    }

    /// Puts certificate and key in place.
    pub(crate) fn put(&self, credentials: &Credentials) {
        self.write("tls.pem", &credentials.chain);
        self.write("tls.key", &credentials.key);
    }

    /// Puts a revocation list in place; to be called before the sidecar starts if it is to have one.
    pub(crate) fn revoke(&self, list: &str) {
        self.write("crl.pem", list);
    }

    /// The section `mtls` that names these files.
    pub(crate) fn mtls(&self, mode: &str) -> Value {
        let mut ca = json!({
            "mode": "files",
            "cert_file": self.path("tls.pem"),
            "key_file": self.path("tls.key"),
            "ca_file": self.path("ca.pem"),
        });
        if self.path("crl.pem").exists() {
            ca["crl_file"] = json!(self.path("crl.pem"));
        }
        json!({ "mode": mode, "ca": ca })
    }
}
