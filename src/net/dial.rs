//! Connecting within a limit.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::Stream;
use crate::types::EndpointAddress;

/// How long the first address of a name is tried alone (RFC 8305 §5, "Connection Attempt Delay").
const HEAD_START: Duration = Duration::from_millis(250);

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

/// Connects to `first`, or to `second`, an address of the other family that the same name has (Happy Eyeballs,
/// RFC 8305 §5): the second is tried as soon as the first has failed, or has not answered for 250 ms, and whichever
/// connects first is used. Cancel-safe as [`dial`].
///
/// # Errors
/// The failure of the last attempt, or [`DialError::TimedOut`] after `limit` for both together.
pub async fn dial_either(
    first: &EndpointAddress,
    second: &EndpointAddress,
    limit: Duration,
) -> Result<Stream, DialError> {
    match tokio::time::timeout(limit, race(first, second)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(DialError::Refused(error)),
        Err(_) => Err(DialError::TimedOut(limit)),
    }
}

/// Connects to `destination` from the local address `source`. Cancel-safe as [`dial`].
///
/// # Errors
/// As [`dial`]; also if `source` is no address of this machine or cannot reach `destination`.
pub async fn dial_from(
    source: IpAddr,
    destination: SocketAddr,
    limit: Duration,
) -> Result<Stream, DialError> {
    let connecting = async {
        let socket = if destination.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.bind(SocketAddr::new(source, 0))?;
        prepared(socket.connect(destination).await?)
    };
    match tokio::time::timeout(limit, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(DialError::Refused(error)),
        Err(_) => Err(DialError::TimedOut(limit)),
    }
}

async fn race(first: &EndpointAddress, second: &EndpointAddress) -> io::Result<Stream> {
    let mut one = pin!(connect(first));
    match tokio::time::timeout(HEAD_START, &mut one).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(_)) => return connect(second).await,
        Err(_) => {}
    }
    let mut two = pin!(connect(second));
    tokio::select! {
        connected = &mut one => match connected {
            Ok(stream) => Ok(stream),
            Err(_) => two.await,
        },
        connected = &mut two => match connected {
            Ok(stream) => Ok(stream),
            Err(_) => one.await,
        },
    }
}

async fn connect(address: &EndpointAddress) -> io::Result<Stream> {
    match address {
        EndpointAddress::Tcp(socket) => prepared(TcpStream::connect(socket).await?),
        EndpointAddress::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
    }
}

fn prepared(stream: TcpStream) -> io::Result<Stream> {
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER))?;
    // A port in the ephemeral range that nobody listens on can be handed to us as our own source port;
    // TCP then connects the socket to itself and would echo every request.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(Stream::Tcp(stream))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn listener(address: &str) -> (TcpListener, EndpointAddress) {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = EndpointAddress::Tcp(listener.local_addr().unwrap());
        (listener, address)
    }

    #[tokio::test]
    async fn the_first_address_is_used_if_it_answers() {
        let (one, first) = listener("127.0.0.1:0").await;
        let (_two, second) = listener("127.0.0.2:0").await;
        let (dialed, accepted) = tokio::join!(dial_either(&first, &second, LIMIT), one.accept());
        assert!(dialed.is_ok() && accepted.is_ok());
    }

    #[tokio::test]
    async fn the_second_address_is_used_if_the_first_refuses() {
        let (gone, first) = listener("127.0.0.1:0").await;
        drop(gone);
        let (two, second) = listener("127.0.0.2:0").await;
        let (dialed, accepted) = tokio::join!(dial_either(&first, &second, LIMIT), two.accept());
        assert!(dialed.is_ok() && accepted.is_ok());
    }

    #[tokio::test]
    async fn the_peer_sees_the_source_that_was_asked_for() {
        let (listener, EndpointAddress::Tcp(address)) = listener("127.0.0.1:0").await else {
            panic!("no TCP")
        };
        let source: IpAddr = "127.0.0.6".parse().unwrap();
        let (dialed, accepted) = tokio::join!(dial_from(source, address, LIMIT), listener.accept());
        assert!(dialed.is_ok());
        assert_eq!(accepted.unwrap().1.ip(), source);
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_cause() {
        let (gone, first) = listener("127.0.0.1:0").await;
        drop(gone);
        let Err(DialError::Refused(error)) = dial(&first, LIMIT).await else { panic!("it must refuse") };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
