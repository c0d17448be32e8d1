//! Tokens of end users (JWT, RFC 7519, signed as in RFC 7515): read within bounds, verified with the keys of their
//! issuers. What becomes of a request whose token is refused, and where keys come from, is decided elsewhere.
//!
//! Nothing that a token says decides how it is verified, but which of the issuer's keys: a key is for the algorithms
//! of its own kind, and for no others, so a public key is never the secret of an HMAC (RFC 8725 §3.1).

mod base64url;
mod cache;
mod json;
mod keys;
mod token;
mod verifier;

pub use keys::{IssuerKeys, KeySet, KeySetError, KeySource, Update, UrlSource, read_keys};
pub use token::{Token, TokenError};
pub use verifier::{Issuer, IssuerParams, JwtParams, Refusal, Verified, Verifier};

#[cfg(test)]
mod tests;
