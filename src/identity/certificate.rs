//! What a certificate says of its holder, read once per handshake. That it may be believed is another's business
//! (identity/trust.rs).

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use crate::types::{IdentityError, SpiffeId};

/// Why a certificate is nobody's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is no X.509 certificate.
    #[error("it is malformed")]
    Malformed,
    /// It has no URI among its alternative names.
    #[error("it has no identity: no URI SAN")]
    NoIdentity,
    /// It has several. The X.509-SVID standard (§2) allows one, since a verifier could take either.
    #[error("it has more than one identity: several URI SANs")]
    SeveralIdentities,
    /// The URI is no SPIFFE identity.
    #[error("its URI SAN is no SPIFFE identity: {0}")]
    NotSpiffe(#[source] IdentityError),
}

/// A certificate in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whose it is.
    pub id: SpiffeId,
    /// Hexadecimal, without separators.
    pub serial: String,
    /// Not to be believed before.
    pub not_before: SystemTime,
    /// Not to be believed after.
    pub not_after: SystemTime,
}

impl Facts {
    /// Reads a leaf certificate.
    ///
    /// # Errors
    /// See [`CertificateError`]. Nothing but the names and dates is judged.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (rest, certificate) =
            X509Certificate::from_der(der.as_ref()).map_err(|_| CertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::Malformed);
        }
        Ok(Self {
            id: identity(&certificate)?,
            serial: hex(certificate.raw_serial()),
            not_before: instant(certificate.validity().not_before.timestamp()),
            not_after: instant(certificate.validity().not_after.timestamp()),
        })
    }
}

/// When any certificate is valid; `None` if it cannot be read.
pub(super) fn validity(der: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let (_, certificate) = X509Certificate::from_der(der.as_ref()).ok()?;
    let validity = certificate.validity();
    Some((instant(validity.not_before.timestamp()), instant(validity.not_after.timestamp())))
}

/// SHA-256 of a certificate, by which people and logs tell it from others.
#[must_use]
pub fn fingerprint(der: &CertificateDer<'_>) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der.as_ref()).as_ref());
    fingerprint
}

/// The one identity among the alternative names.
fn identity(certificate: &X509Certificate<'_>) -> Result<SpiffeId, CertificateError> {
    let mut found = None;
    // A second extension of this kind would be one more place for an identity: all are looked at.
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
        for name in &names.general_names {
            if let GeneralName::URI(uri) = name
                && found.replace(*uri).is_some()
            {
                return Err(CertificateError::SeveralIdentities);
            }
        }
    }
    found.ok_or(CertificateError::NoIdentity)?.parse().map_err(CertificateError::NotSpiffe)
}

/// Seconds since 1970, which may be before it.
fn instant(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    // Dates of certificates have four digits for the year, which any clock of ours can show.
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}
