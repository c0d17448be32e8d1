//! Listening sockets that several workers can share.

use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel completes before we accept them; it caps this by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A listener could not be made; nothing is left open.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// Where.
    pub address: SocketAddr,
    /// What the kernel said.
    #[source]
    pub source: std::io::Error,
}

/// Binds `count` sockets to one address with SO_REUSEPORT, so that the kernel spreads connections among them.
/// With port 0 all of them get the port that the kernel chose for the first.
///
/// # Errors
/// The first failure of the kernel, as for an address in use; sockets made before it are closed.
pub fn bind(address: SocketAddr, count: usize) -> Result<Vec<std::net::TcpListener>, BindError> {
    let mut target = address;
    let mut sockets = Vec::with_capacity(count);
    // Without this probe two sidecars of one user would share a port in silence: SO_REUSEPORT allows it.
    drop(bind_one(address, false).map_err(|source| BindError { address, source })?);
    for _ in 0..count {
        let socket = bind_one(target, true).map_err(|source| BindError { address, source })?;
        target = socket.local_addr().map_err(|source| BindError { address, source })?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn bind_one(address: SocketAddr, share: bool) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if share {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_one_call_share_a_port_and_other_calls_are_refused() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
        let refused = bind(address, 1).unwrap_err();
        assert_eq!(refused.source.kind(), std::io::ErrorKind::AddrInUse);
    }
}
