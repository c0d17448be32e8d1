//! A store in the memory of one process, gone with it: for tests, and for a mesh of one while somebody develops. Nothing is
//! replicated here.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::sync::watch;

use super::{
    StoreError,
    core::{
        command::{Command, Request, RequestError, Stay, Transaction, author},
        key::{Key, LeaseId, OpId, Revision},
        kv::Kv,
        outcome::{Change, CommandResult, OperationResult, Outcome, Page, Versioned},
    },
    traits::{
        Historical, Leasable, Level, Progress, Readable, Replicated, Role, Scan, Transactional, Watch,
        Watchable, Writable,
    },
};
use crate::rt::clock;

/// The store itself; clones are the same one. Keys whose time has come go before the next thing is asked.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    /// On whose behalf.
    author: Arc<str>,
}

#[derive(Debug)]
struct Shared {
    /// Who writes if nobody else is named.
    own: Arc<str>,
    state: Mutex<State>,
    /// The revision of the state, for those who wait for it.
    revision: watch::Sender<Revision>,
}

#[derive(Debug, Default)]
struct State {
    kv: Kv,
    /// How many commands it has given itself.
    own: u64,
}

impl MemoryStore {
    /// An empty one. Its changes are told to be those of `own`.
    #[must_use]
    pub fn new(own: &str) -> Self {
        let (revision, _) = watch::channel(Revision::default());
        let own: Arc<str> = own.into();
        let shared = Shared { own: Arc::clone(&own), state: Mutex::default(), revision };
        Self { shared: Arc::new(shared), author: own }
    }

    /// The same store, whose changes are told to be `who`'s.
    pub(super) fn on_behalf_of(&self, who: &str) -> Self {
        let name = author(&format!("{who} via {}", self.shared.own));
        Self { shared: Arc::clone(&self.shared), author: name }
    }

    /// Whose its changes are told to be.
    pub(super) fn author(&self) -> &str {
        &self.author
    }

    /// The state as it is now: without the keys whose time has come.
    fn now(&self) -> (MutexGuard<'_, State>, u64) {
        let now_ms = wall_ms();
        // Whoever panicked with it held did so in `Kv`, which changes nothing before it has decided everything.
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.kv.next_expiry().is_some_and(|due| due <= now_ms) {
            let op = state.next_op();
            self.apply(&mut state, op, now_ms, Request::Expire);
        }
        (state, now_ms)
    }

    fn apply(&self, state: &mut State, op: OpId, at_ms: u64, request: Request) -> Outcome {
        let command = Command { op, at_ms, author: Arc::clone(&self.shared.own), request };
        self.apply_command(state, &command)
    }

    fn apply_command(&self, state: &mut State, command: &Command) -> Outcome {
        let outcome = state.kv.apply(command);
        let revision = state.kv.revision();
        self.shared.revision.send_if_modified(|known| {
            let is_new = *known != revision;
            *known = revision;
            is_new
        });
        outcome
    }

    /// Has a request done. Without `op` it is one that may be done twice.
    fn ask(&self, op: Option<OpId>, request: Request) -> Result<Outcome, StoreError> {
        let (mut state, at_ms) = self.now();
        let op = op.unwrap_or_else(|| state.next_op());
        let command = Command { op, at_ms, author: Arc::clone(&self.author), request };
        command.check()?;
        let outcome = self.apply_command(&mut state, &command);
        match outcome.result {
            CommandResult::NoLease(lease) => Err(StoreError::NoLease(lease)),
            CommandResult::Full => Err(StoreError::Full),
            CommandResult::TooMany => Err(RequestError::Removed.into()),
            CommandResult::Transacted { .. } | CommandResult::Leased { .. } | CommandResult::Ended { .. } => {
                Ok(outcome)
            }
        }
    }

    /// Returns when the state is as far as `level` asks for.
    async fn reach(&self, level: Level) {
        let Level::AtLeast(wanted) = level else { return };
        let mut revision = self.shared.revision.subscribe();
        // The sender lives as long as `self`.
        let _ = revision.wait_for(|revision| *revision >= wanted).await;
    }
}

impl State {
    /// A name for a command of its own. 0 is no client that anybody draws.
    fn next_op(&mut self) -> OpId {
        self.own += 1;
        OpId { client: 0, sequence: self.own }
    }
}

impl Readable for MemoryStore {
    async fn get(&self, key: &Key, level: Level) -> Result<Option<Versioned>, StoreError> {
        self.reach(level).await;
        Ok(self.now().0.kv.get(key).cloned())
    }

    async fn scan(&self, scan: &Scan, level: Level) -> Result<Page, StoreError> {
        self.reach(level).await;
        Ok(self.now().0.kv.scan(scan))
    }
}

impl Writable for MemoryStore {
    async fn put(&self, op: OpId, key: Key, value: Bytes, stay: Stay) -> Result<Revision, StoreError> {
        let outcome = self.ask(Some(op), Request::Transact(Transaction::put(key, value, stay)))?;
        Ok(outcome.revision)
    }

    async fn delete(&self, op: OpId, key: Key) -> Result<bool, StoreError> {
        match self.ask(Some(op), Request::Transact(Transaction::delete(key)))?.result {
            CommandResult::Transacted { results, .. } => {
                Ok(matches!(results.first(), Some(OperationResult::Deleted(1..))))
            }
            _ => Err(mismatch()),
        }
    }
}

impl Transactional for MemoryStore {
    async fn transact(&self, op: OpId, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.ask(Some(op), Request::Transact(transaction))
    }
}

impl Leasable for MemoryStore {
    async fn grant(&self, op: OpId, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        match self.ask(Some(op), Request::Grant { ttl_ms })?.result {
            CommandResult::Leased { lease, .. } => Ok(lease),
            _ => Err(mismatch()),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        match self.ask(None, Request::KeepAlive(lease))?.result {
            CommandResult::Leased { ttl_ms, .. } => Ok(Duration::from_millis(ttl_ms)),
            _ => Err(mismatch()),
        }
    }

    async fn revoke(&self, op: OpId, lease: LeaseId) -> Result<u64, StoreError> {
        match self.ask(Some(op), Request::Revoke(lease))?.result {
            CommandResult::Ended { keys } => Ok(keys),
            _ => Err(mismatch()),
        }
    }
}

/// The operation id of another write was used again, and this is what became of that one.
fn mismatch() -> StoreError {
    StoreError::Failed("the operation id names a write of another kind".to_owned())
}

impl Replicated for MemoryStore {
    fn role(&self) -> Role {
        Role::Leader
    }

    fn progress(&self) -> Progress {
        Progress { revision: self.now().0.kv.revision(), heard: Some(Duration::ZERO) }
    }
}

impl Historical for MemoryStore {
    async fn scan_at(&self, revision: Revision, scan: &Scan) -> Result<Page, StoreError> {
        self.reach(Level::AtLeast(revision)).await;
        Ok(self.now().0.kv.at(revision)?.scan(scan))
    }

    async fn changes(&self, prefix: &str, after: Revision) -> Result<(Vec<Change>, Revision), StoreError> {
        self.reach(Level::AtLeast(after)).await;
        Ok(self.now().0.kv.changes_after(after, prefix, MOST_CHANGES)?)
    }

    async fn revision_at(&self, at_ms: u64) -> Result<Revision, StoreError> {
        Ok(self.now().0.kv.revision_at(at_ms)?)
    }
}

impl Watchable for MemoryStore {
    type Watch = MemoryWatch;

    fn watch(&self, prefix: &str, after: Revision) -> MemoryWatch {
        let revision = self.shared.revision.subscribe();
        MemoryWatch { store: self.clone(), revision, prefix: prefix.to_owned(), after }
    }
}

/// What a [`MemoryStore`] tells of its changes.
#[derive(Debug)]
pub struct MemoryWatch {
    store: MemoryStore,
    revision: watch::Receiver<Revision>,
    prefix: String,
    after: Revision,
}

impl Watch for MemoryWatch {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            // Before it looks: what comes between looking and waiting is then still new to it.
            self.revision.borrow_and_update();
            let (changes, pause) = self.look()?;
            if !changes.is_empty() {
                return Ok(changes);
            }
            tokio::select! {
                // The sender lives as long as the store that is kept here.
                _ = self.revision.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn seen(&self) -> Revision {
        self.after
    }
}

impl MemoryWatch {
    /// What there is now, and after which time to look again whatever happens.
    fn look(&mut self) -> Result<(Vec<Change>, Duration), StoreError> {
        let (state, now_ms) = self.store.now();
        let (changes, seen) = state.kv.changes_after(self.after, &self.prefix, MOST_CHANGES)?;
        self.after = seen;
        let due = state.kv.next_expiry().map(|due| Duration::from_millis(due.saturating_sub(now_ms)));
        Ok((changes, due.map_or(LONGEST_PAUSE, |due| due.min(LONGEST_PAUSE))))
    }
}

fn wall_ms() -> u64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// As many changes are told at once.
const MOST_CHANGES: usize = 1000;
/// So soon a watch notices that somebody has set the clock forward.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::conforms;

    async fn open() -> (MemoryStore, ()) {
        (MemoryStore::new("tests"), ())
    }

    conforms!(open);

    #[tokio::test]
    async fn a_change_is_told_to_be_of_whoever_asked_for_it() {
        let (store, ()) = open().await;
        let op = |sequence| OpId { client: 1, sequence };
        let (key, alice) = (Key::new("a").unwrap(), store.on_behalf_of("user/alice"));
        alice.put(op(1), key.clone(), "1".into(), Stay::Forever).await.unwrap();
        store.put(op(2), key, "2".into(), Stay::Forever).await.unwrap();
        let (changes, _) = store.changes("", Revision(0)).await.unwrap();
        let authors: Vec<&str> = changes.iter().map(|change| &*change.author).collect();
        assert_eq!(authors, ["user/alice via tests", "tests"]);
        assert_eq!(alice.on_behalf_of("user/bob").author(), "user/bob via tests");
    }

    #[tokio::test]
    async fn clones_are_the_same_store() {
        let (store, ()) = open().await;
        let (key, op) = (Key::new("a").unwrap(), OpId { client: 1, sequence: 1 });
        store.clone().put(op, key.clone(), "1".into(), Stay::Forever).await.unwrap();
        assert_eq!(store.get(&key, Level::Strong).await.unwrap().unwrap().value, "1");
    }

    #[tokio::test]
    async fn a_name_that_was_given_to_another_write_is_no_panic() {
        let (store, ()) = open().await;
        let op = OpId { client: 1, sequence: 1 };
        store.put(op, Key::new("a").unwrap(), "1".into(), Stay::Forever).await.unwrap();
        let granted = store.grant(op, Duration::from_secs(9)).await;
        assert!(matches!(granted, Err(StoreError::Failed(_))), "{granted:?}");
    }
}
