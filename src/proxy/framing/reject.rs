//! Why the guard refused a message: one status and one word for metrics and the access log.

use std::{fmt, io};

/// What was wrong with a message. The words are values of the metric label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// `Content-Length` and `Transfer-Encoding` in one head: two readers could see two different bodies.
    ClTe,
    /// `Content-Length` twice, or not a plain decimal number up to 2^63.
    ContentLength,
    /// `Transfer-Encoding` twice, other than `chunked`, or on HTTP/1.0.
    TransferEncoding,
    /// `Host` missing on HTTP/1.1, given twice, or not `host[:port]`.
    Host,
    /// The request line is not `METHOD SP target SP HTTP/x.y`.
    RequestLine,
    /// A line that does not end with CRLF, and only there.
    LineEnd,
    /// A field line that is folded, has no name, a name that is no token, or control bytes in the value.
    HeaderField,
    /// A target whose form does not fit the method, or with bytes that no target may contain.
    Target,
    /// A target longer than the limit.
    TargetTooLong,
    /// An HTTP version other than 1.0 and 1.1.
    Version,
    /// More fields than the limit.
    TooManyHeaders,
    /// A head longer than the limit.
    TooLarge,
    /// An expectation other than `100-continue`.
    Expect,
    /// A method that the proxy does not serve.
    Method,
    /// A chunk whose size, extension or end is malformed.
    Chunk,
    /// A trailer field that is malformed or would change the framing, or too many of them.
    Trailer,
    /// The head did not arrive in time.
    HeaderTimeout,
}

impl RejectReason {
    /// All reasons, for tables indexed by them.
    pub const ALL: [Self; 17] = [
        Self::ClTe,
        Self::ContentLength,
        Self::TransferEncoding,
        Self::Host,
        Self::RequestLine,
        Self::LineEnd,
        Self::HeaderField,
        Self::Target,
        Self::TargetTooLong,
        Self::Version,
        Self::TooManyHeaders,
        Self::TooLarge,
        Self::Expect,
        Self::Method,
        Self::Chunk,
        Self::Trailer,
        Self::HeaderTimeout,
    ];

    /// The value of the metric label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClTe => "cl_te",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::Host => "host",
            Self::RequestLine => "request_line",
            Self::LineEnd => "line_end",
            Self::HeaderField => "header_field",
            Self::Target => "target",
            Self::TargetTooLong => "target_too_long",
            Self::Version => "version",
            Self::TooManyHeaders => "too_many_headers",
            Self::TooLarge => "too_large",
            Self::Expect => "expect",
            Self::Method => "method",
            Self::Chunk => "chunk",
            Self::Trailer => "trailer",
            Self::HeaderTimeout => "header_timeout",
        }
    }
}

/// A refusal: the status of the answer and the reason. The connection closes after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Status of the answer.
    pub status: u16,
    /// What was wrong.
    pub reason: RejectReason,
}

impl Reject {
    /// A refusal with the status that belongs to `reason`, which is 400 for everything malformed.
    #[must_use]
    pub const fn new(reason: RejectReason) -> Self {
        let status = match reason {
            RejectReason::HeaderTimeout => 408,
            RejectReason::TargetTooLong => 414,
            RejectReason::Expect => 417,
            RejectReason::TooManyHeaders | RejectReason::TooLarge => 431,
            RejectReason::Version => 505,
            RejectReason::ClTe
            | RejectReason::ContentLength
            | RejectReason::TransferEncoding
            | RejectReason::Host
            | RejectReason::RequestLine
            | RejectReason::LineEnd
            | RejectReason::HeaderField
            | RejectReason::Target
            | RejectReason::Method
            | RejectReason::Chunk
            | RejectReason::Trailer => 400,
        };
        Self { status, reason }
    }

    /// The same reason with another status.
    #[must_use]
    pub(crate) const fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason.as_str(), self.status)
    }
}

impl std::error::Error for Reject {}

impl From<Reject> for io::Error {
    /// An error of kind `InvalidData` whose source is the refusal.
    fn from(reject: Reject) -> Self {
        Self::new(io::ErrorKind::InvalidData, reject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_label() {
        let words: std::collections::HashSet<_> = RejectReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(words.len(), RejectReason::ALL.len());
    }
}
