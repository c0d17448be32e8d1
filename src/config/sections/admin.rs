//! `admin`: where the admin API and the metrics listen, and who may use them.

use std::net::SocketAddr;

use super::listeners::Bound;
use crate::{
    admin::{Access, AdminParams},
    config::{
        codes, defaults,
        fields::{self, Fields},
        form,
        report::{Report, error, warning},
        schema,
        span::Span,
        tree::{Content, Node},
        value,
    },
    types::{EndpointAddress, Secret},
};

/// 128 bits, if they are random: nobody guesses them at five a second.
const SHORTEST_TOKEN: usize = 16;
/// A line of a header can carry it.
const LONGEST_TOKEN: usize = 1024;

pub(in crate::config) fn read(root: &Fields<'_>, bound: &mut Vec<Bound>, report: &mut Report) -> AdminParams {
    let mut params = AdminParams {
        address: EndpointAddress::Tcp(defaults::ADMIN),
        access: Access::default(),
        metrics_address: Some(defaults::METRICS),
    };
    let (mut admin_span, mut metrics_span) = (root.span, root.span);
    let fields = root.optional("admin", report, |node, report| Fields::open(node, &schema::ADMIN, report));
    if let Some(fields) = fields {
        params.address = fields.or("address", params.address, report, form::listen_place);
        admin_span = fields.get("address").map_or(fields.span, |node| node.span);
        let given = fields.get("token");
        params.access.token = given.and_then(|node| token(node, report));
        params.access.hosts = fields.or("hosts", Vec::new(), report, |node, report| {
            fields::each(node, "host names", report, form::host)
        });
        check_exposure(&params.address, admin_span, given, report);
        params.metrics_address =
            fields.or("metrics_address", params.metrics_address, report, metrics_address);
        metrics_span = fields.get("metrics_address").map_or(fields.span, |node| node.span);
    }
    if let EndpointAddress::Tcp(address) = params.address {
        bound.push(Bound { name: "admin.address", address, span: admin_span });
    }
    if let Some(address) = params.metrics_address {
        bound.push(Bound { name: "admin.metrics_address", address, span: metrics_span });
    }
    params
}

/// Who can reach the address needs the token, or cannot be asked for it.
fn check_exposure(address: &EndpointAddress, at: Span, token: Option<&Node>, report: &mut Report) {
    match (address, token) {
        (EndpointAddress::Tcp(address), None) if !address.ip().is_loopback() => report.add::<()>(
            error(codes::ADMIN_EXPOSED, at, "the admin API needs a token outside of loopback")
                .label("others can reach this address")
                .help(
                    "add `token: ${file:/etc/outrigger/admin.token}`, or listen at `127.0.0.1:15000` or \
                     `unix:/run/outrigger/admin.sock`; scrapers and probes go to `metrics_address`",
                ),
        ),
        (EndpointAddress::Tcp(address), Some(_)) if !address.ip().is_loopback() => report.add(
            warning(codes::ADMIN_PLAINTEXT, at, "the token of the admin API travels in plaintext")
                .label("others can reach this address")
                .help("listen at `unix:/run/outrigger/admin.sock` or on loopback, if nobody else has to ask"),
        ),
        (EndpointAddress::Unix(_), Some(token)) => report.add(
            warning(codes::NO_EFFECT, token.span, "`token` has no effect: a Unix socket asks for none")
                .label("nobody needs it")
                .help("the mode of the socket says who may connect: its owner"),
        ),
        (EndpointAddress::Tcp(_) | EndpointAddress::Unix(_), _) => None,
    };
}

/// Something that can be sent in a header and cannot be guessed. Messages do not show it.
fn token(node: &Node, report: &mut Report) -> Option<Secret> {
    let scalar = value::text_scalar(node, "a token", "${file:/etc/outrigger/admin.token}", report)?;
    let text = scalar.text.as_str();
    let wrong = |message, label| {
        error(codes::MALFORMED, node.span, message)
            .label(label)
            .help("`openssl rand -hex 32 > /etc/outrigger/admin.token` makes one; name it as `${file:…}`")
    };
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return report.add(wrong("`token` cannot be sent in a header", "only visible ASCII, no spaces"));
    }
    if !(SHORTEST_TOKEN..=LONGEST_TOKEN).contains(&text.len()) {
        return report.add(wrong("`token` has not the length of a token", "16 to 1024 bytes"));
    }
    Some(Secret::new(text))
}

/// An address, or `none`.
fn metrics_address(node: &Node, report: &mut Report) -> Option<Option<SocketAddr>> {
    match &node.content {
        Content::Scalar(scalar) if scalar.text == "none" => Some(None),
        _ => form::listen_address(node, report).map(Some),
    }
}
