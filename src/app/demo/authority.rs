//! The certificate authority of a show: in its workspace, and gone with it.

use std::{io, path::PathBuf, time::Duration};

use super::{DemoError, workspace::Workspace};
use crate::{
    identity::ca::{Authority, CaError, MasterKey, Node, Order, Params},
    rt::clock,
    types::TrustDomain,
};

/// A show that goes on for longer ends with certificates that have expired.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Signs the certificates of all sidecars.
pub(super) struct Issuer {
    authority: Authority,
    trust_domain: TrustDomain,
    directory: PathBuf,
}

impl Issuer {
    /// Makes a new authority.
    pub(super) fn start(workspace: &Workspace) -> Result<Self, DemoError> {
        let trust_domain = TrustDomain::default();
        let params = Params {
            trust_domain: trust_domain.clone(),
            leaf_ttl: LIFETIME,
            root_ttl: LIFETIME,
            crl_ttl: LIFETIME,
        };
        let directory = workspace.path().join("certificates");
        let master = MasterKey::random().map_err(refused)?;
        let authority = Authority::init(&workspace.path().join("ca"), &master, &params, clock::wall())
            .map_err(refused)?;
        Ok(Self { authority, trust_domain, directory })
    }

    /// Writes a certificate for the instance `node` of `service`, with its key and all that it trusts; returns the
    /// directory.
    pub(super) fn issue(&self, service: &str, node: &str) -> Result<PathBuf, DemoError> {
        let wrong = |error: &dyn std::error::Error| DemoError::Workspace(io::Error::other(error.to_string()));
        let order = Order {
            identity: self.trust_domain.service(service).map_err(|error| wrong(&error))?,
            node: Some(node.parse::<Node>().map_err(|error| wrong(&error))?),
            ttl: None,
        };
        let issued = self.authority.issue(&order, clock::wall()).map_err(refused)?;
        let directory = self.directory.join(node);
        std::fs::create_dir_all(&self.directory).map_err(DemoError::Workspace)?;
        issued.write(&directory).map_err(refused)?;
        Ok(directory)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: CaError) -> DemoError {
    DemoError::Workspace(io::Error::other(error.to_string()))
}
