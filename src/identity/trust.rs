//! Whom to believe: roots, revocation lists and the trust domain. The only place where a chain of certificates is judged.

use rustls::{
    DistinguishedName,
    pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime},
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::{CertificateError, Facts};
use crate::types::{SpiffeId, TrustDomain};

/// What a certificate is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Its holder called us.
    Client,
    /// We called its holder.
    Server,
}

/// Why a peer is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Distrust {
    /// The chain, its dates, its usage or a revocation.
    #[error("{0}")]
    Chain(webpki::Error),
    /// The names in it.
    #[error(transparent)]
    Names(#[from] CertificateError),
    /// It is of another mesh.
    #[error("{0} is not of the trust domain {1}")]
    Domain(SpiffeId, TrustDomain),
}

/// Whose signatures count.
pub(crate) struct Trust {
    domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    hints: Vec<DistinguishedName>,
    lists: Vec<CertRevocationList<'static>>,
    /// Stands for all of the above: equal marks trust the same.
    mark: [u8; 32],
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust")
            .field("domain", &self.domain)
            .field("roots", &self.roots.len())
            .field("lists", &self.lists.len())
            .finish()
    }
}

impl Trust {
    /// Trust in `roots`, but not in what `lists` revoke.
    ///
    /// # Errors
    /// Which of them is no certificate, or no list, counted from 0.
    pub(crate) fn new(
        domain: TrustDomain,
        roots: Vec<CertificateDer<'static>>,
        lists: &[CertificateRevocationListDer<'static>],
    ) -> Result<Self, (BadPart, webpki::Error)> {
        let mut anchors = Vec::with_capacity(roots.len());
        for (index, root) in roots.iter().enumerate() {
            let anchor =
                webpki::anchor_from_trusted_cert(root).map_err(|error| (BadPart::Root(index), error))?;
            anchors.push(anchor.to_owned());
        }
        let mut parsed = Vec::with_capacity(lists.len());
        for (index, list) in lists.iter().enumerate() {
            let list = OwnedCertRevocationList::from_der(list.as_ref())
                .map_err(|error| (BadPart::List(index), error))?;
            parsed.push(CertRevocationList::Owned(list));
        }
        let mut mark = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in roots.iter().map(AsRef::as_ref).chain(lists.iter().map(AsRef::as_ref)) {
            let part: &[u8] = part;
            mark.update(&(part.len() as u64).to_be_bytes());
            mark.update(part);
        }
        let hints = anchors.iter().map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect();
        let mut digest = [0; 32];
        digest.copy_from_slice(mark.finish().as_ref());
        Ok(Self { domain, roots, anchors, hints, lists: parsed, mark: digest })
    }

    /// The names of the roots, for clients that have several certificates.
    pub(crate) fn hints(&self) -> &[DistinguishedName] {
        &self.hints
    }

    /// The roots themselves.
    pub(crate) fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The trust domain.
    pub(crate) fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Whether both believe the same.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        self.mark == other.mark && self.domain == other.domain
    }

    /// Judges a leaf that was shown with `intermediates` at `now`: chain, dates, usage, revocation, and that its one
    /// identity is of the trust domain. A revocation list that does not speak of the leaf's issuer, or is out of date,
    /// does not count against it: lists are the second line behind short lives, and a list that nobody renewed must not
    /// stop a mesh.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub(crate) fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        purpose: Purpose,
    ) -> Result<Facts, Distrust> {
        let algorithms = super::mesh::provider().signature_verification_algorithms.all;
        let end = EndEntityCert::try_from(leaf).map_err(Distrust::Chain)?;
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::EndEntity)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        let usage = match purpose {
            Purpose::Client => KeyUsage::client_auth(),
            Purpose::Server => KeyUsage::server_auth(),
        };
        end.verify_for_usage(algorithms, &self.anchors, intermediates, now, usage, revocation, None)
            .map_err(Distrust::Chain)?;
        let facts = Facts::read(leaf)?;
        if !facts.id.is_of(&self.domain) {
            return Err(Distrust::Domain(facts.id, self.domain.clone()));
        }
        Ok(facts)
    }
}

/// Which part of a trust cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadPart {
    /// The root with this index.
    Root(usize),
    /// The revocation list with this index.
    List(usize),
}
