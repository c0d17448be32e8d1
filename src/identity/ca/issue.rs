//! Signing certificates for services: what is in a leaf, whatever was asked for.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};

use super::{
    Stamp,
    authority::{Authority, MINUTE, check_lifetime},
    csr,
    error::CaError,
    names::{Node, Serial},
    root::SKEW,
    state::{Leaf, State},
};
use crate::types::SpiffeId;

/// For whom a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The one name in it; of the authority's trust domain.
    pub identity: SpiffeId,
    /// The instance, so that a later certificate for the same one takes the place of this.
    pub node: Option<Node>,
    /// Its lifetime, at least a minute; the authority's default if none. It ends with its root at the latest.
    pub ttl: Option<Duration>,
}

/// A certificate, and what its bearer verifies others with.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed {
    /// What was signed.
    pub leaf: Leaf,
    /// The certificate in PEM. No chain: a root signs leaves itself.
    pub certificate: String,
    /// The trusted roots in PEM.
    pub bundle: String,
    /// The lists of revoked certificates in PEM, one for each root.
    pub crl: String,
}

/// A certificate with a private key that was made for it.
#[derive(Debug)]
pub struct Issued {
    /// All but the key.
    pub signed: Signed,
    /// The key, which the authority does not keep.
    pub key: PrivateKeyPem,
}

/// A private key in PKCS #8 as PEM. Shows itself in no output but on demand.
pub struct PrivateKeyPem(pub(super) String);

impl PrivateKeyPem {
    /// The text to write where only its owner can read it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKeyPem(..)")
    }
}

impl Authority {
    /// Makes a key and signs a certificate for it.
    ///
    /// # Errors
    /// [`CaError::Foreign`], [`CaError::Lifetime`], [`CaError::RootExpired`], [`CaError::Full`], and as
    /// [`Authority::open`].
    pub fn issue(&self, order: &Order, now: SystemTime) -> Result<Issued, CaError> {
        let failed = |source| CaError::Make { what: "a key", source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let signed = self.sign_key(&key, order, now)?;
        Ok(Issued { signed, key: PrivateKeyPem(key.serialize_pem()) })
    }

    /// Signs a certificate for the key of a request in PEM. Takes nothing else from the request.
    ///
    /// # Errors
    /// [`CaError::Request`], and as [`Self::issue`].
    pub fn sign(&self, request: &str, order: &Order, now: SystemTime) -> Result<Signed, CaError> {
        let key = csr::public_key(request).map_err(CaError::Request)?;
        self.sign_key(&key, order, now)
    }

    fn sign_key(&self, key: &impl PublicKeyData, order: &Order, now: SystemTime) -> Result<Signed, CaError> {
        let now = Stamp::from(now);
        let (made, state) = self.change(now, |state| self.add_leaf(state, key, order, now))?;
        Ok(signed(made, &state))
    }

    /// Signs and remembers it. Returns the certificate in PEM beside what is remembered.
    pub(super) fn add_leaf(
        &self,
        state: &mut State,
        key: &impl PublicKeyData,
        order: &Order,
        now: Stamp,
    ) -> Result<(Leaf, String), CaError> {
        if !order.identity.is_of(&state.trust_domain) {
            let (identity, trust_domain) = (order.identity.to_string(), state.trust_domain.to_string());
            return Err(CaError::Foreign { identity, trust_domain });
        }
        let ttl = order.ttl.unwrap_or(state.leaf_ttl());
        check_lifetime("certificate", ttl, MINUTE, Duration::from_secs(state.root_ttl_s))?;
        // `State::check` has seen that it is there.
        let root = state.roots.iter().find(|root| root.generation == state.signing);
        let root = root.ok_or_else(|| CaError::Absent(self.directory().to_owned()))?;
        if root.not_after < now.plus(MINUTE) {
            return Err(CaError::RootExpired { generation: root.generation, at: root.not_after });
        }
        let leaf = Leaf {
            serial: Serial::random()?,
            identity: order.identity.clone(),
            node: order.node.clone(),
            root: root.generation,
            newest_root: state.newest_root(),
            unconfirmed: false,
            issued_at: now,
            not_after: now.plus(ttl).min(root.not_after),
            revoked: None,
        };
        let failed = |source| CaError::Make { what: "a certificate", source };
        let certificate = params(&leaf).map_err(failed)?;
        let certificate = certificate.signed_by(key, &self.issuer(root)?).map_err(failed)?.pem();
        state.leaves.push(leaf.clone());
        Ok((leaf, certificate))
    }
}

pub(super) fn signed((leaf, certificate): (Leaf, String), state: &State) -> Signed {
    Signed { leaf, certificate, bundle: state.bundle(), crl: state.crl.pem.clone() }
}

fn params(leaf: &Leaf) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.not_before = leaf.issued_at.minus(SKEW).system_time().into();
    params.not_after = leaf.not_after.system_time().into();
    params.serial_number = Some(SerialNumber::from_slice(leaf.serial.as_bytes()));
    params.subject_alt_names = vec![SanType::URI(leaf.identity.as_str().try_into()?)];
    params.distinguished_name = DistinguishedName::new();
    // For people who look at certificates; nothing of ours reads it.
    let name = leaf.identity.path().rsplit('/').next().unwrap_or_default();
    if name.len() <= MAX_COMMON_NAME {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Longest common name (RFC 5280, appendix A.1).
const MAX_COMMON_NAME: usize = 64;
