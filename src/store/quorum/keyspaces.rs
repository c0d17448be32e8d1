//! Which keys this tier keeps, and how: as configured, the same on all nodes of a mesh.

use std::{collections::BTreeMap, sync::Arc};

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

    pub(super) fn specs(&self) -> Specs {
        self.iter().map(|(name, space)| (name.to_owned(), space.spec)).collect()
    }
}
