//! Connecting within a limit.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use super::Stream;
use crate::types::EndpointAddress;

/// Idle time before the kernel asks whether a peer is still there. Finds peers that lost power.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);

/// No connection could be made; nothing is left open and nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The kernel or the peer refused.
    #[error("connection failed")]
    Refused(#[source] io::Error),
    /// No answer within the limit.
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
}

/// Connects to `address`. TCP connections get TCP_NODELAY (heads are small and latency counts) and keep-alive
/// probes. Cancel-safe: dropping the future closes the socket.
///
/// # Errors
/// [`DialError::Refused`] with what the kernel said, or [`DialError::TimedOut`] after `limit`.
pub async fn dial(address: &EndpointAddress, limit: Duration) -> Result<Stream, DialError> {
    match tokio::time::timeout(limit, connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(DialError::Refused(error)),
        Err(_) => Err(DialError::TimedOut(limit)),
    }
}

async fn connect(address: &EndpointAddress) -> io::Result<Stream> {
    match address {
        EndpointAddress::Tcp(socket) => {
            let stream = TcpStream::connect(socket).await?;
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER))?;
            // A port in the ephemeral range that nobody listens on can be handed to us as our own source port;
            // TCP then connects the socket to itself and would echo every request.
            if stream.local_addr()? == stream.peer_addr()? {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Ok(Stream::Tcp(stream))
        }
        EndpointAddress::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
    }
}
