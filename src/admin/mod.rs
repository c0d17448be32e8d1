//! HTTP for people and tools: health, metrics, status, configuration, reload. Runs on the control runtime.

use std::net::SocketAddr;

/// Where the admin API and the metrics listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminParams {
    /// Full API; loopback only, until tokens exist for anything else.
    pub address: SocketAddr,
    /// Only `/metrics`, `/livez`, `/readyz`; any address. `None` does not listen.
    pub metrics_address: Option<SocketAddr>,
}
