//! The asking side of a certificate: a key that is made where it is used, and the request that carries its public half.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};

use super::{error::CaError, issue::PrivateKeyPem};
use crate::types::SpiffeId;

/// A key, and a certificate signing request for it.
#[derive(Debug)]
pub struct KeyRequest {
    /// The key; stays here.
    pub key: PrivateKeyPem,
    /// The request in PEM, to be sent.
    pub request: String,
}

impl KeyRequest {
    /// A new key of ECDSA P-256, and a request that names `identity`, so that an authority that would sign another one
    /// refuses.
    ///
    /// # Errors
    /// [`CaError::Make`], which depends on nothing from outside.
    pub fn new(identity: &SpiffeId) -> Result<Self, CaError> {
        let failed = |source| CaError::Make { what: "a request", source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().map_err(failed)?)];
        let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
        Ok(Self { key: PrivateKeyPem(key.serialize_pem()), request })
    }
}
