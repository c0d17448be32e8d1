//! Listeners for TCP services as configured.

use std::{net::SocketAddr, sync::Arc, time::Duration};

/// One listener whose connections all go to one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpListenerParams {
    /// Unique among them; stands in logs.
    pub name: Arc<str>,
    /// Where it listens; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Name of the service.
    pub service: Arc<str>,
    /// A connection on which nothing moves for this long is closed.
    pub idle_timeout: Duration,
    /// Most connections; further ones are closed at once.
    pub max_connections: u32,
}
