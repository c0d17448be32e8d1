//! Who a workload is, and how it proves that: certificates with SPIFFE identities, those who issue them, and the TLS
//! that is spoken with them. Opens no connection and knows nothing of requests.

mod bounded_file;
pub mod external;
pub mod jwt;

pub use bounded_file::FileError;
