//! Reads texts of a certain form: addresses, names, paths, hosts, headers, methods, regular expressions.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc};

use http::{HeaderName, HeaderValue, Method};
use regex::{Regex, RegexBuilder};

use super::{
    codes,
    report::{Finding, Report, error},
    span::Span,
    tree::{Entry, Node, Scalar},
    value::{malformed, shown, text, text_scalar},
};
use crate::types::EndpointAddress;

/// Bound of the compiled form of one expression, so that a configuration cannot take the memory.
const REGEX_SIZE: usize = 1024 * 1024;
/// Names are labels of metrics.
pub(super) const LONGEST_NAME: usize = 64;

fn bad(node: &Node, scalar: &Scalar, what: &str) -> Finding {
    malformed(codes::MALFORMED, node, format!("{} is not {what}", shown(scalar)))
}

/// `ip:port` or `unix:/path` to listen at; port 0 lets the kernel choose.
pub(super) fn listen_place(node: &Node, report: &mut Report) -> Option<EndpointAddress> {
    let scalar = text_scalar(node, "an address", "127.0.0.1:15000", report)?;
    if !scalar.text.starts_with("unix:") {
        return listen_address(node, report).map(EndpointAddress::Tcp);
    }
    scalar.text.parse().ok().or_else(|| {
        report.add(
            bad(node, scalar, "an address to listen at")
                .label("a Unix socket needs an absolute path")
                .help("for example `unix:/run/outrigger/admin.sock`"),
        )
    })
}

/// `ip:port` to listen at; port 0 lets the kernel choose.
pub(super) fn listen_address(node: &Node, report: &mut Report) -> Option<SocketAddr> {
    let scalar = text_scalar(node, "an address", "127.0.0.1:15000", report)?;
    if scalar.text.starts_with("unix:") {
        let message = "listening on a Unix socket is not available in this version";
        return report.add(malformed(codes::LATER_WORD, node, message).label("not built yet"));
    }
    scalar.text.parse().ok().or_else(|| {
        report.add(
            bad(node, scalar, "an address to listen at")
                .label("expected `ip:port`")
                .help("for example `127.0.0.1:15000`, `\"0.0.0.0:15006\"` or `\"[::]:15006\"`"),
        )
    })
}

/// `ip:port` or `unix:/path` to connect to.
pub(super) fn endpoint_address(node: &Node, report: &mut Report) -> Option<EndpointAddress> {
    let scalar = text_scalar(node, "an address", "127.0.0.1:8080", report)?;
    match EndpointAddress::from_str(&scalar.text) {
        Ok(address) => Some(address),
        Err(reason) => {
            let finding = bad(node, scalar, "an address to connect to").label(reason.to_string());
            let host = scalar.text.rsplit_once(':').map(|(host, _)| host);
            let named =
                host.is_some_and(|host| is_host(host) && host.contains(|c: char| c.is_ascii_alphabetic()));
            report.add(match named && !scalar.secret {
                true => finding.help(format!("names are resolved under `dns: {}`", scalar.text)),
                false => finding,
            })
        }
    }
}

/// A name of at most 64 letters, digits and `._-`, and of `also`.
pub(super) fn is_name(name: &str, also: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c) || also.contains(c);
    (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(allowed)
}

/// The finding for a name that is none.
pub(super) fn bad_name(span: Span, what: &str, also: &str) -> Finding {
    error(codes::MALFORMED, span, format!("not a name of a {what}"))
        .label("names are labels of metrics")
        .help(format!("1 to {LONGEST_NAME} letters, digits and `._-{also}`"))
}

/// The name of a service.
pub(super) fn service_name(node: &Node, report: &mut Report) -> Option<Arc<str>> {
    name(node, "service", "", report)
}

/// The name of a node of the mesh.
pub(super) fn node_name(node: &Node, report: &mut Report) -> Option<Arc<str>> {
    name(node, "node", "", report)
}

/// The name of a mesh.
pub(super) fn mesh_name(node: &Node, report: &mut Report) -> Option<Arc<str>> {
    name(node, "mesh", "", report)
}

/// The name of a listener.
pub(super) fn listener_name(node: &Node, report: &mut Report) -> Option<Arc<str>> {
    name(node, "listener", "", report)
}

/// The name of a route.
pub(super) fn route_name(node: &Node, report: &mut Report) -> Option<Arc<str>> {
    name(node, "route", "/", report)
}

/// The name of a rule of `intentions`.
pub(super) fn rule_name(node: &Node, report: &mut Report) -> Option<Arc<str>> {
    name(node, "rule", "/", report)
}

fn name(node: &Node, what: &str, also: &str, report: &mut Report) -> Option<Arc<str>> {
    let name = text(node, report)?;
    if is_name(name, also) { Some(name.into()) } else { report.add(bad_name(node.span, what, also)) }
}

/// A path that begins with `/` and consists of what may stand in a request target; with a query if
/// `query_allowed`.
fn target<'n>(node: &'n Node, query: Query, report: &mut Report) -> Option<&'n str> {
    let scalar = text_scalar(node, "a path", "/api", report)?;
    let visible = |c: char| c.is_ascii_graphic() && c != '#' && (query == Query::Allowed || c != '?');
    if scalar.text.starts_with('/') && scalar.text.chars().all(visible) {
        return Some(&scalar.text);
    }
    let label = if scalar.text.starts_with('/') {
        "contains what cannot stand in a path (percent-encode it)"
    } else {
        "a path begins with `/`"
    };
    report.add(bad(node, scalar, "a path").label(label).help("for example `/api`"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Query {
    Allowed,
    Refused,
}

/// A path without a query.
pub(super) fn path(node: &Node, report: &mut Report) -> Option<String> {
    target(node, Query::Refused, report).map(str::to_owned)
}

/// A path, perhaps with a query.
pub(super) fn path_and_query(node: &Node, report: &mut Report) -> Option<String> {
    target(node, Query::Allowed, report).map(str::to_owned)
}

/// The absolute path of a file.
pub(super) fn file_path(node: &Node, report: &mut Report) -> Option<PathBuf> {
    let scalar = text_scalar(node, "a path", "/etc/ssl/ca.pem", report)?;
    if scalar.text.starts_with('/') && !scalar.text.contains('\0') {
        return Some(PathBuf::from(&scalar.text));
    }
    report.add(bad(node, scalar, "the path of a file").label("expected an absolute path"))
}

/// Letters, digits, `-`, `_` and `.`, or an IPv6 address in brackets.
pub(super) fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

/// A host without a port, in lower case.
pub(super) fn host(node: &Node, report: &mut Report) -> Option<String> {
    let scalar = text_scalar(node, "a host", "api.internal", report)?;
    if is_host(&scalar.text) {
        return Some(scalar.text.to_ascii_lowercase());
    }
    report.add(bad(node, scalar, "a host").label("expected a host name without a port"))
}

/// A host, perhaps with a port, as it stands in the Host header.
pub(super) fn authority(node: &Node, report: &mut Report) -> Option<HeaderValue> {
    let scalar = text_scalar(node, "a host", "api.internal", report)?;
    let (name, port) = match scalar.text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (scalar.text.as_str(), None),
    };
    let port_ok = port.is_none_or(|port| port.parse::<u16>().is_ok());
    match HeaderValue::from_str(&scalar.text) {
        Ok(value) if port_ok && is_host(name) => Some(value),
        _ => report.add(bad(node, scalar, "a host").label("expected `host` or `host:port`")),
    }
}

/// The name of a header field, in lower case.
pub(super) fn header_name(node: &Node, report: &mut Report) -> Option<HeaderName> {
    let name = text(node, report)?;
    header_name_at(name, node.span, report)
}

/// As [`header_name`], for a key of a mapping.
pub(super) fn header_name_at(name: &str, span: Span, report: &mut Report) -> Option<HeaderName> {
    HeaderName::from_str(name).ok().or_else(|| {
        report.add(
            error(codes::MALFORMED, span, "not the name of a header")
                .label("letters, digits and a few signs such as `-` and `_`"),
        )
    })
}

/// The value of a header field.
pub(super) fn header_value(node: &Node, report: &mut Report) -> Option<HeaderValue> {
    let scalar = text_scalar(node, "text", "\"1\"", report)?;
    match HeaderValue::from_str(&scalar.text) {
        Ok(mut value) => {
            value.set_sensitive(scalar.secret);
            Some(value)
        }
        Err(_) => report.add(
            malformed(codes::MALFORMED, node, "not a header value")
                .label("control characters cannot be sent"),
        ),
    }
}

/// A header field from an entry of a mapping.
pub(super) fn header(entry: &Entry, report: &mut Report) -> Option<(HeaderName, HeaderValue)> {
    let name = header_name_at(&entry.key, entry.key_span, report);
    let value = header_value(&entry.value, report);
    name.zip(value)
}

/// A request method, which is case-sensitive.
pub(super) fn method(node: &Node, report: &mut Report) -> Option<Method> {
    let scalar = text_scalar(node, "a method", "GET", report)?;
    let upper = scalar.text.to_ascii_uppercase();
    match Method::from_bytes(scalar.text.as_bytes()) {
        Ok(method) if scalar.text == upper => Some(method),
        _ => report.add(
            bad(node, scalar, "a method")
                .label("methods are case-sensitive")
                .suggest(Method::from_bytes(upper.as_bytes()).is_ok().then_some(upper.as_str())),
        ),
    }
}

/// An expression that must match the whole value.
pub(super) fn regex(node: &Node, report: &mut Report) -> Option<Regex> {
    let scalar = text_scalar(node, "a regular expression", "/v[0-9]+/.*", report)?;
    // Compiled alone first: `a)(b` would become valid between the brackets of the anchors.
    let compiled =
        compile(&scalar.text).and_then(|_| compile(&format!("{ANCHOR_START}{}{ANCHOR_END}", scalar.text)));
    match compiled {
        Ok(regex) => Some(regex),
        Err(problem) => {
            let reason = problem.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let finding = malformed(codes::BAD_REGEX, node, "the regular expression does not compile");
            report.add(if scalar.secret { finding } else { finding.label(reason) })
        }
    }
}

const ANCHOR_START: &str = "^(?:";
const ANCHOR_END: &str = ")$";

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build()
}

/// The expression as it was written, without the anchors that [`regex()`] put around it.
pub(super) fn show_regex(regex: &Regex) -> &str {
    let whole = regex.as_str();
    whole.strip_prefix(ANCHOR_START).and_then(|rest| rest.strip_suffix(ANCHOR_END)).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_addresses_without_ports() {
        for host in ["api", "api.mesh.", "10.0.0.1", "[::1]", "_http._tcp.x"] {
            assert!(is_host(host), "{host}");
        }
        for wrong in ["", ".", "a..b", "a b", "api:80", "*.api", "[::1", "ü"] {
            assert!(!is_host(wrong), "{wrong}");
        }
    }

    #[test]
    fn names_are_short_and_of_few_characters() {
        assert!(is_name("api-v1.eu_west", ""));
        assert!(is_name("a/b", "/") && !is_name("a/b", ""));
        assert!(!is_name("", "") && !is_name(&"x".repeat(65), "") && !is_name("a b", ""));
    }
}
