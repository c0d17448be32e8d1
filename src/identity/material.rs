//! What a sidecar proves its identity with: certificate, key, and whom it believes. Made of PEM texts, checked as a whole
//! before anything uses it, so that a half-written file never replaces a good one.

use std::{sync::Arc, time::SystemTime};

use rustls::{
    Error, InconsistentKeys,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};

use super::{
    CertificateError, Facts,
    ca::Fingerprint,
    trust::{BadPart, Distrust, Purpose, Trust},
};
use crate::types::{SpiffeId, TrustDomain};

/// Most certificates in a chain, roots in a bundle, or revocation lists.
const MAX_PARTS: usize = 64;

/// The texts that a material is made of.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PemFiles {
    /// The leaf, followed by its intermediates.
    pub chain: Vec<u8>,
    /// Its private key: PKCS#8, SEC1 or PKCS#1.
    pub key: Vec<u8>,
    /// All roots that are trusted.
    pub roots: Vec<u8>,
    /// Revocation lists; may be empty.
    pub lists: Vec<u8>,
}

impl std::fmt::Debug for PemFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is a secret, and the rest is long.
        f.debug_struct("PemFiles").finish_non_exhaustive()
    }
}

/// One of the texts that a material is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PemPart {
    /// The leaf and its intermediates.
    Chain,
    /// Its key.
    Key,
    /// The roots.
    Roots,
    /// The revocation lists.
    Lists,
}

impl std::fmt::Display for PemPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Chain => "the certificate file",
            Self::Key => "the key file",
            Self::Roots => "the CA file",
            Self::Lists => "the CRL file",
        })
    }
}

/// Why texts make no material.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// No certificate where one is needed, or text that breaks off.
    #[error("{part} holds no complete PEM certificate")]
    NoCertificate {
        /// Which file.
        part: PemPart,
    },
    /// More than anybody needs.
    #[error("{part} holds more than {MAX_PARTS} entries")]
    TooMany {
        /// Which file.
        part: PemPart,
    },
    /// No private key, or one of a kind that is not known.
    #[error("the key file holds no private key that can be used (PKCS#8, SEC1 or PKCS#1 in PEM)")]
    Key,
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The names in the leaf.
    #[error("the certificate cannot be used: {0}")]
    Certificate(#[source] CertificateError),
    /// Somebody else's certificate.
    #[error("the certificate is of {found}, but this sidecar is {wanted}")]
    WrongIdentity {
        /// Whose it is.
        found: SpiffeId,
        /// Whose it must be.
        wanted: SpiffeId,
    },
    /// The leaf is not what the roots vouch for, or not now.
    #[error("the certificate cannot be used: {0}")]
    Chain(String),
    /// The leaf was good, and is not any more.
    #[error("the certificate cannot be used any more: {0}")]
    Gone(String),
    /// A root or a revocation list.
    #[error("entry {number} of {part} cannot be used: {reason}")]
    Part {
        /// Which file.
        part: PemPart,
        /// From 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl MaterialError {
    /// Which of the texts is the one to look at.
    #[must_use]
    pub fn part(&self) -> PemPart {
        match self {
            Self::NoCertificate { part } | Self::TooMany { part } | Self::Part { part, .. } => *part,
            Self::Key | Self::KeyMismatch => PemPart::Key,
            Self::Certificate(_) | Self::WrongIdentity { .. } | Self::Chain(_) | Self::Gone(_) => {
                PemPart::Chain
            }
        }
    }
}

/// A leaf certificate with its key.
#[derive(Debug)]
pub struct Leaf {
    pub(super) certified: Arc<CertifiedKey>,
    /// What it says.
    pub facts: Facts,
}

impl Leaf {
    /// The leaf and its intermediates, as DER.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.certified.cert.iter().map(AsRef::as_ref)
    }
}

/// Everything that a sidecar needs to prove who it is and to judge others.
#[derive(Debug)]
pub struct Material {
    /// Who we are.
    pub leaf: Leaf,
    pub(super) trust: Trust,
}

/// Whom to believe, without a certificate of one's own.
#[derive(Debug)]
pub struct NewTrust(Trust);

impl NewTrust {
    /// Reads roots and revocation lists; the other texts are not looked at.
    ///
    /// # Errors
    /// As [`Material::read`], of these two.
    pub fn read(files: &PemFiles, domain: &TrustDomain) -> Result<Self, MaterialError> {
        let roots = certificates(&files.roots, PemPart::Roots)?;
        believed(domain, roots, &lists(&files.lists)?).map(Self)
    }
}

fn believed(
    domain: &TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    lists: &[CertificateRevocationListDer<'static>],
) -> Result<Trust, MaterialError> {
    Trust::new(domain.clone(), roots, lists).map_err(|(part, error)| {
        let (part, index) = match part {
            BadPart::Root(index) => (PemPart::Roots, index),
            BadPart::List(index) => (PemPart::Lists, index),
        };
        MaterialError::Part { part, number: index + 1, reason: error.to_string() }
    })
}

impl Material {
    /// The same certificate, with other trust.
    pub(super) fn with(&self, NewTrust(trust): NewTrust) -> Self {
        let Leaf { certified, facts } = &self.leaf;
        Self { leaf: Leaf { certified: Arc::clone(certified), facts: facts.clone() }, trust }
    }

    /// Reads and checks `files` as a whole. `own` is whose certificate it must be; `now` is the wall clock.
    ///
    /// # Errors
    /// See [`MaterialError`]; the message names the file and what is wrong with it, never a secret.
    pub fn read(
        files: &PemFiles,
        domain: &TrustDomain,
        own: &SpiffeId,
        now: SystemTime,
    ) -> Result<Self, MaterialError> {
        let chain = certificates(&files.chain, PemPart::Chain)?;
        let roots = certificates(&files.roots, PemPart::Roots)?;
        let lists = lists(&files.lists)?;
        let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|_| MaterialError::Key)?;
        let trust = believed(domain, roots, &lists)?;
        let (leaf, intermediates) =
            chain.split_first().ok_or(MaterialError::NoCertificate { part: PemPart::Chain })?;
        let facts = Facts::read(leaf).map_err(MaterialError::Certificate)?;
        if facts.id != *own {
            return Err(MaterialError::WrongIdentity { found: facts.id, wanted: own.clone() });
        }
        let at = unix(now);
        for purpose in [Purpose::Server, Purpose::Client] {
            trust.judge(leaf, intermediates, at, purpose).map_err(|distrust| match &distrust {
                Distrust::Names(error) => MaterialError::Certificate(error.clone()),
                Distrust::Chain(webpki::Error::CertExpired { .. } | webpki::Error::CertRevoked) => {
                    MaterialError::Gone(distrust.to_string())
                }
                other => MaterialError::Chain(other.to_string()),
            })?;
        }
        let certified =
            CertifiedKey::from_der(chain, key, super::mesh::provider()).map_err(|error| match error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => MaterialError::KeyMismatch,
                _ => MaterialError::Key,
            })?;
        Ok(Self { leaf: Leaf { certified: Arc::new(certified), facts }, trust })
    }

    /// When the first of the roots stops, and when it began, to be valid; `None` if none of them can be read.
    #[must_use]
    pub fn roots_validity(&self) -> Option<(SystemTime, SystemTime)> {
        let each = self.trust.roots().iter().filter_map(super::certificate::validity);
        each.min_by_key(|(_, until)| *until)
    }

    /// Whether it is the root with this fingerprint that vouches for the leaf at `now`.
    #[must_use]
    pub fn is_signed_by(&self, root: &Fingerprint, now: SystemTime) -> bool {
        let found = self.trust.roots().iter().find(|one| Fingerprint::of(one.as_ref()) == *root);
        let Some((leaf, intermediates)) = self.leaf.certified.cert.split_first() else { return false };
        let trust =
            found.and_then(|root| Trust::new(self.trust.domain().clone(), vec![root.clone()], &[]).ok());
        trust.is_some_and(|trust| trust.judge(leaf, intermediates, unix(now), Purpose::Client).is_ok())
    }

    /// The roots, as DER.
    pub fn roots(&self) -> impl Iterator<Item = &[u8]> {
        self.trust.roots().iter().map(AsRef::as_ref)
    }
}

/// The wall clock as rustls wants it. A clock before 1970 is taken for 1970, when no certificate was valid.
pub(super) fn unix(now: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn certificates(pem: &[u8], part: PemPart) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(MAX_PARTS + 1).collect();
    match read {
        Ok(found) if found.len() > MAX_PARTS => Err(MaterialError::TooMany { part }),
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(MaterialError::NoCertificate { part }),
    }
}

fn lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, MaterialError> {
    let part = PemPart::Lists;
    let read: Result<Vec<_>, _> =
        CertificateRevocationListDer::pem_slice_iter(pem).take(MAX_PARTS + 1).collect();
    match read {
        Ok(found) if found.len() > MAX_PARTS => Err(MaterialError::TooMany { part }),
        // A file that was there and is cut to nothing revokes nobody: that is for whoever wrote it to know. Text that
        // is no list at all is a mistake.
        Ok(found) if !found.is_empty() || pem.iter().all(u8::is_ascii_whitespace) => Ok(found),
        Ok(_) => Err(MaterialError::Part { part, number: 1, reason: "it is no PEM list".to_owned() }),
        Err(error) => Err(MaterialError::Part { part, number: 1, reason: error.to_string() }),
    }
}
