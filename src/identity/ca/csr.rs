//! Certificate signing requests (RFC 2986): the public key in one, once its sender has shown to have the private key.
//! Of what else a
//! request asks for, only a peer's identity is looked at, to refuse another one.

use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
        OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA, OID_SIG_ED25519,
    },
    prelude::FromDer as _,
    public_key::PublicKey,
    x509,
};

use super::error::RequestError;
use crate::types::SpiffeId;

/// The public key of a request in PEM.
pub(super) fn public_key(pem: &str) -> Result<SubjectPublicKeyInfo, RequestError> {
    read(pem).map(|request| request.key)
}

/// The public key of a request that may ask for no identity but `identity`. It need not ask for any.
pub(super) fn public_key_for(pem: &str, identity: &SpiffeId) -> Result<SubjectPublicKeyInfo, RequestError> {
    let Request { key, uris } = read(pem)?;
    if uris.iter().any(|uri| uri != identity.as_str()) {
        return Err(RequestError::Identity);
    }
    Ok(key)
}

struct Request {
    key: SubjectPublicKeyInfo,
    /// What it asks for among the alternative names.
    uris: Vec<String>,
}

fn read(pem: &str) -> Result<Request, RequestError> {
    if pem.len() > MAX_REQUEST {
        return Err(RequestError::TooLong);
    }
    let mut requests = CertificateSigningRequestDer::pem_slice_iter(pem.as_bytes());
    let (Some(Ok(der)), None) = (requests.next(), requests.next()) else {
        return Err(RequestError::Malformed);
    };
    let Ok((&[], request)) = X509CertificationRequest::from_der(&der) else {
        return Err(RequestError::Malformed);
    };
    let key = &request.certification_request_info.subject_pki;
    if !is_accepted(key) {
        return Err(RequestError::Key);
    }
    let algorithm = &request.signature_algorithm.algorithm;
    if [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(algorithm) {
        return Err(RequestError::Signature);
    }
    request.verify_signature().map_err(|_| RequestError::Signature)?;
    let uris = request.requested_extensions().into_iter().flatten().flat_map(uris).collect();
    Ok(Request { key: SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| RequestError::Key)?, uris })
}

fn uris(extension: &ParsedExtension<'_>) -> Vec<String> {
    let ParsedExtension::SubjectAlternativeName(names) = extension else { return Vec::new() };
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    names.general_names.iter().filter_map(uri).collect()
}

fn is_accepted(key: &x509::SubjectPublicKeyInfo<'_>) -> bool {
    let kind = &key.algorithm.algorithm;
    if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        curve.is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384)
    } else if *kind == OID_PKCS1_RSAENCRYPTION {
        // The bounds of the signatures that TLS libraries verify.
        matches!(key.parsed(), Ok(PublicKey::RSA(rsa)) if (2048..=8192).contains(&rsa.key_size()))
    } else {
        *kind == OID_SIG_ED25519
    }
}

/// Many times what a request of an RSA key of 8192 bits takes.
const MAX_REQUEST: usize = 16 * 1024;
