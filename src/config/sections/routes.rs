//! `routes`: what happens to which requests, in the order of the file.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use http::{Method, StatusCode};

use super::{http_edits, load_balancer, locality, retry, route_match, services, services::Service, traffic};
use crate::{
    config::{
        codes,
        defaults::Inherited,
        diagnostic::Severity,
        fields::{Fields, MayLack, list},
        form,
        report::{Finding, Report, error, warning},
        schema,
        span::Span,
        suggest::closest,
        tree::Node,
        value,
    },
    policy::{
        route::{
            Action, DirectResponse, PathPattern, PathRewrite, Redirect, Rewrite, RouteMatch, RouteParams,
            Target,
        },
        traffic::{MirrorParams, TrafficParams},
    },
    snapshot::{EndpointSource, Protocol},
    types::Tags,
};

const MAX_WEIGHT: u32 = 1000;
const MAX_BODY: usize = 64 * 1024;

/// The routes that could be read, and what is needed to check them against the rest of the file.
#[derive(Debug, Default)]
pub(in crate::config) struct Routes {
    pub(in crate::config) params: Vec<RouteParams>,
    /// Where each of `params` stands.
    pub(in crate::config) spans: Vec<Span>,
    /// Every service that is named.
    references: Vec<Reference>,
}

/// A service that a route names.
#[derive(Debug)]
struct Reference {
    service: Arc<str>,
    /// Which of its endpoints.
    subset: Tags,
    span: Span,
    secret: bool,
    /// The route takes nothing but CONNECT.
    connects: bool,
}

impl Reference {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let service = form::service_name(node, report)?;
        let subset = Tags::default();
        Some(Self { service, subset, span: node.span, secret: node.secret(), connects: false })
    }
}

pub(in crate::config) fn read(root: &Fields<'_>, inherited: &Inherited, report: &mut Report) -> Routes {
    let mut routes = Routes::default();
    let items =
        root.optional("routes", report, |node, report| list(node, "routes", report)).unwrap_or_default();
    let mut names: HashMap<Arc<str>, Span> = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let Some(route) = route(item, index + 1, inherited, &mut routes.references, report) else { continue };
        if let Some(first) = names.insert(route.params.name.clone(), route.name_span) {
            report.add::<()>(
                error(
                    codes::DUPLICATE_NAME,
                    route.name_span,
                    format!("two routes are called `{}`", route.params.name),
                )
                .label("again here")
                .also(first, "first here")
                .help("give this one another `name`"),
            );
        }
        routes.spans.push(item.span);
        routes.params.push(route.params);
    }
    routes
}

struct Named {
    params: RouteParams,
    name_span: Span,
}

fn route(
    node: &Node,
    number: usize,
    inherited: &Inherited,
    references: &mut Vec<Reference>,
    report: &mut Report,
) -> Option<Named> {
    let fields = Fields::open(node, &schema::ROUTE, report)?;
    let name = fields.optional("name", report, form::route_name);
    let matcher = fields.optional("match", report, route_match::read).unwrap_or_default();
    let first = references.len();
    let action = action(&fields, &matcher, references, report);
    for reference in &mut references[first..] {
        reference.connects = matcher.methods == [Method::CONNECT];
    }
    let timeout = fields.or("timeout", inherited.timeout, report, value::limit);
    let retry_node = fields.get("retry");
    let retry = fields.or("retry", inherited.retry.clone(), report, |node, report| {
        retry::read(node, &inherited.retry, report)
    });
    retry::check_per_try(retry_node, &retry, timeout, report);
    let (request_headers, response_headers) =
        fields.optional("headers", report, http_edits::read).unwrap_or_default();
    let mut tools = traffic(&fields, references, report);
    let action = action?;
    let name = name.unwrap_or_else(|| default_name(&action, number));
    if let Some(node) = fields.get("rate_limit") {
        let limit_name = |number| if number == 1 { name.to_string() } else { format!("{name}#{number}") };
        tools.limits = traffic::rate_limits(node, limit_name, report);
    }
    let params = RouteParams {
        name,
        matcher,
        action,
        timeout,
        retry,
        request_headers,
        response_headers,
        traffic: tools,
    };
    Some(Named { params, name_span: fields.get("name").map_or(node.span, |node| node.span) })
}

/// Everything that stands beside the action, but for rate limits, which are called after the route.
fn traffic(fields: &Fields<'_>, references: &mut Vec<Reference>, report: &mut Report) -> TrafficParams {
    for key in ["mirror", "sticky", "subset"] {
        let (Some(node), None, None) = (fields.get(key), fields.get("service"), fields.get("split")) else {
            continue;
        };
        report.add::<()>(
            error(codes::CHOICE, node.span, format!("`{key}` has no effect here"))
                .label("nothing is sent to a service"),
        );
    }
    let mirror = fields.optional("mirror", report, traffic::mirror).and_then(|(node, percent)| {
        let reference = Reference::read(node, report)?;
        let service = reference.service.clone();
        references.push(reference);
        Some(MirrorParams { service, percent })
    });
    let sticky = fields.optional("sticky", report, load_balancer::read_hash_on);
    if let (Some(node), Some(_)) = (fields.get("sticky"), fields.get("service")) {
        report.add::<()>(
            error(codes::CHOICE, node.span, "`sticky` has no effect with `service`")
                .label("only a `split` has something to stick to"),
        );
    }
    if let (Some(node), Some(_)) = (fields.get("subset"), fields.get("split")) {
        report.add::<()>(
            error(codes::CHOICE, node.span, "`subset` has no effect with `split`")
                .label("the route leads to several services")
                .help("give it to the entries of the split: `{ service: api, subset: { version: v2 }, weight: 1 }`"),
        );
    }
    TrafficParams {
        limits: Vec::new(),
        fault: fields.optional("fault", report, traffic::fault),
        mirror,
        sticky,
        max_request_bytes: fields.or("max_request_size", 0, report, traffic::max_request_size),
    }
}

/// `<service>-<n>`, shortened so that it stays a name.
fn default_name(action: &Action, number: usize) -> Arc<str> {
    let base = match action {
        Action::Forward { targets, .. } => targets.first().map_or("split", |target| &target.service),
        Action::Redirect(_) => "redirect",
        Action::Direct(_) => "direct",
    };
    let suffix = format!("-{number}");
    let room = form::LONGEST_NAME - suffix.len();
    format!("{}{suffix}", base.get(..room).unwrap_or(base)).into()
}

fn action(
    fields: &Fields<'_>,
    matcher: &RouteMatch,
    references: &mut Vec<Reference>,
    report: &mut Report,
) -> Option<Action> {
    let has_prefix = matches!(matcher.path, PathPattern::Prefix(_));
    let (key, node) =
        fields.one_of(&["service", "split", "redirect", "direct_response"], MayLack::No, report)?;
    let rewrite = fields.get("rewrite");
    if let Some(rewrite) = rewrite.filter(|_| !matches!(key, "service" | "split")) {
        report.add::<()>(
            error(codes::CHOICE, rewrite.span, format!("`rewrite` has no effect with `{key}`"))
                .label("nothing is sent to a service"),
        );
    }
    match key {
        "service" => {
            let reference = Reference::read(node, report)?;
            let subset = fields.or("subset", Tags::default(), report, locality::subset);
            let targets =
                vec![Target { service: reference.service.clone(), subset: subset.clone(), weight: 1 }];
            references.push(Reference { subset, ..reference });
            Some(Action::Forward { targets, rewrite: read_rewrite(rewrite, has_prefix, report) })
        }
        "split" => {
            let targets = split(node, references, report)?;
            Some(Action::Forward { targets, rewrite: read_rewrite(rewrite, has_prefix, report) })
        }
        "redirect" => redirect(node, has_prefix, report).map(Action::Redirect),
        _ => direct(node, report).map(Action::Direct),
    }
}

fn split(node: &Node, references: &mut Vec<Reference>, report: &mut Report) -> Option<Vec<Target>> {
    let items = list(node, "services with weights", report)?;
    let mut targets = Vec::with_capacity(items.len());
    for item in items {
        let Some(fields) = Fields::open(item, &schema::SPLIT, report) else { continue };
        let weight = fields.require("weight", "weight: 1", report);
        let weight = weight.and_then(|node| value::number_u32(node, 0..=MAX_WEIGHT, report));
        let Some(node) = fields.require("service", "service: api", report) else { continue };
        let Some(reference) = Reference::read(node, report) else { continue };
        let subset = fields.or("subset", Tags::default(), report, locality::subset);
        let weight = weight.unwrap_or(1);
        targets.push(Target { service: reference.service.clone(), subset: subset.clone(), weight });
        references.push(Reference { subset, ..reference });
    }
    if targets.iter().all(|target| target.weight == 0) && targets.len() == items.len() {
        return report.add(
            error(codes::NO_WEIGHT, node.span, "no service of the split gets any request")
                .label("all weights are 0")
                .help("give at least one service a weight above 0"),
        );
    }
    Some(targets)
}

fn read_rewrite(node: Option<&Node>, has_prefix: bool, report: &mut Report) -> Rewrite {
    let fields = node.and_then(|node| Fields::open(node, &schema::REWRITE, report));
    fields.map_or_else(Rewrite::default, |fields| Rewrite {
        path: path_rewrite(&fields, has_prefix, report),
        host: fields.optional("host", report, form::authority),
    })
}

fn path_rewrite(fields: &Fields<'_>, has_prefix: bool, report: &mut Report) -> Option<PathRewrite> {
    let (key, node) = fields.one_of(&["path", "path_prefix"], MayLack::Yes, report)?;
    let path = form::path(node, report)?;
    if key == "path" {
        return Some(PathRewrite::Full(path));
    }
    if has_prefix {
        return Some(PathRewrite::Prefix(path));
    }
    report.add(
        error(codes::PREFIX_REWRITE, node.span, "there is no prefix to replace")
            .label("the route has no `match.path_prefix`")
            .help("match by `path_prefix`, or replace the whole path with `path`"),
    )
}

fn redirect(node: &Node, has_prefix: bool, report: &mut Report) -> Option<Redirect> {
    let fields = Fields::open(node, &schema::REDIRECT, report)?;
    let redirect = Redirect {
        status: fields.or("status", StatusCode::FOUND, report, |node, report| {
            status(
                node,
                |status| matches!(status, 301 | 302 | 303 | 307 | 308),
                "301, 302, 303, 307 or 308",
                report,
            )
        }),
        scheme: fields.optional("scheme", report, |node, report| {
            value::word(node, &[("https", "https"), ("http", "http")], &[], report)
        }),
        host: fields.optional("host", report, form::host),
        port: fields.optional("port", report, |node, report| {
            value::number(node, 1..=65_535, report).and_then(|port| u16::try_from(port).ok())
        }),
        path: path_rewrite(&fields, has_prefix, report),
    };
    let target = ["scheme", "host", "port", "path", "path_prefix"];
    if target.iter().all(|key| fields.get(key).is_none()) {
        return report.add(
            error(codes::CHOICE, node.span, "the redirect leads back to where it came from")
                .label(format!("needs one of {}", target.join(", "))),
        );
    }
    Some(redirect)
}

fn direct(node: &Node, report: &mut Report) -> Option<DirectResponse> {
    let fields = Fields::open(node, &schema::DIRECT_RESPONSE, report)?;
    let status_node = fields.require("status", "status: 200", report);
    let status = status_node
        .and_then(|node| status(node, |status| (200..=599).contains(&status), "200 to 599", report));
    let body = fields.optional("body", report, value::text).unwrap_or_default();
    if body.len() > MAX_BODY {
        return report
            .add(error(codes::OUT_OF_RANGE, node.span, "the body is larger than 64KiB").label("too large"));
    }
    Some(DirectResponse { status: status?, body: Bytes::copy_from_slice(body.as_bytes()) })
}

fn status(
    node: &Node,
    allowed: impl Fn(u64) -> bool,
    choice: &str,
    report: &mut Report,
) -> Option<StatusCode> {
    let number = value::number(node, 100..=999, report)?;
    let status = u16::try_from(number).ok().and_then(|number| StatusCode::from_u16(number).ok());
    status.filter(|_| allowed(number)).or_else(|| {
        report.add(
            error(codes::BAD_STATUS, node.span, format!("{number} cannot be sent here"))
                .label(format!("expected {choice}")),
        )
    })
}

impl Routes {
    /// Every service that a route names.
    pub(in crate::config) fn named(&self) -> impl Iterator<Item = services::Named> {
        // What takes nothing but CONNECT leads to bytes.
        self.references.iter().map(|Reference { service, span, connects, .. }| services::Named {
            service: Arc::clone(service),
            span: *span,
            is_tcp: *connects,
        })
    }

    /// Reports every service that a route names and nobody defines; `defined` are the services with the places
    /// of their names.
    pub(in crate::config) fn check_references(&self, defined: &HashMap<Arc<str>, Span>, report: &mut Report) {
        let mut names: Vec<&str> = defined.keys().map(|name| &**name).collect();
        names.sort_unstable();
        for reference in self.references.iter().filter(|reference| !defined.contains_key(&reference.service))
        {
            report.add_with(Severity::Error, || reference.unknown(&names, defined));
        }
    }

    /// Reports every route that would send requests to a service that takes bytes.
    pub(in crate::config) fn check_protocols(&self, services: &[Service], report: &mut Report) {
        let is_tcp = |service: &&Service| service.params.protocol == Protocol::Tcp;
        let tcp: HashSet<&str> =
            services.iter().filter(is_tcp).map(|service| &*service.params.name).collect();
        for Reference { service, span, .. } in self.references.iter().filter(|one| !one.connects) {
            if tcp.contains(&**service) {
                report.add::<()>(
                    error(codes::NOT_TCP, *span, format!("`{service}` is a TCP service"))
                        .label("requests cannot be routed to it")
                        .help("point a listener under `listeners.tcp` at it, or give the route `methods: [CONNECT]`"),
                );
            }
        }
    }

    /// Warns of every subset in which nobody is.
    pub(in crate::config) fn check_subsets(&self, services: &[Service], report: &mut Report) {
        for Reference { service, subset, span, .. } in
            self.references.iter().filter(|one| !one.subset.is_empty())
        {
            let Some(found) = services.iter().find(|found| found.params.name == *service) else { continue };
            let (members, help) = match &found.params.source {
                EndpointSource::Static(endpoints) => (
                    endpoints.iter().any(|endpoint| endpoint.tags.contain(subset)),
                    "give endpoints their tags: `{ address: 10.0.0.1:80, tags: { version: v2 } }`",
                ),
                EndpointSource::Dns { .. } => (false, "endpoints found by DNS have no tags"),
                // Who has which tags is known when they come.
                EndpointSource::Mesh => continue,
            };
            if !members {
                report.add::<()>(
                    warning(
                        codes::EMPTY_SUBSET,
                        *span,
                        format!("no endpoint of `{service}` is in the subset"),
                    )
                    .label("nobody has these tags")
                    .help(help),
                );
            }
        }
    }
}

impl Reference {
    /// The finding that nobody defines the service.
    fn unknown(&self, names: &[&str], defined: &HashMap<Arc<str>, Span>) -> Finding {
        // Comparing with all of a great many names, for each of many routes, would keep a reload waiting.
        const MOST_COMPARED: usize = 1000;
        let Self { service, subset: _, span, secret, connects: _ } = self;
        let label = if *secret { "no such service".to_owned() } else { format!("no `services.{service}`") };
        let finding =
            error(codes::UNKNOWN_SERVICE, *span, "route sends to a service that does not exist").label(label);
        let similar = closest(service, names.iter().copied().take(MOST_COMPARED), &[]);
        match similar.and_then(|name| defined.get(name)) {
            Some(place) => {
                finding.also(*place, "a service with a similar name is defined here").suggest(similar)
            }
            None if names.is_empty() => finding.note("no services are defined"),
            None => finding.note(format!("services: {}", shorten(names))),
        }
    }
}

/// At most ten names.
fn shorten(names: &[&str]) -> String {
    let shown = names.iter().take(10).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 10 { format!("{shown} and {} more", names.len() - 10) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_without_a_name_is_called_after_its_service_and_its_place() {
        let action = |service: &str| Action::Forward {
            targets: vec![Target { service: service.into(), subset: Tags::default(), weight: 1 }],
            rewrite: Rewrite::default(),
        };
        assert_eq!(&*default_name(&action("api"), 3), "api-3");
        assert_eq!(default_name(&action(&"x".repeat(64)), 12).len(), 64);
    }
}
