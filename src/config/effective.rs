//! The configuration as it is in force, in the shape of the file: defaults filled in, secrets masked.
//!
//! Every struct is taken apart completely, so that a new field of some params does not compile before it is
//! shown here (and compared by `diff`).

mod access;
mod intentions;
mod listeners;
mod load_balancer;
mod locality;
mod mesh;
mod mtls;
mod resilience;
mod retry;
mod store;
mod telemetry;
mod traffic;

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::{Bundle, ReloadParams, form::show_regex, mask, schema, value::show_duration};
use crate::{
    admin::{Access, AdminParams},
    directory::{DirectoryParams, LocalServiceParams},
    policy::route::{
        Action, DirectResponse, HeaderEdits, HostPattern, PathPattern, PathRewrite, Redirect, Rewrite,
        RouteMatch, RouteParams, Target, ValueMatch,
    },
    rt::ShutdownParams,
    snapshot::{
        ClusterParams, EndpointSource, HealthCheckKind, HealthCheckParams, Limits, Protocol, StatusRange,
    },
    types::{ProxyVersion, Secret},
};

/// The configuration in force, secrets masked, as JSON in the shape of the file.
#[must_use]
pub fn effective_json(bundle: &Bundle) -> Value {
    let mut document = document(bundle);
    for pointer in &bundle.masked {
        mask::value_at(&mut document, pointer);
    }
    mask::secret_headers(&mut document);
    // Also if it stands in the file itself.
    mask::value(&mut document, "/admin/token");
    mask::value(&mut document, "/mesh/gossip_key");
    mask::value(&mut document, "/store/encryption_key");
    mask::value(&mut document, "/store/older_encryption_keys");
    mask::value(&mut document, "/store/etcd/password");
    document
}

/// The same as YAML. Without secrets in it, it is a valid configuration that means the same.
#[must_use]
pub fn effective_yaml(bundle: &Bundle) -> String {
    let document = effective_json(bundle);
    // In the order of the documentation; serde_json sorts by name.
    let keys = schema::ROOT.known.iter().filter_map(|key| document.get(key).map(|value| (*key, value)));
    keys.filter_map(|(key, value)| serde_yaml::to_string(&json!({ key: value })).ok()).collect()
}

/// The configuration in the shape of the file, with its secrets: never show it, compare it.
pub(super) fn document(bundle: &Bundle) -> Value {
    let Bundle {
        workers,
        identity,
        mesh,
        store,
        listeners,
        directory,
        admin,
        telemetry,
        reload,
        overload,
        shutdown,
        masked: _,
    } = bundle;
    // What is passed through follows from the listeners.
    let DirectoryParams {
        local,
        intentions,
        trust_domain: _,
        jwt,
        ext_authz,
        routes,
        clusters,
        passthrough: _,
    } = directory;
    let ReloadParams { watch, interval } = reload;
    let ShutdownParams { grace, drain_timeout } = shutdown;
    let mut root = object(json!({
        "version": 1,
        "service": local_service(local),
        "listeners": listeners::section(listeners),
        // The application has no keys of its own for these.
        "defaults": {
            "connect_timeout": show_duration(local.connect_timeout),
            "idle_timeout": show_duration(local.idle_timeout),
        },
        "routes": routes.iter().map(route).collect::<Vec<_>>(),
        "services": clusters.iter().map(|c| (c.name.to_string(), cluster(c))).collect::<Map<_, _>>(),
        "mtls": mtls::section(&listeners.mtls, identity.as_ref()),
        "admin": admin_section(admin),
        "telemetry": telemetry::section(telemetry),
        "reload": { "watch": watch, "interval": show_duration(*interval) },
        "overload": traffic::overload(*overload),
        "shutdown": { "grace": show_duration(*grace), "drain_timeout": show_duration(*drain_timeout) },
    }));
    put(&mut root, "workers", *workers);
    put(&mut root, "mesh", mesh.as_ref().map(mesh::section));
    put(&mut root, "store", store.as_ref().map(store::section));
    put(&mut root, "intentions", access::intentions(intentions, jwt.as_ref(), ext_authz.as_ref()));
    Value::Object(root)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Adds a key, if there is something to say.
fn put(fields: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        fields.insert(key.to_owned(), value.into());
    }
}

/// Adds a list, if there is something in it: an empty one means the same as none.
fn put_list<T: Into<Value>>(fields: &mut Map<String, Value>, key: &str, items: impl Iterator<Item = T>) {
    let items: Vec<Value> = items.map(Into::into).collect();
    put(fields, key, (!items.is_empty()).then_some(items));
}

/// A limit that `0s` switches off.
fn limit(value: Option<std::time::Duration>) -> String {
    show_duration(value.unwrap_or_default())
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Auto => "auto",
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
        Protocol::Tcp => "tcp",
    }
}

fn admin_section(AdminParams { address, access, metrics_address }: &AdminParams) -> Value {
    let Access { token, hosts } = access;
    let mut fields = object(json!({
        "address": address.to_string(),
        "metrics_address": metrics_address.map_or_else(|| "none".to_owned(), |address| address.to_string()),
    }));
    put(&mut fields, "token", token.as_ref().map(Secret::expose));
    put_list(&mut fields, "hosts", hosts.iter().map(String::as_str));
    Value::Object(fields)
}

fn local_service(local: &LocalServiceParams) -> Value {
    let LocalServiceParams {
        name,
        address,
        tags,
        protocol: spoken,
        timeout,
        connect_timeout: _,
        idle_timeout: _,
        health_check: check,
        traffic: tools,
        concurrency,
    } = local;
    let mut fields = object(json!({
        "name": &**name,
        "address": address.to_string(),
        "protocol": protocol(*spoken),
        "timeout": limit(*timeout),
        "concurrency": traffic::concurrency(*concurrency),
    }));
    put(&mut fields, "tags", locality::tags(tags));
    put(&mut fields, "health_check", check.as_ref().map(health_check));
    traffic::put_traffic(&mut fields, tools);
    Value::Object(fields)
}

fn route(route: &RouteParams) -> Value {
    let RouteParams {
        name,
        matcher,
        action,
        timeout,
        retry: repeated,
        request_headers,
        response_headers,
        traffic: tools,
    } = route;
    let mut fields = object(json!({
        "name": &**name,
        "match": route_match(matcher),
        "timeout": limit(*timeout),
    }));
    let edits: Map<String, Value> =
        [("request", edits(request_headers)), ("response", edits(response_headers))]
            .into_iter()
            .filter(|(_, edits)| !edits.is_empty())
            .map(|(side, edits)| (side.to_owned(), Value::Object(edits)))
            .collect();
    put(&mut fields, "headers", (!edits.is_empty()).then_some(edits));
    traffic::put_traffic(&mut fields, tools);
    match action {
        Action::Forward { targets, rewrite: changes } => {
            put(&mut fields, "retry", Some(retry::retry(repeated)));
            match targets.as_slice() {
                [Target { service, subset, weight: 1 }] => {
                    put(&mut fields, "service", Some(&**service));
                    put(&mut fields, "subset", locality::tags(subset));
                }
                targets => put(&mut fields, "split", Some(targets.iter().map(target).collect::<Vec<_>>())),
            }
            let changes = rewrite(changes);
            put(&mut fields, "rewrite", (!changes.is_empty()).then_some(changes));
        }
        Action::Redirect(to) => put(&mut fields, "redirect", Some(redirect(to))),
        Action::Direct(DirectResponse { status, body }) => {
            let answer = json!({ "status": status.as_u16(), "body": String::from_utf8_lossy(body) });
            put(&mut fields, "direct_response", Some(answer));
        }
    }
    Value::Object(fields)
}

fn target(Target { service, subset, weight }: &Target) -> Value {
    let mut fields = object(json!({ "service": &**service, "weight": weight }));
    put(&mut fields, "subset", locality::tags(subset));
    Value::Object(fields)
}

fn host_pattern(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}

fn route_match(matcher: &RouteMatch) -> Value {
    let RouteMatch { hosts, path, methods, headers, query } = matcher;
    let mut fields = Map::new();
    put_list(&mut fields, "hosts", hosts.iter().map(host_pattern));
    put_list(&mut fields, "methods", methods.iter().map(http::Method::as_str));
    put_list(&mut fields, "headers", headers.iter().map(|c| condition(c.name.as_str(), &c.value)));
    put_list(&mut fields, "query", query.iter().map(|c| condition(&c.name, &c.value)));
    put_path_pattern(&mut fields, path);
    Value::Object(fields)
}

fn put_path_pattern(fields: &mut Map<String, Value>, path: &PathPattern) {
    match path {
        PathPattern::Any => {}
        PathPattern::Exact(path) => put(fields, "path", Some(path.as_str())),
        PathPattern::Prefix(prefix) => put(fields, "path_prefix", Some(prefix.as_str())),
        PathPattern::Regex(regex) => put(fields, "path_regex", Some(show_regex(regex))),
    }
}

fn condition(name: &str, value: &ValueMatch) -> Value {
    match value {
        ValueMatch::Exact(text) => json!({ "name": name, "exact": text }),
        ValueMatch::Prefix(text) => json!({ "name": name, "prefix": text }),
        ValueMatch::Regex(regex) => json!({ "name": name, "regex": show_regex(regex) }),
        ValueMatch::Present(present) => json!({ "name": name, "present": present }),
    }
}

fn rewrite(Rewrite { path, host }: &Rewrite) -> Map<String, Value> {
    let mut fields = Map::new();
    put_path(&mut fields, path.as_ref());
    put(&mut fields, "host", host.as_ref().map(header_text));
    fields
}

fn put_path(fields: &mut Map<String, Value>, path: Option<&PathRewrite>) {
    match path {
        None => {}
        Some(PathRewrite::Full(path)) => put(fields, "path", Some(path.as_str())),
        Some(PathRewrite::Prefix(prefix)) => put(fields, "path_prefix", Some(prefix.as_str())),
    }
}

fn redirect(Redirect { status, scheme, host, port, path }: &Redirect) -> Value {
    let mut fields = object(json!({ "status": status.as_u16() }));
    put(&mut fields, "scheme", *scheme);
    put(&mut fields, "host", host.as_deref());
    put(&mut fields, "port", *port);
    put_path(&mut fields, path.as_ref());
    Value::Object(fields)
}

fn edits(HeaderEdits { remove, set, add }: &HeaderEdits) -> Map<String, Value> {
    let mut fields = Map::new();
    put_list(&mut fields, "remove", remove.iter().map(HeaderName::as_str));
    for (key, written) in [("set", set), ("add", add)] {
        put(&mut fields, key, (!written.is_empty()).then(|| headers(written)));
    }
    fields
}

fn headers(headers: &[(HeaderName, HeaderValue)]) -> Map<String, Value> {
    headers.iter().map(|(name, value)| (name.to_string(), header_text(value).into())).collect()
}

fn header_text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn cluster(cluster: &ClusterParams) -> Value {
    let ClusterParams {
        name: _,
        source,
        protocol: spoken,
        tls,
        send_proxy,
        balance,
        connect_timeout,
        idle_timeout,
        limits,
        retry_budget,
        health_check: check,
        circuit_breaker,
        outlier_detection,
        slow_start,
        panic_threshold_percent,
        zones,
        subset_fallback,
        affinity,
    } = cluster;
    let mut fields = object(json!({
        "protocol": protocol(*spoken),
        "tls": access::upstream_tls(tls),
        "load_balancer": load_balancer::load_balancer(balance),
        "connect_timeout": show_duration(*connect_timeout),
        "idle_timeout": show_duration(*idle_timeout),
        "limits": limits_section(limits),
        "retry_budget": retry::budget(*retry_budget),
        "circuit_breaker": resilience::circuit_breaker(circuit_breaker.as_ref()),
        "outlier_detection": resilience::outlier_detection(outlier_detection.as_ref()),
        "slow_start": show_duration(*slow_start),
        "panic_threshold": panic_threshold_percent,
        "zones": locality::zones(zones),
        "subset_fallback": locality::subset_fallback(*subset_fallback),
    }));
    let version = send_proxy.map(|version| match version {
        ProxyVersion::V1 => "v1",
        ProxyVersion::V2 => "v2",
    });
    put(&mut fields, "send_proxy_protocol", version);
    match source {
        EndpointSource::Static(endpoints) => {
            put(&mut fields, "endpoints", Some(endpoints.iter().map(locality::endpoint).collect::<Vec<_>>()));
        }
        EndpointSource::Dns { name, port, min_refresh } => {
            let name = port.map_or_else(|| name.to_string(), |port| format!("{name}:{port}"));
            put(&mut fields, "dns", Some(name));
            put(&mut fields, "dns_refresh", Some(show_duration(*min_refresh)));
        }
        EndpointSource::Mesh => {}
    }
    put(&mut fields, "session_affinity", affinity.as_ref().map(locality::affinity));
    put(&mut fields, "health_check", check.as_ref().map(health_check));
    Value::Object(fields)
}

fn limits_section(limits: &Limits) -> Value {
    let Limits {
        max_requests,
        max_retries,
        max_connections,
        max_pending_requests,
        queue_timeout,
        max_requests_per_connection,
        max_connection_age,
    } = limits;
    json!({
        "max_requests": max_requests,
        "max_retries": max_retries,
        "max_connections": max_connections,
        "max_pending_requests": max_pending_requests,
        "queue_timeout": show_duration(*queue_timeout),
        "max_requests_per_connection": max_requests_per_connection.unwrap_or(0),
        "max_connection_age": limit(*max_connection_age),
    })
}

fn health_check(check: &HealthCheckParams) -> Value {
    let HealthCheckParams { kind, interval, timeout, healthy_threshold, unhealthy_threshold } = check;
    let mut fields = object(json!({
        "interval": show_duration(*interval),
        "timeout": show_duration(*timeout),
        "healthy_threshold": healthy_threshold,
        "unhealthy_threshold": unhealthy_threshold,
    }));
    match kind {
        HealthCheckKind::Tcp => put(&mut fields, "tcp", Some(true)),
        HealthCheckKind::Grpc { service } => put(&mut fields, "grpc", Some(json!({ "service": service }))),
        HealthCheckKind::Http { path, host, headers: extra, expected } => {
            put(&mut fields, "path", Some(path.as_str()));
            put(&mut fields, "host", host.as_deref());
            put(&mut fields, "headers", Some(headers(extra)));
            let statuses: Vec<Value> = expected.iter().map(status_range).collect();
            put(&mut fields, "expected_statuses", Some(statuses));
        }
    }
    Value::Object(fields)
}

fn status_range(StatusRange { first, last }: &StatusRange) -> Value {
    if first == last { json!(first) } else { json!(format!("{first}-{last}")) }
}
