//! Listeners for TCP services as configured.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::policy::route::HostPattern;

/// One listener whose connections go to TCP services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpListenerParams {
    /// Unique among them; stands in logs.
    pub name: Arc<str>,
    /// Where it listens; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Connections must begin with a PROXY header, which tells whose they are.
    pub requires_proxy_header: bool,
    /// Services by the server name in the client's first TLS message. If there are any, connections must be of TLS.
    pub routes: Vec<ServerNameRoute>,
    /// Name of the service of all other connections; `None` closes them.
    pub service: Option<Arc<str>>,
    /// A connection on which nothing moves for this long is closed.
    pub idle_timeout: Duration,
    /// Most connections; further ones are closed at once.
    pub max_connections: u32,
}

/// Where connections for some names go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNameRoute {
    /// Any one of these.
    pub names: Vec<HostPattern>,
    /// Name of the service.
    pub service: Arc<str>,
}
