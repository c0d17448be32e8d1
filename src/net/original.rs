//! Where a redirected connection was going before the firewall sent it here.

use std::{io, net::SocketAddr};

use socket2::SockRef;
use tokio::net::TcpStream;

/// The destination that the client of an accepted connection dialed, by the kernel's connection tracking
/// (SO_ORIGINAL_DST; needs no capability). IPv4 addresses come as such, also from a socket that serves both families.
/// For a connection that nobody redirected this is the local address, or `None` if the kernel does not track it.
#[must_use]
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = canonical(stream.local_addr().ok()?);
    let socket = SockRef::from(stream);
    let found = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    found.ok()?.as_socket().map(canonical)
}

/// The address that the client dialed as the kernel shows it now, in the same form.
///
/// # Errors
/// If the connection is gone.
pub fn local_address(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.local_addr().map(canonical)
}

/// An IPv4 address that a socket for both families shows as an IPv6 one, as the IPv4 address that it is.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn mapped_addresses_become_what_they_stand_for() {
        assert_eq!(canonical("[::ffff:10.0.0.1]:80".parse().unwrap()), "10.0.0.1:80".parse().unwrap());
        assert_eq!(canonical("[fd00::1]:80".parse().unwrap()), "[fd00::1]:80".parse().unwrap());
    }

    #[tokio::test]
    async fn a_connection_that_nobody_redirected_has_no_other_destination() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let found = original_destination(&accepted.unwrap().0);
        assert!(found.is_none_or(|found| found == address), "{found:?}");
    }
}
