//! What the writer of the log has to do, in order. At most [`MAX_WAITING`] operations wait; who has another waits for
//! room.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use openraft::storage::IOFlushed;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::super::{codec, types::TypeConfig};
use crate::store::backend::{Batch, Table};

/// Operations on their way to the writer.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Waiting {
    operations: VecDeque<Operation>,
    /// The latest record of what is committed; who writes it next has time.
    committed: Option<Vec<u8>>,
    /// Groups that went without it since it was written last.
    without: u32,
    /// Nothing has come for so long that the writer does not look by itself any more.
    is_asleep: bool,
    is_closed: bool,
    /// Why nothing is written any more. After a write that failed, what comes later could be there without it.
    failure: Option<io::Error>,
}

/// Something to write.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) batch: Batch,
    pub(super) then: Then,
    pub(super) sequence: u64,
    /// Its place in the queue, given back when it is done.
    pub(super) _room: OwnedSemaphorePermit,
}

/// Who is told that it is written, or why not.
pub(super) enum Then {
    /// Openraft, by its callback.
    Flushed(IOFlushed<TypeConfig>),
    /// Who waits for it.
    Tell(oneshot::Sender<io::Result<()>>),
    /// Nobody.
    Nothing,
}

impl std::fmt::Debug for Then {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Flushed(_) => "Flushed",
            Self::Tell(_) => "Tell",
            Self::Nothing => "Nothing",
        })
    }
}

impl Then {
    pub(super) fn done(self, result: io::Result<()>) {
        match self {
            Self::Flushed(callback) => callback.io_completed(result),
            // Whoever does not wait any more does not want to know.
            Self::Tell(written) => drop(written.send(result)),
            Self::Nothing => {}
        }
    }
}

/// What is written with one fsync.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) operations: Vec<Operation>,
    pub(super) committed: Option<Vec<u8>>,
}

impl Group {
    /// All of it, in order.
    pub(super) fn take_batch(&mut self) -> Batch {
        let mut all = Batch::default();
        for operation in &mut self.operations {
            all.append(std::mem::take(&mut operation.batch));
        }
        if let Some(record) = self.committed.take() {
            all.put(Table::Meta, super::COMMITTED, record);
        }
        all
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: Mutex::default(), wake: Condvar::new(), room: Arc::new(Semaphore::new(MAX_WAITING)) }
    }
}

impl Queue {
    /// A place in the queue. Cancel-safe.
    pub(super) async fn room(&self) -> io::Result<OwnedSemaphorePermit> {
        Arc::clone(&self.room).acquire_owned().await.map_err(io::Error::other)
    }

    /// Adds `operation` at the end. If nothing is written any more, whom it concerns is told at once.
    pub(super) fn push(&self, operation: Operation) {
        let failure = {
            let mut waiting = self.waiting();
            match &waiting.failure {
                Some(failure) => codec::again(failure),
                None => {
                    waiting.operations.push_back(operation);
                    self.wake.notify_one();
                    return;
                }
            }
        };
        operation.then.done(Err(failure));
    }

    /// The record of what is committed, instead of the one before.
    pub(super) fn set_committed(&self, record: Vec<u8>) -> io::Result<()> {
        let mut waiting = self.waiting();
        if let Some(failure) = &waiting.failure {
            return Err(codec::again(failure));
        }
        waiting.committed = Some(record);
        // Otherwise it is taken along by the next group, or found when none has come: a writer that is woken for each commit
        // and has nothing to do costs as much as one that writes.
        if waiting.is_asleep {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Nothing comes any more.
    pub(super) fn close(&self) {
        self.waiting().is_closed = true;
        self.wake.notify_one();
    }

    /// Nothing is written any more. What waits is told so.
    pub(super) fn fail(&self, failure: &io::Error) {
        let left = {
            let mut waiting = self.waiting();
            waiting.failure = Some(codec::again(failure));
            waiting.committed = None;
            std::mem::take(&mut waiting.operations)
        };
        for operation in left {
            operation.then.done(Err(codec::again(failure)));
        }
    }

    /// Waits for something to write, and takes all of it up to [`MAX_GROUP`]; `None` if nothing comes any more.
    pub(super) fn next(&self) -> Option<Group> {
        let mut waiting = self.waiting();
        let mut is_idle = false;
        while waiting.operations.is_empty() {
            if waiting.is_closed || is_idle {
                let committed = waiting.committed.take();
                if committed.is_some() || waiting.is_closed {
                    return committed.map(|record| Group { committed: Some(record), ..Group::default() });
                }
            }
            if is_idle {
                waiting.is_asleep = true;
                waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                (waiting.is_asleep, is_idle) = (false, false);
            } else {
                let woken = self.wake.wait_timeout(waiting, IDLE).unwrap_or_else(PoisonError::into_inner);
                is_idle = woken.1.timed_out();
                waiting = woken.0;
            }
        }
        waiting.without += 1;
        let committed = if waiting.without >= WITHOUT { waiting.committed.take() } else { None };
        if committed.is_some() {
            waiting.without = 0;
        }
        let mut group = Group { operations: Vec::new(), committed };
        let mut bytes = 0;
        while bytes < MAX_GROUP
            && let Some(operation) = waiting.operations.pop_front()
        {
            bytes += operation.batch.bytes();
            group.operations.push(operation);
        }
        Some(group)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Each change is one step, so what a poisoned lock guards is whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// More than openraft has under way by itself; a disk that falls so far behind slows the proposers down.
const MAX_WAITING: usize = 256;

/// Bytes after which a group is closed: a few milliseconds of writing.
const MAX_GROUP: usize = 4 * 1024 * 1024;

/// Groups after which the record of what is committed goes with one: it is a page and a path of the tree more to write, and
/// nobody waits for it.
const WITHOUT: u32 = 64;

/// How long the record of what is committed waits when no group comes.
const IDLE: Duration = Duration::from_millis(50);
