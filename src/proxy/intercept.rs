//! What becomes of a connection that a firewall redirected to one of the listeners: where it was going, whether the
//! sidecar serves it as HTTP, passes its bytes on unread, or refuses it. The copying is in proxy/passthrough.rs, the
//! rules of the firewall in cli/iptables, the reasons in ADR 0014.

use std::{
    cell::OnceCell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpStream;

use super::{
    ListenersParams,
    tcp::{self, Speaks},
    worker::Worker,
};
use crate::{
    net,
    snapshot::{EndpointLive, MeshSnapshot, PassthroughSide, Protocol, Route},
    telemetry::metrics::{PassthroughMetrics, PassthroughResult},
    types::{Direction, EndpointAddress},
};

/// From where the sidecar dials what was redirected to the inbound listener. The rules of the firewall redirect what
/// the sidecar dials on its own machine, so that a service that calls itself is served like any other caller, and they
/// know by this source that a connection has been through already.
pub(crate) const INBOUND_SOURCES: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(127, 0, 0, 6), Ipv6Addr::LOCALHOST);

/// A redirected connection that is served as HTTP.
pub(crate) struct Intercepted {
    destination: SocketAddr,
    route: OnceCell<(Arc<Route>, Arc<EndpointLive>)>,
}

impl Intercepted {
    fn new(destination: SocketAddr) -> Self {
        Self { destination, route: OnceCell::new() }
    }

    /// The route of requests that no other takes: to where the connection was going. `None` if that is not allowed.
    pub(crate) fn route(&self, snapshot: &MeshSnapshot) -> Option<Arc<Route>> {
        let passthrough = snapshot.passthrough.as_ref().filter(|passthrough| passthrough.outbound.allowed)?;
        let (route, _) = self.route.get_or_init(|| passthrough.route_to(self.destination));
        Some(Arc::clone(route))
    }
}

impl Drop for Intercepted {
    fn drop(&mut self) {
        if let Some((_, endpoint)) = self.route.get() {
            endpoint.set_retired(true);
        }
    }
}

/// Bytes to pass on unread.
pub(crate) struct RawPlan {
    pub(crate) to: SocketAddr,
    /// From which address of this machine; `None` leaves that to the kernel.
    pub(crate) from: Option<IpAddr>,
    pub(crate) connect_timeout: Duration,
    pub(crate) metrics: Arc<PassthroughMetrics>,
}

/// What becomes of an accepted connection.
pub(crate) enum Admitted {
    /// Serve it by the protocol of the listener; `None` if it was not redirected, or is for the local application.
    Http(Option<Intercepted>),
    /// It is for the local application. What it speaks must be found out if the application does not say.
    Application {
        /// The application did not say what it speaks.
        speaks_anything: bool,
    },
    /// Pass it on unread to where it was going.
    Raw(RawPlan),
    /// Close it: it may not go where it was going.
    Refused,
}

/// Decides about a connection on a transparent listener. Reads nothing from it, but may wait for its first bytes, at
/// most for the limit of heads. Cancel-safe.
pub(crate) async fn admit(
    worker: &Worker,
    limits: &ListenersParams,
    stream: &TcpStream,
    peer: SocketAddr,
    side: Direction,
) -> Admitted {
    let snapshot = worker.snapshot.load();
    let Some(passthrough) = &snapshot.passthrough else { return Admitted::Http(None) };
    let Some(destination) = destination(limits, stream, peer, side) else { return Admitted::Http(None) };
    let PassthroughSide { allowed, metrics } = passthrough.of(side);
    let raw = |to, from| {
        let connect_timeout = passthrough.cluster.params.connect_timeout;
        Admitted::Raw(RawPlan { to, from, connect_timeout, metrics: Arc::clone(metrics) })
    };
    let application = &snapshot.inbound.cluster;
    match side {
        Direction::Inbound => {
            let Some(endpoint) = application.endpoints.first() else { return Admitted::Http(None) };
            if is_for(&endpoint.address, destination) {
                // An application that says what it speaks is never reached past the checks of that protocol.
                return Admitted::Application {
                    speaks_anything: application.params.protocol == Protocol::Auto,
                };
            }
            if *allowed {
                return raw(destination, Some(inbound_source(destination)));
            }
        }
        Direction::Outbound => {
            if speaks_http(stream, limits).await {
                return Admitted::Http(Some(Intercepted::new(destination)));
            }
            if *allowed {
                return raw(destination, None);
            }
        }
    }
    metrics.decided(PassthroughResult::Forbidden);
    tracing::debug!(%destination, %peer, "a redirected connection may not pass");
    Admitted::Refused
}

/// Where a redirected connection was going; `None` if it was dialed to the listener itself.
fn destination(
    limits: &ListenersParams,
    stream: &TcpStream,
    peer: SocketAddr,
    side: Direction,
) -> Option<SocketAddr> {
    let original = net::original_destination(stream)?;
    let local = net::local_address(stream).ok()?;
    let listeners = [limits.inbound.as_ref(), limits.outbound.as_ref()];
    let ports = listeners.into_iter().flatten().map(|listener| listener.address.port());
    let ports = ports.chain(limits.tcp.iter().map(|listener| listener.address.port()));
    let own = ports.chain([local.port()]).any(|port| port == original.port());
    is_redirected(original, local, net::canonical(peer), side, own).then_some(original)
}

/// Whether a connection was going elsewhere. One that was going to a listener of this sidecar never was, whatever
/// redirected it: dialing on would come back here for ever. `own_port` says that the port is that of a listener;
/// another machine may have its sidecar on the same one.
fn is_redirected(
    original: SocketAddr,
    local: SocketAddr,
    peer: SocketAddr,
    side: Direction,
    own_port: bool,
) -> bool {
    let here = match side {
        Direction::Inbound => true,
        Direction::Outbound => {
            let ip = original.ip();
            ip.is_loopback() || ip.is_unspecified() || ip == local.ip() || ip == peer.ip()
        }
    };
    original != local && original.port() != 0 && !(own_port && here)
}

/// Whether what was going to `destination` is for the application. One on a Unix socket has no port: everything that
/// is redirected is for it.
fn is_for(application: &EndpointAddress, destination: SocketAddr) -> bool {
    match application {
        EndpointAddress::Tcp(address) => address.port() == destination.port(),
        EndpointAddress::Unix(_) => true,
    }
}

fn inbound_source(destination: SocketAddr) -> IpAddr {
    let (v4, v6) = INBOUND_SOURCES;
    if destination.is_ipv4() { v4.into() } else { v6.into() }
}

/// Waits for the first bytes, and says whether they begin an HTTP request. Silence does not: the server speaks first.
async fn speaks_http(stream: &TcpStream, limits: &ListenersParams) -> bool {
    tcp::detect(stream, limits.detect_timeout, limits.header_timeout).await == Speaks::Http
}

#[cfg(test)]
mod tests;
