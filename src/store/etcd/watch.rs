//! A watch of etcd. It is of all that the store has there: who made a change, and when, is in the note that was written with
//! it.

use std::{collections::BTreeMap, fmt, pin::Pin, sync::Arc, time::Duration};

use etcd_client::{
    EventType, KeyValue, WatchOptions, WatchStream,
    proto::{PbEvent, PbWatchResponse},
};

use super::{
    EtcdStore,
    layout::{Note, Place, key, number, revision, versioned},
    link::{Failure, Purpose},
    wall_ms,
};
use crate::store::{
    StoreError, Watch,
    core::{key::Revision, outcome::Change},
};

/// Who has made a change that has no note: a lease that ended, or somebody with a client of etcd.
const STRANGER: &str = "etcd";
/// Before a watch begins again that ended without a word.
const PAUSE: Duration = Duration::from_millis(200);

type Opening = Pin<Box<dyn Future<Output = Result<WatchStream, Failure>> + Send>>;

/// Changes, as etcd tells them.
pub struct EtcdWatch {
    store: EtcdStore,
    prefix: String,
    after: Revision,
    stream: Stream,
    /// Whether the last stream told anything: one that did not is followed by a pause.
    is_fruitful: bool,
    /// Events of a revision of which more may come.
    begun: Vec<PbEvent>,
}

enum Stream {
    Closed,
    /// Kept here and not by who waits: giving up on a change must not begin it anew.
    Opening(Opening),
    Open(Box<WatchStream>),
}

impl fmt::Debug for EtcdWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdWatch").field("prefix", &self.prefix).field("after", &self.after).finish()
    }
}

impl EtcdWatch {
    pub(super) fn new(store: EtcdStore, prefix: &str, after: Revision) -> Self {
        Self {
            store,
            prefix: prefix.to_owned(),
            after,
            stream: Stream::Closed,
            is_fruitful: true,
            begun: Vec::new(),
        }
    }

    fn open(&self) -> Opening {
        let (store, after) = (self.store.clone(), self.after);
        let pause = if self.is_fruitful { Duration::ZERO } else { PAUSE };
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            let root = store.0.layout.root();
            let options = WatchOptions::new()
                .with_prefix()
                .with_start_revision(number(after.0.saturating_add(1)))
                .with_prev_key()
                .with_progress_notify()
                // Without it a revision comes whole, however long it is.
                .with_fragment();
            let opened = store.0.link.call(Purpose::Watch, |client| {
                let (root, options) = (root.clone(), options.clone());
                async move { client.watch_client().watch(root, Some(options)).await }
            });
            opened.await
        })
    }

    /// The next message. Cancel-safe.
    async fn message(&mut self) -> Result<PbWatchResponse, StoreError> {
        loop {
            match &mut self.stream {
                Stream::Closed => {
                    self.begun.clear();
                    self.stream = Stream::Opening(self.open());
                    self.is_fruitful = false;
                }
                Stream::Opening(opening) => {
                    let opened = opening.as_mut().await;
                    // Whatever came: it must not be asked again.
                    self.stream = Stream::Closed;
                    self.stream = Stream::Open(Box::new(opened?));
                }
                Stream::Open(stream) => match stream.message().await {
                    Ok(Some(message)) => {
                        self.is_fruitful = true;
                        return Ok(message.0);
                    }
                    Ok(None) => self.stream = Stream::Closed,
                    Err(error) => {
                        tracing::debug!(%error, "a watch of etcd has ended, and begins anew");
                        self.stream = Stream::Closed;
                    }
                },
            }
        }
    }

    /// What `message` tells of the keys that are watched.
    fn take(&mut self, message: PbWatchResponse) -> Result<Vec<Change>, StoreError> {
        let now = revision(message.header.as_ref().map_or(0, |header| header.revision));
        if message.canceled {
            self.stream = Stream::Closed;
            if message.compact_revision > 0 {
                return Err(StoreError::Compacted { oldest: revision(message.compact_revision) });
            }
            return Err(StoreError::Failed(format!("etcd has ended a watch: {}", message.cancel_reason)));
        }
        if message.created {
            if now < self.after {
                // Its state is older than what was told: it was restored, or is another one.
                self.stream = Stream::Closed;
                return Err(StoreError::Compacted { oldest: Revision(now.0 + 1) });
            }
            return Ok(Vec::new());
        }
        if message.events.is_empty() {
            // All that came before it has been told.
            self.after = self.after.max(now);
            return Ok(Vec::new());
        }
        self.begun.extend(message.events);
        let newest = self.begun.iter().map(modified).max().unwrap_or_default();
        let whole: Vec<PbEvent> = if message.fragment {
            // Of the newest revision there may be more.
            let (whole, begun) =
                std::mem::take(&mut self.begun).into_iter().partition(|event| modified(event) < newest);
            self.begun = begun;
            whole
        } else {
            std::mem::take(&mut self.begun)
        };
        Ok(self.told(whole))
    }

    /// Changes of whole revisions.
    fn told(&mut self, events: Vec<PbEvent>) -> Vec<Change> {
        let mut revisions: BTreeMap<Revision, (Option<Note>, Vec<PbEvent>)> = BTreeMap::new();
        for event in events {
            let (note, changed) = revisions.entry(modified(&event)).or_default();
            let Some(pair) = &event.kv else { continue };
            match self.store.0.layout.place(&pair.key) {
                Place::Note if is_put(&event) => *note = Note::read(&pair.value),
                Place::Kv(name) if name.starts_with(self.prefix.as_bytes()) => changed.push(event),
                Place::Kv(_) | Place::Note | Place::Other => {}
            }
        }
        let mut changes = Vec::new();
        for (at, (note, events)) in revisions {
            self.after = self.after.max(at);
            let (author, at_ms) =
                note.map_or_else(|| (Arc::from(STRANGER), wall_ms()), |note| (note.author, note.at_ms));
            for event in events {
                let is_put = is_put(&event);
                let PbEvent { kv: Some(pair), prev_kv, .. } = event else { continue };
                let Place::Kv(name) = self.store.0.layout.place(&pair.key) else { continue };
                let Some(key) = key(name) else { continue };
                changes.push(Change {
                    revision: at,
                    at_ms,
                    author: Arc::clone(&author),
                    key,
                    before: prev_kv.map(|pair| versioned(KeyValue(pair))),
                    after: is_put.then(|| versioned(KeyValue(pair))),
                });
            }
        }
        changes
    }
}

impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            let message = self.message().await?;
            let changes = self.take(message)?;
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    fn seen(&self) -> Revision {
        self.after
    }
}

fn modified(event: &PbEvent) -> Revision {
    revision(event.kv.as_ref().map_or(0, |pair| pair.mod_revision))
}

fn is_put(event: &PbEvent) -> bool {
    // Not by the method of the crate, to which another number is impossible.
    event.r#type == EventType::Put as i32
}
