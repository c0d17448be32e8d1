//! Where a sidecar's certificates come from, as configured.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    PemFiles, PemPart, TlsVersion,
    bounded_file::{FileError, Readers, read},
    ca::{JoinToken, Node, TokenError},
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
    pub source: IdentitySource,
}

/// Who makes the certificates of a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// Somebody else, who writes files.
    Files(IdentityFiles),
    /// The built-in authority.
    Builtin(Builtin),
}

/// How a sidecar gets its certificate from the built-in authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Builtin {
    /// Where its certificate is kept over restarts.
    pub dir: PathBuf,
    /// The authority that this sidecar holds; `None` if another one does.
    pub authority: Option<AuthorityPlace>,
    /// Where the authority is asked, in this order. Empty if this sidecar holds it.
    pub servers: Vec<SocketAddr>,
    /// A file with a join token, for the first certificate.
    pub token_file: Option<PathBuf>,
    /// Lifetime of the certificate; where the authority is held, also the longest that others get.
    pub leaf_ttl: Duration,
    /// Which instance of its service this is; `None` for the name of the host.
    pub node: Option<Node>,
}

impl Builtin {
    /// Reads the join token; `None` if none is configured. Blocks.
    ///
    /// # Errors
    /// See [`TokenFileError`].
    pub fn token(&self) -> Result<Option<JoinToken>, TokenFileError> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let content = read(path, Readers::OwnerAndGroup)?;
        let text = std::str::from_utf8(&content).map_err(|_| TokenError::Malformed);
        let token = text.and_then(|text| text.trim().parse());
        token.map(Some).map_err(|source| TokenFileError::Token { path: path.clone(), source })
    }
}

/// There is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is in it.
    #[error("{} holds no join token", path.display())]
    Token {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: TokenError,
    },
}

/// An authority on disk, and where it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityPlace {
    /// Its directory.
    pub dir: PathBuf,
    /// The file with the key that its secrets are encrypted with.
    pub key_file: PathBuf,
    /// Where it is asked for certificates.
    pub address: SocketAddr,
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
