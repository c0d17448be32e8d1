//! The data plane: accepts requests, routes them, sends them to an endpoint, streams the answers back.

pub mod framing;
pub mod health;
pub mod jwks;
pub mod path;
pub mod tcp;

mod attempt;
mod authz;
mod body;
mod codec;
mod connect;
mod connection;
mod deadline;
mod error;
mod exchange;
mod ext_authz;
mod fault;
mod flow;
mod gauge;
mod headers;
mod http10;
mod intercept;
mod jwt;
mod limits;
mod mirror;
mod origin;
mod overload;
mod params;
mod passthrough;
mod plane;
mod pool;
mod record;
mod reply;
mod secure;
mod shed;
mod sweep;
mod tries;
mod tunnel;
mod upgrade;
mod worker;

pub use params::{
    EscapedSlashes, ListenerParams, ListenersParams, MtlsMode, MtlsParams, Normalisation, Underscores,
};
pub use plane::{DataPlane, PlaneParams, StartError};
pub use shed::Pressure;
pub use tcp::{ServerNameRoute, TcpListenerParams};
