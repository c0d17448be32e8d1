//! Lists of revoked certificates (RFC 5280 §5): when a new one is due, and what is in it. And the revoking itself.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevocationReason, RevokedCertParams,
    SerialNumber,
};

use super::{
    Stamp,
    authority::Authority,
    error::CaError,
    names::Serial,
    root::SKEW,
    state::{Crl, Leaf, Reason, Revocation, Root, State},
};

impl Authority {
    /// Revokes a certificate: from now on it is in the list of its root. Once revoked it stays so, with its first time
    /// and reason; the returned leaf tells them.
    ///
    /// # Errors
    /// [`CaError::UnknownSerial`], and as [`Authority::open`].
    pub fn revoke(&self, serial: Serial, reason: Reason, now: SystemTime) -> Result<Leaf, CaError> {
        let now = Stamp::from(now);
        let (leaf, _) = self.change(now, |state| {
            let leaf = state.leaves.iter_mut().find(|leaf| leaf.serial == serial);
            let leaf = leaf.ok_or(CaError::UnknownSerial(serial))?;
            leaf.revoked.get_or_insert(Revocation { at: now, reason });
            Ok(leaf.clone())
        })?;
        Ok(leaf)
    }

    /// The lists of all trusted roots, in PEM, made anew if half of their time is over.
    ///
    /// # Errors
    /// As [`Authority::open`].
    pub fn crl(&self, now: SystemTime) -> Result<String, CaError> {
        let ((), state) = self.change(Stamp::from(now), |_| Ok(()))?;
        Ok(state.crl.pem)
    }
}

impl Crl {
    /// Before there is one.
    pub(super) fn none() -> Self {
        let never = Stamp::from_unix(0);
        Self {
            number: 0,
            made_at: never,
            next_update: never,
            roots: Vec::new(),
            revoked: Vec::new(),
            pem: String::new(),
        }
    }
}

/// New lists, if those in force do not say what `state` says, or if half of their time is over.
pub(super) fn due(
    state: &State,
    issuer: impl Fn(&Root) -> Result<Issuer<'static, KeyPair>, CaError>,
    now: Stamp,
) -> Result<Option<Crl>, CaError> {
    let roots: Vec<u32> = state.roots.iter().map(|root| root.generation).collect();
    // What has expired is refused without a list, and a list that only grows would end every handshake one day.
    let listed: Vec<&Leaf> = state
        .leaves
        .iter()
        .filter(|leaf| leaf.revoked.is_some() && leaf.not_after > now && roots.contains(&leaf.root))
        .collect();
    let revoked: Vec<Serial> = listed.iter().map(|leaf| leaf.serial).collect();
    let old = &state.crl;
    let ttl = Duration::from_secs(state.crl_ttl_s);
    // A clock that was wrong may have made a list of the future.
    let is_fresh = old.made_at <= now && now < old.made_at.plus(ttl / 2);
    if is_fresh && old.roots == roots && old.revoked == revoked {
        return Ok(None);
    }
    // Counted in seconds, so that a restored backup does not repeat numbers; at least one more, whatever the clock says.
    let number = now.unix().max(old.number.saturating_add(1));
    let next_update = now.plus(ttl);
    let mut pem = String::new();
    for root in &state.roots {
        let list = CertificateRevocationListParams {
            this_update: now.minus(SKEW).system_time().into(),
            next_update: next_update.system_time().into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: entries(&listed, root.generation),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let failed = |source| CaError::Make { what: "a list of revoked certificates", source };
        let list = list.signed_by(&issuer(root)?).map_err(failed)?;
        pem.push_str(&list.pem().map_err(failed)?);
    }
    Ok(Some(Crl { number, made_at: now, next_update, roots, revoked, pem }))
}

fn entries(listed: &[&Leaf], generation: u32) -> Vec<RevokedCertParams> {
    let of_root = listed.iter().filter(|leaf| leaf.root == generation);
    let entry = |leaf: &&Leaf| {
        let revocation = leaf.revoked?;
        Some(RevokedCertParams {
            serial_number: SerialNumber::from_slice(leaf.serial.as_bytes()),
            revocation_time: revocation.at.system_time().into(),
            reason_code: reason_code(revocation.reason),
            invalidity_date: None,
        })
    };
    of_root.filter_map(entry).collect()
}

/// "The reason code CRL entry extension SHOULD be absent instead of using the unspecified (0) value" (RFC 5280 §5.3.1).
fn reason_code(reason: Reason) -> Option<RevocationReason> {
    match reason {
        Reason::Unspecified => None,
        Reason::KeyCompromise => Some(RevocationReason::KeyCompromise),
        Reason::Superseded => Some(RevocationReason::Superseded),
        Reason::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
        Reason::PrivilegeWithdrawn => Some(RevocationReason::PrivilegeWithdrawn),
    }
}
