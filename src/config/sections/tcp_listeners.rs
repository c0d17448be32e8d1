//! `listeners.tcp`: listeners whose connections are passed on as bytes, each to one service.

use std::{collections::HashMap, sync::Arc};

use super::{
    listeners::{self, Bound},
    route_match,
    services::{Named, Services},
};
use crate::{
    config::{
        codes,
        fields::{Fields, each, list},
        form,
        report::{Report, error},
        schema,
        span::Span,
        suggest::closest,
        tree::Node,
        value,
    },
    proxy::{ListenersParams, ServerNameRoute, TcpListenerParams},
    snapshot::Protocol,
};

/// A service that a TCP listener names.
#[derive(Debug)]
pub(in crate::config) struct Forwards {
    service: Arc<str>,
    span: Span,
}

impl Forwards {
    /// The service that is named.
    pub(in crate::config) fn named(&self) -> Named {
        Named { service: Arc::clone(&self.service), span: self.span, is_tcp: true }
    }
}

/// Reads the list; `common` has the values that all listeners share.
pub(super) fn read(
    node: &Node,
    common: &ListenersParams,
    bound: &mut Vec<Bound>,
    forwards: &mut Vec<Forwards>,
    report: &mut Report,
) -> Vec<TcpListenerParams> {
    let mut names: HashMap<Arc<str>, Span> = HashMap::new();
    let mut listeners = Vec::new();
    for item in list(node, "listeners", report).unwrap_or_default() {
        let Some((listener, name_span)) = listener(item, common, bound, forwards, report) else { continue };
        if let Some(first) = names.insert(Arc::clone(&listener.name), name_span) {
            let message = format!("two TCP listeners are called `{}`", listener.name);
            report.add::<()>(
                error(codes::DUPLICATE_NAME, name_span, message)
                    .label("again here")
                    .also(first, "first here")
                    .help("give this one another `name`"),
            );
        }
        listeners.push(listener);
    }
    listeners
}

fn listener(
    node: &Node,
    common: &ListenersParams,
    bound: &mut Vec<Bound>,
    forwards: &mut Vec<Forwards>,
    report: &mut Report,
) -> Option<(TcpListenerParams, Span)> {
    let fields = Fields::open(node, &schema::TCP_LISTENER, report)?;
    let name_node = fields.require("name", "name: db", report);
    let name = name_node.and_then(|node| form::listener_name(node, report));
    let address_node = fields.require("address", "address: 127.0.0.1:15432", report);
    let address = address_node.and_then(|node| form::listen_address(node, report));
    let requires_proxy_header = fields.or("proxy_protocol", false, report, listeners::proxy_protocol);
    let routes = fields.optional("routes", report, |node, report| {
        each(node, "routes", report, |node, report| server_name_route(node, forwards, report))
    });
    let service = match &routes {
        Some(_) => fields.get("service"),
        None => fields.require("service", "service: postgres", report),
    };
    let lacks_service = service.is_none() && routes.is_none();
    let service = service.and_then(|node| forward(node, forwards, report));
    let idle_timeout = fields.or("idle_timeout", common.tcp_idle_timeout, report, value::wait);
    let max_connections = fields.or("max_connections", common.max_connections, report, |node, report| {
        value::number_u32(node, 1..=1_000_000, report)
    });
    if let (Some(address), Some(node)) = (address, address_node) {
        bound.push(Bound { name: "listeners.tcp", address, span: node.span });
    }
    if lacks_service {
        return None;
    }
    let listener = TcpListenerParams {
        name: name?,
        address: address?,
        requires_proxy_header,
        routes: routes.unwrap_or_default(),
        service,
        idle_timeout,
        max_connections,
    };
    Some((listener, name_node.map_or(fields.span, |node| node.span)))
}

fn server_name_route(
    node: &Node,
    forwards: &mut Vec<Forwards>,
    report: &mut Report,
) -> Option<ServerNameRoute> {
    let fields = Fields::open(node, &schema::SERVER_NAME_ROUTE, report)?;
    let names = fields.require("sni", "sni: [db.example]", report);
    let names = names.and_then(|node| each(node, "names", report, route_match::host_pattern));
    let service = fields.require("service", "service: postgres", report);
    let service = service.and_then(|node| forward(node, forwards, report));
    Some(ServerNameRoute { names: names?, service: service? })
}

/// The name of a service, remembered for the check that it exists.
fn forward(node: &Node, forwards: &mut Vec<Forwards>, report: &mut Report) -> Option<Arc<str>> {
    let service = form::service_name(node, report)?;
    forwards.push(Forwards { service: Arc::clone(&service), span: node.span });
    Some(service)
}

/// Reports every service that a TCP listener names and that nobody defines, or that is not of `protocol: tcp`.
pub(in crate::config) fn check(forwards: &[Forwards], services: &Services, report: &mut Report) {
    let mut names: Vec<&str> = services.names.keys().map(|name| &**name).collect();
    names.sort_unstable();
    for Forwards { service, span } in forwards {
        if !services.names.contains_key(service) {
            report.add::<()>(
                error(codes::UNKNOWN_SERVICE, *span, "listener sends to a service that does not exist")
                    .label(format!("no `services.{service}`"))
                    .suggest(closest(service, names.iter().copied(), &[])),
            );
        }
        // A service that could not be read is reported already.
        let found = services.read.iter().find(|found| found.params.name == *service);
        if found.is_some_and(|found| found.params.protocol != Protocol::Tcp) {
            report.add::<()>(
                error(codes::NOT_TCP, *span, format!("`{service}` is no TCP service"))
                    .label("this listener passes on bytes")
                    .help(format!("set `protocol: tcp` in `services.{service}`")),
            );
        }
    }
}
