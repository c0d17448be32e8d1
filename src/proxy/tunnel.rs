//! A connection that has switched protocols (WebSocket and whatever else): bytes pass in both directions until
//! both sides have finished, or nothing moves for too long.

use std::{future::poll_fn, io, rc::Rc, time::Duration};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes},
    sync::oneshot,
};

use super::{
    body::Lease,
    connection::Downstream,
    pool::{TunnelParts, TunnelSlot},
    record::RequestRecord,
};
use crate::{net::Stream, snapshot::Admission, types::Flag};

/// Buffer in each direction.
const BUFFER: usize = 16 * 1024;
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
    /// To an endpoint that answered 101; its connection is on its way here.
    Switched(oneshot::Receiver<TunnelParts>, Lease),
    /// To an endpoint that was connected to for this.
    Dialed(Stream),
}

impl TunnelUpstream {
    /// The stream, what was read from it too far, and what must live as long as the tunnel.
    async fn open(self) -> Option<(Stream, Bytes, Option<(Lease, TunnelSlot)>)> {
        match self {
            Self::Dialed(stream) => Some((stream, Bytes::new(), None)),
            Self::Switched(parts, lease) => {
                let parts = tokio::time::timeout(HANDOVER, parts).await.ok()?.ok()?;
                Some((parts.stream, parts.read, Some((lease, parts.open))))
            }
        }
    }
}

/// Runs the tunnel to its end and records it. `early` are bytes that the client sent right behind its request.
pub(crate) async fn run<S>(downstream: &Rc<Downstream>, mut client: S, early: Bytes, plan: TunnelPlan)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let TunnelPlan { upstream, admission, mut record } = plan;
    let Some((mut stream, mut read, held)) = upstream.open().await else {
        record.fail(Flag::UpstreamReset);
        return;
    };
    let copied = copy(&mut client, early, (&mut stream, &mut read), downstream).await;
    match copied {
        Ok((up, down)) => record.tunnelled(up, down),
        Err(error) => {
            tracing::debug!(%error, "tunnel ended");
            record.tunnelled(0, 0);
        }
    }
    drop((held, admission));
}

async fn copy<S>(
    client: &mut S,
    mut early: Bytes,
    (stream, read): (&mut Stream, &mut Bytes),
    downstream: &Downstream,
) -> io::Result<(u64, u64)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (early.len() as u64, read.len() as u64);
    let passing = async {
        if early.has_remaining() {
            stream.write_all_buf(&mut early).await?;
        }
        if read.has_remaining() {
            client.write_all_buf(read).await?;
        }
        copy_bidirectional_with_sizes(client, stream, BUFFER, BUFFER).await
    };
    let copied = tokio::select! {
        copied = passing => copied?,
        () = poll_fn(|cx| downstream.state.poll_expired(cx)) => return Err(io::ErrorKind::TimedOut.into()),
        () = downstream.stopped() => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    up += copied.0;
    down += copied.1;
    Ok((up, down))
}
