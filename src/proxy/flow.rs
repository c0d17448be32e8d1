//! Bodies that wait for a window. hyper takes a piece of a body and holds it until the HTTP/2 peer makes room, and
//! asks the body nothing meanwhile: neither its deadline nor anything else of ours is polled. So each such body is
//! watched from outside, and the task that holds it is ended when nothing has moved for too long. The sweeper is
//! the one who looks; the tasks are started in proxy/codec.rs.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::{
    body::{ResponseBody, Upload},
    error::BoxError,
};
use crate::types::{Flag, Mono};

/// How a body moves into the stream of an HTTP/2 peer.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Since when the last piece waits to be taken; `None` while the body itself is asked for more.
    waits: Cell<Option<Mono>>,
    /// How long it may; without a limit nobody looks.
    limit: Cell<Option<Duration>>,
    stalled: Cell<bool>,
}

impl Flow {
    /// A flow that may stand still for `limit`.
    pub(crate) fn limited(limit: Duration) -> Rc<Self> {
        let flow = Self::default();
        flow.limit(limit);
        Rc::new(flow)
    }

    pub(crate) fn limit(&self, limit: Duration) {
        self.limit.set(Some(limit));
    }

    /// The body was asked for more: what was handed out before has been taken.
    pub(crate) fn asked(&self) {
        self.waits.set(None);
    }

    /// A piece was handed out.
    pub(crate) fn handed_out(&self, now: Mono) {
        self.waits.set(Some(now));
    }

    /// The exchange is alive in the other direction.
    pub(crate) fn other_side_moved(&self, now: Mono) {
        if self.waits.get().is_some() {
            self.waits.set(Some(now));
        }
    }

    /// Whether it was ended because it stood still.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.get()
    }

    fn is_late(&self, now: Mono) -> bool {
        matches!((self.waits.get(), self.limit.get()), (Some(since), Some(limit)) if now.since(since) > limit)
    }
}

impl AsRef<Flow> for Flow {
    fn as_ref(&self) -> &Flow {
        self
    }
}

/// All flows of one worker that are in the hands of a task.
#[derive(Default)]
pub(crate) struct Flows(RefCell<Vec<Held>>);

struct Held {
    flow: Rc<dyn AsRef<Flow>>,
    task: AbortHandle,
}

impl Flows {
    /// Watches `flow` as long as `task` runs.
    pub(crate) fn watch(&self, flow: Rc<dyn AsRef<Flow>>, task: AbortHandle) {
        self.0.borrow_mut().push(Held { flow, task });
    }

    /// Ends the tasks whose flows stood still for too long; with its task, h2 resets the stream, and the body lets
    /// go of the other side.
    pub(crate) fn sweep(&self, now: Mono) {
        self.0.borrow_mut().retain(|held| {
            if held.task.is_finished() {
                return false;
            }
            let flow: &Flow = (*held.flow).as_ref();
            if !flow.is_late(now) {
                return true;
            }
            tracing::debug!("a stream's window stayed closed for too long");
            flow.stalled.set(true);
            held.task.abort();
            false
        });
    }
}

/// A response body on an HTTP/2 stream.
pub(crate) struct WatchedBody {
    body: ResponseBody,
    flow: Rc<Flow>,
    clock: Rc<Cell<Mono>>,
}

impl WatchedBody {
    /// Tells `flow` how `body` moves. `clock` is the worker's coarse one.
    pub(crate) fn new(body: ResponseBody, flow: Rc<Flow>, clock: Rc<Cell<Mono>>) -> Self {
        Self { body, flow, clock }
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.flow.asked();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && frame.is_data()
        {
            self.flow.handed_out(self.clock.get());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        if self.flow.is_stalled() {
            self.body.abandon(Flag::DownstreamTimeout);
        }
    }
}

thread_local! {
    static OFFER: RefCell<Offer> = const { RefCell::new(Offer::Closed) };
}

/// Which upload a new task of an HTTP/2 client belongs to. hyper polls a request body once within the task of the
/// connection, and starts a task for it, without a word to us, if that was not enough.
enum Offer {
    /// No connection is being polled.
    Closed,
    /// One is.
    Open,
    /// One is, and this body was polled last.
    Upload(Rc<Upload>),
}

impl Offer {
    fn withdraw(&mut self) -> Option<Rc<Upload>> {
        if matches!(self, Self::Closed) {
            return None;
        }
        match std::mem::replace(self, Self::Open) {
            Self::Upload(upload) => Some(upload),
            Self::Open | Self::Closed => None,
        }
    }
}

/// Polls a connection; bodies that are polled in it can be taken with [`take_offered`].
pub(crate) fn offering<T>(poll: impl FnOnce() -> T) -> T {
    OFFER.set(Offer::Open);
    let polled = poll();
    OFFER.set(Offer::Closed);
    polled
}

/// Whether a connection is being polled.
pub(crate) fn is_offering() -> bool {
    OFFER.with_borrow(|offer| !matches!(offer, Offer::Closed))
}

/// `upload` is being polled.
pub(crate) fn offer(upload: &Rc<Upload>) {
    OFFER.with_borrow_mut(|offer| {
        if !matches!(offer, Offer::Closed) {
            *offer = Offer::Upload(Rc::clone(upload));
        }
    });
}

/// A body is gone: whatever task is started next is not its.
pub(crate) fn withdraw() {
    // A body may be dropped by its thread's last breath, when this is gone already.
    drop(OFFER.try_with(|offer| offer.try_borrow_mut().ok().map(|mut offer| offer.withdraw())));
}

/// The body that was polled last and is still there.
pub(crate) fn take_offered() -> Option<Rc<Upload>> {
    OFFER.with_borrow_mut(Offer::withdraw)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Mono {
        Mono::ZERO.after(Duration::from_secs(seconds))
    }

    #[test]
    fn only_a_piece_that_nobody_takes_makes_a_flow_late() {
        let flow = Flow::limited(LIMIT);
        assert!(!flow.is_late(at(1000)), "nothing was handed out");
        flow.handed_out(at(1000));
        assert!(!flow.is_late(at(1010)));
        assert!(flow.is_late(at(1011)));
        flow.other_side_moved(at(1005));
        assert!(!flow.is_late(at(1015)));
        flow.asked();
        assert!(!flow.is_late(at(5000)), "whoever asks has taken it");
        flow.other_side_moved(at(5000));
        assert!(!flow.is_late(at(9000)));
    }

    #[tokio::test]
    async fn a_late_flow_loses_its_task_and_others_keep_theirs() {
        let flows = Flows::default();
        let (late, fresh) = (Flow::limited(LIMIT), Flow::limited(LIMIT));
        late.handed_out(at(0));
        fresh.handed_out(at(9));
        let tasks = [tokio::spawn(std::future::pending::<()>()), tokio::spawn(std::future::pending::<()>())];
        flows.watch(Rc::clone(&late) as Rc<dyn AsRef<Flow>>, tasks[0].abort_handle());
        flows.watch(Rc::clone(&fresh) as Rc<dyn AsRef<Flow>>, tasks[1].abort_handle());
        flows.sweep(at(11));
        let [first, second] = tasks;
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(late.is_stalled() && !fresh.is_stalled());
        assert!(!second.is_finished());
        second.abort();
        assert!(second.await.is_err());
        flows.sweep(at(12));
        assert!(flows.0.borrow().is_empty(), "what has ended is forgotten");
    }

    #[test]
    fn an_upload_is_offered_only_while_its_connection_is_polled() {
        let upload = Rc::new(Upload::default());
        offer(&upload);
        assert!(take_offered().is_none());
        offering(|| {
            offer(&upload);
            assert!(take_offered().is_some_and(|taken| Rc::ptr_eq(&taken, &upload)));
            assert!(take_offered().is_none(), "one task, one body");
            offer(&upload);
            withdraw();
            assert!(take_offered().is_none());
            offer(&upload);
        });
        assert!(take_offered().is_none());
    }
}
