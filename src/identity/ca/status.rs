//! How a certificate authority is, for people and tools.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::{
    Stamp,
    authority::Authority,
    copy::CopyStatus,
    error::CaError,
    names::Fingerprint,
    state::{Leaf, Phase},
};
use crate::types::TrustDomain;

/// Everything but secrets.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Whose identities it signs.
    pub trust_domain: TrustDomain,
    /// How far a change of roots has come.
    pub phase: Phase,
    /// The trusted roots, the oldest first.
    pub roots: Vec<RootStatus>,
    /// Lifetime of a leaf unless an order says another.
    pub leaf_ttl: Duration,
    /// Number of the lists of revoked certificates in force.
    pub crl_number: u64,
    /// Until when they are good.
    pub crl_next_update: Stamp,
    /// How many certificates are in them.
    pub crl_entries: usize,
    /// Certificates that have not expired, revoked ones too, in the order in which they were signed.
    pub leaves: Vec<Leaf>,
    /// Join tokens that can be used.
    pub usable_tokens: usize,
    /// The last copy of it that was made for the mesh; none if there was none.
    pub copy: Option<CopyStatus>,
    /// Copies in the directory that are not what the authority wrote last. The next change puts them right.
    pub stale_copies: Vec<PathBuf>,
}

/// One trusted root.
#[derive(Clone, Debug, PartialEq)]
pub struct RootStatus {
    /// Which.
    pub generation: u32,
    /// Whether it signs.
    pub is_signing: bool,
    /// Of its certificate.
    pub fingerprint: Fingerprint,
    /// Its begin.
    pub not_before: Stamp,
    /// Its end.
    pub not_after: Stamp,
    /// How many certificates of it are neither expired nor revoked.
    pub live_leaves: usize,
}

impl Authority {
    /// How it is.
    ///
    /// # Errors
    /// As [`Authority::open`], and if the key of a root does not do.
    pub fn status(&self, now: SystemTime) -> Result<Status, CaError> {
        let now = Stamp::from(now);
        let state = self.state()?;
        let mut roots = Vec::new();
        for root in &state.roots {
            // Better found out here than when somebody needs a certificate.
            self.issuer(root)?;
            let is_of_root = |leaf: &&Leaf| leaf.root == root.generation && leaf.is_live(now);
            roots.push(RootStatus {
                generation: root.generation,
                is_signing: root.generation == state.signing,
                fingerprint: root.fingerprint,
                not_before: root.not_before,
                not_after: root.not_after,
                live_leaves: state.leaves.iter().filter(is_of_root).count(),
            });
        }
        Ok(Status {
            phase: state.phase(),
            roots,
            leaf_ttl: state.leaf_ttl(),
            crl_number: state.crl.number,
            crl_next_update: state.crl.next_update,
            crl_entries: state.crl.revoked.len(),
            usable_tokens: state.tokens.iter().filter(|token| token.is_usable(now)).count(),
            copy: self.copied(&state)?,
            stale_copies: self.stale_copies(&state),
            leaves: state.leaves.into_iter().filter(|leaf| leaf.not_after > now).collect(),
            trust_domain: state.trust_domain,
        })
    }
}
