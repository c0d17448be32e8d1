//! What the admin API tells before there is anything to tell of: while a sidecar waits for its first certificate.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::state::ProcessState;
use crate::{
    admin::{API, Backend, Check, Problem, ReloadFuture, ReloadMode, SharedKind},
    config,
    membership::KeyringOrder,
    rt::clock,
    store::Store,
    telemetry::{log::LogHandle, metrics::Registry},
    types::Live,
};

/// A sidecar that is not there yet.
pub(crate) struct WaitingBackend {
    pub(crate) state: Arc<ProcessState>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) log: Arc<LogHandle>,
    /// What for.
    pub(crate) why: Arc<Live<String>>,
}

impl Backend for WaitingBackend {
    fn liveness(&self) -> Vec<Check> {
        vec![Check { name: "control", ok: true, detail: "answering".to_owned() }]
    }

    fn readiness(&self) -> Vec<Check> {
        vec![Check { name: "certificate", ok: false, detail: self.why.load().to_string() }]
    }

    fn metrics(&self) -> String {
        self.registry.render(clock::now())
    }

    fn status(&self) -> Value {
        let running = self.state.running();
        json!({
            "apiVersion": API,
            "kind": "Status",
            "version": env!("CARGO_PKG_VERSION"),
            "service": &*running.bundle.directory.local.name,
            "state": "waiting",
            "reason": &**self.why.load(),
            "started_at": humantime::format_rfc3339_seconds(self.state.started).to_string(),
            "config": { "hash": running.hash },
        })
    }

    fn config(&self) -> Value {
        config::effective_json(&self.state.running().bundle)
    }

    fn services(&self) -> Value {
        json!({ "apiVersion": API, "kind": "ServiceList", "items": [] })
    }

    fn routes(&self) -> Value {
        json!({ "apiVersion": API, "kind": "RouteList", "items": [] })
    }

    fn certificates(&self) -> Result<Value, Problem> {
        Err(self.not_yet())
    }

    fn members(&self) -> Result<Value, Problem> {
        Err(self.not_yet())
    }

    fn keyring(&self) -> Result<Value, Problem> {
        Err(self.not_yet())
    }

    fn keyring_order(self: Arc<Self>, _: KeyringOrder) -> ReloadFuture {
        Box::pin(async move { Err(self.not_yet()) })
    }

    fn intentions(&self) -> Value {
        json!({ "apiVersion": API, "kind": "IntentionList", "items": [] })
    }

    fn policies(&self) -> Value {
        json!({ "apiVersion": API, "kind": "PolicyList", "items": [] })
    }

    fn rate_limits(&self) -> Value {
        json!({ "apiVersion": API, "kind": "RateLimitList", "items": [] })
    }

    fn check_shared(self: Arc<Self>, _: SharedKind, _: String, _: Bytes) -> ReloadFuture {
        Box::pin(async move { Err(self.not_yet()) })
    }

    fn check_all_shared(self: Arc<Self>, _: Vec<(String, Bytes)>, _: HashSet<String>) -> ReloadFuture {
        Box::pin(async move { Err(self.not_yet()) })
    }

    fn store(&self) -> Option<Store> {
        None
    }

    fn reload(self: Arc<Self>, _: ReloadMode) -> ReloadFuture {
        Box::pin(async move { Err(self.not_yet()) })
    }

    fn renew(self: Arc<Self>) -> ReloadFuture {
        Box::pin(async move { Err(self.not_yet()) })
    }

    fn log_level(&self) -> String {
        self.log.level()
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        self.log.set(level).map_err(|error| error.to_string())
    }
}

impl WaitingBackend {
    fn not_yet(&self) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, self.why.load().to_string())
    }
}
