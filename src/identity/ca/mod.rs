//! The built-in certificate authority: a directory with roots, what they signed and what was revoked. It is worked on by
//! the command line and by whoever signs for peers, one at a time. Files of one sidecar's own certificate are read
//! elsewhere.

mod authority;
mod copy;
mod crl;
mod csr;
mod error;
mod files;
mod hex;
mod issue;
mod names;
mod output;
mod peers;
mod request;
mod root;
mod rotate;
mod seal;
mod stamp;
mod state;
mod status;
mod token;

pub use authority::{Authority, Params};
pub use copy::{COPY_KEY, CopyNumber, CopyStatus, NextCopy, Restored};
pub use error::{CaError, RenewalError, RequestError, TokenError};
pub use issue::{Issued, Order, PrivateKeyPem, Signed};
pub use names::{Fingerprint, NameError, Node, Serial, TokenId};
pub use output::{check_output, write_public};
pub use peers::{Presented, Published, Version, Wish};
pub use request::KeyRequest;
pub use root::SKEW;
pub use rotate::{Force, Rotation, Step};
pub use seal::{KeyId, MasterKey};
pub use stamp::Stamp;
pub use state::{Leaf, Phase, Reason, ReasonError, Revocation, Token};
pub use status::{RootStatus, Status};
pub use token::JoinToken;

pub(crate) use files::replace_private;
pub(in crate::identity) use files::{Mode, make_directory, names as names_in, write};
pub(in crate::identity) use hex::encode as hex;

#[cfg(test)]
mod tests;
