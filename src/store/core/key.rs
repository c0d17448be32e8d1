//! What things in the store are called, and how often it has changed.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Longest key, in bytes.
pub const MAX_KEY: usize = 4 * 1024;

/// A key: 1 to [`MAX_KEY`] bytes of UTF-8 without control characters. Keys are in the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(Arc<str>);

/// A text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is 1 to {MAX_KEY} bytes of text without control characters")]
pub struct KeyError;

impl Key {
    /// # Errors
    /// If `text` cannot be a key.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        let fits = (1..=MAX_KEY).contains(&text.len());
        if fits && !text.chars().any(char::is_control) { Ok(Self(text.into())) } else { Err(KeyError) }
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Keys are looked up and walked through by any text: a prefix need not be a key.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::new(&text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0.as_ref().to_owned()
    }
}

/// How often the state has changed when something was so: each command that changes anything makes the next one. 0 is
/// before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Names a lease: the revision that granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

/// Names a write, so that repeating it does nothing twice: who writes, and its how-manieth write it is. `client` is drawn
/// by chance once per process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpId {
    /// Who writes.
    pub client: u64,
    /// Its how-manieth write.
    pub sequence: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_length_and_no_control_characters() {
        assert!(Key::new("routes/web ü").is_ok());
        assert!(Key::new(&"k".repeat(MAX_KEY)).is_ok());
        for text in ["", "a\nb", "a\0", &"k".repeat(MAX_KEY + 1)] {
            assert_eq!(Key::new(text), Err(KeyError));
        }
        let bytes = postcard::to_allocvec("a\tb").unwrap();
        assert!(postcard::from_bytes::<Key>(&bytes).is_err());
    }
}
