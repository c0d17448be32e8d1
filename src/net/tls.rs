//! TLS on a connected stream, within a limit of time. Whom to believe and what to show is decided in `identity`.

use std::{io, time::Duration};

use rustls::{CommonState, HandshakeKind, pki_types::CertificateDer};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Stream;
use crate::{
    identity::{
        self, Alpn, AnyoneTls, AuthorityCall, AuthorityTls, Facts, InboundTls, PeerTls, TlsRefusal,
        edge::EdgeTls, external::ExternalTls,
    },
    rt::clock,
};

/// A handshake failed; the connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("{reason}: {source}")]
pub struct TlsError {
    /// Why, as a label.
    pub reason: TlsRefusal,
    /// What the library said; names no secret.
    #[source]
    pub source: io::Error,
}

impl TlsError {
    fn new(source: io::Error) -> Self {
        Self { reason: TlsRefusal::of_io(&source), source: identity::told_plainly(source) }
    }

    fn of(reason: TlsRefusal, text: impl Into<String>) -> Self {
        Self { reason, source: io::Error::new(io::ErrorKind::InvalidData, text.into()) }
    }

    fn late(limit: Duration) -> Self {
        Self {
            reason: TlsRefusal::Timeout,
            source: io::Error::new(io::ErrorKind::TimedOut, format!("no end within {limit:?}")),
        }
    }
}

/// A caller who has proved who it is.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: Stream,
    /// Its certificate.
    pub caller: Facts,
    /// The SHA-256 of its certificate.
    pub fingerprint: [u8; 32],
    /// All that it showed, its own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// What it will speak; `None` if it did not say.
    pub alpn: Option<Alpn>,
    /// Whether a session was taken up again.
    pub resumed: bool,
}

/// Lets a caller prove who it is. Takes at most `limit`. Cancel-safe: dropping the future closes the connection.
///
/// # Errors
/// Why it is refused. It was told by an alert of TLS, as far as it listens.
pub async fn accept(stream: Stream, tls: &InboundTls, limit: Duration) -> Result<Accepted, TlsError> {
    let accepting = TlsAcceptor::from(tls.config()).accept(stream);
    let accepted = match tokio::time::timeout(limit, accepting).await {
        Ok(accepted) => accepted.map_err(TlsError::new)?,
        Err(_) => return Err(TlsError::late(limit)),
    };
    let session = accepted.get_ref().1;
    let certificate = shown(session)?;
    let caller = current(certificate)?;
    Ok(Accepted {
        caller,
        fingerprint: identity::fingerprint(certificate),
        chain: session.peer_certificates().unwrap_or_default().to_vec(),
        alpn: Alpn::agreed(session.alpn_protocol()),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        stream: Stream::Tls(Box::new(accepted.into())),
    })
}

/// Receives a caller of the certificate authority, who may have no certificate yet. Takes at most `limit`. Cancel-safe:
/// dropping the future closes the connection.
///
/// # Errors
/// Why it is refused; a certificate that is shown must be good.
pub async fn accept_joiner(
    stream: Stream,
    tls: &AuthorityTls,
    limit: Duration,
) -> Result<(Stream, Option<Facts>), TlsError> {
    let accepting = TlsAcceptor::from(tls.config()).accept(stream);
    let accepted = match tokio::time::timeout(limit, accepting).await {
        Ok(accepted) => accepted.map_err(TlsError::new)?,
        Err(_) => return Err(TlsError::late(limit)),
    };
    let certificate = accepted.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let caller = certificate.map(current).transpose()?;
    Ok((Stream::Tls(Box::new(accepted.into())), caller))
}

/// Makes `stream` a connection to an endpoint of a service secured with `tls`, speaking `alpn`. Takes at most `limit`.
/// Cancel-safe: dropping the future closes the connection.
///
/// # Errors
/// Why the other side is not believed, or does not believe us. Nothing was sent but the handshake.
pub async fn connect(
    stream: Stream,
    tls: TlsTo<'_>,
    alpn: Alpn,
    limit: Duration,
) -> Result<Stream, TlsError> {
    let (config, name) = match tls {
        TlsTo::Peer(peer) => (peer.config(alpn), peer.server_name()),
        TlsTo::External(external) => (external.config(alpn), external.server_name()),
        TlsTo::Authority(authority) => (authority.config(), authority.server_name()),
    };
    let connecting = TlsConnector::from(config).connect(name, stream);
    let connected = match tokio::time::timeout(limit, connecting).await {
        Ok(connected) => connected.map_err(TlsError::new)?,
        Err(_) => return Err(TlsError::late(limit)),
    };
    let session = connected.get_ref().1;
    let agreed = Alpn::agreed(session.alpn_protocol());
    let fits = match tls {
        TlsTo::Peer(_) | TlsTo::Authority(_) => {
            current(shown(session)?)?;
            // A mesh agrees on it always; who does not is no sidecar.
            agreed == Some(alpn)
        }
        // Many servers of HTTP/1.1 do not say so. HTTP/2 must be agreed upon (RFC 9113 §3.2).
        TlsTo::External(_) => agreed == Some(alpn) || (agreed.is_none() && alpn != Alpn::Http2),
    };
    if !fits {
        return Err(TlsError::of(TlsRefusal::Alpn, "the other side did not agree to what is to be spoken"));
    }
    Ok(Stream::Tls(Box::new(connected.into())))
}

/// Makes `stream` a connection to a member of the mesh, whoever that is, speaking `alpn`, and says who it is. Takes at
/// most `limit`. Cancel-safe as [`connect`].
///
/// # Errors
/// As [`connect`].
pub async fn connect_to_anyone(
    stream: Stream,
    tls: &AnyoneTls,
    alpn: Alpn,
    limit: Duration,
) -> Result<(Stream, Facts), TlsError> {
    let connecting = TlsConnector::from(tls.config(alpn)).connect(tls.server_name(), stream);
    let connected = match tokio::time::timeout(limit, connecting).await {
        Ok(connected) => connected.map_err(TlsError::new)?,
        Err(_) => return Err(TlsError::late(limit)),
    };
    let session = connected.get_ref().1;
    let facts = current(shown(session)?)?;
    if Alpn::agreed(session.alpn_protocol()) != Some(alpn) {
        return Err(TlsError::of(TlsRefusal::Alpn, "the other side did not agree to what is to be spoken"));
    }
    Ok((Stream::Tls(Box::new(connected.into())), facts))
}

/// Whom a connection is made to.
#[derive(Clone, Copy, Debug)]
pub enum TlsTo<'a> {
    /// A service of the mesh.
    Peer(&'a PeerTls),
    /// Somebody outside of it.
    External(&'a ExternalTls),
    /// The certificate authority of the mesh, which speaks HTTP/1.1 only.
    Authority(&'a AuthorityCall),
}

/// Speaks TLS with a client that proves nothing. Takes at most `limit`. Cancel-safe: dropping the future closes the
/// connection.
///
/// # Errors
/// Why there is no connection; the client was told by an alert of TLS, as far as it listens.
pub async fn terminate(stream: Stream, tls: &EdgeTls, limit: Duration) -> Result<Stream, TlsError> {
    let accepting = TlsAcceptor::from(tls.config()).accept(stream);
    match tokio::time::timeout(limit, accepting).await {
        Ok(accepted) => Ok(Stream::Tls(Box::new(accepted.map_err(TlsError::new)?.into()))),
        Err(_) => Err(TlsError::late(limit)),
    }
}

fn shown(session: &CommonState) -> Result<&CertificateDer<'static>, TlsError> {
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    certificate.ok_or_else(|| TlsError::of(TlsRefusal::Absent, "no certificate was shown"))
}

/// What a certificate says that was judged. A session that was taken up brings the certificate of its first handshake,
/// which may have expired meanwhile: nobody looked at that again.
fn current(certificate: &CertificateDer<'_>) -> Result<Facts, TlsError> {
    let facts =
        Facts::read(certificate).map_err(|error| TlsError::of(TlsRefusal::Identity, error.to_string()))?;
    if clock::wall() > facts.not_after {
        return Err(TlsError::of(TlsRefusal::Expired, "the certificate of the session has expired"));
    }
    Ok(facts)
}
