//! A text that opens something. Nothing shows it, and comparing tells nobody how much of a guess was right.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};

/// A token or a password, held for comparing.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The secret `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether `offered` is the secret. The time this takes depends on the length of `offered` alone: digests are
    /// compared, which are all of one length, to their end.
    #[must_use]
    pub fn matches(&self, offered: &[u8]) -> bool {
        let (own, offered) = (digest(&SHA256, self.0.as_bytes()), digest(&SHA256, offered));
        verify_slices_are_equal(own.as_ref(), offered.as_ref()).is_ok()
    }

    /// The secret itself: to be sent or compared with others, never to be shown.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other.0.as_bytes())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_itself_matches() {
        let secret = Secret::new("0123456789abcdef");
        assert!(secret.matches(b"0123456789abcdef"));
        for wrong in [&b""[..], b"0123456789abcde", b"0123456789abcdef0", b"0123456789abcdeF"] {
            assert!(!secret.matches(wrong), "{wrong:?}");
        }
        assert!(secret == Secret::new("0123456789abcdef") && secret != Secret::new("0"));
    }

    #[test]
    fn it_is_not_in_what_programmers_print() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some(***)");
    }
}
