//! TLS towards services that are no part of the mesh: whom to trust, which certificate to show, the oldest version
//! that is spoken. Makes configurations; connects to nothing. TLS within the mesh is not here.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use ::aws_lc_rs::digest::{Context, SHA256};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version,
};

use super::{
    Alpn,
    bounded_file::{self, FileError, Readers},
};

/// How TLS is spoken to a service outside of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalTlsParams {
    /// The name that is asked for (SNI) and that the certificate must have; `None`: whoever connects knows it.
    pub server_name: Option<Arc<str>>,
    /// Whose certificates are good.
    pub roots: Roots,
    /// What we show of ourselves; `None` shows nothing.
    pub client: Option<ClientFiles>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
}

/// Who vouches for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// The authorities that the operating system trusts.
    System,
    /// Those in this PEM file, and no others.
    File(PathBuf),
}

/// A client certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// PEM: the certificate, then those between it and its root.
    pub certificate: PathBuf,
    /// PEM: the key. Must not be readable by others.
    pub key: PathBuf,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2, with ECDHE and an AEAD only.
    #[default]
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// Why there is no configuration. The message names the file and what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum ExternalTlsError {
    /// A file cannot be used at all.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file has none of what it is for.
    #[error("{} has no {what} in PEM form", .path.display())]
    Empty {
        /// Which.
        path: PathBuf,
        /// What it should have.
        what: &'static str,
    },
    /// What is in the file cannot be read.
    #[error("{}: a {what} cannot be read: {reason}", .path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What it should have.
        what: &'static str,
        /// What the reader said.
        reason: String,
    },
    /// Certificate and key do not belong together, or the key is of a kind that nobody uses.
    #[error("the certificate {} and the key {} cannot be used together", .certificate.display(), .key.display())]
    Mismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What the library said.
        #[source]
        source: rustls::Error,
    },
    /// The operating system trusts nobody.
    #[error("the system has no certificate authorities ({0}): install them, or name a file")]
    NoSystemRoots(String),
    /// Nobody to ask for.
    #[error("{0:?} is no name that a certificate could be of; set `server_name`")]
    NoName(String),
    /// The provider cannot do what is asked.
    #[error("these versions of TLS cannot be spoken")]
    Versions(#[source] rustls::Error),
}

/// The configuration for clients with `params`, offering the protocols `alpn` in this order. Reads files, and the
/// authorities of the system once in the life of the process: not for the data plane.
///
/// # Errors
/// See [`ExternalTlsError`].
pub fn client_config(
    params: &ExternalTlsParams,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, ExternalTlsError> {
    let roots = match &params.roots {
        Roots::System => system_roots()?,
        Roots::File(path) => Arc::new(roots_in(path)?),
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(params.min_version))
        .map_err(ExternalTlsError::Versions)?
        .with_root_certificates(roots);
    let mut config = match &params.client {
        None => builder.with_no_client_auth(),
        Some(ClientFiles { certificate, key }) => {
            let chain = certificates_in(certificate)?;
            builder.with_client_auth_cert(chain, key_in(key)?).map_err(|source| {
                ExternalTlsError::Mismatch { certificate: certificate.clone(), key: key.clone(), source }
            })?
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// How one service outside of the mesh is called.
#[derive(Debug)]
pub struct ExternalTls {
    name: ServerName<'static>,
    configs: [Arc<ClientConfig>; 3],
    mark: u64,
}

impl ExternalTls {
    /// Reads the files of `params`. Blocks.
    ///
    /// # Errors
    /// As [`client_config`]; also if there is no name that a certificate could be of.
    pub fn new(params: &ExternalTlsParams) -> Result<Self, ExternalTlsError> {
        let name = params.server_name.as_deref().unwrap_or_default();
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| ExternalTlsError::NoName(name.to_owned()))?;
        // What is passed on as bytes may be anything: then nothing is agreed upon.
        let config = |alpn: &[&[u8]]| client_config(params, alpn);
        let http1 = config(&[Alpn::Http1.as_bytes()])?;
        let http2 = config(&[Alpn::Http2.as_bytes()])?;
        Ok(Self { name, configs: [http1, http2, config(&[])?], mark: mark(params)? })
    }

    /// Stands for what is asked for, believed and shown: equal as long as neither the configuration nor the files change.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// The name that is asked for, and that its certificate must have.
    #[must_use]
    pub fn server_name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// For rustls, to speak `alpn`.
    #[must_use]
    pub fn config(&self, alpn: Alpn) -> Arc<ClientConfig> {
        Arc::clone(&self.configs[alpn.index()])
    }
}

fn mark(params: &ExternalTlsParams) -> Result<u64, FileError> {
    let mut digest = Context::new(&SHA256);
    // Names and paths; what is in the files follows.
    digest.update(format!("{params:?}").as_bytes());
    let ExternalTlsParams { roots, client, .. } = params;
    if let Roots::File(path) = roots {
        digest.update(&bounded_file::read(path, Readers::Anybody)?);
    }
    if let Some(ClientFiles { certificate, key }) = client {
        digest.update(&bounded_file::read(certificate, Readers::Anybody)?);
        digest.update(&bounded_file::read(key, Readers::OwnerAndGroup)?);
    }
    let first = digest.finish().as_ref().iter().take(8).fold(0, |mark, byte| mark << 8 | u64::from(*byte));
    Ok(first)
}

fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match oldest {
        TlsVersion::V1_2 => &BOTH,
        TlsVersion::V1_3 => &BOTH[..1],
    }
}

/// A failure is not kept: whoever installs the authorities need not restart.
fn system_roots() -> Result<Arc<RootCertStore>, ExternalTlsError> {
    static LOADED: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = LOADED.get() {
        return Ok(Arc::clone(roots));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // One that cannot be parsed is no authority to us; the others stay good.
    let (_, ignored) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = found.errors.first().map_or_else(|| format!("{ignored} unusable"), ToString::to_string);
        return Err(ExternalTlsError::NoSystemRoots(reason));
    }
    Ok(Arc::clone(LOADED.get_or_init(|| Arc::new(roots))))
}

fn roots_in(path: &Path) -> Result<RootCertStore, ExternalTlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in(path)? {
        // Here somebody chose each of them: one that is of no use is a mistake.
        roots.add(certificate).map_err(|error| malformed(path, CERTIFICATE, &error))?;
    }
    Ok(roots)
}

fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, ExternalTlsError> {
    let content = bounded_file::read(path, Readers::Anybody)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&content)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(path, CERTIFICATE, &error))?;
    if certificates.is_empty() {
        return Err(ExternalTlsError::Empty { path: path.to_owned(), what: CERTIFICATE });
    }
    Ok(certificates)
}

fn key_in(path: &Path) -> Result<PrivateKeyDer<'static>, ExternalTlsError> {
    let content = bounded_file::read(path, Readers::OwnerAndGroup)?;
    PrivateKeyDer::from_pem_slice(&content).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            ExternalTlsError::Empty { path: path.to_owned(), what: KEY }
        }
        error => malformed(path, KEY, &error),
    })
}

fn malformed(path: &Path, what: &'static str, reason: &dyn std::fmt::Display) -> ExternalTlsError {
    ExternalTlsError::Malformed { path: path.to_owned(), what, reason: reason.to_string() }
}

const CERTIFICATE: &str = "certificate";
const KEY: &str = "private key";

#[cfg(test)]
mod tests;
