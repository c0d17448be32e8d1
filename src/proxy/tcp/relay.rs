//! Copies bytes between two streams until both have said that they are done, one breaks, or nothing moves for too
//! long. All connections of a worker share one buffer, which is used only while bytes are at hand: an idle
//! connection holds none, and a buffer of its own only exists while a side is too slow to take what was read (ADR
//! 0012).

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{rt::clock, telemetry::metrics::HotCounter, types::Mono};

/// Bytes moved by one pair of system calls at most. Larger ones fall out of the second-level cache between the read
/// and the write.
const BUFFER: usize = 64 * 1024;
/// The coarse clock that marks progress may be this old, so a connection may look idle for that much longer than it
/// was.
const CLOCK_STEP: Duration = Duration::from_millis(100);

thread_local! {
    static BUFFER_OF_WORKER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// Why a relay ended early.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The client's side failed.
    Client(io::Error),
    /// The endpoint's side failed.
    Endpoint(io::Error),
    /// Nothing moved for the idle time.
    Idle,
}

/// Bytes on their way in one direction, and what is known of that direction.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Read, or put in front, and not taken by the other side yet.
    pending: Vec<u8>,
    /// Bytes of `pending` that were taken.
    taken: usize,
    /// Bytes at the front of `pending` that neither side sent: they are not counted.
    uncounted: usize,
    /// The reading side has said that it is done.
    ended: bool,
    /// The writing side was told so.
    finished: bool,
    /// Written, but perhaps not sent yet: TLS keeps what the socket does not take at once.
    unflushed: bool,
    total: u64,
    counter: Option<Arc<HotCounter>>,
}

/// A failure while reading or while writing: it tells whose side broke.
enum Side {
    Read(io::Error),
    Write(io::Error),
}

impl Flow {
    /// A direction whose bytes are added to `counter` as they pass.
    pub(crate) fn new(counter: &Arc<HotCounter>) -> Self {
        Self { counter: Some(Arc::clone(counter)), ..Self::uncounted() }
    }

    /// A direction whose bytes only [`Flow::total`] tells.
    pub(crate) fn uncounted() -> Self {
        Self {
            pending: Vec::new(),
            taken: 0,
            uncounted: 0,
            ended: false,
            finished: false,
            unflushed: false,
            total: 0,
            counter: None,
        }
    }

    /// Puts `preamble`, which is not counted, and `early`, which was read already, in front of everything.
    pub(crate) fn begin_with(&mut self, mut preamble: Vec<u8>, early: &[u8]) {
        self.uncounted = preamble.len();
        preamble.extend_from_slice(early);
        self.pending = preamble;
    }

    /// Bytes that were passed on so far.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    fn note_written(&mut self, count: usize) {
        self.unflushed = true;
        let free = count.min(self.uncounted);
        self.uncounted -= free;
        let counted = (count - free) as u64;
        self.total += counted;
        if let Some(counter) = &self.counter {
            counter.add(counted);
        }
    }

    /// Moves what can be moved now. Ready when this direction is done; `moved` is set if anything was written.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut R, &mut W),
        buffer: &mut [u8],
        moved: &mut bool,
    ) -> Poll<Result<(), Side>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.poll_pending(cx, to, moved))?;
            if self.finished {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                // A side that has closed entirely need not be told that no more will come.
                let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                self.finished = true;
                continue;
            }
            let mut room = ReadBuf::new(buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut room) {
                Poll::Ready(read) => read.map_err(Side::Read)?,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Side::Write)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
            let read = room.filled();
            if read.is_empty() {
                self.ended = true;
                continue;
            }
            match Pin::new(&mut *to).poll_write(cx, read) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Side::Write(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(count)) => {
                    *moved = true;
                    self.note_written(count);
                    self.keep(&read[count..]);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Side::Write(error))),
                Poll::Pending => self.keep(read),
            }
        }
    }

    fn keep(&mut self, rest: &[u8]) {
        self.pending.extend_from_slice(rest);
    }

    fn poll_pending<W>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        moved: &mut bool,
    ) -> Poll<Result<(), Side>>
    where
        W: AsyncWrite + Unpin,
    {
        while self.taken < self.pending.len() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending[self.taken..]));
            match written.map_err(Side::Write)? {
                0 => return Poll::Ready(Err(Side::Write(io::ErrorKind::WriteZero.into()))),
                count => {
                    *moved = true;
                    self.taken += count;
                    self.note_written(count);
                }
            }
        }
        if self.taken > 0 {
            // Given back rather than kept: most connections never need it again.
            self.pending = Vec::new();
            self.taken = 0;
        }
        Poll::Ready(Ok(()))
    }
}

/// Copies in both directions. An end of the stream in one direction is passed on (half-close) and the other
/// direction goes on. `now` is the worker's coarse clock. Cancel-safe: what was moved is in the flows.
///
/// # Errors
/// [`Broken`] says whose side it was; the streams are left open for the caller to cut.
pub(crate) async fn relay<C, E>(
    client: &mut C,
    endpoint: &mut E,
    (up, down): (&mut Flow, &mut Flow),
    idle: Duration,
    now: &Cell<Mono>,
) -> Result<(), Broken>
where
    C: AsyncRead + AsyncWrite + Unpin,
    E: AsyncRead + AsyncWrite + Unpin,
{
    let mut last = clock::now();
    let mut timer = pin!(tokio::time::sleep_until(clock::instant(last.after(idle))));
    poll_fn(|cx| {
        let mut moved = false;
        let copied = BUFFER_OF_WORKER.with_borrow_mut(|buffer| {
            let sent = up.poll(cx, (&mut *client, &mut *endpoint), buffer, &mut moved);
            let answered = down.poll(cx, (&mut *endpoint, &mut *client), buffer, &mut moved);
            match (sent, answered) {
                (Poll::Ready(Err(Side::Read(error))), _) | (_, Poll::Ready(Err(Side::Write(error)))) => {
                    Poll::Ready(Err(Broken::Client(error)))
                }
                (Poll::Ready(Err(Side::Write(error))), _) | (_, Poll::Ready(Err(Side::Read(error)))) => {
                    Poll::Ready(Err(Broken::Endpoint(error)))
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
                _ => Poll::Pending,
            }
        });
        if copied.is_ready() {
            return copied;
        }
        if moved {
            last = now.get();
        }
        while timer.as_mut().poll(cx).is_ready() {
            let end = last.after(idle + CLOCK_STEP);
            if clock::now() >= end {
                return Poll::Ready(Err(Broken::Idle));
            }
            timer.as_mut().reset(clock::instant(end));
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests;
