//! The replicated log and the vote. What is appended can be read at once and is written by a thread, many appends with
//! one fsync; nobody is told that it is written before it is.

mod queue;
mod view;
mod writer;

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use openraft::{
    LogState, OptionalSend,
    storage::{IOFlushed, RaftLogReader, RaftLogStorage},
};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use self::{
    queue::{Operation, Queue, Then},
    view::{Recent, View},
};
use super::{
    codec,
    types::{Entry, LogId, TypeConfig, Vote},
};
use crate::store::backend::{Batch, Durability, Records, Span, StorageBackend, Table};

/// Writes the log. Dropping it waits until all that was asked of it is written.
#[derive(Debug)]
pub struct LogStore {
    reader: LogReader,
    queue: Arc<Queue>,
    writer: Option<JoinHandle<()>>,
    /// Counts the operations, so that the view knows which of them are written.
    sequence: u64,
}

/// Reads the log, what is not written yet included.
#[derive(Clone, Debug)]
pub struct LogReader(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    backend: Arc<dyn StorageBackend>,
    view: Mutex<View>,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        // Each change of the view is one step, so what a poisoned lock guards is whole.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogStore {
    /// Reads what `backend` has of a log, proves that none of it is damaged or missing, and starts the writer.
    pub(super) fn open(backend: &Arc<dyn StorageBackend>) -> io::Result<Self> {
        let mut view = View::new(meta(backend, VOTE)?, meta(backend, COMMITTED)?, meta(backend, PURGED)?);
        loop {
            let records = backend.range(Table::Log, span(&log_key(view.next()), None), PAGE)?;
            let Some(Entry { log_id, .. }) = entries(&records)?.pop() else { break };
            let (Some((first, _)), length) = (records.first(), records.len() as u64) else { break };
            let is_start = view.is_empty() && view.purged().is_none();
            let expected = if is_start { log_id.index + 1 - length } else { view.next() };
            if first[..] != log_key(expected) || log_id.index + 1 != expected + length {
                return Err(codec::damaged(Table::Log, &log_key(expected), "it is missing"));
            }
            view.found(expected, log_id, records.iter().map(|(_, record)| record.len()));
        }
        let shared = Arc::new(Shared { backend: Arc::clone(backend), view: Mutex::new(view) });
        let queue = Arc::new(Queue::default());
        let writer = writer::start(Arc::clone(&shared), Arc::clone(&queue))?;
        Ok(Self { reader: LogReader(shared), queue, writer: Some(writer), sequence: 0 })
    }

    /// The vote, what is committed, and the last entry: for who takes no part.
    pub(super) fn written(&self) -> (Option<Vote>, Option<LogId>, Option<LogId>) {
        let view = self.view();
        (view.vote, view.committed, view.last())
    }

    /// For who reads it beside its owner.
    pub(super) fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// Entries from `from` on and before `before`.
    pub(super) fn entries(&self, from: u64, before: u64) -> io::Result<Vec<Entry>> {
        self.reader.read(from, before, None)
    }

    /// Writes an empty log that ends at `last`, all of it in a snapshot; `own` votes for itself, in a later term. Blocks.
    pub(super) fn begin(backend: &Arc<dyn StorageBackend>, last: LogId, own: u64) -> io::Result<()> {
        let mut batch = Batch::default();
        let vote = Vote::new(last.leader_id.term + 1, own);
        batch.put(Table::Meta, VOTE, codec::encode(&Some(vote))?);
        batch.put(Table::Meta, COMMITTED, codec::encode(&Some(last))?);
        batch.put(Table::Meta, PURGED, codec::encode(&Some(last))?);
        backend.apply(batch, Durability::Durable)
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.reader.0.view()
    }

    /// Waits for room, then changes the view and queues `batch` at one moment, so that both have the same order and a
    /// caller who goes away meanwhile leaves neither without the other.
    async fn submit(
        &mut self,
        batch: Batch,
        then: Then,
        change: impl FnOnce(&mut View, u64) -> io::Result<()> + Send,
    ) -> io::Result<()> {
        let room = self.queue.room().await?;
        self.sequence += 1;
        change(&mut self.view(), self.sequence)?;
        self.queue.push(Operation { batch, then, sequence: self.sequence, _room: room });
        Ok(())
    }

    /// The same, and waits until it is written.
    async fn submit_and_wait(
        &mut self,
        batch: Batch,
        change: impl FnOnce(&mut View, u64) -> io::Result<()> + Send,
    ) -> io::Result<()> {
        let (written, is_written) = oneshot::channel();
        self.submit(batch, Then::Tell(written), change).await?;
        is_written.await.map_err(|_| io::Error::other("the writer of the log has ended"))?
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        self.queue.close();
        // Short: at most one queue of writes. Whoever opens the file again must not meet the lock of this one.
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the store's log has panicked");
        }
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let view = self.view();
        Ok(LogState { last_purged_log_id: view.purged(), last_log_id: view.last() })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    /// Readers see the vote only when it is written: nobody may act for a leader whom this node could forget.
    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let mut batch = Batch::default();
        batch.put(Table::Meta, VOTE, codec::encode(&Some(vote))?);
        self.submit_and_wait(batch, |_, _| Ok(())).await?;
        self.view().vote = Some(*vote);
        Ok(())
    }

    /// Written with the next group, or soon if there is none: it only saves the node from starting with an older state
    /// than it had.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.queue.set_committed(codec::encode(&committed)?)?;
        self.view().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.view().committed)
    }

    async fn append<Entries>(
        &mut self,
        entries: Entries,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        Entries: IntoIterator<Item = Entry> + OptionalSend,
        Entries::IntoIter: OptionalSend,
    {
        let mut batch = Batch::default();
        let mut recent = Vec::new();
        for entry in entries {
            let record = codec::encode(&entry)?;
            recent.push(Recent { bytes: record.len(), entry, sequence: 0 });
            batch.put(
                Table::Log,
                log_key(recent.last().map_or(0, |recent| recent.entry.log_id.index)),
                record,
            );
        }
        self.submit(batch, Then::Flushed(callback), |view, sequence| view.append(recent, sequence)).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let next = last.map_or(0, |last| last.index + 1);
        let mut batch = Batch::default();
        batch.delete_span(Table::Log, span(&log_key(next), None));
        self.submit_and_wait(batch, |view, _| {
            view.truncate(last);
            Ok(())
        })
        .await
    }

    /// Returns before it is written: what was purged is in a snapshot, and purging it again does no harm. If writing it
    /// fails, so does whatever comes next.
    async fn purge(&mut self, through: LogId) -> Result<(), io::Error> {
        let mut batch = Batch::default();
        batch.put(Table::Meta, PURGED, codec::encode(&Some(through))?);
        batch.delete_span(Table::Log, span(&[], Some(&log_key(through.index + 1))));
        let change = |view: &mut View, _| {
            view.purge(through);
            Ok(())
        };
        self.submit(batch, Then::Nothing, change).await
    }
}

impl LogReader {
    /// Bytes of the records after `index`.
    pub(super) fn weight_after(&self, index: u64) -> u64 {
        self.0.view().weight_after(index)
    }

    /// The last entry that must go so that those up to `index` have no more than `most` bytes; nothing if they have not.
    pub(super) fn surplus(&self, index: u64, most: u64) -> Option<u64> {
        self.0.view().surplus(index, most)
    }

    /// The entries with an index from `from` on and before `before`, as they were at one moment. With `most`, it stops
    /// after that many bytes, and one entry.
    fn read(&self, from: u64, before: u64, most: Option<usize>) -> io::Result<Vec<Entry>> {
        loop {
            let (written, recent, generation) = self.0.view().select(from, before, most);
            let mut found = Vec::new();
            let mut bytes = 0;
            let is_enough = |bytes: usize| most.is_some_and(|most| bytes >= most);
            let mut next = written.start;
            let mut broken = None;
            while next < written.end && !is_enough(bytes) {
                let end = log_key(written.end);
                let records = self.0.backend.range(Table::Log, span(&log_key(next), Some(&end)), PAGE)?;
                let mut page = entries(&records)?.into_iter();
                let (first, length) = (next, records.len());
                for (_, record) in &records {
                    let Some(entry) = page.next().filter(|entry| entry.log_id.index == next) else { break };
                    next += 1;
                    bytes += record.len();
                    found.push(entry);
                    if is_enough(bytes) {
                        break;
                    }
                }
                if !is_enough(bytes) && (length == 0 || next != first + length as u64) {
                    broken = Some(codec::damaged(Table::Log, &log_key(next), "it is missing"));
                    break;
                }
            }
            // Entries were cut off or purged while this read them: what it has may be of two different logs.
            if self.0.view().generation() != generation {
                continue;
            }
            if let Some(error) = broken {
                return Err(error);
            }
            if next >= written.end && !is_enough(bytes) {
                found.extend(recent);
            }
            return Ok(found);
        }
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<Range: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: Range,
    ) -> Result<Vec<Entry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(from) => from.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let before = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(before) => *before,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, before, None)
    }

    async fn limited_get_log_entries(&mut self, from: u64, before: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(from, before, Some(MAX_READ))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.view().vote)
    }
}

fn meta<T: DeserializeOwned>(backend: &Arc<dyn StorageBackend>, key: &[u8]) -> io::Result<Option<T>> {
    let record = backend.get(Table::Meta, key)?;
    Ok(record.map(|bytes| codec::decode(Table::Meta, key, &bytes)).transpose()?.flatten())
}

/// The entries of `records`, each at the place that it says.
fn entries(records: &Records) -> io::Result<Vec<Entry>> {
    let decode = |(key, bytes): &(Vec<u8>, Vec<u8>)| {
        let entry: Entry = codec::decode(Table::Log, key, bytes)?;
        if key[..] == log_key(entry.log_id.index) {
            Ok(entry)
        } else {
            Err(codec::damaged(Table::Log, key, "it belongs elsewhere"))
        }
    };
    records.iter().map(decode).collect()
}

/// Keys are in the order of the indexes.
fn log_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn span<'a>(from: &'a [u8], before: Option<&'a [u8; 8]>) -> Span<'a> {
    Span { from, before: before.map(<[u8; 8]>::as_slice) }
}

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// Records that are read at once.
const PAGE: usize = 64;

/// Bytes of entries that are handed out at once where fewer will do: what goes to a follower with one message.
const MAX_READ: usize = 1024 * 1024;
