//! `services` (what routes may name) and `service` (the local application).

use std::{collections::HashMap, sync::Arc};

use super::{
    health_check, load_balancer, locality, process::idle_timeout, resilience, retry, traffic, upstream_tls,
};
use crate::{
    config::{
        codes, defaults,
        defaults::Inherited,
        fields::{Fields, MayLack, list, named},
        form,
        report::{Report, error},
        schema,
        span::Span,
        tree::{Content, Entry, Node},
        value,
    },
    directory::LocalServiceParams,
    policy::{balance::BalanceParams, locality::MAX_PRIORITY, traffic::TrafficParams},
    snapshot::{
        ClusterParams, EndpointParams, EndpointSource, Limits, Protocol, SubsetFallback, UpstreamTlsParams,
    },
    types::{EndpointAddress, ProxyVersion, Tags},
};

pub(super) const MAX_WEIGHT: u32 = 1000;
const MAX_LIMIT: u32 = 1_000_000;
const PROTOCOLS: [(&str, Protocol); 4] = [
    ("auto", Protocol::Auto),
    ("http1", Protocol::Http1),
    ("http2", Protocol::Http2),
    ("tcp", Protocol::Tcp),
];

const SENT_HEADERS: [(&str, Option<ProxyVersion>); 3] =
    [("none", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))];

/// A service with the places that later checks point at.
#[derive(Debug)]
pub(in crate::config) struct Service {
    pub(in crate::config) params: ClusterParams,
    pub(in crate::config) endpoints: Vec<Span>,
}

/// The services that could be read, and the names of all of them.
#[derive(Debug, Default)]
pub(in crate::config) struct Services {
    pub(in crate::config) read: Vec<Service>,
    /// Those that have mistakes as well, so that routes to them are not reported too.
    pub(in crate::config) names: HashMap<Arc<str>, Span>,
}

/// Where services without addresses have their endpoints from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Discovery {
    /// Nowhere: each needs some.
    None,
    /// The mesh.
    Mesh,
}

/// A service that something else in the file names, where all members of the mesh can be named.
#[derive(Clone, Debug)]
pub(in crate::config) struct Named {
    pub(in crate::config) service: Arc<str>,
    pub(in crate::config) span: Span,
    /// What it is named for is bytes.
    pub(in crate::config) is_tcp: bool,
}

pub(in crate::config) fn read(
    root: &Fields<'_>,
    inherited: &Inherited,
    discovery: Discovery,
    report: &mut Report,
) -> Services {
    let mut services = Services::default();
    let entries =
        root.optional("services", report, |node, report| named(node, "service names to services", report));
    for entry in entries.unwrap_or_default() {
        services.names.entry(entry.key.as_str().into()).or_insert(entry.key_span);
        if !form::is_name(&entry.key, "") {
            report.add::<()>(form::bad_name(entry.key_span, "service", ""));
        }
        services.read.extend(service(entry, inherited, discovery, report));
    }
    services
}

impl Services {
    /// Adds each of `named` that the file says nothing about, as if it said `NAME: {}`, or where nothing but bytes goes
    /// there, `NAME: { protocol: tcp }`.
    pub(in crate::config) fn discover(
        &mut self,
        named: impl Iterator<Item = Named>,
        inherited: &Inherited,
        report: &mut Report,
    ) {
        let mut unsaid: Vec<Named> = Vec::new();
        for one in named.filter(|one| !self.names.contains_key(&one.service)) {
            match unsaid.iter_mut().find(|known| known.service == one.service) {
                Some(known) => known.is_tcp &= one.is_tcp,
                None => unsaid.push(one),
            }
        }
        for Named { service, span, is_tcp } in unsaid {
            let usual = if is_tcp { Protocol::Tcp } else { Protocol::Auto };
            let fields = Fields::empty(&schema::CLUSTER, span);
            self.read.extend(described(&service, &fields, usual, inherited, Discovery::Mesh, report));
            self.names.insert(service, span);
        }
    }
}

fn service(
    entry: &Entry,
    inherited: &Inherited,
    discovery: Discovery,
    report: &mut Report,
) -> Option<Service> {
    let fields = Fields::open(&entry.value, &schema::CLUSTER, report)?;
    described(&entry.key, &fields, Protocol::Auto, inherited, discovery, report)
}

/// The service `name` as `fields` describe it.
fn described(
    name: &str,
    fields: &Fields<'_>,
    usual: Protocol,
    inherited: &Inherited,
    discovery: Discovery,
    report: &mut Report,
) -> Option<Service> {
    let source = source(fields, discovery, report);
    let protocol = fields.or("protocol", usual, report, protocol);
    // A connection that stays open for hours has no latency to go by.
    let usual = match protocol {
        Protocol::Tcp => BalanceParams::LeastRequest { full_scan: false },
        Protocol::Auto | Protocol::Http1 | Protocol::Http2 => inherited.balance.clone(),
    };
    let balance = fields.or("load_balancer", usual, report, load_balancer::read);
    let tls = fields.or("tls", inherited.tls.clone(), report, upstream_tls::read);
    let send_proxy = fields.or("send_proxy_protocol", None, report, |node, report| {
        value::word(node, &SENT_HEADERS, &[], report)
    });
    if let (Some(_), Some(node)) = (send_proxy, fields.get("send_proxy_protocol"))
        && protocol != Protocol::Tcp
    {
        let message = "`send_proxy_protocol` has no effect on a service that speaks HTTP";
        report.add::<()>(error(codes::CHOICE, node.span, message).label("only for `protocol: tcp`"));
    }
    let connect_timeout = fields.or("connect_timeout", inherited.connect_timeout, report, value::wait);
    let idle_timeout = fields.or("idle_timeout", inherited.idle_timeout, report, idle_timeout);
    let limits = fields.get("limits").map_or_else(builtin_limits, |node| limits(node, report));
    let retry_budget = fields.or("retry_budget", inherited.retry_budget, report, |node, report| {
        retry::budget(node, inherited.retry_budget, report)
    });
    let health_check = fields.optional("health_check", report, |node, report| {
        health_check::read(node, defaults::HEALTH_INTERVAL, report)
    });
    let circuit_breaker = fields.or("circuit_breaker", inherited.circuit_breaker, report, |node, report| {
        resilience::circuit_breaker(node, inherited.circuit_breaker, report)
    });
    let outlier_detection =
        fields.or("outlier_detection", inherited.outlier_detection, report, |node, report| {
            resilience::outlier_detection(node, inherited.outlier_detection, report)
        });
    let slow_start = fields.or("slow_start", inherited.slow_start, report, resilience::slow_start);
    let panic_threshold_percent =
        fields.or("panic_threshold", defaults::PANIC_THRESHOLD_PERCENT, report, |node, report| {
            value::number(node, 0..=100, report).and_then(|percent| u8::try_from(percent).ok())
        });
    let zones = fields.or("zones", inherited.zones.clone(), report, locality::zones);
    let subset_fallback =
        fields.or("subset_fallback", SubsetFallback::None, report, locality::subset_fallback);
    let affinity = fields.optional("session_affinity", report, locality::affinity);
    if let (Some(node), Protocol::Tcp) = (fields.get("session_affinity"), protocol) {
        let message = "`session_affinity` has no effect on a service that takes bytes";
        report.add::<()>(error(codes::CHOICE, node.span, message).label("there are no cookies"));
    }
    let (source, endpoints) = source?;
    if let (EndpointSource::Mesh, UpstreamTlsParams::External(_)) = (&source, &tls) {
        let span = fields.get("tls").map_or(fields.span, |node| node.span);
        report.add::<()>(
            error(codes::CHOICE, span, "members of the mesh speak no TLS to the outside")
                .label("only for `endpoints` and `dns`")
                .help("they speak the mutual TLS of the mesh, as `mtls` says"),
        );
    }
    let params = ClusterParams {
        name: name.into(),
        tls: upstream_tls::with_name_of(&source, tls),
        source,
        protocol,
        send_proxy,
        balance,
        connect_timeout,
        idle_timeout,
        limits,
        retry_budget,
        health_check,
        circuit_breaker,
        outlier_detection,
        slow_start,
        panic_threshold_percent,
        zones,
        subset_fallback,
        affinity,
    };
    Some(Service { params, endpoints })
}

fn protocol(node: &Node, report: &mut Report) -> Option<Protocol> {
    value::word(node, &PROTOCOLS, &[], report)
}

fn source(
    fields: &Fields<'_>,
    discovery: Discovery,
    report: &mut Report,
) -> Option<(EndpointSource, Vec<Span>)> {
    let refresh = fields.optional("dns_refresh", report, value::wait);
    let may_lack = match discovery {
        Discovery::None => MayLack::No,
        Discovery::Mesh => MayLack::Yes,
    };
    let Some((key, node)) = fields.one_of(&["endpoints", "dns"], may_lack, report) else {
        refuse_refresh(fields, "without `dns`", report);
        return (discovery == Discovery::Mesh).then(|| (EndpointSource::Mesh, Vec::new()));
    };
    if key == "dns" {
        let (name, port) = dns_name(node, report)?;
        let min_refresh = refresh.unwrap_or(defaults::DNS_REFRESH);
        return Some((EndpointSource::Dns { name, port, min_refresh }, Vec::new()));
    }
    refuse_refresh(fields, "with `endpoints`", report);
    let (endpoints, spans) = endpoints(node, report)?;
    Some((EndpointSource::Static(endpoints), spans))
}

fn refuse_refresh(fields: &Fields<'_>, why: &str, report: &mut Report) {
    let Some(node) = fields.get("dns_refresh") else { return };
    let message = format!("`dns_refresh` has no effect {why}");
    report.add::<()>(error(codes::CHOICE, node.span, message).label("only for `dns`"));
}

/// `name:port` for address records, `_service._proto.name` for SRV records.
fn dns_name(node: &Node, report: &mut Report) -> Option<(Arc<str>, Option<u16>)> {
    let scalar = value::text_scalar(node, "a name with a port", "api.internal:80", report)?;
    let parsed = match scalar.text.rsplit_once(':') {
        Some((name, port)) => port.parse().ok().filter(|port| *port != 0).map(|port| (name, Some(port))),
        None if scalar.text.starts_with('_') => Some((scalar.text.as_str(), None)),
        None => None,
    };
    match parsed {
        Some((name, port)) if form::is_host(name) && name.parse::<std::net::IpAddr>().is_err() => {
            Some((name.to_ascii_lowercase().into(), port))
        }
        _ => report.add(
            error(codes::MALFORMED, node.span, format!("{} is not a name to resolve", value::shown(scalar)))
                .label("expected `name:port`, or an SRV name")
                .help("for example `api.internal:80` or `_http._tcp.api.internal`; addresses go under `endpoints`"),
        ),
    }
}

fn endpoints(node: &Node, report: &mut Report) -> Option<(Vec<EndpointParams>, Vec<Span>)> {
    let items = list(node, "addresses", report)?;
    if items.is_empty() {
        return report.add(
            error(codes::MISSING_KEY, node.span, "a service needs at least one endpoint")
                .label("the list is empty")
                .help("add an address: `[10.0.0.1:8443]`"),
        );
    }
    let mut seen: HashMap<EndpointAddress, Span> = HashMap::new();
    let (mut endpoints, mut spans) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
    for item in items {
        let Some((endpoint, span)) = endpoint(item, report) else { continue };
        if let Some(first) = seen.insert(endpoint.address.clone(), span) {
            report.add::<()>(
                error(codes::DUPLICATE_ENDPOINT, span, "the endpoint is in the list twice")
                    .label("again here")
                    .also(first, "first here")
                    .help("use `weight` to send it more requests"),
            );
        }
        endpoints.push(endpoint);
        spans.push(span);
    }
    Some((endpoints, spans))
}

fn endpoint(node: &Node, report: &mut Report) -> Option<(EndpointParams, Span)> {
    if !matches!(node.content, Content::Map(_)) {
        let address = form::endpoint_address(node, report)?;
        return Some((EndpointParams::new(address), node.span));
    }
    let fields = Fields::open(node, &schema::ENDPOINT, report)?;
    let weight =
        fields.optional("weight", report, |node, report| value::number_u32(node, 1..=MAX_WEIGHT, report));
    let priority = fields.or("priority", 0, report, |node, report| {
        value::number(node, 0..=u64::from(MAX_PRIORITY), report).and_then(|priority| priority.try_into().ok())
    });
    let tags = fields.or("tags", Tags::default(), report, locality::tags);
    let node = fields.require("address", "address: 10.0.0.1:8443", report)?;
    let bare = EndpointParams::new(form::endpoint_address(node, report)?);
    let weight = weight.unwrap_or(bare.weight);
    Some((EndpointParams { weight, priority, tags, ..bare }, node.span))
}

fn builtin_limits() -> Limits {
    Limits {
        max_requests: defaults::MAX_REQUESTS,
        max_retries: defaults::MAX_RETRIES,
        max_connections: defaults::MAX_CONNECTIONS,
        max_pending_requests: defaults::MAX_PENDING_REQUESTS,
        queue_timeout: defaults::QUEUE_TIMEOUT,
        max_requests_per_connection: None,
        max_connection_age: None,
    }
}

fn limits(node: &Node, report: &mut Report) -> Limits {
    let mut limits = builtin_limits();
    let Some(fields) = Fields::open(node, &schema::LIMITS, report) else { return limits };
    limits.max_requests = fields.or("max_requests", limits.max_requests, report, |node, report| {
        value::number_u32(node, 1..=MAX_LIMIT, report)
    });
    limits.max_retries = fields.or("max_retries", limits.max_retries, report, |node, report| {
        value::number_u32(node, 0..=MAX_LIMIT, report)
    });
    limits.max_connections = fields.or("max_connections", limits.max_connections, report, |node, report| {
        value::number_u32(node, 1..=MAX_LIMIT, report)
    });
    limits.max_pending_requests =
        fields.or("max_pending_requests", limits.max_pending_requests, report, |node, report| {
            value::number_u32(node, 0..=MAX_LIMIT, report)
        });
    limits.queue_timeout = fields.or("queue_timeout", limits.queue_timeout, report, value::wait);
    limits.max_requests_per_connection = fields
        .optional("max_requests_per_connection", report, |node, report| {
            value::number_u32(node, 0..=u32::MAX, report)
        })
        .filter(|most| *most > 0);
    limits.max_connection_age = fields.or("max_connection_age", None, report, value::limit);
    limits
}

/// The application that this sidecar stands beside. `None` when something about it is reported as wrong.
pub(in crate::config) fn local(
    root: &Fields<'_>,
    inherited: &Inherited,
    report: &mut Report,
) -> Option<(LocalServiceParams, Span)> {
    let node = root.require("service", "service: { name: web, address: 127.0.0.1:8080 }", report)?;
    let fields = Fields::open(node, &schema::SERVICE, report)?;
    let name = fields.require("name", "name: web", report).and_then(|node| form::service_name(node, report));
    let address_node = fields.require("address", "address: 127.0.0.1:8080", report);
    let address = address_node.and_then(|node| form::endpoint_address(node, report));
    let protocol = fields.or("protocol", Protocol::Auto, report, protocol);
    let tags = fields.or("tags", Tags::default(), report, locality::tags);
    let timeout = fields.or("timeout", inherited.timeout, report, value::limit);
    let health_check = fields.optional("health_check", report, |node, report| {
        health_check::read(node, defaults::LOCAL_HEALTH_INTERVAL, report)
    });
    let limits = fields
        .get("rate_limit")
        .map(|node| traffic::rate_limits(node, |number| format!("inbound#{number}"), report));
    let max_request_bytes = fields.or("max_request_size", 0, report, traffic::max_request_size);
    let traffic =
        TrafficParams { limits: limits.unwrap_or_default(), max_request_bytes, ..TrafficParams::default() };
    let concurrency = fields.or("concurrency", defaults::CONCURRENCY, report, traffic::concurrency);
    let params = LocalServiceParams {
        name: name?,
        address: address?,
        tags,
        protocol,
        timeout,
        connect_timeout: inherited.connect_timeout,
        idle_timeout: inherited.idle_timeout,
        health_check,
        traffic,
        concurrency,
    };
    Some((params, address_node.map_or(node.span, |node| node.span)))
}
