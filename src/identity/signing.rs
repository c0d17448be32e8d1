//! The TLS between the certificate authority and those who ask it: it proves to be the authority, by its identity; they
//! prove who they are if they can. Sessions are never taken up again, so that each answer is for a certificate that was
//! judged now.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{
    Alpn, Material, TlsVersion,
    ca::Fingerprint,
    mesh::{no_name, provider},
    refusal::to_tls,
    trust::{Purpose, Trust},
    verify::{Called, Callers, Ours},
};
use crate::types::{Live, SpiffeId, TrustDomain};

/// How the authority receives callers.
#[derive(Clone, Debug)]
pub struct AuthorityTls {
    material: Arc<Live<Material>>,
    config: Arc<ServerConfig>,
}

impl AuthorityTls {
    /// Shows the chain of `material`, which must be of the authority's own identity and should end with its root: who
    /// joins knows the root by its fingerprint only.
    ///
    /// # Errors
    /// If the TLS library finds its settings inconsistent, which would be a defect of ours.
    pub fn new(material: Material) -> Result<Self, Error> {
        let material = Arc::new(Live::new(Arc::new(material)));
        let ours = Ours { material: Arc::clone(&material), names: Vec::new() };
        let callers = Callers { material: Arc::clone(&material), hints: Vec::new() };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(TlsVersion::V13.spoken())?
            .with_client_cert_verifier(Arc::new(PerhapsCallers(callers)))
            .with_cert_resolver(Arc::new(ours));
        config.alpn_protocols = vec![Alpn::Http1.as_bytes().to_vec()];
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Self { material, config: Arc::new(config) })
    }

    /// Uses `material` from the next handshake on.
    pub fn replace(&self, material: Material) {
        drop(self.material.swap(Arc::new(material)));
    }

    /// For rustls.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

/// Callers that need no certificate, but a good one if they show any.
#[derive(Debug)]
struct PerhapsCallers(Callers);

impl ClientCertVerifier for PerhapsCallers {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// How the authority is called.
#[derive(Clone, Debug)]
pub struct AuthorityCall(Arc<ClientConfig>);

impl AuthorityCall {
    /// By somebody who has no certificate, and knows the roots of `domain` by the fingerprints in a join token.
    ///
    /// # Errors
    /// If the TLS library finds its settings inconsistent, which would be a defect of ours.
    pub fn joining(domain: &TrustDomain, pins: &[Fingerprint]) -> Result<Self, Error> {
        let pinned = Pinned { domain: domain.clone(), expected: domain.authority(), pins: pins.to_vec() };
        let config = builder()?.with_custom_certificate_verifier(Arc::new(pinned)).with_no_client_auth();
        Ok(Self::with(config))
    }

    /// By somebody who has a certificate and the bundle of the mesh.
    ///
    /// # Errors
    /// As [`AuthorityCall::joining`].
    pub fn member(material: &Arc<Material>) -> Result<Self, Error> {
        let expected = material.trust.domain().authority();
        let material = Arc::new(Live::new(Arc::clone(material)));
        let ours = Arc::new(Ours { material: Arc::clone(&material), names: Vec::new() });
        let called = Arc::new(Called { material, expected: Some(expected) });
        let config = builder()?.with_custom_certificate_verifier(called).with_client_cert_resolver(ours);
        Ok(Self::with(config))
    }

    fn with(mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![Alpn::Http1.as_bytes().to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Self(Arc::new(config))
    }

    /// For rustls.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }

    /// What stands in the place of a name: none is sent.
    #[must_use]
    pub fn server_name(&self) -> ServerName<'static> {
        no_name()
    }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

fn builder() -> Result<rustls::client::danger::DangerousClientConfigBuilder, Error> {
    let builder: Builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(TlsVersion::V13.spoken())?;
    Ok(builder.dangerous())
}

/// Believes an authority whose chain has a root with one of these fingerprints.
#[derive(Debug)]
struct Pinned {
    domain: TrustDomain,
    expected: SpiffeId,
    pins: Vec<Fingerprint>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let unknown = || Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let is_pinned = |root: &&CertificateDer<'_>| self.pins.contains(&Fingerprint::of(root.as_ref()));
        let root = intermediates.iter().find(is_pinned).ok_or_else(unknown)?;
        let trust =
            Trust::new(self.domain.clone(), vec![root.clone().into_owned()], &[]).map_err(|_| unknown())?;
        let facts =
            trust.judge(end_entity, &[], now, Purpose::Server).map_err(|distrust| to_tls(&distrust))?;
        if facts.id != self.expected {
            return Err(Error::InvalidCertificate(rustls::CertificateError::NotValidForName));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
