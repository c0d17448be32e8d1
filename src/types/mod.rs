//! The vocabulary that every module shares: addresses, flags, directions, time. No behaviour beyond
//! construction and conversion; nothing here imports another module of ours.

mod address;
mod claims;
mod condition;
mod flag;
mod identity;
mod live;
mod priority;
mod proxy_version;
mod secret;
mod tags;
mod time;

pub use address::{AddressError, EndpointAddress};
pub use claims::Claims;
pub use condition::{Circuit, EjectionCause, EndpointState, TripCause};
pub use flag::{Direction, Flag, RetryDenied};
pub use identity::{IdentityError, SpiffeId, TrustDomain};
pub use live::Live;
pub use priority::Priority;
pub use proxy_version::ProxyVersion;
pub use secret::Secret;
pub use tags::{Tags, ZONE};
pub use time::Mono;
