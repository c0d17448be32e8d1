//! TLS for clients outside of the mesh, who show no certificate and ask for a name of DNS: certificates of public names,
//! chosen by the name, and changed beneath a configuration that stays. TLS within the mesh is in identity/mesh.rs.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use super::{
    Alpn, TlsVersion,
    bounded_file::{FileError, Readers, read},
    mesh::provider,
};
use crate::types::Live;

/// What a listener for clients outside of the mesh shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeParams {
    /// At least one; the first is for whoever asks for no name.
    pub certificates: Vec<EdgeFiles>,
    /// The oldest version that is spoken.
    pub version: TlsVersion,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeFiles {
    /// PEM: the certificate, then those between it and its root.
    pub cert: PathBuf,
    /// PEM: the key. Must not be readable by others.
    pub key: PathBuf,
}

/// Why certificates cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is no certificate, or no key.
    #[error("{} holds no {what} in PEM that can be used", .path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// They do not belong together.
    #[error("the key {} does not belong to the certificate {}", .key.display(), .cert.display())]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// A defect of ours.
    #[error("the TLS library refuses its settings")]
    Settings(#[source] rustls::Error),
}

/// One certificate, and for whom it is.
#[derive(Debug)]
struct Shown {
    names: Vec<String>,
    certified: Arc<CertifiedKey>,
}

/// What the files held when they were last taken up.
type Contents = Vec<(Vec<u8>, Vec<u8>)>;

/// The TLS of one listener.
#[derive(Debug)]
pub struct EdgeTls {
    params: EdgeParams,
    shown: Arc<Live<Vec<Shown>>>,
    used: Mutex<Fingerprints>,
    config: Arc<ServerConfig>,
}

/// Digests of the files: their content includes keys, of which one copy is enough.
type Fingerprints = Vec<[u8; 32]>;

#[derive(Debug)]
struct ByName(Arc<Live<Vec<Shown>>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.peek();
        let asked = hello.server_name();
        let fits = |one: &&Shown| asked.is_some_and(|asked| one.names.iter().any(|name| covers(name, asked)));
        // A client that wants another name finds out by itself, and says so better than an alert could.
        shown.iter().find(fits).or_else(|| shown.first()).map(|one| Arc::clone(&one.certified))
    }
}

impl EdgeTls {
    /// Reads the certificates. Blocks.
    ///
    /// # Errors
    /// See [`EdgeError`].
    pub fn new(params: &EdgeParams) -> Result<Self, EdgeError> {
        let contents = contents(params)?;
        let shown = Arc::new(Live::new(Arc::new(all(params, &contents)?)));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(params.version.spoken())
            .map_err(EdgeError::Settings)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ByName(Arc::clone(&shown))));
        config.alpn_protocols = [Alpn::Http2, Alpn::Http1].map(|alpn| alpn.as_bytes().to_vec()).into();
        if let Ok(ticketer) = rustls::crypto::aws_lc_rs::Ticketer::new() {
            config.ticketer = ticketer;
        }
        let used = Mutex::new(fingerprints(&contents));
        Ok(Self { params: params.clone(), shown, used, config: Arc::new(config) })
    }

    /// For rustls.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Reads the files again and takes them up, if they changed and all of them are good; says whether that is so.
    /// Blocks.
    ///
    /// # Errors
    /// See [`EdgeError`]; what is in use goes on.
    pub fn look(&self) -> Result<bool, EdgeError> {
        let contents = contents(&self.params)?;
        let found = fingerprints(&contents);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if *used == found {
            return Ok(false);
        }
        let shown = all(&self.params, &contents)?;
        drop(self.shown.swap(Arc::new(shown)));
        *used = found;
        Ok(true)
    }
}

fn contents(params: &EdgeParams) -> Result<Contents, EdgeError> {
    let one = |files: &EdgeFiles| {
        Ok((read(&files.cert, Readers::Anybody)?, read(&files.key, Readers::OwnerAndGroup)?))
    };
    params.certificates.iter().map(one).collect()
}

fn fingerprints(contents: &Contents) -> Fingerprints {
    let digest = |bytes: &[u8]| super::fingerprint(&CertificateDer::from(bytes));
    contents.iter().flat_map(|(cert, key)| [digest(cert), digest(key)]).collect()
}

fn all(params: &EdgeParams, contents: &Contents) -> Result<Vec<Shown>, EdgeError> {
    params.certificates.iter().zip(contents).map(|(files, (cert, key))| one(files, cert, key)).collect()
}

fn one(files: &EdgeFiles, cert: &[u8], key: &[u8]) -> Result<Shown, EdgeError> {
    let malformed = |path: &PathBuf, what: &'static str| EdgeError::Malformed { path: path.clone(), what };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert)
        .collect::<Result<_, _>>()
        .map_err(|_| malformed(&files.cert, "certificate"))?;
    let leaf = chain.first().ok_or_else(|| malformed(&files.cert, "certificate"))?;
    let names = names(leaf).ok_or_else(|| malformed(&files.cert, "certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| malformed(&files.key, "private key"))?;
    let certified = CertifiedKey::from_der(chain, key, provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            EdgeError::Mismatch { cert: files.cert.clone(), key: files.key.clone() }
        }
        _ => malformed(&files.key, "private key"),
    })?;
    Ok(Shown { names, certified: Arc::new(certified) })
}

/// The names of DNS that a certificate is for.
fn names(leaf: &CertificateDer<'_>) -> Option<Vec<String>> {
    let (_, certificate) = X509Certificate::from_der(leaf.as_ref()).ok()?;
    let mut names = Vec::new();
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(alternatives) = extension.parsed_extension() else {
            continue;
        };
        names.extend(alternatives.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        }));
    }
    Some(names)
}

/// Whether a name in a certificate covers one that is asked for: itself, or with `*` one label more (RFC 6125 §6.4.3).
fn covers(name: &str, asked: &str) -> bool {
    let asked = asked.to_ascii_lowercase();
    match name.strip_prefix("*.") {
        None => name == asked,
        Some(parent) => {
            asked.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_label_and_no_more() {
        assert!(covers("shop.example", "Shop.Example"));
        assert!(covers("*.shop.example", "a.shop.example"));
        assert!(!covers("*.shop.example", "shop.example"));
        assert!(!covers("*.shop.example", "a.b.shop.example"));
        assert!(!covers("*.shop.example", ".shop.example"));
    }
}
