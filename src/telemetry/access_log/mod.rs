//! One line per request, written off the request path: each worker filters and formats into its own buffer, a
//! bounded queue takes the line to a thread that writes. When the queue is full the line is dropped and counted.

mod format;
mod record;
mod sink;
mod tcp;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use self::{
    format::Formatter,
    sink::{Control, Sink},
};
pub use self::{record::AccessRecord, tcp::TcpRecord};
use super::{AccessLogFilter, AccessLogParams, AccessLogSink};
use crate::types::{Flag, Live};

/// Most lines that wait for the writer thread.
const MAX_QUEUED_LINES: usize = 8192;

/// Most bytes that wait for the writer thread: lines have very different lengths, and clients choose them.
const MAX_QUEUED_BYTES: usize = 8 << 20;

/// What the queue carries.
enum Message {
    /// One complete line.
    Line(Box<[u8]>),
    /// Nothing; makes a sleeping writer look at its [`Control`].
    Wake,
}

/// Both ends of the queue share this.
struct Queue {
    sender: SyncSender<Message>,
    bytes: Arc<AtomicUsize>,
    dropped: metrics::Counter,
}

/// The access log; clones write to the same sink.
#[derive(Clone)]
pub struct AccessLog {
    params: Arc<Live<AccessLogParams>>,
    /// `None` if the log is switched off.
    queue: Option<Arc<Queue>>,
}

/// Owns the writer thread.
pub struct AccessLogOwner {
    control: Arc<Control>,
    queue: Option<Arc<Queue>>,
}

impl AccessLog {
    /// Opens the sink and starts the thread that writes to it; with `enabled: false` neither. `dropped` counts
    /// lines that could not be written.
    ///
    /// # Errors
    /// The sink cannot be opened, or the thread not be started. Nothing is left behind.
    pub fn start(params: AccessLogParams, dropped: metrics::Counter) -> io::Result<(Self, AccessLogOwner)> {
        let sink = if params.enabled { Some(Sink::open(&params.sink)?) } else { None };
        Self::start_with(params, dropped, sink)
    }

    fn start_with(
        params: AccessLogParams,
        dropped: metrics::Counter,
        sink: Option<Sink>,
    ) -> io::Result<(Self, AccessLogOwner)> {
        let control = Arc::new(Control::default());
        let queue = match sink {
            None => None,
            Some(sink) => {
                let (sender, receiver) = sync_channel(MAX_QUEUED_LINES);
                let bytes = Arc::new(AtomicUsize::new(0));
                sink::spawn(sink, receiver, Arc::clone(&bytes), Arc::clone(&control), dropped.clone())?;
                Some(Arc::new(Queue { sender, bytes, dropped }))
            }
        };
        let owner = AccessLogOwner { control, queue: queue.clone() };
        Ok((Self { params: Arc::new(Live::new(Arc::new(params))), queue }, owner))
    }

    /// Puts another filter to work. Sink and format stay as they are, and a log that was started switched off
    /// stays off.
    pub fn configure(&self, params: &AccessLogParams) {
        drop(self.params.swap(Arc::new(params.clone())));
    }

    /// A writer for one worker. `rng` decides which lines are sampled.
    #[must_use]
    pub fn writer(&self, rng: fastrand::Rng) -> AccessLogWriter {
        AccessLogWriter { log: self.clone(), formatter: Formatter::new(self.params.peek().format), rng }
    }
}

impl AccessLogOwner {
    /// Closes the file and opens it again by its name, as log rotation wants. Takes effect a moment later; if the
    /// file cannot be opened, the old one goes on. Nothing happens for standard output.
    pub fn reopen(&self) {
        self.control.request_reopen();
        self.wake();
    }

    /// Waits until everything that was recorded before is written, at most for `limit`. Says whether it is.
    pub fn flush(&self, limit: Duration) -> bool {
        if self.queue.is_none() {
            return true;
        }
        let ticket = self.control.request_flush();
        self.wake();
        self.control.wait_flushed(ticket, limit)
    }

    /// Writes what is queued and ends the thread, at most for `limit`: a sink that takes nothing must not keep the
    /// process alive. Lines recorded afterwards are dropped. Says whether the thread has ended.
    pub fn stop(self, limit: Duration) -> bool {
        if self.queue.is_none() {
            return true;
        }
        self.control.request_stop();
        self.wake();
        self.control.wait_stopped(limit)
    }

    fn wake(&self) {
        if let Some(queue) = &self.queue {
            // A full queue means that the writer is awake.
            let _ = queue.sender.try_send(Message::Wake);
        }
    }
}

/// The access log of one worker.
pub struct AccessLogWriter {
    log: AccessLog,
    formatter: Formatter,
    rng: fastrand::Rng,
}

impl AccessLogWriter {
    /// Writes a line for a request, unless the configuration leaves it out. Never blocks. A request that is left
    /// out costs two comparisons; one that is not, its formatting and one allocation.
    pub fn record(&mut self, record: &AccessRecord<'_>) {
        let Some(queue) = &self.log.queue else { return };
        if wanted(&self.log.params.peek(), record, &mut self.rng) {
            queue.push(self.formatter.line(record));
        }
    }

    /// As [`record`](Self::record), for a TCP connection. One that ran for longer than `slow` is not slow.
    pub fn record_tcp(&mut self, record: &TcpRecord<'_>) {
        let Some(queue) = &self.log.queue else { return };
        if passes(&self.log.params.peek(), record.failed, Duration::ZERO, &mut self.rng) {
            queue.push(self.formatter.tcp_line(record));
        }
    }
}

impl Queue {
    /// Hands a line to the writer thread; a full queue drops it.
    fn push(&self, line: &[u8]) {
        if self.bytes.fetch_add(line.len(), Ordering::Relaxed) > MAX_QUEUED_BYTES {
            self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.dropped.increment(1);
            return;
        }
        match self.sender.try_send(Message::Line(Box::from(line))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                self.dropped.increment(1);
            }
        }
    }
}

/// Whether a request is written: failed ones always, others if the filter lets them pass and the sample takes them.
fn wanted(params: &AccessLogParams, record: &AccessRecord<'_>, rng: &mut fastrand::Rng) -> bool {
    // A route that answers by itself is no failure.
    let failed = record.status >= 500 || !matches!(record.flag, Flag::None | Flag::Direct);
    passes(params, failed, record.duration, rng)
}

fn passes(params: &AccessLogParams, failed: bool, duration: Duration, rng: &mut fastrand::Rng) -> bool {
    let passes = match params.only {
        AccessLogFilter::All => true,
        AccessLogFilter::Errors => false,
        AccessLogFilter::Slow => duration > params.slow,
    };
    failed || (passes && (params.sample >= 1.0 || rng.f64() < params.sample))
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessLog").field("params", &self.params).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AccessLogOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessLogOwner").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AccessLogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessLogWriter").finish_non_exhaustive()
    }
}
