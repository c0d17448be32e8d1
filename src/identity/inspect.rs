//! What is in a file of certificates, for people: names, times, keys, and what a sidecar would refuse. Verifies no
//! signature and decides nothing.

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, KeyUsage},
    oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519},
    prelude::FromDer as _,
    public_key::PublicKey,
    x509::{SubjectPublicKeyInfo, X509Name},
};

use super::ca::{self, Fingerprint, Stamp};
use crate::types::{IdentityError, SpiffeId};

/// Largest file that is looked at.
pub const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What one certificate says.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The identity, if there is exactly one URI and it is one.
    pub identity: Option<SpiffeId>,
    /// All URIs among the alternative names.
    pub uris: Vec<String>,
    /// Whom it names.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Its number, in hexadecimal digits.
    pub serial: String,
    /// Kind and size of its key.
    pub key: String,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// Its begin.
    pub not_before: Stamp,
    /// Its end.
    pub not_after: Stamp,
    /// SHA-256 over the certificate.
    pub fingerprint: Fingerprint,
    /// Why a sidecar would refuse it.
    pub problems: Vec<Problem>,
}

/// Why a sidecar would refuse a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time is still to come.
    #[error("it is not valid yet")]
    NotYetValid,
    /// It says nothing about who its bearer is.
    #[error("it has no URI among its alternative names, so it is nobody's identity")]
    NoUri,
    /// It says more than one thing about who its bearer is.
    #[error("it has {0} URIs among its alternative names; an identity is exactly one")]
    SeveralUris(usize),
    /// What it says is no identity.
    #[error("its URI `{uri}` is no SPIFFE identity: {why}")]
    NoIdentity {
        /// What it says.
        uri: String,
        /// What is wrong with it.
        why: IdentityError,
    },
    /// It may not be used by a server.
    #[error("its extended key usage does not have serverAuth")]
    NoServerAuth,
    /// It may not be used by a client.
    #[error("its extended key usage does not have clientAuth")]
    NoClientAuth,
    /// It may not sign handshakes.
    #[error("its key usage does not have digitalSignature")]
    NoDigitalSignature,
    /// It says that it may sign certificates, and that it may not.
    #[error("it is a CA certificate without the key usage keyCertSign")]
    NoCertSign,
    /// An extension cannot be read, or is there twice.
    #[error("its extensions are malformed")]
    Extensions,
}

/// Why a file cannot be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// There is none in it.
    #[error("there is no certificate in PEM in it")]
    Empty,
    /// One of them, counted from 1, is none.
    #[error("certificate {0} in it cannot be read")]
    Malformed(usize),
}

/// Describes each certificate of a file in PEM, in its order. What else is in the file is passed over.
///
/// # Errors
/// [`InspectError`]: one that cannot be read spoils all.
pub fn describe(pem: &[u8], now: Stamp) -> Result<Vec<Description>, InspectError> {
    let mut descriptions = Vec::new();
    for (index, der) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let malformed = InspectError::Malformed(index + 1);
        let der = der.map_err(|_| malformed)?;
        let Ok((&[], certificate)) = X509Certificate::from_der(&der) else { return Err(malformed) };
        descriptions.push(description(&der, &certificate, now));
    }
    if descriptions.is_empty() {
        return Err(InspectError::Empty);
    }
    Ok(descriptions)
}

fn description(der: &[u8], certificate: &X509Certificate<'_>, now: Stamp) -> Description {
    let at = |seconds: i64| Stamp::from_unix(u64::try_from(seconds).unwrap_or(0));
    let not_before = at(certificate.validity().not_before.timestamp());
    let not_after = at(certificate.validity().not_after.timestamp());
    let mut problems = Vec::new();
    if not_after <= now {
        problems.push(Problem::Expired);
    }
    if not_before > now {
        problems.push(Problem::NotYetValid);
    }
    let uris = uris(certificate).unwrap_or_else(|problem| {
        problems.push(problem);
        Vec::new()
    });
    let parsed = match &uris[..] {
        [uri] => Some(uri.parse::<SpiffeId>()),
        _ => None,
    };
    if certificate.is_ca() {
        if usage(certificate, KeyUsage::key_cert_sign) == Some(false) {
            problems.push(Problem::NoCertSign);
        }
    } else {
        match (&parsed, &uris[..]) {
            (Some(Err(why)), [uri, ..]) => {
                problems.push(Problem::NoIdentity { uri: printable(uri), why: *why });
            }
            (_, []) => problems.push(Problem::NoUri),
            (_, uris) if uris.len() > 1 => problems.push(Problem::SeveralUris(uris.len())),
            (_, _) => {}
        }
        problems.extend(missing_usages(certificate));
    }
    Description {
        identity: parsed.and_then(Result::ok),
        uris: uris.iter().map(|uri| printable(uri)).collect(),
        subject: name(certificate.subject()),
        issuer: name(certificate.issuer()),
        serial: ca::hex(certificate.raw_serial()),
        key: key(certificate.public_key()),
        is_ca: certificate.is_ca(),
        not_before,
        not_after,
        fingerprint: Fingerprint::of(der),
        problems,
    }
}

fn uris(certificate: &X509Certificate<'_>) -> Result<Vec<String>, Problem> {
    let names = certificate.subject_alternative_name().map_err(|_| Problem::Extensions)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    Ok(names.iter().filter_map(uri).collect())
}

/// What the key usage says; nothing if there is none, which permits everything.
fn usage(certificate: &X509Certificate<'_>, has: impl Fn(&KeyUsage) -> bool) -> Option<bool> {
    certificate.key_usage().ok().flatten().map(|usage| has(usage.value))
}

fn missing_usages(certificate: &X509Certificate<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if usage(certificate, KeyUsage::digital_signature) == Some(false) {
        problems.push(Problem::NoDigitalSignature);
    }
    match certificate.extended_key_usage() {
        Ok(Some(usage)) => {
            if !usage.value.server_auth {
                problems.push(Problem::NoServerAuth);
            }
            if !usage.value.client_auth {
                problems.push(Problem::NoClientAuth);
            }
        }
        Ok(None) => {}
        Err(_) => problems.push(Problem::Extensions),
    }
    problems
}

fn key(key: &SubjectPublicKeyInfo<'_>) -> String {
    let algorithm = &key.algorithm;
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        Ok(PublicKey::EC(_)) => {
            let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            let known = [(OID_EC_P256, "P-256"), (OID_NIST_EC_P384, "P-384"), (OID_NIST_EC_P521, "P-521")];
            let name = known.iter().find(|(oid, _)| curve.as_ref() == Some(oid));
            format!("ECDSA {}", name.map_or("of another curve", |(_, name)| name))
        }
        _ if algorithm.algorithm == OID_SIG_ED25519 => "Ed25519".to_owned(),
        _ => format!("of the kind {}", algorithm.algorithm),
    }
}

fn name(name: &X509Name<'_>) -> String {
    printable(&name.to_string())
}

/// A certificate may come from anybody; a terminal must not take what it says for commands.
fn printable(text: &str) -> String {
    let escaped = |letter: char| match letter.is_control() {
        true => letter.escape_unicode().to_string(),
        false => letter.to_string(),
    };
    text.chars().map(escaped).collect()
}
