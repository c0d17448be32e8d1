//! `health_check`: of the local application and of services.

use std::time::Duration;

use super::load_balancer::only_true;
use crate::{
    config::{
        codes, defaults,
        fields::{Fields, MayLack, each, named},
        form,
        report::{Report, error},
        schema,
        span::Span,
        tree::{Content, Kind, Node},
        value,
    },
    snapshot::{HealthCheckKind, HealthCheckParams, StatusRange},
};

const MAX_THRESHOLD: u32 = 1000;
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

pub(in crate::config) fn read(
    node: &Node,
    default_interval: Duration,
    report: &mut Report,
) -> Option<HealthCheckParams> {
    let fields = Fields::open(node, &schema::HEALTH_CHECK, report)?;
    let threshold = |node: &Node, report: &mut Report| value::number_u32(node, 1..=MAX_THRESHOLD, report);
    let interval = fields.or("interval", default_interval, report, |node, report| {
        value::duration_from(node, SHORTEST_INTERVAL, report)
    });
    let timeout = fields.or("timeout", defaults::HEALTH_TIMEOUT, report, value::wait);
    if timeout >= interval {
        let span = fields.get("timeout").or(fields.get("interval")).map_or(node.span, |node| node.span);
        too_slow(span, interval, timeout, report);
    }
    Some(HealthCheckParams {
        kind: kind(&fields, report)?,
        interval,
        timeout,
        healthy_threshold: fields.or("healthy_threshold", defaults::HEALTHY_THRESHOLD, report, threshold),
        unhealthy_threshold: fields.or(
            "unhealthy_threshold",
            defaults::UNHEALTHY_THRESHOLD,
            report,
            threshold,
        ),
    })
}

fn too_slow(span: Span, interval: Duration, timeout: Duration, report: &mut Report) {
    let (interval, timeout) = (value::show_duration(interval), value::show_duration(timeout));
    report.add::<()>(
        error(codes::CHECK_TIMEOUT, span, "a health check may take as long as the time between two of them")
            .label(format!("`timeout` is {timeout}, `interval` is {interval}"))
            .help("make `timeout` smaller than `interval`"),
    );
}

fn kind(fields: &Fields<'_>, report: &mut Report) -> Option<HealthCheckKind> {
    let (key, node) = fields.one_of(&["path", "tcp", "grpc"], MayLack::No, report)?;
    if key != "path" {
        for http_only in ["host", "headers", "expected_statuses"] {
            if let Some(extra) = fields.get(http_only) {
                report.add::<()>(
                    error(codes::CHOICE, extra.span, format!("`{http_only}` has no effect with `{key}`"))
                        .label("only checks with `path` are HTTP requests"),
                );
            }
        }
    }
    match key {
        "tcp" => only_true(node, report).map(|()| HealthCheckKind::Tcp),
        "grpc" => grpc(node, report),
        _ => http(node, fields, report),
    }
}

fn grpc(node: &Node, report: &mut Report) -> Option<HealthCheckKind> {
    let fields = Fields::open(node, &schema::GRPC_CHECK, report)?;
    let service = fields.optional("service", report, value::text).unwrap_or_default().to_owned();
    Some(HealthCheckKind::Grpc { service })
}

fn http(path: &Node, fields: &Fields<'_>, report: &mut Report) -> Option<HealthCheckKind> {
    let path = form::path_and_query(path, report)?;
    let host = fields.optional("host", report, form::authority);
    let headers = fields.optional("headers", report, |node, report| {
        let entries = named(node, "headers", report)?;
        Some(entries.iter().filter_map(|entry| check_header(entry, report)).collect())
    });
    let expected = fields.optional("expected_statuses", report, statuses);
    Some(HealthCheckKind::Http {
        path,
        host: host.and_then(|host| host.to_str().ok().map(str::to_owned)),
        headers: headers.unwrap_or_default(),
        expected: expected.unwrap_or_else(|| vec![StatusRange { first: 200, last: 299 }]),
    })
}

fn check_header(
    entry: &crate::config::tree::Entry,
    report: &mut Report,
) -> Option<(http::HeaderName, http::HeaderValue)> {
    let (name, value) = form::header(entry, report)?;
    super::http_edits::allowed(&name, entry.key_span, report)?;
    Some((name, value))
}

fn statuses(node: &Node, report: &mut Report) -> Option<Vec<StatusRange>> {
    let ranges = each(node, "statuses", report, status_range)?;
    if matches!(&node.content, Content::List(items) if items.is_empty()) {
        return report.add(
            error(codes::CHOICE, node.span, "no status would make the check succeed")
                .label("needs at least one")
                .help("for example `[\"200-299\"]`"),
        );
    }
    Some(ranges)
}

/// `404`, or `"200-299"`.
fn status_range(node: &Node, report: &mut Report) -> Option<StatusRange> {
    if let Content::Scalar(scalar) = &node.content {
        let range = match scalar.kind {
            Kind::Unsigned(_) | Kind::Text => {
                let (first, last) = scalar.text.split_once('-').unwrap_or((&scalar.text, &scalar.text));
                first.trim().parse::<u16>().ok().zip(last.trim().parse::<u16>().ok())
            }
            Kind::Null | Kind::Bool(_) | Kind::Number(_) => None,
        };
        if let Some((first, last)) = range
            && (200..=599).contains(&first)
            && (first..=599).contains(&last)
        {
            return Some(StatusRange { first, last });
        }
    }
    report.add(
        error(codes::MALFORMED, node.span, "not a status or a range of statuses")
            .label("from 200 to 599")
            .help("for example `404` or `\"200-299\"`"),
    )
}
