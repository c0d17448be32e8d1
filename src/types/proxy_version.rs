//! The versions of the PROXY protocol.

/// How a PROXY header is written. Both are read wherever one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}
