//! What stands between the socket and hyper: decides the protocol, checks every HTTP/1 head and chunk strictly
//! before hyper sees it, and answers for the time limits of a connection.
//!
//! Per connection: make a [`ConnState`], wrap the socket in a [`GuardedIo`], [`GuardedIo::detect`], then let
//! hyper serve the guard. Per request: [`ConnState::begin_request`], and if [`ActiveRequest::reject`] says so,
//! answer with that status. The worker's sweeper calls [`ConnState::sweep`] on every connection. When the codec
//! is done, take the guard back and either [`GuardedIo::start_tunnel`] or [`GuardedIo::close`] it.

mod chunked;
mod detect;
mod expiry;
mod frames;
mod guard;
mod head;
mod linger;
mod reject;
mod scan;
mod state;
mod target;
mod waker;

pub use chunked::{ChunkScanner, MAX_EXTENSION_BYTES, MAX_TRAILER_BYTES, MAX_TRAILERS, Progress};
pub use detect::{H2_PREFACE, Sniff, sniff};
pub use expiry::{Expired, TimeLimits};
pub use frames::{Flood, FrameWatch, Role};
pub use guard::{Detected, GuardedIo};
pub use head::{BodyFraming, HeadLimits, HeadParser, REJECT_METHOD, RequestFraming, validate_head};
pub use linger::{LINGER_BYTES, LINGER_TIME, linger};
pub use reject::{Reject, RejectReason};
pub use scan::{Place, RequestScanner, Rest, Scan};
pub use state::{ActiveRequest, CoarseClock, ConnState, Phase};
pub use target::MAX_TARGET_BYTES;
pub(crate) use target::valid_authority;
