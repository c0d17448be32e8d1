//! Listening sockets that several workers can share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel completes before we accept them; it caps this by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The kernel has no such address family (EAFNOSUPPORT of Linux); std has no word for it.
const NO_SUCH_FAMILY: i32 = 97;

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
    bind_shared(address, count, Families::AsBound)
}

/// Binds `count` sockets to the place that stands for `address` in the other address family: `::1` for `127.0.0.1`,
/// all IPv6 addresses for all IPv4 ones, and back. A firewall that redirects connections keeps their family.
/// There are none if no such place exists (a single address has none, `::` serves both families by itself), or if
/// this machine does without the family.
///
/// # Errors
/// As [`bind`].
pub fn bind_twin(address: SocketAddr, count: usize) -> Result<Vec<std::net::TcpListener>, BindError> {
    let twin = match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        _ => return Ok(Vec::new()),
    };
    match bind_shared(SocketAddr::new(twin, address.port()), count, Families::OnlyOwn) {
        Err(error) if has_no_family(&error.source) => Ok(Vec::new()),
        bound => bound,
    }
}

fn has_no_family(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(NO_SUCH_FAMILY)
}

/// What a socket bound to `::` accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Families {
    /// What the kernel's default says; on Linux both.
    AsBound,
    /// IPv6 only, beside another socket for IPv4.
    OnlyOwn,
}

fn bind_shared(
    address: SocketAddr,
    count: usize,
    families: Families,
) -> Result<Vec<std::net::TcpListener>, BindError> {
    let mut target = address;
    let mut sockets = Vec::with_capacity(count);
    // Without this probe two sidecars of one user would share a port in silence: SO_REUSEPORT allows it.
    drop(bind_one(address, false, families).map_err(|source| BindError { address, source })?);
    for _ in 0..count {
        let socket = bind_one(target, true, families).map_err(|source| BindError { address, source })?;
        target = socket.local_addr().map_err(|source| BindError { address, source })?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn bind_one(address: SocketAddr, share: bool, families: Families) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && families == Families::OnlyOwn {
        socket.set_only_v6(true)?;
    }
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

    #[test]
    fn loopback_and_all_addresses_have_a_twin_and_single_addresses_have_none() {
        for (address, twin) in [("127.0.0.1:0", "::1"), ("0.0.0.0:0", "::"), ("[::1]:0", "127.0.0.1")] {
            // A machine without IPv6 has no twins, and that is no error.
            for socket in bind_twin(address.parse().unwrap(), 2).unwrap() {
                assert_eq!(socket.local_addr().unwrap().ip().to_string(), twin);
            }
        }
        assert!(bind_twin("127.0.0.2:0".parse().unwrap(), 1).unwrap().is_empty());
        assert!(bind_twin("[::]:0".parse().unwrap(), 1).unwrap().is_empty());
    }

    #[test]
    fn all_addresses_of_both_families_can_share_a_port() {
        let sockets = bind("0.0.0.0:0".parse().unwrap(), 1).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert!(
            bind_twin(address, 1)
                .unwrap()
                .iter()
                .all(|twin| twin.local_addr().unwrap().port() == address.port())
        );
    }
}
