//! Handing out: the files that a sidecar reads its certificate from.

use std::{path::Path, time::SystemTime};

use super::{
    Stamp,
    error::CaError,
    files::{self, Mode},
    issue::Issued,
};
use crate::{identity::inspect, types::SpiffeId};

/// Whether a certificate of `identity` may be written into a directory: nothing is there, or an earlier one of the same
/// identity. So a wrong directory does not cost another service its certificate.
///
/// # Errors
/// [`CaError::NotOurs`], [`CaError::File`].
pub fn check_output(directory: &Path, identity: &SpiffeId, now: SystemTime) -> Result<(), CaError> {
    let certificate = directory.join(CERTIFICATE);
    if !certificate.exists() {
        return Ok(());
    }
    let found = files::read(&certificate, inspect::MAX_FILE)?;
    let found = inspect::describe(&found, Stamp::from(now)).unwrap_or_default();
    if found.first().is_some_and(|found| found.identity.as_ref() == Some(identity)) {
        return Ok(());
    }
    Err(CaError::NotOurs { path: certificate, identity: identity.to_string() })
}

impl Issued {
    /// Writes `ca.crt`, `crl.pem`, `tls.key` and `tls.crt` into a directory, which is made if it is missing. Each file is
    /// replaced as a whole; the certificate comes last, so whoever waits for it finds the others there. Between the two
    /// last ones key and certificate do not match.
    ///
    /// # Errors
    /// [`CaError::File`]: some may be written.
    pub fn write(&self, directory: &Path) -> Result<(), CaError> {
        files::make_directory(directory)?;
        write_public(&directory.join("ca.crt"), &self.signed.bundle)?;
        write_public(&directory.join("crl.pem"), &self.signed.crl)?;
        files::write(&directory.join("tls.key"), self.key.reveal().as_bytes(), Mode::Private)?;
        write_public(&directory.join(CERTIFICATE), &self.signed.certificate)
    }
}

/// Replaces a file as a whole with something that everybody may read.
///
/// # Errors
/// [`CaError::File`]; the file is as it was.
pub fn write_public(path: &Path, content: &str) -> Result<(), CaError> {
    files::write(path, content.as_bytes(), Mode::Public)
}

const CERTIFICATE: &str = "tls.crt";
