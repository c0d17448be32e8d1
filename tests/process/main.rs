//! The binary as a child process: what a running sidecar does between scripted applications and clients, and what
//! only a process has: exit codes, signals, files, standard output, several of them together.

#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;

#[cfg(test)]
mod admin;
#[cfg(test)]
mod authority_copy;
#[cfg(test)]
mod breaker;
#[cfg(test)]
mod ca;
#[cfg(test)]
mod connect_h2;
#[cfg(test)]
mod deadlines;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod edge;
#[cfg(test)]
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(test)]
mod exchange;
#[cfg(test)]
mod ext_authz;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod framing;
#[cfg(test)]
mod hardening;
#[cfg(test)]
mod health;
#[cfg(test)]
mod http10;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod intentions;
#[cfg(test)]
mod jwt;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod locality;
#[cfg(test)]
mod mesh;
#[cfg(test)]
mod mtls;
#[cfg(test)]
mod mtls_bad_peers;
#[cfg(test)]
mod mtls_hostile;
#[cfg(test)]
mod mtls_intentions;
#[cfg(test)]
mod mtls_matrix;
#[cfg(test)]
mod mtls_outbound;
#[cfg(test)]
mod mtls_rotation;
#[cfg(test)]
mod observability;
mod quorum;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod repeats;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod shield;
#[cfg(test)]
mod signing;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod state;
mod store;
#[cfg(test)]
mod tcp;
#[cfg(test)]
mod tcp_connect;
#[cfg(test)]
mod tcp_detect;
#[cfg(test)]
mod tcp_origin;
#[cfg(test)]
mod transparent;
#[cfg(test)]
mod unread;
#[cfg(test)]
mod websocket_h2;
#[cfg(test)]
mod windows;
