//! `listeners`: where the sidecar listens, and that no two listeners want the same place. The admin API is in `admin`.

use std::net::SocketAddr;

use super::{
    edge,
    tcp_listeners::{self, Forwards},
};
use crate::{
    config::{
        codes, defaults,
        fields::Fields,
        form,
        report::{Report, error},
        schema,
        span::Span,
        tree::Node,
        value,
    },
    proxy::{EscapedSlashes, ListenerParams, ListenersParams, Normalisation, Underscores},
    snapshot::PassthroughParams,
};

/// hyper needs 8 KiB for its read buffer.
const SMALLEST_HEAD: u32 = 8 * 1024;
const LARGEST_HEAD: u32 = 1024 * 1024;

/// An address that will be bound, with the place it was written at.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) struct Bound {
    pub(in crate::config) name: &'static str,
    pub(in crate::config) address: SocketAddr,
    pub(in crate::config) span: Span,
}

pub(in crate::config) fn read(
    root: &Fields<'_>,
    bound: &mut Vec<Bound>,
    forwards: &mut Vec<Forwards>,
    report: &mut Report,
) -> ListenersParams {
    let fields =
        root.optional("listeners", report, |node, report| Fields::open(node, &schema::LISTENERS, report));
    let inbound = fields.as_ref().and_then(|fields| fields.get("inbound"));
    let outbound = fields.as_ref().and_then(|fields| fields.get("outbound"));
    let mut params = ListenersParams {
        inbound: listener(inbound, "listeners.inbound", (defaults::INBOUND, true), root.span, bound, report),
        outbound: listener(
            outbound,
            "listeners.outbound",
            (defaults::OUTBOUND, false),
            root.span,
            bound,
            report,
        ),
        tcp: Vec::new(),
        tcp_idle_timeout: defaults::TCP_IDLE_TIMEOUT,
        detect_timeout: None,
        transparent: false,
        max_connections: defaults::MAX_LISTENER_CONNECTIONS,
        connection_rate: None,
        max_requests: 0,
        header_timeout: defaults::HEADER_TIMEOUT,
        idle_timeout: defaults::DOWNSTREAM_IDLE_TIMEOUT,
        request_timeout: None,
        stream_idle_timeout: defaults::STREAM_IDLE_TIMEOUT,
        max_header_bytes: defaults::MAX_HEADER_BYTES,
        max_headers: defaults::MAX_HEADERS,
        normalisation: Normalisation::default(),
        // Its own section is read by sections/mtls.rs.
        mtls: defaults::MTLS,
    };
    if let Some(fields) = fields {
        params.transparent = fields.or("transparent", params.transparent, report, value::flag);
        params.detect_timeout = params.transparent.then_some(defaults::DETECT_TIMEOUT);
        params.max_connections =
            fields.or("max_connections", params.max_connections, report, |node, report| {
                value::number_u32(node, 1..=1_000_000, report)
            });
        params.connection_rate = fields.or("connection_rate", None, report, super::traffic::connection_rate);
        params.max_requests = fields
            .or("max_requests", 0, report, |node, report| value::number_u32(node, 0..=1_000_000, report));
        params.header_timeout = fields.or("header_timeout", params.header_timeout, report, value::wait);
        params.idle_timeout = fields.or("idle_timeout", params.idle_timeout, report, value::wait);
        params.request_timeout = fields.or("request_timeout", None, report, value::limit);
        params.stream_idle_timeout =
            fields.or("stream_idle_timeout", params.stream_idle_timeout, report, value::wait);
        params.max_header_bytes =
            fields.or("max_header_size", params.max_header_bytes, report, |node, report| {
                value::size(node, SMALLEST_HEAD..=LARGEST_HEAD, report)
            });
        params.max_headers = fields.or("max_headers", params.max_headers, report, |node, report| {
            value::number_u32(node, 1..=1000, report)
        });
        params.normalisation = fields.or("normalize", params.normalisation, report, normalize);
        params.tcp_idle_timeout = fields.or("tcp_idle_timeout", params.tcp_idle_timeout, report, value::wait);
        params.detect_timeout = fields.or("detect_timeout", params.detect_timeout, report, value::limit);
        if let Some(node) = fields.get("tcp") {
            params.tcp = tcp_listeners::read(node, &params, bound, forwards, report);
        }
    }
    params
}

pub(in crate::config) const ESCAPED_SLASHES: [(&str, EscapedSlashes); 3] = [
    ("keep", EscapedSlashes::Keep),
    ("unescape", EscapedSlashes::Unescape),
    ("reject", EscapedSlashes::Reject),
];

pub(in crate::config) const UNDERSCORES: [(&str, Underscores); 3] =
    [("allow", Underscores::Allow), ("drop", Underscores::Drop), ("reject", Underscores::Reject)];

fn normalize(node: &Node, report: &mut Report) -> Option<Normalisation> {
    let fields = Fields::open(node, &schema::NORMALIZE, report)?;
    let usual = Normalisation::default();
    Some(Normalisation {
        escaped_slashes: fields.or("escaped_slashes", usual.escaped_slashes, report, |node, report| {
            value::word(node, &ESCAPED_SLASHES, &[], report)
        }),
        merge_slashes: fields.or("merge_slashes", usual.merge_slashes, report, value::flag),
        underscores: fields.or("headers_with_underscores", usual.underscores, report, |node, report| {
            value::word(node, &UNDERSCORES, &[], report)
        }),
    })
}

/// What becomes of redirected connections, which both the data plane and the snapshot must agree upon.
pub(in crate::config) fn passthrough(listeners: &ListenersParams) -> Option<PassthroughParams> {
    let allowed =
        |listener: &Option<ListenerParams>| listener.as_ref().is_none_or(|params| params.passthrough);
    listeners.transparent.then(|| PassthroughParams {
        inbound: allowed(&listeners.inbound),
        outbound: allowed(&listeners.outbound),
    })
}

fn listener(
    node: Option<&Node>,
    name: &'static str,
    (mut address, mut balance_connections): (SocketAddr, bool),
    absent: Span,
    bound: &mut Vec<Bound>,
    report: &mut Report,
) -> Option<ListenerParams> {
    let mut span = absent;
    let (mut requires_proxy_header, mut detect, mut passthrough) = (false, false, true);
    let mut tls = None;
    if let Some(fields) = node.and_then(|node| Fields::open(node, &schema::LISTENER, report)) {
        let enabled = fields.or("enabled", true, report, value::flag);
        address = fields.or("address", address, report, form::listen_address);
        span = fields.get("address").map_or(fields.span, |node| node.span);
        let words = [("exact", true), ("kernel", false)];
        balance_connections = fields.or("connection_balance", balance_connections, report, |node, report| {
            value::word(node, &words, &[], report)
        });
        detect = fields.or("detect", false, report, value::flag);
        if let Some(node) = fields.get("detect").filter(|_| name != "listeners.inbound") {
            let message = "`detect` has no effect here: what is sent to services is routed by its content";
            report.add::<()>(
                error(codes::CHOICE, node.span, message)
                    .label("only for `listeners.inbound`")
                    .help("a TCP service has a listener of its own under `listeners.tcp`"),
            );
        }
        requires_proxy_header = fields.or("proxy_protocol", false, report, proxy_protocol);
        passthrough = fields.or("passthrough", true, report, value::flag);
        tls = fields.optional("tls", report, edge::read);
        if let Some(node) = fields.get("tls").filter(|_| name != "listeners.outbound") {
            let message = "`tls` has no effect here: callers of the mesh prove who they are, by `mtls`";
            report.add::<()>(error(codes::CHOICE, node.span, message).label("only for `listeners.outbound`"));
        }
        if !enabled {
            return None;
        }
    }
    bound.push(Bound { name, address, span });
    Some(ListenerParams { address, balance_connections, requires_proxy_header, detect, passthrough, tls })
}

/// Whether a PROXY header must come first.
pub(super) fn proxy_protocol(node: &Node, report: &mut Report) -> Option<bool> {
    value::word(node, &[("none", false), ("required", true)], &[], report)
}

/// Reports every pair of addresses that cannot both be bound.
pub(in crate::config) fn check_clashes(bound: &[Bound], report: &mut Report) {
    for (index, later) in bound.iter().enumerate() {
        let Some(earlier) = bound.iter().take(index).find(|earlier| clash(earlier.address, later.address))
        else {
            continue;
        };
        // Point at the one that was written, if the other is a default.
        let (at, other) =
            if later.span.start >= earlier.span.start { (later, earlier) } else { (earlier, later) };
        let message = format!("`{}` and `{}` want the same port", earlier.name, later.name);
        let finding = error(codes::ADDRESS_CLASH, at.span, message).label(format!("{} is taken", at.address));
        report.add::<()>(if other.span == at.span || other.span.is_empty() {
            finding
        } else {
            finding.also(other.span, format!("`{}` is {}", other.name, other.address))
        });
    }
}

/// Whether the kernel refuses the second of the two.
pub(in crate::config) fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port()
        && a.port() != 0
        && (a.ip() == b.ip()
            || (a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4()))
            || (b.ip().is_unspecified() && (b.is_ipv6() || a.is_ipv4())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_addresses_take_the_port_of_all_others() {
        let clash = |a: &str, b: &str| clash(a.parse().unwrap(), b.parse().unwrap());
        assert!(clash("0.0.0.0:1", "127.0.0.1:1"));
        assert!(clash("127.0.0.1:1", "[::]:1"));
        assert!(clash("127.0.0.1:1", "127.0.0.1:1"));
        assert!(!clash("127.0.0.1:1", "127.0.0.2:1"));
        assert!(!clash("0.0.0.0:1", "[::1]:1"));
        assert!(!clash("0.0.0.0:0", "127.0.0.1:0"));
    }
}
