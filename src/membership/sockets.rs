//! Where a member listens, and how others reach it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdp},
};

use tokio::net::{TcpListener, UdpSocket};

use crate::net::{self, BindError};

/// How often another port is tried when the system chose one for UDP that is taken for TCP.
const ATTEMPTS: usize = 16;
/// An address to which nothing is sent, and which no network has (RFC 5737): the way to it is the way to the world.
const SOMEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);
const SOMEWHERE_6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9);

/// Both sockets of a member, on one port.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
    /// Where they listen.
    pub(super) local: SocketAddr,
}

impl Sockets {
    /// Binds `address`; with port 0 the system chooses one.
    pub(super) fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let failed = |source| BindError { address, source };
        let mut attempt = 1;
        loop {
            let udp = StdUdp::bind(address).map_err(failed)?;
            let local = udp.local_addr().map_err(failed)?;
            match net::bind(local, 1) {
                Ok(mut sockets) => {
                    udp.set_nonblocking(true).map_err(failed)?;
                    let tcp = sockets.pop().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
                    let udp = UdpSocket::from_std(udp).map_err(failed)?;
                    let tcp = TcpListener::from_std(tcp).map_err(failed)?;
                    return Ok(Self { udp, tcp, local });
                }
                Err(error) if address.port() == 0 && attempt < ATTEMPTS => {
                    attempt += 1;
                    drop(error);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Where others reach a member that listens at `local`: there, or, if it listens on all addresses, at the one from which
/// `towards` is reached, or else the world. `None` if this machine reaches nobody from addresses of that kind: on
/// `0.0.0.0` nothing of IPv6 is heard, and on `[::]` no connection of IPv4.
pub(super) fn advertised(local: SocketAddr, towards: Option<SocketAddr>) -> Option<SocketAddr> {
    if !local.ip().is_unspecified() {
        return Some(local);
    }
    let from = |to: SocketAddr| {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // Connecting a datagram socket chooses a way and sends nothing.
        let socket = StdUdp::bind(SocketAddr::new(any, 0)).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|own| own.ip()).filter(|ip| !ip.is_unspecified())
    };
    let is_heard = |to: &SocketAddr| to.is_ipv4() == local.is_ipv4();
    let ip = towards.into_iter().chain([SOMEWHERE, SOMEWHERE_6]).filter(is_heard).find_map(from)?;
    Some(SocketAddr::new(ip, local.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_sockets_have_one_port() {
        let sockets = Sockets::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        assert_eq!(sockets.udp.local_addr().unwrap(), sockets.local);
        assert_eq!(sockets.tcp.local_addr().unwrap(), sockets.local);
        assert!(Sockets::bind(sockets.local).is_err());
    }

    #[test]
    fn a_single_address_is_where_others_reach_it() {
        let local = (Ipv4Addr::LOCALHOST, 7946).into();
        assert_eq!(advertised(local, None), Some(local));
    }

    #[test]
    fn what_listens_to_one_kind_of_addresses_is_not_advertised_at_one_of_the_other() {
        let kinds: [(IpAddr, IpAddr); 2] = [
            (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
            (Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
        ];
        for (local, seed) in kinds {
            let found = advertised((local, 7946).into(), Some((seed, 1).into()));
            assert!(
                found.is_none_or(|found| found.is_ipv4() == local.is_ipv4()),
                "{local} {seed}: {found:?}"
            );
        }
    }

    #[test]
    fn on_all_addresses_it_is_the_one_that_leads_to_the_seed() {
        let towards = Some((Ipv4Addr::LOCALHOST, 1).into());
        let found = advertised((Ipv4Addr::UNSPECIFIED, 7946).into(), towards);
        assert_eq!(found, Some((Ipv4Addr::LOCALHOST, 7946).into()));
    }
}
