//! Connections that are passed on as bytes: services of protocol `tcp`, behind listeners of their own or behind the
//! inbound one. Who accepts is `listener`, one connection from accept to close is `session`, the copying is `relay`.
//! Nothing in here knows HTTP but by its first bytes (`detect`), to keep it out (`screen`).

pub mod client_hello;

mod detect;
mod listener;
mod params;
mod relay;
mod screen;
mod server_names;
mod session;

pub(crate) use detect::{Speaks, detect};
pub(crate) use listener::{Inbound, TcpListener};
pub use params::{ServerNameRoute, TcpListenerParams};
pub(crate) use relay::{Broken, Flow, relay};
pub(crate) use session::connect;
