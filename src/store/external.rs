//! Which store it is, and how one outside of the mesh is reached. Known to every build, so that a configuration that names a
//! store which this one lacks is told so.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::types::Secret;

/// Who keeps the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The sidecars among themselves.
    #[default]
    Embedded,
    /// An etcd that somebody else runs.
    Etcd(EtcdParams),
}

impl Backend {
    /// Whether this binary can reach an etcd (cargo feature `etcd`).
    pub const HAS_ETCD: bool = cfg!(feature = "etcd");
}

/// How an etcd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdParams {
    /// Its members: `http://host:port` or `https://host:port`, all of one kind. At least one.
    pub endpoints: Vec<Arc<str>>,
    /// What all keys of this store begin with; ends with `/`.
    pub prefix: Arc<str>,
    /// Who asks, if etcd wants to know.
    pub login: Option<EtcdLogin>,
    /// For endpoints with `https`.
    pub tls: Option<EtcdTls>,
    /// The longest that one read or write may take, with all that is asked again.
    pub timeout: Duration,
}

/// A user of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdLogin {
    /// Its name.
    pub user: Arc<str>,
    /// Its password.
    pub password: Secret,
}

/// How an etcd is believed, and what it is shown. The files are read at each new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdTls {
    /// The roots by which its certificate is verified, in PEM.
    pub ca: PathBuf,
    /// The certificate to show and its key, in PEM.
    pub own: Option<EtcdCertificate>,
    /// The name that its certificate must have; `None` takes that of the endpoint.
    pub server_name: Option<Arc<str>>,
}

/// Files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdCertificate {
    /// The chain, its own first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}
