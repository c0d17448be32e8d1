//! Which keys this tier keeps, and how: as configured, the same on all nodes of a mesh.

use std::{collections::BTreeMap, fmt, sync::Arc};

use xxhash_rust::xxh64::xxh64;

use super::core::rules::{Spec, Specs};

/// A keyspace of this tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyspace {
    /// What calls are answered with that say nothing.
    pub level: KeyspaceLevel,
    /// How it is kept.
    pub spec: Spec,
}

/// What a call is answered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyspaceLevel {
    /// What the last quorum write that was confirmed before has written, or something later.
    #[default]
    Quorum,
    /// Nothing older than what the same session has read and written.
    Session,
    /// What one replica has.
    Eventual,
}

/// The keyspaces of this tier by name; all other keys are the strong tier's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyspaces(Arc<BTreeMap<String, Keyspace>>);

impl Keyspaces {
    /// These.
    #[must_use]
    pub fn new(spaces: BTreeMap<String, Keyspace>) -> Self {
        Self(Arc::new(spaces))
    }

    /// The keyspace of a key, or of all keys that begin so: what comes before the first slash, if that is named.
    #[must_use]
    pub fn of<'a>(&self, key: &'a str) -> Option<(&'a str, Keyspace)> {
        let (name, _) = key.split_once('/')?;
        self.0.get(name).map(|space| (name, *space))
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Keyspace)> {
        self.0.iter().map(|(name, space)| (name.as_str(), *space))
    }

    /// Stands for all that has to be the same on all nodes: names, levels, and of how many servers. Timeouts are those of
    /// whoever asks.
    #[must_use]
    pub fn digest(&self) -> u32 {
        // Half of it is enough to tell apart what people write.
        (xxh64(self.to_string().as_bytes(), 0) >> 32) as u32
    }

    pub(super) fn specs(&self) -> Specs {
        self.iter().map(|(name, space)| (name.to_owned(), space.spec)).collect()
    }
}

/// As they are compared, and shown to people who compare them.
impl fmt::Display for Keyspaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, Keyspace { level, spec })) in self.iter().enumerate() {
            let level = match level {
                KeyspaceLevel::Quorum => "quorum",
                KeyspaceLevel::Session => "session",
                KeyspaceLevel::Eventual => "eventual",
            };
            let Spec { replicas, reads, writes, .. } = spec;
            let before = if at == 0 { "" } else { ", " };
            write!(f, "{before}{name}: {level}, {reads} reads and {writes} writes of {replicas}")?;
        }
        if self.0.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}
