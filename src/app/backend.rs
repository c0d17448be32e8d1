//! What the admin API tells: the state of the process, put into JSON.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    certificates::RenewHandle,
    identity::Identity,
    reload::{ReloadError, ReloadHandle},
    shared,
    state::ProcessState,
};
use crate::{
    admin::{self, API, Backend, Check, Problem, ReloadFuture, ReloadMode, SharedKind},
    config::{self, Record, RecordKind, Style},
    membership::{self, KeyringOrder},
    rt::clock,
    snapshot::{Cluster, Endpoint, Group, Route, RouteAction, Selection, SnapshotCell},
    store::Store,
    telemetry::{
        log::LogHandle,
        metrics::{Registry, ReloadTrigger},
    },
    types::{EndpointState, Mono},
};

/// The composition root as the admin API sees it.
pub(crate) struct AppBackend {
    pub(crate) state: Arc<ProcessState>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) cell: SnapshotCell,
    pub(crate) reload: ReloadHandle,
    pub(crate) log: Arc<LogHandle>,
    /// `None` without mTLS.
    pub(crate) identity: Option<Identity>,
    pub(crate) renewal: RenewHandle,
    /// `None` if it is in no mesh.
    pub(crate) membership: Option<membership::Handle>,
    /// `None` if it has no part in one.
    pub(crate) store: Option<Store>,
}

impl Backend for AppBackend {
    fn liveness(&self) -> Vec<Check> {
        // That this is answered at all shows that the control runtime lives.
        vec![Check { name: "control", ok: true, detail: "answering".to_owned() }]
    }

    fn readiness(&self) -> Vec<Check> {
        let why_not = self.state.not_ready();
        let detail = why_not.unwrap_or("listeners are bound and a snapshot is live");
        let mut checks = vec![Check { name: "serving", ok: why_not.is_none(), detail: detail.to_owned() }];
        if let Some(identity) = &self.identity {
            let invalid = identity.invalidity(clock::wall());
            let ok = invalid.is_none();
            let detail = invalid.unwrap_or_else(|| "the certificate is valid".to_owned());
            checks.push(Check { name: "identity", ok, detail });
        }
        checks
    }

    fn metrics(&self) -> String {
        self.registry.render(clock::now())
    }

    fn status(&self) -> Value {
        let running = self.state.running();
        let snapshot = self.cell.load();
        let now = clock::now();
        let endpoints: serde_json::Map<String, Value> = EndpointState::ALL
            .iter()
            .map(|state| {
                let all = snapshot.clusters.iter().flat_map(|cluster| &cluster.endpoints);
                let count = all.filter(|endpoint| endpoint.state(now) == *state).count();
                (state.as_str().to_owned(), count.into())
            })
            .collect();
        let last = running.last_reload.as_ref().map(|last| {
            json!({
                "at": rfc3339(last.at),
                "trigger": last.trigger,
                "successful": last.error.is_none(),
                "error": last.error,
            })
        });
        let tcp: Map<String, Value> = running
            .tcp
            .iter()
            .map(|(name, address)| (name.to_string(), address.to_string().into()))
            .collect();
        let (wall, mode) = (clock::wall(), running.bundle.listeners.mtls.mode);
        let identity = self.identity.as_ref();
        let expired = identity.and_then(|identity| identity.invalidity(wall)).map(|_| "certificate_invalid");
        json!({
            "apiVersion": API,
            "kind": "Status",
            "version": env!("CARGO_PKG_VERSION"),
            "service": &*running.bundle.directory.local.name,
            "state": self.state.not_ready().or(expired).unwrap_or("ready"),
            "started_at": rfc3339(self.state.started),
            "uptime_seconds": clock::now().since(self.state.started_mono).as_secs_f64(),
            "listeners": {
                "inbound": running.inbound.map(|address| address.to_string()),
                "outbound": running.outbound.map(|address| address.to_string()),
                "tcp": tcp,
                "admin": running.bundle.admin.address.to_string(),
            },
            "identity": identity.map(|identity| identity.status(mode, wall)),
            "config": {
                "hash": running.hash,
                "loaded_at": rfc3339(running.loaded),
                "generation": snapshot.generation,
                "last_reload": last,
                "pending_restart": running.pending_restart,
            },
            "services": snapshot.clusters.len(),
            "routes": snapshot.routes.len(),
            "endpoints": endpoints,
            "members": self.membership.as_ref().map(|handle| admin::member_summary(&handle.view())),
        })
    }

    fn config(&self) -> Value {
        config::effective_json(&self.state.running().bundle)
    }

    fn services(&self) -> Value {
        let snapshot = self.cell.load();
        let mut items: Vec<Value> = snapshot.clusters.iter().map(|one| cluster(one, "outbound")).collect();
        items.push(cluster(&snapshot.inbound.cluster, "inbound"));
        json!({ "apiVersion": API, "kind": "ServiceList", "items": items })
    }

    fn routes(&self) -> Value {
        let (snapshot, shared) = (self.cell.load(), self.state.running().shared);
        let items: Vec<Value> = snapshot
            .table
            .precedence()
            .into_iter()
            .filter_map(|row| {
                let found = snapshot.routes.iter().find(|route| route.name == row.name)?;
                let mut item = route(found);
                item["host"] = row.host.into();
                item["path"] = row.path.into();
                item["conditions"] = row.conditions.into();
                shared::mark(&mut item, &shared, RecordKind::Route, &found.name);
                Some(item)
            })
            .collect();
        json!({
            "apiVersion": API,
            "kind": "RouteList",
            "store_revision": shared.revision,
            "items": items,
            "quarantined": shared::quarantined(&shared, RecordKind::Route),
        })
    }

    fn intentions(&self) -> Value {
        let running = self.state.running();
        shared::intentions(&running.bundle, &running.shared)
    }

    fn policies(&self) -> Value {
        let running = self.state.running();
        shared::policies(&running.bundle, &running.shared)
    }

    fn rate_limits(&self) -> Value {
        let running = self.state.running();
        shared::rate_limits(&running.bundle, &running.shared)
    }

    fn check_shared(self: Arc<Self>, kind: SharedKind, name: String, text: Bytes) -> ReloadFuture {
        let kind = match kind {
            SharedKind::Route => RecordKind::Route,
            SharedKind::Intention => RecordKind::Intention,
            SharedKind::Policy => RecordKind::Policy,
            SharedKind::Limit => RecordKind::Limit,
        };
        Box::pin(async move {
            let warnings =
                self.reload.check(Record { kind, name: name.into(), text }).await.map_err(problem)?;
            let told = (!warnings.is_empty()).then(|| warnings.render_text(Style::Plain));
            Ok(json!({ "warnings": told }))
        })
    }

    fn check_all_shared(
        self: Arc<Self>,
        entries: Vec<(String, Bytes)>,
        changed: HashSet<String>,
    ) -> ReloadFuture {
        Box::pin(async move {
            let records = entries.into_iter().filter_map(|(key, text)| Record::of_key(&key, text)).collect();
            self.reload.check_all(records, changed).await.map_err(problem)?;
            Ok(Value::Null)
        })
    }

    fn certificates(&self) -> Result<Value, Problem> {
        let none = "the sidecar has no certificates: mTLS is disabled";
        let identity = self.identity.as_ref().ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, none))?;
        Ok(identity.certificates())
    }

    fn members(&self) -> Result<Value, Problem> {
        Ok(admin::member_list(&self.membership()?.view(), clock::now()))
    }

    fn keyring(&self) -> Result<Value, Problem> {
        Ok(admin::key_list(&self.membership()?.keys()))
    }

    fn keyring_order(self: Arc<Self>, order: KeyringOrder) -> ReloadFuture {
        Box::pin(async move {
            let mark = admin::order_mark(&order);
            let report = self.membership()?.keyring(order).await?;
            Ok(admin::keyring_report(mark, &report))
        })
    }

    fn store(&self) -> Option<Store> {
        self.store.clone()
    }

    fn reload(self: Arc<Self>, mode: ReloadMode) -> ReloadFuture {
        Box::pin(async move {
            match self.reload.reload(ReloadTrigger::Api, mode == ReloadMode::DryRun).await {
                Ok(report) => Ok(json!({
                    "apiVersion": API,
                    "kind": "Reload",
                    "applied": mode == ReloadMode::Apply,
                    "changed": report.changed,
                    "restart_required": report.restart_required,
                    "warnings": report.warnings,
                    "hash": report.hash,
                })),
                Err(error) => Err(problem(error)),
            }
        })
    }

    fn renew(self: Arc<Self>) -> ReloadFuture {
        Box::pin(async move {
            match self.renewal.renew().await {
                Ok(renewed) => Ok(json!({
                    "apiVersion": API,
                    "kind": "Renewal",
                    "changed": renewed.changed,
                    "serial": renewed.serial,
                    "not_after": rfc3339(renewed.not_after),
                })),
                Err(detail) => Err(Problem::new(StatusCode::BAD_GATEWAY, detail)),
            }
        })
    }

    fn log_level(&self) -> String {
        self.log.level()
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        self.log.set(level).map_err(|error| error.to_string())
    }
}

impl AppBackend {
    fn membership(&self) -> Result<&membership::Handle, Problem> {
        let none = "the sidecar is in no mesh: its configuration has no `mesh`";
        self.membership.as_ref().ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, none))
    }
}

fn problem(error: ReloadError) -> Problem {
    match error {
        ReloadError::Invalid { rendered, findings } => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, rendered).with("findings", findings)
        }
        ReloadError::Unreadable(detail) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
        switch @ (ReloadError::Switch | ReloadError::Mesh) => {
            Problem::new(StatusCode::CONFLICT, switch.to_string())
        }
        ReloadError::Leaving => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the sidecar is shutting down"),
    }
}

fn cluster(cluster: &Arc<Cluster>, direction: &str) -> Value {
    let params = &cluster.params;
    json!({
        "name": &*params.name,
        "direction": direction,
        "protocol": format!("{:?}", params.protocol).to_lowercase(),
        "panic": cluster.live.in_panic(),
        "groups": cluster.selections.iter().next().map(groups),
        "endpoints": cluster.endpoints.iter().map(|one| endpoint(one)).collect::<Vec<_>>(),
    })
}

/// How the traffic of a service is divided, where it is.
fn groups(all: &Selection) -> Value {
    let group =
        |group: &Group| json!({ "priority": group.priority, "zone": group.zone, "share": group.share() });
    all.groups().iter().map(group).collect()
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let now = clock::now();
    let state = endpoint.state(now);
    let (reason, since) = why(endpoint, state);
    json!({
        "address": &*endpoint.label,
        "weight": endpoint.weight,
        "priority": endpoint.priority,
        "tags": endpoint.tags.iter().map(|(name, value)| (name.to_owned(), value.into())).collect::<Map<_, _>>(),
        "state": state.as_str(),
        "reason": reason,
        "since": since.map(rfc3339),
        "in_flight": endpoint.live.in_flight(),
    })
}

/// Why an endpoint is in the state it is in, and since when.
fn why(endpoint: &Endpoint, state: EndpointState) -> (Option<String>, Option<SystemTime>) {
    let wall = |at: Mono| clock::epoch() + at.since(Mono::ZERO);
    let told = |(at, reason): (Mono, &str)| (Some(reason.to_owned()), Some(wall(at)));
    match state {
        EndpointState::Unhealthy | EndpointState::Healthy => {
            let verdict = endpoint.live.verdict();
            (verdict.reason, verdict.since)
        }
        EndpointState::Ejected => {
            let ejection = endpoint.live.ejection().map(|(cause, at)| (at, cause.as_str()));
            ejection.map(told).unwrap_or_default()
        }
        EndpointState::Open | EndpointState::HalfOpen => {
            let change = endpoint.live.breaker().last_change().map(|(at, cause)| (at, cause.as_str()));
            change.map(told).unwrap_or_default()
        }
    }
}

fn route(route: &Route) -> Value {
    let action = match &route.action {
        RouteAction::Forward(forward) => json!({
            "forward": forward
                .shares
                .iter()
                .map(|share| json!({ "service": &*share.service, "weight": share.weight }))
                .collect::<Vec<_>>(),
        }),
        RouteAction::Redirect(redirect, _) => json!({ "redirect": redirect.status.as_u16() }),
        RouteAction::Direct(direct, _) => json!({ "direct_response": direct.status.as_u16() }),
    };
    json!({
        "name": &*route.name,
        "action": action,
        "timeout_seconds": route.timeout.map(|timeout| timeout.as_secs_f64()),
        "hits": route.hits.load(Relaxed),
    })
}

pub(super) fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}
