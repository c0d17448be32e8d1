//! Who a workload is, and how it proves that: certificates with SPIFFE identities, those who issue them, and the TLS
//! that is spoken with them. Opens no connection and knows nothing of requests.

pub(crate) mod bounded_file;
pub mod ca;
mod certificate;
mod chance;
pub mod edge;
pub mod external;
pub mod inspect;
pub mod jwt;
mod kept;
mod material;
mod mesh;
mod params;
mod pem;
mod refusal;
mod sessions;
mod signing;
#[cfg(test)]
mod test_authority;
#[cfg(test)]
mod tests;
mod trust;
mod verify;

pub use bounded_file::FileError;
pub use certificate::{CertificateError, Facts, fingerprint};
pub use chance::{NoChance, unforeseeable};
pub use kept::Kept;
pub use material::{Leaf, Material, MaterialError, NewTrust, PemFiles, PemPart};
pub use mesh::{Alpn, AnyoneTls, InboundTls, MeshTls, PeerError, PeerTls, TlsVersion};
pub use params::{AuthorityPlace, Builtin, IdentityFiles, IdentityParams, IdentitySource, TokenFileError};
pub use pem::certificate_pem;
pub use refusal::{TlsRefusal, told_plainly};
pub use rustls::Error as TlsSetupError;
// What peers show, for those who keep it and do not look inside.
pub use rustls::pki_types::CertificateDer;
pub use signing::{AuthorityCall, AuthorityTls};
