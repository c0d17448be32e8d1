//! The keys as they were at an earlier revision: as they are now, but for those that have changed since.

use std::{collections::BTreeMap, iter::Peekable, ops::Bound};

use super::{
    super::{
        key::{Key, Revision},
        outcome::{Change, Page, Versioned},
    },
    pages,
};
use crate::store::Scan;

/// The keys as they were at an earlier revision. Copies no value.
#[derive(Clone, Debug)]
pub struct Past<'a> {
    now: &'a BTreeMap<Key, Versioned>,
    /// What the keys had that have changed since.
    changed: BTreeMap<&'a str, Entry<'a>>,
    revision: Revision,
}

impl<'a> Past<'a> {
    /// `changes` are all after `revision`, the newest first.
    pub(super) fn new(
        now: &'a BTreeMap<Key, Versioned>,
        changes: impl Iterator<Item = &'a Change>,
        revision: Revision,
    ) -> Self {
        // The last one to come, which is the oldest, has what there was before all of them.
        let changed = changes.map(|change| (change.key.as_str(), (&change.key, change.before.as_ref())));
        let changed = changed.collect();
        Self { now, changed, revision }
    }

    /// When.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What `key` had.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&'a Versioned> {
        match self.changed.get(key.as_str()) {
            Some((_, had)) => *had,
            None => self.now.get(key),
        }
    }

    /// Keys in order, with the limits of [`Kv::scan`](super::Kv::scan).
    #[must_use]
    pub fn scan(&self, scan: &Scan) -> Page {
        pages::page(self.range(pages::from(scan)), scan, self.revision)
    }

    /// All keys in order, and what they had.
    pub fn iter(&self) -> impl Iterator<Item = (&'a Key, &'a Versioned)> {
        self.range((Bound::Unbounded, Bound::Unbounded))
    }

    fn range(&self, bounds: (Bound<&str>, Bound<&str>)) -> impl Iterator<Item = (&'a Key, &'a Versioned)> {
        let now = self.now.range::<str, _>(bounds).map(|(key, has)| (key, Some(has)));
        let changed = self.changed.range::<str, _>(bounds).map(|(_, entry)| *entry);
        Merged { now: now.peekable(), changed: changed.peekable() }.filter_map(|(key, had)| Some((key, had?)))
    }
}

/// Both in order; where both have a key, what `changed` says.
struct Merged<N: Iterator, C: Iterator> {
    now: Peekable<N>,
    changed: Peekable<C>,
}

type Entry<'a> = (&'a Key, Option<&'a Versioned>);

impl<'a, N: Iterator<Item = Entry<'a>>, C: Iterator<Item = Entry<'a>>> Iterator for Merged<N, C> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let Some((changed, _)) = self.changed.peek().copied() else { return self.now.next() };
        if let Some(before) = self.now.next_if(|(now, _)| *now < changed) {
            return Some(before);
        }
        self.now.next_if(|(now, _)| *now == changed);
        self.changed.next()
    }
}
