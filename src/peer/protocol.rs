//! What is said between the certificate authority and those who ask it: two paths, JSON in HTTP/1.1 over TLS 1.3. Both
//! sides are built from this file.

use serde::{Deserialize, Serialize};

use crate::identity::ca::{Phase, Published, Signed};

/// POST: a certificate.
pub(super) const CERTIFICATES: &str = "/v1/certificates";
/// GET: what is trusted. The query may say which bundle its sender uses.
pub(super) const BUNDLE: &str = "/v1/bundle";
/// In the query: SHA-256 over the text of the bundle in use, in hexadecimal digits.
pub(super) const IN_USE: &str = "in_use=";

/// Largest request: a signing request of the largest key is a sixth of it.
pub(super) const MAX_REQUEST: usize = 32 * 1024;
/// Largest answer. Lists of revoked certificates are most of it: 5000 of them fit.
pub(super) const MAX_ANSWER: usize = 1024 * 1024;

/// A request for a certificate. A key that is not known could be a restriction: it is refused.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SigningRequest {
    /// Certificate signing request in PEM.
    pub(super) csr: String,
    /// Which instance asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<String>,
    /// A join token; without one the certificate of the connection counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    /// Lifetime that is wished for. The authority may give less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ttl_seconds: Option<u64>,
}

/// A certificate.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SigningAnswer {
    pub(super) certificate: String,
    pub(super) bundle: String,
    pub(super) crl: String,
}

impl From<Signed> for SigningAnswer {
    fn from(signed: Signed) -> Self {
        let Signed { leaf: _, certificate, bundle, crl } = signed;
        Self { certificate, bundle, crl }
    }
}

/// How far a change of roots has come, as far as peers need to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MeshPhase {
    /// There is one root.
    Steady,
    /// A second root is trusted; the old one signs.
    Trust,
    /// The new root signs; the old one is still trusted.
    Reissue,
}

impl From<Phase> for MeshPhase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Steady => Self::Steady,
            Phase::Trust => Self::Trust,
            Phase::Reissue => Self::Reissue,
        }
    }
}

/// What is trusted now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The roots in PEM.
    pub bundle: String,
    /// Lists of revoked certificates in PEM.
    pub crl: String,
    /// How far a change of roots has come.
    pub phase: MeshPhase,
    /// Fingerprint of the root that signs.
    pub signing: String,
}

impl From<&Published> for Bundle {
    fn from(published: &Published) -> Self {
        Self {
            bundle: published.bundle.clone(),
            crl: published.crl.clone(),
            phase: published.phase.into(),
            signing: published.signing.to_string(),
        }
    }
}
