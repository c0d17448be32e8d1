//! What differs between two configurations, and which of it a running process cannot take up. Pure.

use serde_json::Value;

use super::{Bundle, effective::document};
use crate::membership;

/// Keys that are read once, when the process starts.
const RESTART: [&str; 16] = [
    "workers",
    "mesh",
    "store",
    "mtls.trust_domain",
    "mtls.ca",
    "mtls.min_version",
    "mtls.max_handshakes",
    "listeners.inbound",
    "listeners.outbound",
    "listeners.tcp",
    "listeners.transparent",
    "admin",
    "service.name",
    "telemetry.access_log.path",
    "telemetry.access_log.format",
    "telemetry.metrics",
];

/// Keys within those of [`RESTART`] that are taken up at once.
const HOT: [&str; 1] = ["mesh.weight"];

/// Key paths that differ. Values are not in it: they may be secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// All of them, sorted; `routes` stands for the list as a whole.
    pub changed: Vec<String>,
    /// Those that come into force only when the process is started anew.
    pub restart_required: Vec<String>,
}

impl Diff {
    /// What is different in `new`.
    #[must_use]
    pub fn between(old: &Bundle, new: &Bundle) -> Self {
        let mut changed = Vec::new();
        compare("", &document(old), &document(new), &mut changed);
        let restart_required = changed.iter().filter(|path| needs_restart(path)).cloned().collect();
        Self { changed, restart_required }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }
}

impl Bundle {
    /// This configuration, but with the values of `running` for the keys that need a restart: what can be
    /// applied now.
    #[must_use]
    pub fn with_restart_keys_of(mut self, running: &Self) -> Self {
        self.workers = running.workers;
        self.identity.clone_from(&running.identity);
        self.mesh = match (&running.mesh, self.mesh) {
            (Some(running), Some(new)) => Some(membership::Params { weight: new.weight, ..running.clone() }),
            (running, _) => running.clone(),
        };
        self.store.clone_from(&running.store);
        self.listeners.mtls.max_handshakes = running.listeners.mtls.max_handshakes;
        self.listeners.inbound.clone_from(&running.listeners.inbound);
        self.listeners.outbound.clone_from(&running.listeners.outbound);
        self.listeners.tcp.clone_from(&running.listeners.tcp);
        self.listeners.transparent = running.listeners.transparent;
        self.directory.passthrough.clone_from(&running.directory.passthrough);
        self.admin.clone_from(&running.admin);
        self.directory.local.name.clone_from(&running.directory.local.name);
        self.telemetry.access_log.sink.clone_from(&running.telemetry.access_log.sink);
        self.telemetry.access_log.format = running.telemetry.access_log.format;
        self.telemetry.max_series_per_metric = running.telemetry.max_series_per_metric;
        let kept = |pointer: &&String| needs_restart(&pointer.trim_start_matches('/').replace('/', "."));
        for pointer in running.masked.iter().filter(kept) {
            // Each time that something is shared, they would be one more.
            if !self.masked.contains(pointer) {
                self.masked.push(pointer.clone());
            }
        }
        self
    }
}

fn needs_restart(path: &str) -> bool {
    let is_in = |keys: &[&str]| {
        keys.iter()
            .any(|key| path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    };
    is_in(&RESTART) && !is_in(&HOT)
}

fn compare(path: &str, old: &Value, new: &Value, changed: &mut Vec<String>) {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        if old != new {
            changed.push(path.to_owned());
        }
        return;
    };
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        compare(&path, old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null), changed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ProcessEnvironment, parse};

    const BASE: &str = "
version: 1
workers: 2
service: { name: web, address: 127.0.0.1:8080 }
services: { api: { endpoints: [127.0.0.1:9000] } }
routes: [{ service: api, match: { path_regex: /a.* } }]
mtls: { mode: disabled }
";

    fn bundle(text: &str) -> Bundle {
        parse("test", text, &ProcessEnvironment).unwrap().0
    }

    #[test]
    fn equal_configurations_do_not_differ() {
        assert!(Diff::between(&bundle(BASE), &bundle(BASE)).is_empty());
    }

    #[test]
    fn hot_keys_and_restart_keys_are_told_apart_and_the_latter_can_be_held_back() {
        let text = BASE
            .replace("9000", "9001")
            .replace("workers: 2", "workers: 3")
            .replace("name: web", "name: shop")
            + "listeners: { inbound: { enabled: false }, max_headers: 7 }\n";
        let (old, new) = (bundle(BASE), bundle(&text));
        let diff = Diff::between(&old, &new);
        assert_eq!(
            diff.restart_required,
            [
                "listeners.inbound.address",
                "listeners.inbound.connection_balance",
                "listeners.inbound.enabled",
                "listeners.inbound.passthrough",
                "listeners.inbound.proxy_protocol",
                "service.name",
                "workers",
            ]
        );
        let applied = Diff::between(&old, &new.with_restart_keys_of(&old));
        assert_eq!(applied.changed, ["listeners.max_headers", "services.api.endpoints"]);
        assert!(applied.restart_required.is_empty());
    }

    #[test]
    fn a_value_that_is_held_back_stays_as_secret_as_it_was() {
        let mut old = bundle(BASE);
        old.masked = vec!["/workers".to_owned(), "/routes/0/name".to_owned()];
        let mut new = bundle(BASE);
        new.masked = vec!["/workers".to_owned()];
        for new in [bundle(BASE), new] {
            assert_eq!(new.with_restart_keys_of(&old).masked, ["/workers"]);
        }
    }

    #[test]
    fn a_changed_expression_is_a_change_of_the_routes() {
        let diff = Diff::between(&bundle(BASE), &bundle(&BASE.replace("/a.*", "/b.*")));
        assert_eq!(diff, Diff { changed: vec!["routes".to_owned()], restart_required: Vec::new() });
    }
}
