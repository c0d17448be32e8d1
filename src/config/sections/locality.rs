//! Tags, zones, subsets and session affinity.

use crate::{
    config::{
        codes, defaults,
        fields::{Fields, named},
        form,
        report::{Report, error},
        schema,
        tree::Node,
        value,
    },
    policy::{affinity::AffinityParams, locality::ZoneParams},
    snapshot::SubsetFallback,
    types::Tags,
};

const MAX_WEIGHT: u32 = 1000;
const MAX_ENDPOINTS: u32 = 10_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    None,
    Aware,
    Local,
    Weighted,
}

const MODES: [(&str, Mode); 4] =
    [("none", Mode::None), ("aware", Mode::Aware), ("local", Mode::Local), ("weighted", Mode::Weighted)];

const FALLBACKS: [(&str, SubsetFallback); 2] = [("none", SubsetFallback::None), ("any", SubsetFallback::Any)];

/// A mapping of names to values, both names.
pub(in crate::config) fn tags(node: &Node, report: &mut Report) -> Option<Tags> {
    let entries = named(node, "tags to values", report)?;
    let mut pairs = Vec::with_capacity(entries.len());
    for entry in entries {
        if !form::is_name(&entry.key, "/") {
            report.add::<()>(form::bad_name(entry.key_span, "tag", "/"));
            continue;
        }
        let Some(value) = value::text(&entry.value, report) else { continue };
        if !form::is_name(value, "/") {
            report.add::<()>(form::bad_name(entry.value.span, "tag's value", "/"));
            continue;
        }
        pairs.push((entry.key.clone(), value.to_owned()));
    }
    Some(Tags::new(pairs))
}

/// Tags that endpoints must have; at least one.
pub(in crate::config) fn subset(node: &Node, report: &mut Report) -> Option<Tags> {
    let entries = named(node, "tags to values", report)?;
    if entries.is_empty() {
        return report.add(
            error(codes::MISSING_KEY, node.span, "a subset needs at least one tag")
                .label("the mapping is empty")
                .help("write `{ version: v2 }`, or remove the key for all endpoints"),
        );
    }
    tags(node, report)
}

pub(in crate::config) fn subset_fallback(node: &Node, report: &mut Report) -> Option<SubsetFallback> {
    value::word(node, &FALLBACKS, &[], report)
}

pub(in crate::config) fn zones(node: &Node, report: &mut Report) -> Option<ZoneParams> {
    let fields = Fields::open(node, &schema::ZONES, report)?;
    let mode_node = fields.require("mode", "mode: aware", report)?;
    let mode = value::word(mode_node, &MODES, &[], report)?;
    for (key, its) in [("min_endpoints", Mode::Aware), ("weights", Mode::Weighted)] {
        let Some(node) = fields.get(key).filter(|_| its != mode) else { continue };
        let message = format!("`{key}` has no effect with this mode");
        report.add::<()>(
            error(codes::CHOICE, node.span, message)
                .label("belongs to another mode")
                .also(mode_node.span, "this mode makes no use of it"),
        );
    }
    Some(match mode {
        Mode::None => ZoneParams::None,
        Mode::Aware => ZoneParams::Aware {
            min_endpoints: fields.or(
                "min_endpoints",
                defaults::ZONES_MIN_ENDPOINTS,
                report,
                |node, report| value::number_u32(node, 0..=MAX_ENDPOINTS, report),
            ),
        },
        Mode::Local => ZoneParams::Local,
        Mode::Weighted => {
            ZoneParams::Weighted(weights(fields.require("weights", "weights: { eu-1: 3 }", report)?, report)?)
        }
    })
}

fn weights(node: &Node, report: &mut Report) -> Option<Vec<(Box<str>, u32)>> {
    let entries = named(node, "zones to weights", report)?;
    let mut weights = Vec::with_capacity(entries.len());
    for entry in entries {
        let weight = value::number_u32(&entry.value, 0..=MAX_WEIGHT, report);
        weights.extend(weight.map(|weight| (entry.key.as_str().into(), weight)));
    }
    Some(weights)
}

pub(in crate::config) fn affinity(node: &Node, report: &mut Report) -> Option<AffinityParams> {
    let fields = Fields::open(node, &schema::SESSION_AFFINITY, report)?;
    let cookie = fields.require("cookie", "cookie: outrigger-session", report)?;
    let name = value::text(cookie, report)?;
    // A name of a header field and of a cookie are both a token (RFC 9110 §5.6.2).
    if !form::is_name(name, "!#$%&'*+^`|~") {
        return report.add(form::bad_name(cookie.span, "cookie", ""));
    }
    let path = fields.optional("path", report, form::path).unwrap_or_else(|| "/".to_owned());
    if path.contains(';') {
        let node = fields.get("path").unwrap_or(node);
        return report.add(
            error(codes::MALFORMED, node.span, "the path of a cookie cannot contain `;`")
                .label("the attribute would end there"),
        );
    }
    let ttl = fields.or("ttl", None, report, value::limit);
    Some(AffinityParams { cookie: name.into(), ttl, path: path.into() })
}
