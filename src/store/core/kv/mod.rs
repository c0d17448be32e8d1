//! The state of the strong tier, and what commands do to it. All replicas apply the same commands in the same order and
//! so have the same state, to the last byte of its image. Who orders the commands, and where they are kept, is not here.

mod answers;
mod history;
mod image;
mod leases;
mod pages;
mod past;
mod transact;

use std::collections::{BTreeMap, VecDeque};

use self::{answers::Answers, history::History, leases::Leases};
use super::{
    command::{Command, Request},
    key::{Key, LeaseId, Revision},
    outcome::{Change, CommandResult, Outcome, Page, Versioned},
};
use crate::store::Scan;

pub use self::{
    answers::{MAX_ANSWER, REMEMBERED_MS},
    history::Compacted,
    image::Damaged,
    leases::LeaseState,
    past::Past,
};

/// Most bytes of keys and values together.
pub const MAX_STORE: usize = 128 * 1024 * 1024;
/// Most keys.
pub const MAX_KEYS: usize = 1_000_000;
/// Most leases, those of keys with a time to live of their own included.
pub const MAX_LEASES: usize = 1_000_000;
/// Most keys that one [`Request::Expire`] or [`Request::Revoke`] removes, and most leases that it ends: it holds up what
/// comes after it. What is left is for the next [`Request::Expire`].
pub const MAX_EXPIRED: usize = 1_000;

/// Revisions that an epoch of the store leaves out: more than were ever written and not yet copied to the disk that it
/// begins from.
pub const EPOCH_REVISIONS: u64 = 1_000_000_000;
/// Most keys that one transaction removes by their beginnings: it holds up what comes after it, on all replicas.
pub const MAX_REMOVED: usize = 10_000;

/// The keys, their leases, what was answered lately and what has changed lately. Empty by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kv {
    revision: Revision,
    /// The time of the log: the latest of all commands so far.
    at_ms: u64,
    keys: BTreeMap<Key, Versioned>,
    /// Of all keys and values.
    bytes: usize,
    leases: Leases,
    answers: Answers,
    history: History,
}

impl Kv {
    /// Does what `command` asks, and tells what became of it. Never fails: the outcome says what could not be done, and
    /// then nothing has changed.
    ///
    /// - The revision goes up by one if a key or a lease has come, changed or gone. [`Request::KeepAlive`] only moves the
    ///   end of a lease, and is no change.
    /// - Time is that of the command, or of an earlier one if that was later. It passes whatever becomes of the command.
    /// - A transaction, grant or revocation whose [`OpId`](super::key::OpId) was applied within the last
    ///   [`REMEMBERED_MS`] of that time changes nothing and is answered as it was then, without what was read if the
    ///   answer was larger than [`MAX_ANSWER`]. The last 100,000 are remembered, and at most 64 MiB of answers.
    ///   [`Request::KeepAlive`] and [`Request::Expire`] may be repeated.
    /// - What [`Command::check`] refuses is answered with [`CommandResult::Full`], and is not remembered: there is no room
    ///   for what is too large. Time does not pass by it.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        if command.check().is_err() {
            return self.outcome(CommandResult::Full);
        }
        self.at_ms = self.at_ms.max(command.at_ms);
        self.answers.forget(self.at_ms);
        let is_once = match command.request {
            Request::Transact(_) | Request::Grant { .. } | Request::Revoke(_) => true,
            Request::KeepAlive(_) | Request::Expire => false,
        };
        if is_once && let Some(outcome) = self.answers.get(command.op) {
            return outcome;
        }
        let result = match &command.request {
            Request::Transact(transaction) => self.transact(transaction, command),
            Request::Grant { ttl_ms } => self.grant(*ttl_ms),
            Request::KeepAlive(lease) => self.keep_alive(*lease),
            Request::Revoke(lease) => self.revoke(*lease, command),
            Request::Expire => self.expire(command),
        };
        let outcome = self.outcome(result);
        if is_once {
            self.answers.remember(command.op, self.at_ms, &outcome);
        }
        outcome
    }

    /// The same keys, leases and answers, [`EPOCH_REVISIONS`] revisions later than both it and `told`, and with no changes to
    /// tell: what an epoch of the store begins with. No revision of it was ever told in the epoch before, so whoever watched
    /// learns that it has missed something, and reads anew. `None` if there are no revisions left.
    #[must_use]
    pub fn renewed(mut self, told: Revision) -> Option<Self> {
        let revision = Revision(self.revision.max(told).0.checked_add(EPOCH_REVISIONS)?);
        if revision.0 >> transact::REVISION_BITS != 0 {
            return None;
        }
        self.revision = revision;
        self.history = History::restore(revision, VecDeque::new());
        Some(self)
    }

    /// What `key` has.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Versioned> {
        self.keys.get(key)
    }

    /// Keys in order: at most the limit of `scan`, 1000 and 1 MiB of keys and values and one entry. A limit of 0 is 1000.
    #[must_use]
    pub fn scan(&self, scan: &Scan) -> Page {
        pages::page(self.keys.range::<str, _>(pages::from(scan)), scan, self.revision)
    }

    /// How often the state has changed.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The leases in the order of their names, without those that have ended and whose keys still go.
    pub fn leases(&self) -> impl Iterator<Item = LeaseState> {
        self.leases.iter()
    }

    /// When, in milliseconds since 1970, the next lease runs out. A leader whose clock says so proposes
    /// [`Request::Expire`], and again as long as this is in the past. `None` if there is no lease.
    #[must_use]
    pub fn next_expiry(&self) -> Option<u64> {
        self.leases.next_end()
    }

    /// What has changed after `revision` in the keys that begin with `prefix`, and up to which revision was read: where to
    /// go on. Revisions are told whole, so there may be more than `limit` changes: the last revision begins before it is
    /// reached. A limit of 0 is 1000. After a revision that is yet to come there is nothing.
    ///
    /// # Errors
    /// If not all of it is remembered.
    pub fn changes_after(
        &self,
        revision: Revision,
        prefix: &str,
        limit: usize,
    ) -> Result<(Vec<Change>, Revision), Compacted> {
        if revision >= self.revision {
            return Ok((Vec::new(), revision));
        }
        self.history
            .after(revision, prefix, limit)
            .map(|(changes, end)| (changes, end.unwrap_or(self.revision)))
    }

    /// What of the changes of `key` is remembered, the oldest first.
    pub fn history(&self, key: &Key) -> impl Iterator<Item = &Change> {
        self.history.of(key)
    }

    /// The keys as they were at `revision`; as they are now if that is yet to come.
    ///
    /// # Errors
    /// If the changes since then are not all remembered.
    pub fn at(&self, revision: Revision) -> Result<Past<'_>, Compacted> {
        let changes = self.history.newest_down_to(revision)?;
        Ok(Past::new(&self.keys, changes, revision.min(self.revision)))
    }

    /// The revision whose keys were there at a time of the log, in milliseconds since 1970: that of the last change by then,
    /// 0 before the first.
    ///
    /// # Errors
    /// If all changes by then are forgotten.
    pub fn revision_at(&self, at_ms: u64) -> Result<Revision, Compacted> {
        self.history.revision_at(at_ms)
    }

    /// The first revision whose changes are remembered; the next one if none are.
    #[must_use]
    pub fn oldest(&self) -> Revision {
        self.history.oldest()
    }

    fn outcome(&self, result: CommandResult) -> Outcome {
        Outcome { revision: self.revision, result }
    }

    fn next_revision(&self) -> Revision {
        Revision(self.revision.0 + 1)
    }

    fn grant(&mut self, ttl_ms: u64) -> CommandResult {
        if self.leases.len() >= MAX_LEASES {
            return CommandResult::Full;
        }
        self.revision = self.next_revision();
        let lease = LeaseId(self.revision.0);
        self.leases.grant(lease, ttl_ms, self.at_ms);
        CommandResult::Leased { lease, ttl_ms }
    }

    fn keep_alive(&mut self, lease: LeaseId) -> CommandResult {
        match self.leases.keep_alive(lease, self.at_ms) {
            Some(ttl_ms) => CommandResult::Leased { lease, ttl_ms },
            None => CommandResult::NoLease(lease),
        }
    }

    fn revoke(&mut self, lease: LeaseId, command: &Command) -> CommandResult {
        let Some((keys, left)) = self.leases.revoke(lease, self.at_ms, MAX_EXPIRED) else {
            return CommandResult::NoLease(lease);
        };
        self.revision = self.next_revision();
        match self.remove_ended(keys, command) {
            // They go with the next commands of the leader, as those of a lease that has run out.
            CommandResult::Ended { keys } => CommandResult::Ended { keys: keys + left },
            other => other,
        }
    }

    fn expire(&mut self, command: &Command) -> CommandResult {
        let Some(keys) = self.leases.expire(self.at_ms, MAX_EXPIRED) else {
            return CommandResult::Ended { keys: 0 };
        };
        self.revision = self.next_revision();
        self.remove_ended(keys, command)
    }

    /// Removes keys whose lease knows of them no longer, at the present revision.
    fn remove_ended(&mut self, keys: Vec<Key>, command: &Command) -> CommandResult {
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(before) = self.keys.remove(&key) else { continue };
            self.bytes -= size(&key, &before);
            changes.push(self.change(self.revision, command, key, Some(before), None));
        }
        let removed = changes.len() as u64;
        self.history.push(self.revision, changes);
        CommandResult::Ended { keys: removed }
    }

    fn change(
        &self,
        revision: Revision,
        command: &Command,
        key: Key,
        before: Option<Versioned>,
        after: Option<Versioned>,
    ) -> Change {
        Change { revision, at_ms: self.at_ms, author: command.author.clone(), key, before, after }
    }
}

/// What an entry counts towards [`MAX_STORE`].
fn size(key: &Key, has: &Versioned) -> usize {
    key.as_str().len() + has.value.len()
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
