//! A session as text: what callers carry from one call to the next, and do not look into.

use std::fmt::Write as _;

use xxhash_rust::xxh64::xxh64;

use super::core::session::Session;
use crate::store::protocol;

/// A session as its holder has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token(pub(super) Session);

/// A text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no session: use what the last call told, whole and unchanged, or begin a new one without any"
)]
pub struct TokenError;

impl Token {
    /// Reads what [`Token::text`] has written.
    ///
    /// # Errors
    /// If it is anything else, or was changed or cut on the way.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > LONGEST
            || !text.len().is_multiple_of(2)
            || !text.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return Err(TokenError);
        }
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| TokenError);
        let bytes: Vec<u8> = (0..text.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
        let (session, sum) = bytes.split_last_chunk().ok_or(TokenError)?;
        if checksum(session) != *sum {
            return Err(TokenError);
        }
        let session: Session = protocol::read(session).ok_or(TokenError)?;
        if session.is_sound() { Ok(Self(session)) } else { Err(TokenError) }
    }

    /// As hexadecimal digits.
    #[must_use]
    pub fn text(&self) -> String {
        let session = protocol::write(&self.0);
        let mut text = String::new();
        for byte in session.iter().chain(&checksum(&session)) {
            // Writing to memory does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

/// Against accidents: who holds a token may ask for whatever it likes.
fn checksum(session: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = xxh64(session, 1).to_le_bytes();
    [a, b, c, d]
}

/// More than 64 keys with their stamps take.
const LONGEST: usize = 8 * 1024;
