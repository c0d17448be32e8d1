//! Sockets: bind, accept, dial within a deadline.

mod accept;
mod dial;
mod listen;
pub mod proxy_protocol;
mod stream;

pub use accept::Accepting;
pub use dial::{DialError, dial, dial_either};
pub use listen::{BindError, bind};
pub use stream::{JOINED, Stream, join_small};
