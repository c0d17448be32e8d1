//! Reads what is shared from the store, and then each change of it as it comes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{SharedRecords, Stored};
use crate::{
    app::reload::ReloadHandle,
    config::{Record, RecordKind},
    rt::{DrainWatch, Phase, clock},
    store::{
        Level, Readable as _, Replicated as _, Scan, Store, StoreError, StoreWatch, Watch as _,
        Watchable as _,
        core::{key::Revision, outcome::Change},
    },
    telemetry::metrics::SharedMetrics,
    types::Mono,
};

/// Changes within this time are one: those of a transaction come by several watches.
const BURST: Duration = Duration::from_millis(5);
/// How long it waits to ask a store again that did not answer, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A store that has less than was known here is still catching up. If it is not after this time, it is another store, or it
/// was restored from a copy, and what it has holds.
const CATCHING_UP: Duration = Duration::from_secs(5);
/// Entries of a page.
const PAGE: usize = 500;
/// How often the age is taken.
const LOOK: Duration = Duration::from_millis(500);

/// Follows the store.
pub(super) struct Follower {
    store: Store,
    reload: ReloadHandle,
    keep: watch::Sender<Option<Arc<SharedRecords>>>,
    /// What is in force.
    given: Arc<SharedRecords>,
    /// What the store has, by key.
    found: BTreeMap<String, Stored>,
    revision: Revision,
    /// Since when it has less than was known.
    behind: Option<Mono>,
    /// How long it may.
    pub(super) catching_up: Duration,
}

/// Why reading came to an end.
enum Break {
    /// The state must be read anew.
    Again,
    /// The store does not answer.
    Store(StoreError),
    /// It is not as far as this sidecar was.
    Behind,
    /// The process is leaving.
    Leaving,
}

impl From<StoreError> for Break {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted { .. } => Self::Again,
            error => Self::Store(error),
        }
    }
}

impl Follower {
    pub(super) fn new(
        store: Store,
        reload: ReloadHandle,
        given: Arc<SharedRecords>,
        keep: watch::Sender<Option<Arc<SharedRecords>>>,
    ) -> Self {
        let revision = given.revision;
        Self {
            store,
            reload,
            keep,
            given,
            found: BTreeMap::new(),
            revision,
            behind: None,
            catching_up: CATCHING_UP,
        }
    }

    /// Follows until the process leaves.
    pub(super) async fn run(mut self, mut drain: DrainWatch) {
        tokio::select! {
            // Until then requests are served, and by what is shared.
            () = drain.reached(Phase::Stopped) => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let (mut pause, mut is_told) = (FIRST_PAUSE, false);
        loop {
            let came = match self.read().await {
                Ok(()) => {
                    (pause, is_told) = (FIRST_PAUSE, false);
                    self.watch().await
                }
                Err(why) => why,
            };
            match came {
                Break::Leaving => return,
                Break::Again => continue,
                Break::Behind => {}
                Break::Store(error) if is_told => tracing::debug!(%error, "the store is asked again"),
                Break::Store(error) => {
                    tracing::warn!(%error, "what is shared cannot be read; what was known last is served");
                    is_told = true;
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reads all there is, and hands it over.
    async fn read(&mut self) -> Result<(), Break> {
        let mut found = BTreeMap::new();
        let mut revision: Option<Revision> = None;
        for kind in RecordKind::ALL {
            let mut scan = Scan { prefix: kind.prefix().to_owned(), after: None, limit: PAGE };
            loop {
                let page = self.store.scan(&scan, Level::Eventual).await?;
                // Of several pages the oldest counts: what has changed since then is told by the watch.
                revision = Some(revision.map_or(page.revision, |known| known.min(page.revision)));
                for (key, has) in page.entries {
                    if let Some(record) = Record::of_key(key.as_str(), has.value) {
                        found.insert(key.into(), Stored { record, revision: has.modified });
                    }
                }
                match page.next {
                    Some(next) => scan.after = Some(next),
                    None => break,
                }
            }
        }
        let revision = revision.unwrap_or_default();
        if revision < self.revision && self.is_catching_up() {
            return Err(Break::Behind);
        }
        (self.found, self.revision, self.behind) = (found, revision, None);
        self.hand_over().await
    }

    /// Whether a store that has less than was known may yet get it.
    fn is_catching_up(&mut self) -> bool {
        if self.store.progress().heard.is_none() {
            // It has nobody to get it from, so it may be as far behind as it likes.
            return true;
        }
        let now = clock::now();
        let since = *self.behind.get_or_insert(now);
        now.since(since) < self.catching_up
    }

    /// Hands over each change, until something breaks.
    async fn watch(&mut self) -> Break {
        let mut watches = RecordKind::ALL.map(|kind| self.store.watch(kind.prefix(), self.revision));
        loop {
            let mut changes = match next(&mut watches).await {
                Ok(changes) => changes,
                Err(error) => return error.into(),
            };
            let end = tokio::time::sleep(BURST);
            tokio::pin!(end);
            loop {
                tokio::select! {
                    () = &mut end => break,
                    more = next(&mut watches) => match more {
                        Ok(more) => changes.extend(more),
                        Err(error) => return error.into(),
                    },
                }
            }
            changes.into_iter().for_each(|change| self.take(change));
            if let Err(why) = self.hand_over().await {
                return why;
            }
        }
    }

    fn take(&mut self, change: Change) {
        let Change { revision, key, after, .. } = change;
        self.revision = self.revision.max(revision);
        let stored = after.and_then(|has| {
            let record = Record::of_key(key.as_str(), has.value)?;
            Some(Stored { record, revision: has.modified })
        });
        let key = String::from(key);
        match stored {
            Some(stored) => drop(self.found.insert(key, stored)),
            None => drop(self.found.remove(&key)),
        }
    }

    /// Has it put to work, and then kept.
    async fn hand_over(&mut self) -> Result<(), Break> {
        let items: Vec<Stored> = self.found.values().cloned().collect();
        let records = Arc::new(SharedRecords { revision: self.revision, items });
        if records.items != self.given.items {
            self.reload.share(Arc::clone(&records)).await.map_err(|_| Break::Leaving)?;
        } else if records.revision == self.given.revision {
            return Ok(());
        }
        self.keep.send_replace(Some(Arc::clone(&records)));
        self.given = records;
        Ok(())
    }
}

/// The next changes of one of all kinds.
async fn next(watches: &mut [StoreWatch; RecordKind::ALL.len()]) -> Result<Vec<Change>, StoreError> {
    let [routes, intentions, policies, limits] = watches;
    tokio::select! {
        changes = routes.next() => changes,
        changes = intentions.next() => changes,
        changes = policies.next() => changes,
        changes = limits.next() => changes,
    }
}

/// Tells how long ago the store was last known to be up to date, until the process leaves.
pub(super) async fn age(store: Store, metrics: SharedMetrics, mut drain: DrainWatch) {
    let started = clock::now();
    loop {
        let age = store.progress().heard.unwrap_or_else(|| clock::now().since(started));
        metrics.staleness(age);
        tokio::select! {
            () = drain.reached(Phase::Stopped) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
