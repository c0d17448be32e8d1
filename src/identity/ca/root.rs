//! Roots: how they are made, and how one becomes able to sign again. Where they are kept is in authority.rs.

use std::{path::Path, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    Stamp,
    error::CaError,
    names::{Fingerprint, Serial},
    state::Root,
};
use crate::types::TrustDomain;

/// A new root with its key: ECDSA P-256, which may sign leaves and lists, and nothing between itself and a leaf.
pub(super) fn make(
    trust_domain: &TrustDomain,
    generation: u32,
    ttl: Duration,
    now: Stamp,
) -> Result<(Root, KeyPair), CaError> {
    let failed = |source| CaError::Make { what: "a root", source };
    let (not_before, not_after) = (now.minus(SKEW), now.plus(ttl));
    let mut params = CertificateParams::default();
    params.not_before = not_before.system_time().into();
    params.not_after = not_after.system_time().into();
    params.serial_number = Some(SerialNumber::from_slice(Serial::random()?.as_bytes()));
    params.distinguished_name = DistinguishedName::new();
    // The generation makes the names of two roots differ, by which lists of revoked certificates are told apart.
    params.distinguished_name.push(DnType::CommonName, format!("Outrigger CA {trust_domain} {generation}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    let fingerprint = Fingerprint::of(certificate.der());
    let root = Root { generation, not_before, not_after, fingerprint, certificate: certificate.pem() };
    Ok((root, key))
}

/// A root with its private key in PKCS #8. `path` is where the key was read, for the error.
pub(super) fn issuer(root: &Root, key: &[u8], path: &Path) -> Result<Issuer<'static, KeyPair>, CaError> {
    let damaged = |why: &str| CaError::Damaged { path: path.to_owned(), why: why.to_owned() };
    let failed = |source| CaError::Make { what: "a signature", source };
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key), &PKCS_ECDSA_P256_SHA256)
        .map_err(|_| damaged("it holds no private key of ECDSA P-256"))?;
    let der = CertificateDer::from_pem_slice(root.certificate.as_bytes())
        .map_err(|_| damaged("its certificate in the state is none"))?;
    let parsed = X509Certificate::from_der(&der);
    let is_of_key = parsed.is_ok_and(|(_, root)| root.public_key().raw == key.subject_public_key_info());
    if !is_of_key {
        return Err(damaged("it is not the key of its certificate in the state"));
    }
    Issuer::from_ca_cert_der(&der, key).map_err(failed)
}

/// How long before it was signed a certificate begins to be valid: a clock of a peer may be late by so much.
pub const SKEW: Duration = Duration::from_secs(300);
