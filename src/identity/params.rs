//! Where a sidecar's certificates come from, as configured.

use std::path::{Path, PathBuf};

use super::{
    PemFiles, PemPart, TlsVersion,
    bounded_file::{FileError, Readers, read},
};
use crate::types::{SpiffeId, TrustDomain};

/// Who a sidecar is, and what it proves that with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityParams {
    /// The mesh.
    pub domain: TrustDomain,
    /// Who we are.
    pub own: SpiffeId,
    /// Oldest version of TLS that is spoken within the mesh.
    pub version: TlsVersion,
    /// Where the certificates come from.
    pub files: IdentityFiles,
}

/// Files that somebody else writes. They are looked at again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The leaf, followed by its intermediates.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// All roots that are trusted.
    pub ca: PathBuf,
    /// Revocation lists, if there are any.
    pub crl: Option<PathBuf>,
}

impl IdentityFiles {
    /// Where this part comes from.
    #[must_use]
    pub fn path(&self, part: PemPart) -> &Path {
        match part {
            PemPart::Chain => &self.cert,
            PemPart::Key => &self.key,
            PemPart::Roots => &self.ca,
            // Without a file there is nothing that could be wrong with it.
            PemPart::Lists => self.crl.as_deref().unwrap_or(&self.ca),
        }
    }

    /// Reads all of them. Blocks.
    ///
    /// # Errors
    /// The first that cannot be read, or a key that others can.
    pub fn read(&self) -> Result<PemFiles, FileError> {
        Ok(PemFiles {
            chain: read(&self.cert, Readers::Anybody)?,
            key: read(&self.key, Readers::OwnerAndGroup)?,
            roots: read(&self.ca, Readers::Anybody)?,
            lists: self.crl.as_deref().map_or_else(|| Ok(Vec::new()), |path| read(path, Readers::Anybody))?,
        })
    }
}
