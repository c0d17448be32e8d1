//! A connection, or a stream of one, that carries another protocol after CONNECT or an upgrade (WebSocket and
//! whatever else): bytes pass in both directions until both sides have finished, or nothing moves for too long. A side
//! that breaks off is seen to break off by the other one.

use std::{
    future::{Future, pending, poll_fn},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

use super::{
    body::Lease,
    connection::Downstream,
    framing::GuardedIo,
    pool::{TunnelParts, TunnelSlot},
    record::RequestRecord,
    tcp::{Broken, Flow, relay},
    upgrade::stream::{Granter, TunnelStream},
};
use crate::{net::Stream, snapshot::Admission, types::Flag};

/// How long the endpoint's connection may take to let go of its stream after it answered 101.
const HANDOVER: Duration = Duration::from_secs(1);

/// What the exchange leaves for the connection that becomes a tunnel.
pub(crate) struct TunnelPlan {
    pub(crate) upstream: TunnelUpstream,
    pub(crate) admission: Option<Admission>,
    pub(crate) record: Box<RequestRecord>,
}

/// Where a tunnel leads.
pub(crate) enum TunnelUpstream {
    /// To an endpoint that granted it.
    Switched(Opening, Lease),
    /// To an endpoint that was connected to for this.
    Dialed(Stream),
}

/// How an endpoint grants a tunnel.
pub(crate) enum Opening {
    /// It answered 101; its connection is on its way here.
    Connection(oneshot::Receiver<TunnelParts>),
    /// It answered 200 to an extended CONNECT, which this task waited for.
    Stream(OnUpgrade, Granter),
}

/// A side of a tunnel.
trait Side: AsyncRead + AsyncWrite + Unpin {
    /// Makes the close of this side a reset, so that its peer does not take what it got for complete.
    fn reset_on_close(&self);
}

impl Side for Stream {
    fn reset_on_close(&self) {
        // What cannot be reset is gone already.
        let _ = Stream::reset_on_close(self);
    }
}

impl Side for GuardedIo<Stream> {
    fn reset_on_close(&self) {
        let _ = self.get_ref().reset_on_close();
    }
}

impl Side for TunnelStream {
    fn reset_on_close(&self) {
        // It does so by itself.
    }
}

/// Runs the tunnel that `client`'s connection became to its end and records it. `early` are bytes that the client sent
/// right behind its request.
pub(crate) async fn on_connection(
    downstream: &Rc<Downstream>,
    client: GuardedIo<Stream>,
    early: Bytes,
    plan: TunnelPlan,
) {
    let expired = poll_fn(|cx| downstream.state.poll_expired(cx));
    run(downstream, client, early, plan, expired).await;
}

/// Lets the client's HTTP/2 stream become a tunnel as soon as its answer is written. To be called by the task that
/// serves the stream. The tunnel ends with its connection, or at the drain deadline.
pub(crate) fn on_stream(downstream: &Rc<Downstream>, stream: OnUpgrade, mut plan: TunnelPlan) {
    let downstream = Rc::clone(downstream);
    let granted_by = tokio::task::try_id();
    tokio::task::spawn_local(async move {
        match stream.await {
            Ok(stream) => {
                let client = TunnelStream::new(stream, granted_by);
                run(&downstream, client, Bytes::new(), plan, pending()).await;
            }
            Err(_) => plan.record.fail(Flag::DownstreamClosed),
        }
    });
}

async fn run<C: Side>(
    downstream: &Rc<Downstream>,
    client: C,
    early: Bytes,
    plan: TunnelPlan,
    expired: impl Future<Output = ()>,
) {
    let TunnelPlan { upstream, admission, mut record } = plan;
    let tunnel = Tunnel { downstream, client, early, expired };
    match upstream {
        TunnelUpstream::Dialed(endpoint) => tunnel.pass(endpoint, &Bytes::new(), &mut record).await,
        TunnelUpstream::Switched(Opening::Connection(parts), lease) => {
            match tokio::time::timeout(HANDOVER, parts).await {
                Ok(Ok(TunnelParts { stream, read, open })) => {
                    let _held: (Lease, TunnelSlot) = (lease, open);
                    tunnel.pass(stream, &read, &mut record).await;
                }
                Ok(Err(_)) | Err(_) => tunnel.give_up(&mut record),
            }
        }
        TunnelUpstream::Switched(Opening::Stream(stream, granter), lease) => {
            match tokio::time::timeout(HANDOVER, stream).await {
                Ok(Ok(stream)) => {
                    let _held = lease;
                    tunnel.pass(TunnelStream::new(stream, granter.get()), &Bytes::new(), &mut record).await;
                }
                Ok(Err(_)) | Err(_) => tunnel.give_up(&mut record),
            }
        }
    }
    drop(admission);
}

/// The client's side of a tunnel.
struct Tunnel<'a, C, X> {
    downstream: &'a Rc<Downstream>,
    client: C,
    early: Bytes,
    /// A time limit has ended the client's connection.
    expired: X,
}

impl<C: Side, X: Future<Output = ()>> Tunnel<'_, C, X> {
    /// Copies between the client and `endpoint`, from which `read` was read too far.
    async fn pass<E: Side>(self, mut endpoint: E, read: &Bytes, record: &mut RequestRecord) {
        let Self { downstream, mut client, early, expired } = self;
        let (mut up, mut down) = (Flow::uncounted(), Flow::uncounted());
        up.begin_with(Vec::new(), &early);
        down.begin_with(Vec::new(), read);
        let flows = (&mut up, &mut down);
        let idle = downstream.limits.stream_idle_timeout;
        let ended = tokio::select! {
            ended = relay(&mut client, &mut endpoint, flows, idle, &downstream.worker.clock) => Some(ended),
            () = expired => Some(Err(Broken::Idle)),
            () = downstream.stopped() => None,
        };
        record.tunnelled(up.total(), down.total());
        match ended {
            Some(Ok(()) | Err(Broken::Idle)) => return,
            Some(Err(Broken::Client(error))) => {
                tracing::debug!(%error, peer = %downstream.peer, "the client broke its tunnel");
                record.fail(Flag::DownstreamClosed);
            }
            Some(Err(Broken::Endpoint(error))) => {
                tracing::debug!(%error, peer = %downstream.peer, "the endpoint broke the tunnel");
                record.fail(Flag::UpstreamReset);
            }
            None => record.fail(Flag::Draining),
        }
        client.reset_on_close();
        endpoint.reset_on_close();
    }

    /// The endpoint's side does not come.
    fn give_up(self, record: &mut RequestRecord) {
        record.fail(Flag::UpstreamReset);
        self.client.reset_on_close();
    }
}
