//! Reads the PROXY header off a connection that must begin with one, and nothing behind it.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::net::proxy_protocol::{self, HeaderError, MAX_HEADER, Parsed};

/// Whose connection it really is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Who opened it.
    pub(crate) source: SocketAddr,
    /// Where to, if that is not where it came in.
    pub(crate) destination: Option<SocketAddr>,
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OriginError {
    /// Something else came.
    #[error("refused")]
    Header(#[from] HeaderError),
    /// The connection ended.
    #[error("the connection ended before its PROXY header")]
    Io(#[from] io::Error),
    /// It did not come in time.
    #[error("no PROXY header in time")]
    Late,
}

/// Reads the header, at most for `limit`. `peer` is who connected; it stays the origin if the header says so.
///
/// # Errors
/// See [`OriginError`]; the connection cannot be used then.
pub(crate) async fn read(
    stream: &mut TcpStream,
    peer: SocketAddr,
    limit: Duration,
) -> Result<Origin, OriginError> {
    tokio::time::timeout(limit, header(stream, peer)).await.map_err(|_| OriginError::Late)?
}

async fn header(stream: &mut TcpStream, peer: SocketAddr) -> Result<Origin, OriginError> {
    let mut buffer = [0; MAX_HEADER];
    let mut held = 0;
    loop {
        // Peeked first, because what follows the header is not ours to take.
        let seen = stream.peek(&mut buffer[held..]).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let parsed = proxy_protocol::parse(&buffer[..held + seen])?;
        let end = match parsed {
            // All of it is header. Taken, so that the next look waits for what is missing.
            Parsed::Incomplete => held + seen,
            Parsed::Complete { length, .. } => length,
        };
        stream.read_exact(&mut buffer[held..end]).await?;
        held = end;
        if let Parsed::Complete { addresses, .. } = parsed {
            return Ok(Origin {
                source: addresses.map_or(peer, |addresses| addresses.source),
                destination: addresses.map(|addresses| addresses.destination),
            });
        }
    }
}
