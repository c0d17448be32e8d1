//! What the log is at this moment, whether written or not: its ends, and its latest entries.

use std::{collections::VecDeque, io, ops::Range};

use super::super::types::{Entry, LogId, Vote};

/// The log from `first` on and before `next`. The entries before those of `recent` are in the backend; the backend may
/// have others too, which are on their way out.
#[derive(Debug)]
pub(super) struct View {
    /// As it is written.
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    first: u64,
    next: u64,
    recent: VecDeque<Recent>,
    recent_bytes: usize,
    /// Changes when entries go, other than by being written.
    generation: u64,
}

/// An entry that may not be written yet.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    pub(super) entry: Entry,
    /// Of its record.
    pub(super) bytes: usize,
    /// The operation that writes it.
    pub(super) sequence: u64,
}

impl View {
    /// An empty log after what was purged.
    pub(super) fn new(vote: Option<Vote>, committed: Option<LogId>, purged: Option<LogId>) -> Self {
        let next = purged.map_or(0, |purged| purged.index + 1);
        Self {
            vote,
            committed,
            purged,
            last: None,
            first: next,
            next,
            recent: VecDeque::new(),
            recent_bytes: 0,
            generation: 0,
        }
    }

    /// The backend has entries from `first` to `last`, which come next.
    pub(super) fn found(&mut self, first: u64, last: LogId) {
        if self.is_empty() {
            self.first = first;
        }
        (self.next, self.last) = (last.index + 1, Some(last));
    }

    /// Adds `entries` at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if there would be a hole or two of one index. Nothing is added then.
    pub(super) fn append(&mut self, entries: Vec<Recent>, sequence: u64) -> io::Result<()> {
        let Some(first) = entries.first().map(|recent| recent.entry.log_id.index) else { return Ok(()) };
        // Where a log begins is openraft's to say.
        let start = if self.is_empty() && self.purged.is_none() { first } else { self.next };
        if !entries.iter().map(|recent| recent.entry.log_id.index).eq((start..).take(entries.len())) {
            let message = format!("entries of the log are not in a row: {first} comes after {start}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        if self.is_empty() {
            self.first = start;
        }
        self.next = start + entries.len() as u64;
        self.last = entries.last().map(|recent| recent.entry.log_id);
        for mut recent in entries {
            recent.sequence = sequence;
            self.recent_bytes += recent.bytes;
            self.recent.push_back(recent);
        }
        Ok(())
    }

    /// Nothing comes after `last` any more.
    pub(super) fn truncate(&mut self, last: Option<LogId>) {
        let next = last.map_or(0, |last| last.index + 1).max(self.first);
        if next >= self.next {
            return;
        }
        while self.recent.back().is_some_and(|recent| recent.entry.log_id.index >= next) {
            self.forget(VecDeque::pop_back);
        }
        self.next = next;
        self.last = if self.is_empty() { None } else { last };
        self.generation += 1;
    }

    /// Nothing up to `through` is there any more.
    pub(super) fn purge(&mut self, through: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= through.index) {
            return;
        }
        while self.recent.front().is_some_and(|recent| recent.entry.log_id.index <= through.index) {
            self.forget(VecDeque::pop_front);
        }
        self.purged = Some(through);
        self.first = through.index + 1;
        self.next = self.next.max(self.first);
        if self.is_empty() {
            self.last = None;
        }
        self.generation += 1;
    }

    /// All operations up to `sequence` are written: older entries need not be in memory any more.
    pub(super) fn written(&mut self, sequence: u64) {
        while self.recent_bytes > MAX_RECENT
            && self.recent.front().is_some_and(|recent| recent.sequence <= sequence)
        {
            self.forget(VecDeque::pop_front);
        }
    }

    /// Of the entries from `from` on and before `before`: the indexes of those in the backend, and the others that are to
    /// be read after them, at most `most` bytes and one; and the generation in which it was so.
    pub(super) fn select(
        &self,
        from: u64,
        before: u64,
        most: Option<usize>,
    ) -> (Range<u64>, Vec<Entry>, u64) {
        let (from, before) = (from.max(self.first), before.min(self.next));
        let recent_from = self.next - self.recent.len() as u64;
        let written = from..before.min(recent_from).max(from);
        let mut bytes = 0;
        let recent = self.recent.iter().skip_while(|recent| recent.entry.log_id.index < from);
        let recent = recent.take_while(|recent| {
            let fits = most.is_none_or(|most| bytes < most);
            bytes += recent.bytes;
            fits && recent.entry.log_id.index < before
        });
        // With a limit, one read gives those of the backend or the latest, and the next goes on.
        let is_both = most.is_some() && !written.is_empty();
        let recent = if is_both { Vec::new() } else { recent.map(|recent| recent.entry.clone()).collect() };
        (written, recent, self.generation)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == self.next
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The last entry, or the last that was purged.
    pub(super) fn last(&self) -> Option<LogId> {
        self.last.or(self.purged)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    fn forget(&mut self, take: impl FnOnce(&mut VecDeque<Recent>) -> Option<Recent>) {
        self.recent_bytes -= take(&mut self.recent).map_or(0, |recent| recent.bytes);
    }
}

/// Bytes of records that are held in memory once they are written: followers that keep up, and the state machine, read
/// nothing from disk.
const MAX_RECENT: usize = 4 * 1024 * 1024;
