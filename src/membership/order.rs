//! What can be asked of the keyring of the whole mesh, and what comes back.

use std::{fmt, sync::Arc};

use super::GossipKey;

/// Stands for a key where the key itself must not be shown: the first four bytes of its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyMark(pub u32);

impl fmt::Display for KeyMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// A text is no mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mark of a key is 8 hexadecimal digits: `outrigger keyring ls` shows those that there are")]
pub struct KeyMarkError;

impl std::str::FromStr for KeyMark {
    type Err = KeyMarkError;

    fn from_str(text: &str) -> Result<Self, KeyMarkError> {
        // The length first: whoever gives a key instead shall not have its beginning taken for a mark.
        let is_mark = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u32::from_str_radix(text, 16).map_err(|_| KeyMarkError)?;
        if is_mark { Ok(Self(number)) } else { Err(KeyMarkError) }
    }
}

/// A change of the keyring, to be made by every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyringOrder {
    /// Packets that are sealed with it can be opened from now on.
    Install(GossipKey),
    /// Packets are sealed with it from now on. Every living member must have it.
    Use(KeyMark),
    /// It is forgotten. No living member may seal with it.
    Remove(KeyMark),
}

/// What became of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyringReport {
    /// Names of the members that have carried it out, this node included.
    pub done: Vec<Arc<str>>,
    /// Names of those that have not, and why.
    pub failed: Vec<(Arc<str>, String)>,
}

/// One key, as far as this node knows from what the living members say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHolders {
    /// Which.
    pub mark: KeyMark,
    /// Whether this node seals with it.
    pub is_primary: bool,
    /// How many living members have it, this node included.
    pub holders: usize,
    /// How many of them seal with it.
    pub sealers: usize,
    /// How many living members there are.
    pub members: usize,
}

/// An order is refused before anybody was told; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// Nobody here has it.
    #[error("there is no key {0} in the keyring; `outrigger keyring ls` shows those that are")]
    Unknown(KeyMark),
    /// Some could not open what they are sent.
    #[error("not every member has key {mark} yet ({names} lack it); install it again, then use it")]
    NotEverywhere {
        /// Which.
        mark: KeyMark,
        /// Who lacks it.
        names: String,
    },
    /// Somebody seals with it.
    #[error("key {mark} is in use ({names} seal with it); use another one first")]
    InUse {
        /// Which.
        mark: KeyMark,
        /// Who seals with it.
        names: String,
    },
    /// There are too many.
    #[error("the keyring is full: {0} keys; remove one first")]
    Full(usize),
    /// It cannot be written down.
    #[error("the keyring cannot be written: {0}")]
    Storage(String),
    /// The process ends.
    #[error("the process is leaving")]
    Leaving,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_is_shown() {
        let mark = KeyMark(0x0a1b_2c3d);
        assert_eq!((mark.to_string().as_str(), mark.to_string().parse()), ("0a1b2c3d", Ok(mark)));
        for wrong in ["", "a1b2c3d", "0a1b2c3d4", "+a1b2c3d", "0a1b2c3g"] {
            assert_eq!(wrong.parse::<KeyMark>(), Err(KeyMarkError), "{wrong}");
        }
    }
}
