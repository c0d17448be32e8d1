//! Where a sidecar gets its certificate from: the authority on its own disk, or one that answers over the network.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use super::{
    client::{self, AskError, Question},
    protocol::{BUNDLE, Bundle, CERTIFICATES, IN_USE, SigningAnswer, SigningRequest},
};
use crate::{
    identity::{
        AuthorityCall, Facts, Material, PemFiles,
        ca::{Authority, CaError, Fingerprint, JoinToken, KeyRequest, Node, Order, Presented},
    },
    rt::clock,
    types::{EndpointAddress, SpiffeId, TrustDomain},
};

/// Who signs for this sidecar.
#[derive(Clone)]
pub enum Source {
    /// The authority on this machine.
    Local(Arc<Authority>),
    /// One of these; they are asked in turn.
    Remote(Vec<EndpointAddress>),
}

/// What entitles to a certificate.
#[derive(Clone, Copy, Debug)]
pub enum Proof<'a> {
    /// The first one.
    Token(&'a JoinToken),
    /// A certificate that one has.
    Member(&'a Arc<Material>),
    /// Nothing: for one's own authority.
    Nothing,
}

/// Which certificate.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The mesh.
    pub domain: TrustDomain,
    /// Whose.
    pub own: SpiffeId,
    /// Which instance.
    pub node: Option<Node>,
    /// Its lifetime; an authority may give less.
    pub ttl: std::time::Duration,
}

/// A certificate with its key and what it is verified against; not looked at yet.
#[derive(Debug)]
pub struct Obtained {
    /// The texts.
    pub files: PemFiles,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The authority on this machine.
    #[error("the authority cannot sign: {}", told(.0))]
    Local(#[source] CaError),
    /// One over the network.
    #[error("no authority gave an answer: {0}")]
    Remote(#[from] AskError),
    /// It is not what it should be.
    #[error("the authority's answer cannot be read")]
    Answer(#[source] serde_json::Error),
    /// Nobody over the network signs without.
    #[error("there is neither a join token nor a certificate to ask with")]
    NoProof,
    /// A defect of ours.
    #[error("the TLS library refuses its settings")]
    Tls(#[from] crate::identity::TlsSetupError),
    /// The runtime ends.
    #[error("the process is leaving")]
    Leaving,
}

impl SourceError {
    /// Whether an authority was there and did not believe us, or was not to be believed.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Remote(AskError { is_refused: true, .. }))
    }
}

/// With its cause.
fn told(error: &CaError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

impl Source {
    /// Gets a certificate for a key that is made for it.
    ///
    /// # Errors
    /// See [`SourceError`]; a token may be used up even so, if an answer was lost.
    pub async fn certificate(&self, proof: Proof<'_>, wanted: &Wanted) -> Result<Obtained, SourceError> {
        let servers = match self {
            Self::Local(authority) => return local_certificate(Arc::clone(authority), wanted.clone()).await,
            Self::Remote(servers) => servers,
        };
        let KeyRequest { key, request } = KeyRequest::new(&wanted.own).map_err(SourceError::Local)?;
        let (call, token) = match proof {
            Proof::Token(token) => {
                (AuthorityCall::joining(&wanted.domain, token.pins())?, Some(token.reveal()))
            }
            Proof::Member(material) => (AuthorityCall::member(material)?, None),
            Proof::Nothing => return Err(SourceError::NoProof),
        };
        let asked = SigningRequest {
            csr: request,
            node: wanted.node.as_ref().map(ToString::to_string),
            token,
            ttl_seconds: Some(wanted.ttl.as_secs()),
        };
        let question = Question {
            method: Method::POST,
            target: CERTIFICATES.to_owned(),
            body: Bytes::from(serde_json::to_vec(&asked).map_err(SourceError::Answer)?),
        };
        let answer = client::ask(servers, &call, &question).await?;
        let answer: SigningAnswer = serde_json::from_slice(&answer).map_err(SourceError::Answer)?;
        Ok(Obtained {
            files: PemFiles {
                chain: answer.certificate.into_bytes(),
                key: key.reveal().as_bytes().to_vec(),
                roots: answer.bundle.into_bytes(),
                lists: answer.crl.into_bytes(),
            },
        })
    }

    /// Looks what is trusted, and tells that `roots` are in use by the holder of `material`.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub async fn bundle(&self, material: &Arc<Material>, roots: &[u8]) -> Result<Bundle, SourceError> {
        let servers = match self {
            Self::Local(authority) => {
                let (authority, facts, roots) =
                    (Arc::clone(authority), material.leaf.facts.clone(), roots.to_vec());
                return blocking(move || local_bundle(&authority, &facts, &roots)).await;
            }
            Self::Remote(servers) => servers,
        };
        let question = Question {
            method: Method::GET,
            target: format!("{BUNDLE}?{IN_USE}{}", Fingerprint::of(roots)),
            body: Bytes::new(),
        };
        let answer = client::ask(servers, &AuthorityCall::member(material)?, &question).await?;
        serde_json::from_slice(&answer).map_err(SourceError::Answer)
    }
}

async fn local_certificate(authority: Arc<Authority>, wanted: Wanted) -> Result<Obtained, SourceError> {
    blocking(move || {
        let order = Order { identity: wanted.own, node: wanted.node, ttl: Some(wanted.ttl) };
        let issued = authority.issue(&order, clock::wall()).map_err(SourceError::Local)?;
        Ok(Obtained {
            files: PemFiles {
                chain: issued.signed.certificate.into_bytes(),
                key: issued.key.reveal().as_bytes().to_vec(),
                roots: issued.signed.bundle.into_bytes(),
                lists: issued.signed.crl.into_bytes(),
            },
        })
    })
    .await
}

fn local_bundle(authority: &Authority, facts: &Facts, roots: &[u8]) -> Result<Bundle, SourceError> {
    let now = clock::wall();
    let published = authority.published(now).map_err(SourceError::Local)?;
    if published.bundle.as_bytes() == roots
        && let Some(presented) = Presented::of(facts)
    {
        authority.acknowledge(&presented, now).map_err(SourceError::Local)?;
    }
    Ok(Bundle::from(&published))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(SourceError::Leaving))
}
