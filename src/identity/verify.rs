//! What rustls asks us during a handshake: whether to believe the other side, and which certificate to show.

use std::sync::Arc;

use rustls::{
    CertificateError as Tls, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ClientHello, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use super::{Material, mesh::provider, refusal::to_tls, trust::Purpose};
use crate::types::{Live, SpiffeId};

/// Believes callers of the mesh, by what is trusted at that moment.
#[derive(Debug)]
pub(super) struct Callers {
    pub(super) material: Arc<Live<Material>>,
    /// Names of the roots at the start: a hint for clients with several certificates, no promise.
    pub(super) hints: Vec<DistinguishedName>,
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let material = self.material.load();
        let judged = material.trust.judge(end_entity, intermediates, now, Purpose::Client);
        judged.map(|_| ClientCertVerified::assertion()).map_err(|distrust| to_tls(&distrust))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Believes one service of the mesh, and nobody else; or any member of it.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) material: Arc<Live<Material>>,
    /// Whom it must be; `None` takes anybody of the mesh.
    pub(super) expected: Option<SpiffeId>,
}

impl ServerCertVerifier for Called {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let material = self.material.load();
        let facts = material
            .trust
            .judge(end_entity, intermediates, now, Purpose::Server)
            .map_err(|distrust| to_tls(&distrust))?;
        if let Some(expected) = self.expected.as_ref().filter(|expected| facts.id != **expected) {
            // The identity counts, not a name in DNS: whoever answers at this address may be anybody.
            return Err(Error::InvalidCertificate(Tls::NotValidForNameContext {
                expected: ServerName::try_from(expected.service().unwrap_or("service").to_owned())
                    .unwrap_or_else(|_| super::mesh::no_name()),
                presented: vec![facts.id.to_string()],
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Shows the certificate that is current at that moment.
#[derive(Debug)]
pub(super) struct Ours {
    pub(super) material: Arc<Live<Material>>,
    /// Names that callers may ask for.
    pub(super) names: Vec<String>,
}

impl ResolvesClientCert for Ours {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.material.peek().leaf.certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Ours {
    /// `None`, and an alert, for a name that is not ours: who asks for somebody else came to the wrong place, and should
    /// hear it before it sends anything.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let known = |asked: &str| self.names.iter().any(|name| name.eq_ignore_ascii_case(asked));
        hello.server_name().is_none_or(known).then(|| Arc::clone(&self.material.peek().leaf.certified))
    }
}
