//! Certificates for tests: an authority in memory that makes good ones and any kind of bad ones.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose as Usage, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};

use super::PemFiles;

/// An authority.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a leaf says.
pub(super) struct Asked {
    pub(super) uris: Vec<&'static str>,
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
    pub(super) usages: Vec<Usage>,
    pub(super) is_ca: bool,
    pub(super) serial: u64,
}

/// When all of these tests happen.
pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(super) const HOUR: Duration = Duration::from_secs(3600);

impl Asked {
    /// A leaf that nobody finds fault with.
    pub(super) fn good(uri: &'static str) -> Self {
        Self {
            uris: vec![uri],
            from: now() - HOUR,
            until: now() + HOUR,
            usages: vec![Usage::ServerAuth, Usage::ClientAuth],
            is_ca: false,
            serial: 7,
        }
    }
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now() - 24 * HOUR).into();
        params.not_after = (now() + 24 * HOUR).into();
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn root(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// A leaf and its key, with this authority as the only one that is trusted.
    pub(super) fn issue(&self, asked: &Asked) -> PemFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            asked.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.not_before = asked.from.into();
        params.not_after = asked.until.into();
        params.extended_key_usages.clone_from(&asked.usages);
        params.serial_number = Some(SerialNumber::from(asked.serial));
        if asked.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let leaf = params.signed_by(&key, &self.0).unwrap();
        PemFiles {
            chain: leaf.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
            roots: self.root(),
            lists: Vec::new(),
        }
    }

    /// A list that revokes `serial`.
    pub(super) fn revoke(&self, serial: u64) -> Vec<u8> {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: (now() - HOUR).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (now() - HOUR).into(),
            next_update: (now() + HOUR).into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap().into_bytes()
    }
}
