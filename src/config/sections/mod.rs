//! One file per part of the configuration: reads its mapping into the params of the module it belongs to.

pub(super) mod admin;
pub(super) mod edge;
pub(super) mod etcd;
pub(super) mod ext_authz;
pub(super) mod health_check;
pub(super) mod http_edits;
pub(super) mod intentions;
pub(super) mod jwt;
pub(super) mod keyspaces;
pub(super) mod listeners;
pub(super) mod load_balancer;
pub(super) mod locality;
pub(super) mod mesh;
pub(super) mod mtls;
pub(super) mod process;
pub(super) mod resilience;
pub(super) mod retry;
pub(super) mod route_match;
pub(super) mod routes;
pub(super) mod services;
pub(super) mod store;
pub(super) mod tcp_listeners;
pub(super) mod telemetry;
pub(super) mod traffic;
pub(super) mod upstream_tls;
