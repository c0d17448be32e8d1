//! `match` of a route: which requests it takes.

use crate::{
    config::{
        codes,
        fields::{Fields, MayLack, each},
        form,
        report::{Report, error},
        schema,
        tree::Node,
        value,
    },
    policy::route::{HeaderMatch, HostPattern, PathPattern, QueryMatch, RouteMatch, ValueMatch},
};

pub(in crate::config) fn read(node: &Node, report: &mut Report) -> Option<RouteMatch> {
    let fields = Fields::open(node, &schema::MATCH, report)?;
    let hosts = fields.optional("hosts", report, |node, report| each(node, "hosts", report, host_pattern));
    let path = path_pattern(&fields, report);
    let methods =
        fields.optional("methods", report, |node, report| each(node, "methods", report, form::method));
    let headers = fields.optional("headers", report, |node, report| each(node, "conditions", report, header));
    let query = fields.optional("query", report, |node, report| each(node, "conditions", report, query));
    Some(RouteMatch {
        hosts: hosts.unwrap_or_default(),
        path: path.unwrap_or_default(),
        methods: methods.unwrap_or_default(),
        headers: headers.unwrap_or_default(),
        query: query.unwrap_or_default(),
    })
}

/// One of `path`, `path_prefix` and `path_regex`; `None` if there is none, or a wrong one.
pub(super) fn path_pattern(fields: &Fields<'_>, report: &mut Report) -> Option<PathPattern> {
    let (key, node) = fields.one_of(&["path", "path_prefix", "path_regex"], MayLack::Yes, report)?;
    match key {
        "path" => form::path(node, report).map(PathPattern::Exact),
        "path_prefix" => form::path(node, report).map(PathPattern::Prefix),
        _ => form::regex(node, report).map(PathPattern::Regex),
    }
}

/// A host, or `*.suffix`.
pub(super) fn host_pattern(node: &Node, report: &mut Report) -> Option<HostPattern> {
    let text = value::text(node, report)?;
    match text.strip_prefix('*') {
        None => form::host(node, report).map(HostPattern::Exact),
        Some(suffix) if suffix.strip_prefix('.').is_some_and(form::is_host) => {
            Some(HostPattern::Suffix(suffix.to_ascii_lowercase()))
        }
        Some(_) => report.add(
            error(codes::MALFORMED, node.span, "not a host pattern")
                .label("`*` stands for whole labels at the start")
                .help("for example `\"*.api.mesh\"`; leave `hosts` out to match any host"),
        ),
    }
}

/// A condition on a header.
pub(super) fn header(node: &Node, report: &mut Report) -> Option<HeaderMatch> {
    let fields = Fields::open(node, &schema::VALUE_MATCH, report)?;
    let name =
        fields.require("name", "name: x-canary", report).and_then(|node| form::header_name(node, report));
    let value = condition(&fields, report);
    Some(HeaderMatch { name: name?, value: value? })
}

fn query(node: &Node, report: &mut Report) -> Option<QueryMatch> {
    let fields = Fields::open(node, &schema::VALUE_MATCH, report)?;
    let name = fields.require("name", "name: page", report).and_then(|node| value::text(node, report));
    let value = condition(&fields, report);
    Some(QueryMatch { name: name?.to_owned(), value: value? })
}

fn condition(fields: &Fields<'_>, report: &mut Report) -> Option<ValueMatch> {
    let (key, node) = fields.one_of(&["exact", "prefix", "regex", "present"], MayLack::No, report)?;
    match key {
        "exact" => value::text(node, report).map(|text| ValueMatch::Exact(text.to_owned())),
        "prefix" => value::text(node, report).map(|text| ValueMatch::Prefix(text.to_owned())),
        "regex" => form::regex(node, report).map(ValueMatch::Regex),
        _ => value::flag(node, report).map(ValueMatch::Present),
    }
}
