//! One HTTP/2 stream as a byte stream, after a CONNECT was granted on it: the end of the stream is the end of the
//! bytes, a reset is an error in both directions.

use std::{
    cell::{Cell, RefCell},
    error::Error as StdError,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::{AbortHandle, Id},
};

/// Most bytes that are handed to hyper at once: it copies them, and holds up to three such pieces.
const PIECE: usize = 16 * 1024;

thread_local! {
    /// The tasks that send on streams of this worker that just became tunnels, each with the task that granted it.
    static SENDING: RefCell<Vec<(Id, AbortHandle)>> = const { RefCell::new(Vec::new()) };
    /// The task that a connection to an endpoint started last.
    static STARTED: Cell<Option<Id>> = const { Cell::new(None) };
}

/// `task` was started by hyper to send on a stream that became a tunnel. To be called where hyper starts it: in the
/// task that serves the stream (of a client), or that waited for the answer (of an endpoint).
pub(crate) fn note_sending(task: AbortHandle) {
    let Some(granted_by) = tokio::task::try_id() else { return };
    SENDING.with_borrow_mut(|sending| {
        // What was granted to somebody who went away meanwhile has ended by itself.
        sending.retain(|(_, task)| !task.is_finished());
        sending.push((granted_by, task));
    });
}

/// A connection to an endpoint started this task.
pub(crate) fn note_started(task: Id) {
    STARTED.set(Some(task));
}

/// Names the task that will grant a tunnel.
pub(crate) type Granter = Rc<Cell<Option<Id>>>;

/// The body of a request for a tunnel. hyper drops it as soon as it has started the task that waits for the answer:
/// so that task is known.
pub(crate) struct TunnelBody(pub(crate) Granter);

impl Drop for TunnelBody {
    fn drop(&mut self) {
        // A body may be dropped by its thread's last breath.
        self.0.set(STARTED.try_with(Cell::get).ok().flatten());
    }
}

/// A stream of an HTTP/2 connection that became a tunnel. Dropped before both sides have finished, it is reset.
pub(crate) struct TunnelStream {
    io: TokioIo<Upgraded>,
    /// The task of hyper that writes what it is given. Left alone it would end the stream in order when this is
    /// dropped, or wait for a window for ever.
    sending: Option<AbortHandle>,
    reading: Reading,
    /// The other side was told that no more comes.
    finished: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    /// No more comes; whether the peer said so, or reset the stream, is found out at the next poll.
    AtEnd,
    Ended,
}

impl TunnelStream {
    /// The stream of `upgraded`, which the task `granted_by` granted.
    pub(crate) fn new(upgraded: Upgraded, granted_by: Option<Id>) -> Self {
        let sending = SENDING.with_borrow_mut(|sending| {
            let at = sending.iter().position(|(by, _)| Some(*by) == granted_by)?;
            Some(sending.swap_remove(at).1)
        });
        Self { io: TokioIo::new(upgraded), sending, reading: Reading::Open, finished: false }
    }

    /// hyper shows a reset with CANCEL as the end of the stream. But the task that sends ends with an error then, and
    /// a flush tells.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.finished {
            return Ok(());
        }
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(Err(error)) if !wants_no_more(&error) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Ready(_) | Poll::Pending => Ok(()),
        }
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        if let Some(sending) = &self.sending {
            // It has ended long ago if both sides finished.
            sending.abort();
        }
    }
}

/// RST_STREAM with NO_ERROR: the peer has said all it had to say, and does not care for the rest (RFC 9113 §8.1).
fn wants_no_more(error: &io::Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = error.get_ref().map(|cause| cause as _);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason() == Some(h2::Reason::NO_ERROR);
        }
        cause = error.source();
    }
    false
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.reading {
            Reading::Open => {
                let before = buf.filled().len();
                ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
                if buf.filled().len() > before {
                    return Poll::Ready(Ok(()));
                }
                // The frame that ended it woke the task that sends before it woke this one, but this one may have been
                // on its way already: one more turn, and that task has run.
                self.reading = Reading::AtEnd;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Reading::AtEnd => {
                self.reading = Reading::Ended;
                Poll::Ready(self.poll_reset(cx))
            }
            Reading::Ended => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        Pin::new(&mut self.io).poll_write(cx, piece)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
