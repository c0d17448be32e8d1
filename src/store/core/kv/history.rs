//! What has changed lately, for those who watch and for looking back. Whole revisions go, the oldest first.

use std::collections::VecDeque;

use super::super::{
    key::{Key, Revision},
    outcome::{Change, Versioned},
};

/// Most changes that are remembered.
pub(super) const MAX_CHANGES: usize = 10_000;
/// Most bytes of their keys and of the values before and after them.
pub(super) const MAX_CHANGES_BYTES: usize = 16 * 1024 * 1024;
/// What a limit of 0 means.
const DEFAULT_LIMIT: usize = 1000;

/// Changes that long ago are not remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("changes are remembered from revision {oldest} on")]
pub struct Compacted {
    /// The first revision that is.
    pub oldest: Revision,
}

/// Changes, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    changes: VecDeque<Change>,
    bytes: usize,
    /// The last revision that was forgotten.
    forgotten: Revision,
}

impl History {
    /// Puts back what [`History::changes`] told.
    pub(super) fn restore(forgotten: Revision, changes: VecDeque<Change>) -> Self {
        let bytes = changes.iter().map(weight).sum();
        Self { changes, bytes, forgotten }
    }

    pub(super) fn changes(&self) -> &VecDeque<Change> {
        &self.changes
    }

    /// The last revision that was forgotten; 0 if none was.
    pub(super) fn forgotten(&self) -> Revision {
        self.forgotten
    }

    pub(super) fn oldest(&self) -> Revision {
        Revision(self.forgotten.0 + 1)
    }

    /// Remembers what `revision`, which is later than all before, has changed. One that is too much by itself is
    /// forgotten at once.
    pub(super) fn push(&mut self, revision: Revision, changes: Vec<Change>) {
        let bytes: usize = changes.iter().map(weight).sum();
        if changes.len() > MAX_CHANGES || bytes > MAX_CHANGES_BYTES {
            *self = Self { forgotten: revision, ..Self::default() };
            return;
        }
        self.bytes += bytes;
        self.changes.extend(changes);
        while self.changes.len() > MAX_CHANGES || self.bytes > MAX_CHANGES_BYTES {
            self.forget_oldest();
        }
    }

    /// The changes after `revision`, and the last revision among them if it stopped before the end.
    pub(super) fn after(
        &self,
        revision: Revision,
        prefix: &str,
        limit: usize,
    ) -> Result<(Vec<Change>, Option<Revision>), Compacted> {
        self.reaches(revision)?;
        let limit = if limit == 0 { DEFAULT_LIMIT } else { limit };
        let mut told: Vec<Change> = Vec::new();
        let mut last = None;
        for change in self.changes.range(self.position(revision)..) {
            if told.len() >= limit && last != Some(change.revision) {
                return Ok((told, last));
            }
            last = Some(change.revision);
            if change.key.as_str().starts_with(prefix) {
                told.push(change.clone());
            }
        }
        Ok((told, None))
    }

    /// The last revision that was made by `at_ms`; 0 is before the first.
    pub(super) fn revision_at(&self, at_ms: u64) -> Result<Revision, Compacted> {
        // Log time never goes back.
        let after = self.changes.partition_point(|change| change.at_ms <= at_ms);
        let last = after.checked_sub(1).and_then(|at| self.changes.get(at)).map(|change| change.revision);
        match last {
            Some(revision) => Ok(revision),
            None if self.forgotten == Revision::default() => Ok(self.forgotten),
            None => Err(Compacted { oldest: self.oldest() }),
        }
    }

    pub(super) fn of(&self, key: &Key) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |change| change.key == *key)
    }

    /// The changes after `revision`, the newest first.
    pub(super) fn newest_down_to(
        &self,
        revision: Revision,
    ) -> Result<impl Iterator<Item = &Change>, Compacted> {
        self.reaches(revision)?;
        Ok(self.changes.range(self.position(revision)..).rev())
    }

    fn reaches(&self, revision: Revision) -> Result<(), Compacted> {
        if revision < self.forgotten { Err(Compacted { oldest: self.oldest() }) } else { Ok(()) }
    }

    fn position(&self, revision: Revision) -> usize {
        self.changes.partition_point(|change| change.revision <= revision)
    }

    fn forget_oldest(&mut self) {
        let Some(revision) = self.changes.front().map(|change| change.revision) else { return };
        let length = self.position(revision);
        self.bytes -= self.changes.drain(..length).map(|change| weight(&change)).sum::<usize>();
        self.forgotten = revision;
    }
}

fn weight(change: &Change) -> usize {
    let value = |has: &Option<Versioned>| has.as_ref().map_or(0, |has| has.value.len());
    change.key.as_str().len() + value(&change.before) + value(&change.after)
}
