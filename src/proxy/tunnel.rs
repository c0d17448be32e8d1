//! A connection that has switched protocols (WebSocket and whatever else): bytes pass in both directions until
//! both sides have finished, or nothing moves for too long.

use std::{future::poll_fn, io, rc::Rc, time::Duration};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes},
    sync::oneshot,
};

use super::{body::Lease, connection::Downstream, pool::TunnelParts, record::RequestRecord};
use crate::{snapshot::Admission, types::Flag};

/// Buffer in each direction.
const BUFFER: usize = 16 * 1024;
/// How long the endpoint's connection may take to let go of its stream after it answered 101.
const HANDOVER: Duration = Duration::from_secs(1);

/// What the exchange leaves for the connection that becomes a tunnel.
pub(crate) struct TunnelPlan {
    pub(crate) upstream: oneshot::Receiver<TunnelParts>,
    pub(crate) lease: Lease,
    pub(crate) admission: Option<Admission>,
    pub(crate) record: Box<RequestRecord>,
}

/// Runs the tunnel to its end and records it. `early` are bytes that the client sent right behind its request.
pub(crate) async fn run<S>(downstream: &Rc<Downstream>, mut client: S, early: Bytes, plan: TunnelPlan)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let TunnelPlan { upstream, lease, admission, mut record } = plan;
    let Ok(Ok(mut parts)) = tokio::time::timeout(HANDOVER, upstream).await else {
        record.fail(Flag::UpstreamReset);
        return;
    };
    let copied = copy(&mut client, early, &mut parts, downstream).await;
    match copied {
        Ok((up, down)) => record.tunnelled(up, down),
        Err(error) => {
            tracing::debug!(%error, "tunnel ended");
            record.tunnelled(0, 0);
        }
    }
    drop((lease, admission));
}

async fn copy<S>(
    client: &mut S,
    mut early: Bytes,
    parts: &mut TunnelParts,
    downstream: &Downstream,
) -> io::Result<(u64, u64)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (early.len() as u64, parts.read.len() as u64);
    let passing = async {
        if early.has_remaining() {
            parts.stream.write_all_buf(&mut early).await?;
        }
        if parts.read.has_remaining() {
            client.write_all_buf(&mut parts.read).await?;
        }
        copy_bidirectional_with_sizes(client, &mut parts.stream, BUFFER, BUFFER).await
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
