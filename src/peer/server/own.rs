//! The certificate with which the authority itself answers: signed by itself, renewed in time and when another root signs.

use std::time::SystemTime;

use super::ServiceError;
use crate::{
    identity::{
        Material, PemFiles,
        ca::{Authority, Fingerprint, Order, Presented, Published},
    },
    peer::schedule::{is_due, renew_at},
    types::TrustDomain,
};

/// The certificate in use, with what depends on it.
#[derive(Clone, Debug)]
pub(super) struct Own {
    domain: TrustDomain,
    files: PemFiles,
    presented: Option<Presented>,
    signed_by: Fingerprint,
    not_before: SystemTime,
    renew_at: SystemTime,
}

impl Own {
    /// Signs the first one. Blocks.
    pub(super) fn make(
        authority: &Authority,
        now: SystemTime,
    ) -> Result<(Self, Material, Published), ServiceError> {
        let domain = authority.trust_domain().clone();
        let order = Order { identity: domain.authority(), node: None, ttl: None };
        let issued = authority.issue(&order, now)?;
        let published = authority.published(now)?;
        // Whoever joins has a fingerprint of the root, and needs the root to compare.
        let chain = format!("{}{}", issued.signed.certificate, published.signing_root);
        let files = PemFiles {
            chain: chain.into_bytes(),
            key: issued.key.reveal().as_bytes().to_vec(),
            roots: published.bundle.clone().into_bytes(),
            lists: published.crl.clone().into_bytes(),
        };
        let material = read(&files, &domain, now)?;
        let facts = &material.leaf.facts;
        let own = Self {
            not_before: facts.not_before,
            renew_at: renew_at(facts, 0.0),
            presented: Presented::of(facts),
            signed_by: published.signing,
            domain,
            files,
        };
        Ok((own, material, published))
    }

    /// Whether it is time for another one.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        is_due(self.not_before, self.renew_at, now)
    }

    /// Reads what the authority says now, and what to answer with from now on; none of that if it is as before. Blocks.
    pub(super) fn follow(
        &self,
        authority: &Authority,
        now: SystemTime,
    ) -> Result<(Option<(Self, Material)>, Published), ServiceError> {
        let published = authority.published(now)?;
        if self.is_due(now) || published.signing != self.signed_by {
            let (own, material, published) = Self::make(authority, now)?;
            return Ok((Some((own, material)), published));
        }
        if published.bundle.as_bytes() == self.files.roots && published.crl.as_bytes() == self.files.lists {
            return Ok((None, published));
        }
        let mut own = self.clone();
        own.files.roots = published.bundle.clone().into_bytes();
        own.files.lists = published.crl.clone().into_bytes();
        let material = read(&own.files, &own.domain, now)?;
        if let Some(presented) = &own.presented {
            authority.acknowledge(presented, now)?;
        }
        Ok((Some((own, material)), published))
    }
}

fn read(files: &PemFiles, domain: &TrustDomain, now: SystemTime) -> Result<Material, ServiceError> {
    Material::read(files, domain, &domain.authority(), now)
        .map_err(|error| ServiceError::Own(error.to_string()))
}
