//! `retry_on`: the words that Envoy uses for what is worth another attempt, and status codes.

use http::StatusCode;

use super::Failure;

/// One word of `retry_on`. Meanings are Envoy's (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Condition {
    /// No connection could be made.
    ConnectFailure,
    /// The endpoint said that it did not process the request.
    RefusedStream,
    /// The connection broke before a byte of the request was sent.
    ResetBeforeRequest,
    /// The connection broke, or one attempt took too long, without an answer.
    Reset,
    /// 502, 503, 504, or no answer at all.
    GatewayError,
    /// Any status from 500 to 599, or no answer at all.
    ServerError,
    /// 409.
    Retriable4xx,
    /// gRPC code 1.
    Cancelled,
    /// gRPC code 4.
    DeadlineExceeded,
    /// gRPC code 8.
    ResourceExhausted,
    /// gRPC code 13.
    Internal,
    /// gRPC code 14.
    Unavailable,
}

impl Condition {
    /// All words with their names in the configuration.
    pub const WORDS: [(&'static str, Self); 12] = [
        ("connect-failure", Self::ConnectFailure),
        ("refused-stream", Self::RefusedStream),
        ("reset-before-request", Self::ResetBeforeRequest),
        ("reset", Self::Reset),
        ("gateway-error", Self::GatewayError),
        ("5xx", Self::ServerError),
        ("retriable-4xx", Self::Retriable4xx),
        ("cancelled", Self::Cancelled),
        ("deadline-exceeded", Self::DeadlineExceeded),
        ("resource-exhausted", Self::ResourceExhausted),
        ("internal", Self::Internal),
        ("unavailable", Self::Unavailable),
    ];

    const fn grpc_code(self) -> Option<u8> {
        match self {
            Self::Cancelled => Some(1),
            Self::DeadlineExceeded => Some(4),
            Self::ResourceExhausted => Some(8),
            Self::Internal => Some(13),
            Self::Unavailable => Some(14),
            _ => None,
        }
    }
}

/// A set of conditions and statuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    words: u16,
    grpc: u64,
    statuses: Vec<StatusCode>,
}

impl RetryOn {
    /// What is repeated when the configuration says nothing: failures without an answer. With a method that may
    /// not be repeated, only those of them in which the request surely was not processed.
    #[must_use]
    pub fn builtin() -> Self {
        let mut set = Self::default();
        for word in [
            Condition::ConnectFailure,
            Condition::RefusedStream,
            Condition::ResetBeforeRequest,
            Condition::Reset,
        ] {
            set.add(word);
        }
        set
    }

    /// Only what surely was not processed: the rule between a sidecar and its own application, where the caller's
    /// sidecar repeats the rest.
    #[must_use]
    pub fn unprocessed() -> Self {
        let mut set = Self::default();
        for word in [Condition::ConnectFailure, Condition::RefusedStream, Condition::ResetBeforeRequest] {
            set.add(word);
        }
        set
    }

    /// Adds a word.
    pub fn add(&mut self, word: Condition) {
        self.words |= 1 << word as u8;
        if let Some(code) = word.grpc_code() {
            self.grpc |= 1 << code;
        }
    }

    /// Adds a status.
    pub fn add_status(&mut self, status: StatusCode) {
        if !self.statuses.contains(&status) {
            self.statuses.push(status);
        }
    }

    /// As it is written in the configuration.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let words =
            Condition::WORDS.iter().filter(|(_, word)| self.has(*word)).map(|(name, _)| (*name).to_owned());
        words.chain(self.statuses.iter().map(|status| status.as_u16().to_string())).collect()
    }

    const fn has(&self, word: Condition) -> bool {
        self.words & (1 << word as u8) != 0
    }

    /// Whether the failure is one of these.
    #[must_use]
    pub fn holds(&self, failure: Failure) -> bool {
        let no_answer = self.has(Condition::GatewayError) || self.has(Condition::ServerError);
        match failure {
            Failure::NotConnected => no_answer || self.has(Condition::ConnectFailure),
            Failure::NothingSent => {
                no_answer || self.has(Condition::ResetBeforeRequest) || self.has(Condition::Reset)
            }
            Failure::Unprocessed => no_answer || self.has(Condition::RefusedStream),
            Failure::NoResponseByte | Failure::TryTimedOut => no_answer || self.has(Condition::Reset),
            Failure::Answered(status) => self.has_status(status),
            Failure::AnsweredGrpc(code) => code < 64 && self.grpc & (1 << code) != 0,
            Failure::Final => false,
        }
    }

    fn has_status(&self, status: StatusCode) -> bool {
        match status.as_u16() {
            502..=504 if self.has(Condition::GatewayError) => true,
            500..=599 if self.has(Condition::ServerError) => true,
            409 if self.has(Condition::Retriable4xx) => true,
            _ => self.statuses.contains(&status),
        }
    }
}
