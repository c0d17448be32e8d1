//! What stands between the socket and hyper: decides the protocol, checks every HTTP/1 head and chunk strictly
//! before hyper sees it, and answers for the time limits of a connection.

mod chunked;
mod detect;
mod head;
mod reject;
mod scan;
mod target;

pub use chunked::{ChunkScanner, MAX_EXTENSION_BYTES, MAX_TRAILER_BYTES, MAX_TRAILERS, Progress};
pub use detect::{H2_PREFACE, Sniff, sniff};
pub use head::{BodyFraming, HeadLimits, HeadParser, REJECT_METHOD, RequestFraming, validate_head};
pub use reject::{Reject, RejectReason};
pub use scan::{Place, RequestScanner, Rest, Scan};
pub use target::MAX_TARGET_BYTES;
