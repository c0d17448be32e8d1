//! The time limits of a connection, and what it means that one was exceeded. Who applies them: `ConnState::sweep`.

use std::time::Duration;

/// The time limits of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimits {
    /// From accept to the first complete head, and from the first byte of a later head to its last.
    pub header: Duration,
    /// Without a request.
    pub idle: Duration,
    /// Without progress of a body that somebody waits for, of a write, or of a tunnel.
    pub stream_idle: Duration,
}

/// A time limit that was exceeded, as reported once by [`super::ConnState::sweep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expired {
    /// Not a byte since accept: closed without a word.
    Silent,
    /// A head took too long: answered 408.
    Header,
    /// No request for too long: closed, on HTTP/2 after GOAWAY.
    Idle,
    /// A body made no progress: its reader gets an error.
    Body,
    /// The client does not take what is written: the writer gets an error.
    Write,
    /// No byte through a tunnel in either direction: its reader gets an error.
    Tunnel,
    /// The connection did not end after it was told to: cut.
    Closing,
}

impl Expired {
    /// The value of the metric label `timeout`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Header => "header",
            Self::Idle => "idle",
            Self::Body => "body",
            Self::Write => "write",
            Self::Tunnel => "tunnel",
            Self::Closing => "closing",
        }
    }
}
