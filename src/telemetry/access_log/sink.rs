//! The thread that writes access log lines, and how its owner tells it what to do.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, TryRecvError},
    },
    thread,
    time::Duration,
};

use super::{AccessLogSink, MAX_QUEUED_LINES, Message};

/// A batch is written when it is this long, or when no more lines are queued.
const BATCH: usize = 64 << 10;

/// How long the writer sleeps between looks at the queue while there is traffic. While it sleeps, and does not
/// wait on the queue, a worker that sends a line makes no system call to wake it.
const PAUSE: Duration = Duration::from_millis(5);

/// After this many looks in vain the writer waits on the queue, so that an idle process does not wake up.
const IDLE_LOOKS: u32 = 40;

/// A sink that would block is tried again after [`PAUSE`], so often; then its batch is dropped.
const MAX_WOULD_BLOCK: u32 = 200;

/// Where lines go.
pub(super) struct Sink {
    out: Box<dyn Write + Send>,
    /// `None` if there is nothing to reopen.
    path: Option<PathBuf>,
}

impl Sink {
    pub(super) fn open(sink: &AccessLogSink) -> io::Result<Self> {
        match sink {
            // The descriptor itself: std's handle would flush at each newline.
            AccessLogSink::Stdout => {
                let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
                Ok(Self { out: Box::new(stdout), path: None })
            }
            AccessLogSink::File(path) => {
                Ok(Self { out: Box::new(open_file(path)?), path: Some(path.clone()) })
            }
        }
    }

    #[cfg(test)]
    pub(super) fn to(out: impl Write + Send + 'static) -> Self {
        Self { out: Box::new(out), path: None }
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open_file(path) {
            Ok(file) => self.out = Box::new(file),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "access log not reopened; the old file goes on");
            }
        }
    }

    /// Writes all of `batch`, waiting a bounded time for a sink that would block.
    fn write(&mut self, mut batch: &[u8]) -> io::Result<()> {
        let mut would_block = 0;
        while !batch.is_empty() {
            match self.out.write(batch) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    batch = &batch[written..];
                    would_block = 0;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && would_block < MAX_WOULD_BLOCK => {
                    would_block += 1;
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn open_file(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// What the owner wants and what the writer has done.
#[derive(Default)]
pub(super) struct Control {
    state: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Orders {
    reopen: bool,
    stop: bool,
    stopped: bool,
    flush_wanted: u64,
    flush_done: u64,
}

impl Control {
    pub(super) fn request_reopen(&self) {
        self.lock().reopen = true;
    }

    pub(super) fn request_stop(&self) {
        self.lock().stop = true;
    }

    pub(super) fn request_flush(&self) -> u64 {
        let mut orders = self.lock();
        orders.flush_wanted += 1;
        orders.flush_wanted
    }

    pub(super) fn wait_flushed(&self, ticket: u64, limit: Duration) -> bool {
        self.wait(limit, |orders| orders.flush_done >= ticket || orders.stopped)
    }

    pub(super) fn wait_stopped(&self, limit: Duration) -> bool {
        self.wait(limit, |orders| orders.stopped)
    }

    /// The orders as they are now. Reopening counts as done, so that a request that comes while it is being done
    /// is not lost.
    fn take_orders(&self) -> Orders {
        let mut orders = self.lock();
        let taken = *orders;
        orders.reopen = false;
        taken
    }

    fn wait(&self, limit: Duration, done: impl Fn(&Orders) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), limit, |orders| !done(orders));
        let (orders, _) = waited.unwrap_or_else(PoisonError::into_inner);
        done(&orders)
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Starts the writer thread. It ends when told to, or when nobody can send any more.
pub(super) fn spawn(
    sink: Sink,
    receiver: Receiver<Message>,
    queued_bytes: Arc<AtomicUsize>,
    control: Arc<Control>,
    dropped: metrics::Counter,
) -> io::Result<()> {
    let writer = Writer {
        sink,
        receiver,
        queued_bytes,
        control,
        dropped,
        batch: Vec::with_capacity(BATCH),
        lines: 0,
        broken: false,
    };
    // Not joined through its handle: a write that never returns would never let the process end. The owner waits
    // on `control` with a limit instead.
    thread::Builder::new().name("access-log".into()).spawn(move || writer.run()).map(drop)
}

struct Writer {
    sink: Sink,
    receiver: Receiver<Message>,
    queued_bytes: Arc<AtomicUsize>,
    control: Arc<Control>,
    dropped: metrics::Counter,
    batch: Vec<u8>,
    /// Lines in `batch`.
    lines: u64,
    /// The last write failed; said once, not for every batch.
    broken: bool,
}

/// What a look at the queue found.
#[derive(PartialEq, Eq)]
enum Found {
    Lines,
    Nothing,
    /// All senders are gone.
    TheEnd,
}

impl Writer {
    fn run(mut self) {
        let mut idle_looks = 0;
        loop {
            // Read before draining: what was sent before the order was given is in the queue by now.
            let orders = self.control.take_orders();
            let found = self.drain();
            self.write_batch();
            self.obey(orders);
            if orders.stop || found == Found::TheEnd {
                break;
            }
            idle_looks = if found == Found::Lines { 0 } else { idle_looks + 1 };
            if idle_looks < IDLE_LOOKS {
                thread::sleep(PAUSE);
            } else if let Ok(message) = self.receiver.recv() {
                self.take(message);
                idle_looks = 0;
            }
        }
        let control = Arc::clone(&self.control);
        // The queue must be closed before anybody hears that we stopped: a line sent later is counted as dropped.
        drop(self);
        control.update(|orders| orders.stopped = true);
    }

    /// Takes what is queued, writing full batches on the way. Takes at most one queue full, so that workers who
    /// fill it as fast as it is emptied cannot keep orders from being obeyed.
    fn drain(&mut self) -> Found {
        let mut found = Found::Nothing;
        for _ in 0..=MAX_QUEUED_LINES {
            match self.receiver.try_recv() {
                Ok(message) => {
                    self.take(message);
                    found = Found::Lines;
                }
                Err(TryRecvError::Empty) => return found,
                Err(TryRecvError::Disconnected) => return Found::TheEnd,
            }
        }
        found
    }

    fn take(&mut self, message: Message) {
        let Message::Line(line) = message else { return };
        self.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
        self.batch.extend_from_slice(&line);
        self.lines += 1;
        if self.batch.len() >= BATCH {
            self.write_batch();
        }
    }

    fn write_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        match self.sink.write(&self.batch) {
            Ok(()) => {
                if self.broken {
                    tracing::info!("access log is written again");
                }
                self.broken = false;
            }
            Err(error) => {
                if !self.broken {
                    tracing::error!(%error, "access log cannot be written; lines are dropped");
                }
                self.broken = true;
                self.dropped.increment(self.lines);
            }
        }
        self.batch.clear();
        self.lines = 0;
    }

    fn obey(&mut self, orders: Orders) {
        if orders.reopen {
            self.sink.reopen();
        }
        if orders.flush_done != orders.flush_wanted {
            self.control.update(|now| now.flush_done = orders.flush_wanted);
        }
    }
}
