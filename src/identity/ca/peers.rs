//! What the authority does for those who ask over the network: renews by certificate, tells what is trusted, and remembers
//! who knows it. First certificates are token.rs.

use std::{fs, os::unix::fs::MetadataExt as _, time::Duration, time::SystemTime};

use super::{
    Stamp,
    authority::Authority,
    csr,
    error::{CaError, RenewalError},
    issue::{Order, Signed, signed},
    names::{Fingerprint, Node, Serial},
    state::{Leaf, Phase, State},
};
use crate::{identity::Facts, types::SpiffeId};

/// What a peer may choose of its first certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Which instance it is.
    pub node: Option<Node>,
    /// Lifetime; the authority's default if none.
    pub ttl: Option<Duration>,
}

/// A certificate that a peer has proved to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    serial: Serial,
    identity: SpiffeId,
}

impl Presented {
    /// From a certificate that was verified. `None` if its number is not one of ours.
    #[must_use]
    pub fn of(facts: &Facts) -> Option<Self> {
        Some(Self { serial: facts.serial.parse().ok()?, identity: facts.id.clone() })
    }

    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    fn is(&self, leaf: &Leaf) -> bool {
        leaf.serial == self.serial && leaf.identity == self.identity
    }
}

/// What the whole mesh may know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The trusted roots in PEM.
    pub bundle: String,
    /// The lists of revoked certificates in PEM.
    pub crl: String,
    /// How far a change of roots has come.
    pub phase: Phase,
    /// Fingerprint of the root that signs.
    pub signing: Fingerprint,
    /// Its certificate in PEM.
    pub signing_root: String,
}

/// Stands for the state of an authority as it is on disk: another one, another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    file: u64,
    changed: (i64, i64),
}

impl Authority {
    /// Which state is on disk; cheap enough to be asked every second.
    ///
    /// # Errors
    /// [`CaError::File`].
    pub fn version(&self) -> Result<Version, CaError> {
        let path = self.state_file();
        let failed = |source| CaError::File { action: "read", path: path.clone(), source };
        let metadata = fs::metadata(&path).map_err(failed)?;
        Ok(Version { file: metadata.ino(), changed: (metadata.ctime(), metadata.ctime_nsec()) })
    }

    /// What the mesh may know, with lists that are made anew if half of their time is over.
    ///
    /// # Errors
    /// As [`Authority::open`].
    pub fn published(&self, now: SystemTime) -> Result<Published, CaError> {
        let ((), state) = self.change(Stamp::from(now), |_| Ok(()))?;
        published(&state).ok_or_else(|| CaError::Absent(self.directory().to_owned()))
    }

    /// Signs the key of `request` for the holder of a certificate that it signed before, as the same instance.
    ///
    /// # Errors
    /// [`CaError::Renewal`], and as [`Authority::sign`].
    pub fn renew(
        &self,
        request: &str,
        presented: &Presented,
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<Signed, CaError> {
        let now = Stamp::from(now);
        let key = csr::public_key_for(request, &presented.identity).map_err(CaError::Request)?;
        let (made, state) = self.change(now, |state| {
            let leaf = state.leaves.iter().find(|leaf| presented.is(leaf));
            let leaf = leaf.ok_or(CaError::Renewal(RenewalError::Unknown))?;
            if leaf.revoked.is_some() {
                return Err(CaError::Renewal(RenewalError::Revoked));
            }
            if !leaf.is_live(now) {
                return Err(CaError::Renewal(RenewalError::Expired));
            }
            let live = |other: &&Leaf| other.is_live(now) && other.instance() == leaf.instance();
            if state.leaves.iter().filter(live).count() >= MOST_OF_ONE {
                return Err(CaError::Renewal(RenewalError::TooMany));
            }
            // Whoever renews in another's name would hide that the other still needs the old root.
            let order = Order { identity: leaf.identity.clone(), node: leaf.node.clone(), ttl };
            let made = self.add_leaf(state, &key, &order, now)?;
            Ok(unconfirmed(state, made))
        })?;
        Ok(signed(made, &state))
    }

    /// Remembers that a certificate is in use, and the newest bundle with it.
    ///
    /// # Errors
    /// As [`Authority::open`].
    pub fn acknowledge(&self, presented: &Presented, now: SystemTime) -> Result<(), CaError> {
        let is_known = |state: &State| {
            let newest = state.newest_root();
            let is_known = |leaf: &Leaf| leaf.newest_root == newest && !leaf.unconfirmed;
            state.leaves.iter().all(|leaf| !presented.is(leaf) || is_known(leaf))
        };
        if is_known(&self.state()?) {
            return Ok(());
        }
        let ((), _) = self.change(Stamp::from(now), |state| {
            let newest = state.newest_root();
            let leaves = state.leaves.iter_mut().filter(|leaf| presented.is(leaf));
            leaves.for_each(|leaf| {
                leaf.newest_root = newest;
                leaf.unconfirmed = false;
            });
            Ok(())
        })?;
        Ok(())
    }
}

/// Marks what was signed as not yet seen in use: an answer may be lost.
pub(super) fn unconfirmed(state: &mut State, (mut leaf, certificate): (Leaf, String)) -> (Leaf, String) {
    leaf.unconfirmed = true;
    if let Some(kept) = state.leaves.iter_mut().find(|kept| kept.serial == leaf.serial) {
        kept.unconfirmed = true;
    }
    (leaf, certificate)
}

fn published(state: &State) -> Option<Published> {
    let signing = state.roots.iter().find(|root| root.generation == state.signing)?;
    Some(Published {
        bundle: state.bundle(),
        crl: state.crl.pem.clone(),
        phase: state.phase(),
        signing: signing.fingerprint,
        signing_root: signing.certificate.clone(),
    })
}

/// Certificates of one instance that have not expired. A healthy one has two; one that asks in a loop must not fill the
/// authority for all others.
const MOST_OF_ONE: usize = 32;
