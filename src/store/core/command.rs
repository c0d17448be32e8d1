//! What is asked of the store: the entries of the replicated log.

use std::{fmt, marker::PhantomData, sync::Arc};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};

use super::{
    key::{Key, LeaseId, OpId, Revision},
    kv::MAX_REMOVED,
};

/// Largest value, in bytes.
pub const MAX_VALUE: usize = 512 * 1024;
/// Most comparisons of a transaction, and most operations of each of its branches.
pub const MAX_OPERATIONS: usize = 128;
/// Largest transaction: the bytes of its keys and values.
pub const MAX_TRANSACTION: usize = 1024 * 1024;
/// Longest name of an author, in bytes.
pub const MAX_AUTHOR: usize = 256;
/// Shortest and longest life of a lease, in milliseconds.
pub const LEASE_LIMITS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Which write this is. One that has been applied within the last 15 minutes is answered as it was then.
    pub op: OpId,
    /// When its leader took it, in milliseconds since 1970. A time before that of an earlier entry counts as that.
    pub at_ms: u64,
    /// Who asked for it, and through which node; or the node alone.
    pub author: Arc<str>,
    /// What is asked.
    pub request: Request,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Reads and writes, all or nothing.
    Transact(Transaction),
    /// A lease that ends `ttl_ms` after the last word of its holder.
    Grant {
        /// How long it lasts, within [`LEASE_LIMITS`].
        ttl_ms: u64,
    },
    /// The holder of a lease is still there.
    KeepAlive(LeaseId),
    /// A lease ends now, and the keys that are bound to it go.
    Revoke(LeaseId),
    /// Leases that have run out by `at_ms` end. Only a leader asks for this.
    Expire,
}

/// Reads and writes at one moment: if all comparisons hold `then`, otherwise `otherwise`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// What must hold; nothing does always.
    #[serde(deserialize_with = "few")]
    pub compare: Vec<Compare>,
    /// What is done then.
    #[serde(deserialize_with = "few")]
    pub then: Vec<Operation>,
    /// What is done otherwise.
    #[serde(deserialize_with = "few")]
    pub otherwise: Vec<Operation>,
}

/// A comparison. All values of a key that is not there are 0 or empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// Of which key.
    pub key: Key,
    /// How what it has stands to what is given.
    pub relation: Relation,
    /// What is given.
    pub with: Operand,
}

/// How two values stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// They are equal.
    Equal,
    /// They are not.
    NotEqual,
    /// What the key has is less.
    Less,
    /// What the key has is greater.
    Greater,
}

/// What a key is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operand {
    /// The revision of its last change; 0 if it is not there.
    Modified(Revision),
    /// The revision that made it; 0 if it is not there.
    Created(Revision),
    /// How often it was written since then.
    Version(u64),
    /// Its value.
    Value(Bytes),
}

/// A read or a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// What a key has.
    Get(Key),
    /// Sets a key.
    Put {
        /// Which.
        key: Key,
        /// To what; at most [`MAX_VALUE`] bytes.
        value: Bytes,
        /// How long it stays.
        stay: Stay,
    },
    /// Removes a key if it is there.
    Delete(Key),
    /// Removes all keys that begin so; an empty text is all of them.
    DeletePrefix(String),
}

/// How long a key stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stay {
    /// Until it is removed.
    #[default]
    Forever,
    /// As long as a lease.
    Lease(LeaseId),
    /// This many milliseconds, by a lease of its own; within [`LEASE_LIMITS`].
    Ttl(u64),
}

/// A request that no replica would apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A value is too large.
    #[error("the value of {key} has {length} bytes; at most {MAX_VALUE} are stored")]
    Value {
        /// Of which key.
        key: Key,
        /// How large.
        length: usize,
    },
    /// A transaction does too much.
    #[error(
        "a transaction has at most {MAX_OPERATIONS} comparisons and as many operations, and {MAX_TRANSACTION} bytes"
    )]
    Transaction,
    /// It removes too many keys.
    #[error(
        "a transaction removes at most {MAX_REMOVED} keys by their beginnings: use longer ones, or remove them key by key"
    )]
    Removed,
    /// The life of a lease is out of range.
    #[error("a lease lasts 1 second to 24 hours, not {0} ms")]
    Ttl(u64),
    /// The name of an author is none.
    #[error("the name of an author has at most {MAX_AUTHOR} bytes, and no control characters")]
    Author,
}

/// Whoever `text` names, as an author: without control characters, and cut at the end of a character if it is too long.
#[must_use]
pub fn author(text: &str) -> Arc<str> {
    let mut name = String::with_capacity(text.len().min(MAX_AUTHOR));
    for letter in text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }) {
        if name.len() + letter.len_utf8() > MAX_AUTHOR {
            break;
        }
        name.push(letter);
    }
    name.into()
}

impl Command {
    /// Whether it keeps the limits of this file. What a peer sends is checked before it is proposed.
    ///
    /// # Errors
    /// What is beyond which limit.
    pub fn check(&self) -> Result<(), RequestError> {
        if self.author.len() > MAX_AUTHOR || self.author.chars().any(char::is_control) {
            return Err(RequestError::Author);
        }
        match &self.request {
            Request::Transact(transaction) => transaction.check(),
            Request::Grant { ttl_ms } => check_ttl(*ttl_ms),
            Request::KeepAlive(_) | Request::Revoke(_) | Request::Expire => Ok(()),
        }
    }
}

impl Transaction {
    /// Sets one key, whatever it has.
    #[must_use]
    pub fn put(key: Key, value: Bytes, stay: Stay) -> Self {
        Self { then: vec![Operation::Put { key, value, stay }], ..Self::default() }
    }

    /// Removes one key.
    #[must_use]
    pub fn delete(key: Key) -> Self {
        Self { then: vec![Operation::Delete(key)], ..Self::default() }
    }

    /// Does so only if the last change of `key` was at `revision`; 0 means that it must not be there.
    #[must_use]
    pub fn if_modified_at(mut self, key: Key, revision: Revision) -> Self {
        self.compare.push(Compare { key, relation: Relation::Equal, with: Operand::Modified(revision) });
        self
    }

    fn check(&self) -> Result<(), RequestError> {
        let counts = [self.compare.len(), self.then.len(), self.otherwise.len()];
        if counts.iter().any(|count| *count > MAX_OPERATIONS) {
            return Err(RequestError::Transaction);
        }
        let mut size: usize = self.compare.iter().map(Compare::size).sum();
        for operation in self.then.iter().chain(&self.otherwise) {
            size += operation.size();
            if let Operation::Put { key, value, stay } = operation {
                if value.len() > MAX_VALUE {
                    return Err(RequestError::Value { key: key.clone(), length: value.len() });
                }
                if let Stay::Ttl(ttl_ms) = stay {
                    check_ttl(*ttl_ms)?;
                }
            }
        }
        if size > MAX_TRANSACTION { Err(RequestError::Transaction) } else { Ok(()) }
    }
}

impl Compare {
    fn size(&self) -> usize {
        let value = match &self.with {
            Operand::Value(value) => value.len(),
            Operand::Modified(_) | Operand::Created(_) | Operand::Version(_) => 8,
        };
        self.key.as_str().len() + value
    }
}

impl Operation {
    fn size(&self) -> usize {
        match self {
            Self::Get(key) | Self::Delete(key) => key.as_str().len(),
            Self::Put { key, value, .. } => key.as_str().len() + value.len(),
            Self::DeletePrefix(prefix) => prefix.len(),
        }
    }
}

/// A list of at most [`MAX_OPERATIONS`], which is known before there is room for it: items of a few bytes would take many
/// times as much memory.
fn few<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    bounded::<T, D>(from, MAX_OPERATIONS)
}

/// A list of at most `most` items; a longer one is refused at the first that is too many, or sooner.
pub(in crate::store) fn bounded<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
    most: usize,
) -> Result<Vec<T>, D::Error> {
    struct Items<T>(usize, PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {} items", self.0)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let told = items.size_hint().unwrap_or(0);
            if told > self.0 {
                return Err(A::Error::invalid_length(told, &self));
            }
            let mut list = Vec::with_capacity(told);
            while let Some(item) = items.next_element()? {
                if list.len() >= self.0 {
                    return Err(A::Error::invalid_length(list.len() + 1, &self));
                }
                list.push(item);
            }
            Ok(list)
        }
    }

    from.deserialize_seq(Items(most, PhantomData))
}

fn check_ttl(ttl_ms: u64) -> Result<(), RequestError> {
    if LEASE_LIMITS.contains(&ttl_ms) { Ok(()) } else { Err(RequestError::Ttl(ttl_ms)) }
}
