//! HTTP for people and tools: health, metrics, status, configuration, reload. Runs on the control runtime.
//! What is told comes through [`Backend`]; this module knows HTTP and who may ask.

mod answer;
mod audit;
mod author;
pub(crate) mod base64;
mod dispatch;
mod gate;
mod guard;
mod keyring;
mod kv;
mod members;
mod query;
mod raft;
mod server;
mod shared;
mod state;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use serde_json::Value;

pub use self::{
    answer::Problem,
    keyring::{key_list, keyring_report, order_mark},
    members::{member_list, member_summary},
    server::{Listener, Serving, serve},
    shared::SharedKind,
};
use crate::{
    membership::KeyringOrder,
    store::Store,
    types::{EndpointAddress, Secret},
};

/// Version of the shape of everything that is told.
pub const API: &str = "v1";

/// Where the admin API and the metrics listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminParams {
    /// Full API. Other addresses than loopback and Unix sockets need a token.
    pub address: EndpointAddress,
    /// Who may use it.
    pub access: Access,
    /// Only `/metrics`, `/livez`, `/readyz`; any address. `None` does not listen.
    pub metrics_address: Option<SocketAddr>,
}

/// Who may use the admin API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// What must be sent along over TCP, except to ask for health. A Unix socket has its file mode instead.
    pub token: Option<Secret>,
    /// Names, in lower case, by which clients may call it besides `localhost` and its address.
    pub hosts: Vec<String>,
}

/// What a listener offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Full,
    /// Health and metrics.
    MetricsOnly,
}

/// One thing that health depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What it is, in one word.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Why, for people.
    pub detail: String,
}

/// Whether a reload changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadMode {
    /// Puts the configuration to work.
    Apply,
    /// Reads, validates and compares it only.
    DryRun,
}

/// The outcome of a reload, a renewal or an order to the keyring: a report, or why what is in force goes on.
pub type ReloadFuture = Pin<Box<dyn Future<Output = Result<Value, Problem>> + Send>>;

/// What the admin API tells and does; the composition root implements it.
///
/// The methods that return at once are called on the control runtime and must not block; [`Backend::metrics`] is
/// called on a thread where it may.
pub trait Backend: Send + Sync + 'static {
    /// Whether the process should be left running. All checks must be good.
    fn liveness(&self) -> Vec<Check>;
    /// Whether it should be sent traffic. All checks must be good.
    fn readiness(&self) -> Vec<Check>;
    /// All metrics in the Prometheus text format.
    fn metrics(&self) -> String;
    /// What `outrigger status` shows.
    fn status(&self) -> Value;
    /// The configuration that runs, without its secrets.
    fn config(&self) -> Value;
    /// Services and their endpoints.
    fn services(&self) -> Value;
    /// Routes in the order in which they are tried.
    fn routes(&self) -> Value;
    /// Rules about callers that are in force, and what is shared of them.
    fn intentions(&self) -> Value;
    /// How services are called, and what is shared of that.
    fn policies(&self) -> Value;
    /// Rate limits that are in force, and what is shared of them.
    fn rate_limits(&self) -> Value;
    /// Whether an entry that all sidecars would share fits here. `warnings` of the answer is text for people, or null.
    fn check_shared(self: Arc<Self>, kind: SharedKind, name: String, text: Bytes) -> ReloadFuture;
    /// Whether those of `entries`, by key, whose keys are `changed` would fit here, if these were all that sidecars share.
    /// The answer says nothing.
    fn check_all_shared(
        self: Arc<Self>,
        entries: Vec<(String, Bytes)>,
        changed: HashSet<String>,
    ) -> ReloadFuture;
    /// The certificates that the sidecar presents and trusts, without its key.
    ///
    /// # Errors
    /// It has none.
    fn certificates(&self) -> Result<Value, Problem>;
    /// The members of the mesh.
    ///
    /// # Errors
    /// It is in no mesh.
    fn members(&self) -> Result<Value, Problem>;
    /// The keys that the gossip is sealed with, by their marks.
    ///
    /// # Errors
    /// It is in no mesh.
    fn keyring(&self) -> Result<Value, Problem>;
    /// Has all members change their keyrings. Runs to its end even if whoever asked for it goes away.
    fn keyring_order(self: Arc<Self>, order: KeyringOrder) -> ReloadFuture;
    /// The replicated store; `None` if it has none.
    fn store(&self) -> Option<Store>;
    /// Reads the configuration again. Runs to its end even if whoever asked for it goes away.
    fn reload(self: Arc<Self>, mode: ReloadMode) -> ReloadFuture;
    /// Gets new certificates, or looks at their files now. Runs to its end even if whoever asked for it goes away.
    fn renew(self: Arc<Self>) -> ReloadFuture;
    /// The level of the log.
    fn log_level(&self) -> String;
    /// Changes the level of the log.
    ///
    /// # Errors
    /// What is wrong with `level`, in a sentence. The old one stays.
    fn set_log_level(&self, level: &str) -> Result<(), String>;
}
