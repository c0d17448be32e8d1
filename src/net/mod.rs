//! Sockets: bind, accept, dial within a deadline, speak TLS on them.

mod accept;
mod dial;
mod listen;
mod original;
pub mod proxy_protocol;
mod secure;
mod stream;
pub mod tls;
mod unix;

pub use accept::Accepting;
pub use dial::{DialError, dial, dial_either, dial_from};
pub use listen::{BindError, bind, bind_twin};
pub use original::{canonical, local_address, original_destination};
pub use secure::secure;
pub use stream::{JOINED, Stream, join_small};
pub use unix::{UnixError, UnixPlace, bind_unix};
