//! Why a TLS handshake failed, in the words of the metrics and the log.

use std::io;

use rustls::{AlertDescription, CertificateError as Tls, Error, OtherError};

use super::{CertificateError, trust::Distrust};

/// Why there is no connection. A closed set: it is a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsRefusal {
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid yet; one of both clocks may be wrong.
    NotYetValid,
    /// No root that is trusted vouches for it.
    UnknownIssuer,
    /// It was revoked.
    Revoked,
    /// It may not be used for this: no client or server certificate, or that of a CA.
    WrongUsage,
    /// It names nobody, several, or somebody of another trust domain.
    Identity,
    /// It is of another service than the one that was called.
    WrongService,
    /// None was shown.
    Absent,
    /// It cannot be read, or its signature is wrong.
    BadCertificate,
    /// The other side speaks no TLS.
    Plaintext,
    /// No version, cipher or parameter in common, or a message that TLS does not allow.
    Protocol,
    /// It asks for a name that is not ours.
    ServerName,
    /// No application protocol in common.
    Alpn,
    /// The other side refused us and said so.
    RefusedByPeer,
    /// The handshake did not end in time.
    Timeout,
    /// Too many handshakes at once.
    Overflow,
    /// The other side went away.
    Closed,
}

impl TlsRefusal {
    /// As a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Revoked => "revoked",
            Self::WrongUsage => "wrong_usage",
            Self::Identity => "identity",
            Self::WrongService => "wrong_service",
            Self::Absent => "no_certificate",
            Self::BadCertificate => "bad_certificate",
            Self::Plaintext => "plaintext",
            Self::Protocol => "protocol",
            Self::ServerName => "server_name",
            Self::Alpn => "alpn",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Timeout => "timeout",
            Self::Overflow => "overflow",
            Self::Closed => "closed",
        }
    }

    /// All of them, so that every series exists from the start.
    pub const ALL: [Self; 17] = [
        Self::Expired,
        Self::NotYetValid,
        Self::UnknownIssuer,
        Self::Revoked,
        Self::WrongUsage,
        Self::Identity,
        Self::WrongService,
        Self::Absent,
        Self::BadCertificate,
        Self::Plaintext,
        Self::Protocol,
        Self::ServerName,
        Self::Alpn,
        Self::RefusedByPeer,
        Self::Timeout,
        Self::Overflow,
        Self::Closed,
    ];

    /// What a failed handshake says.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        inner.map_or(Self::Closed, Self::of)
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(certificate) => Self::of_certificate(certificate),
            Error::NoCertificatesPresented => Self::Absent,
            Error::NoApplicationProtocol => Self::Alpn,
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::Alpn,
            Error::AlertReceived(AlertDescription::UnrecognisedName) => Self::ServerName,
            Error::AlertReceived(_) => Self::RefusedByPeer,
            Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => Self::Plaintext,
            // The only reason for which ours finds no certificate: see identity/mesh.rs.
            Error::General(text) if text.contains("no server certificate chain resolved") => Self::ServerName,
            _ => Self::Protocol,
        }
    }

    fn of_certificate(error: &Tls) -> Self {
        match error {
            Tls::Expired | Tls::ExpiredContext { .. } => Self::Expired,
            Tls::NotValidYet | Tls::NotValidYetContext { .. } => Self::NotYetValid,
            Tls::UnknownIssuer => Self::UnknownIssuer,
            Tls::Revoked => Self::Revoked,
            Tls::InvalidPurpose | Tls::InvalidPurposeContext { .. } => Self::WrongUsage,
            Tls::NotValidForName | Tls::NotValidForNameContext { .. } => Self::WrongService,
            Tls::Other(OtherError(cause)) if cause.is::<NamesError>() => Self::Identity,
            _ => Self::BadCertificate,
        }
    }
}

impl std::fmt::Display for TlsRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The names in a certificate are wrong; travels through rustls to the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NamesError(String);

/// What a failed handshake says, without the wrappings in which the names of a certificate travelled through rustls.
#[must_use]
pub fn told_plainly(error: io::Error) -> io::Error {
    let names = match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(Tls::Other(OtherError(cause)))) => cause.downcast_ref::<NamesError>(),
        _ => None,
    };
    let text = names.map(|NamesError(text)| format!("the certificate is no good: {text}"));
    text.map_or(error, |text| io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Tells rustls, and by its alert the peer, why a certificate is refused.
pub(super) fn to_tls(distrust: &Distrust) -> Error {
    let names = |text: String| Tls::Other(OtherError(std::sync::Arc::new(NamesError(text))));
    Error::InvalidCertificate(match distrust {
        Distrust::Names(CertificateError::Malformed) => Tls::BadEncoding,
        Distrust::Names(_) | Distrust::Domain(..) => names(distrust.to_string()),
        Distrust::Chain(error) => match error {
            webpki::Error::CertExpired { .. } => Tls::Expired,
            webpki::Error::CertNotValidYet { .. } => Tls::NotValidYet,
            // A root of the same name that did not sign it is another root.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => Tls::UnknownIssuer,
            webpki::Error::CertRevoked => Tls::Revoked,
            webpki::Error::RequiredEkuNotFoundContext(_)
            | webpki::Error::EmptyEkuExtension
            | webpki::Error::CaUsedAsEndEntity
            | webpki::Error::EndEntityUsedAsCa => Tls::InvalidPurpose,
            _ => Tls::BadEncoding,
        },
    })
}
