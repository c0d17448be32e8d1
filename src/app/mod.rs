//! The composition root: the only place where modules are wired together.

mod admin_sockets;
mod backend;
mod certificates;
pub mod demo;
mod edge;
mod identity;
mod mesh;
mod overload;
pub mod recovery;
mod reload;
mod run;
mod shared;
mod state;
mod store;
mod waiting;

pub use run::{RunError, RunParams, run};
