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
    /// Bytes of the records from `first` on and before `next`.
    sizes: VecDeque<u32>,
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
            sizes: VecDeque::new(),
            generation: 0,
        }
    }

    /// The backend has entries from `first` to `last`, which come next, with records of so many bytes.
    pub(super) fn found(&mut self, first: u64, last: LogId, sizes: impl Iterator<Item = usize>) {
        if self.is_empty() {
            self.first = first;
        }
        (self.next, self.last) = (last.index + 1, Some(last));
        self.sizes.extend(sizes.map(size));
    }

    /// Bytes of the records after `index`.
    pub(super) fn weight_after(&self, index: u64) -> u64 {
        let before = usize::try_from((index + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.sizes.iter().skip(before).map(|size| u64::from(*size)).sum()
    }

    /// The last entry that must go so that those up to `index` have no more than `most` bytes; nothing if they have not.
    pub(super) fn surplus(&self, index: u64, most: u64) -> Option<u64> {
        let count = usize::try_from((index + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let kept = self.sizes.iter().take(count).rev().take_while(|size| {
            bytes += u64::from(**size);
            bytes <= most
        });
        let gone = count.min(self.sizes.len()) - kept.count();
        (gone > 0).then(|| self.first + gone as u64 - 1)
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
            self.sizes.push_back(size(recent.bytes));
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
        self.sizes.truncate(usize::try_from(next - self.first).unwrap_or(usize::MAX));
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
        let gone = usize::try_from(through.index + 1 - self.first).unwrap_or(usize::MAX);
        self.sizes.drain(..gone.min(self.sizes.len()));
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

/// No record has 4 GiB.
fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Bytes of records that are held in memory once they are written: followers that keep up, and the state machine, read
/// nothing from disk.
const MAX_RECENT: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use openraft::{impls::leader_id_adv::LeaderId, vote::RaftLeaderId as _};

    use super::*;

    fn at(index: u64) -> LogId {
        let leader = LeaderId::new(1, 1).to_committed();
        LogId::new(leader, index)
    }

    #[test]
    fn the_bytes_of_the_log_are_those_of_the_entries_that_are_there() {
        let mut view = View::new(None, None, Some(at(9)));
        view.found(10, at(13), [100, 200, 300, 400].into_iter());
        assert_eq!((view.weight_after(0), view.weight_after(11), view.weight_after(13)), (1000, 700, 0));
        // Those up to 12 have 600 bytes: without 10 they have 500, without 11 300.
        assert_eq!((view.surplus(12, 600), view.surplus(12, 599)), (None, Some(10)));
        assert_eq!(
            (view.surplus(12, 300), view.surplus(12, 0), view.surplus(9, 0)),
            (Some(11), Some(12), None)
        );
        view.truncate(Some(at(12)));
        assert_eq!(view.weight_after(0), 600);
        view.purge(at(11));
        assert_eq!((view.weight_after(0), view.surplus(12, 299)), (300, Some(12)));
        view.purge(at(20));
        assert_eq!((view.weight_after(0), view.surplus(20, 0)), (0, None));
    }
}
