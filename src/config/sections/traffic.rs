//! `rate_limit`, `fault` and `mirror` of routes; `rate_limit` of `service`.

use std::num::NonZeroU32;

use http::StatusCode;

use crate::{
    config::{
        codes, defaults,
        fields::{Fields, MayLack},
        form,
        report::{Report, error},
        schema,
        tree::{Content, Node},
        value,
    },
    policy::{
        concurrency::{ConcurrencyMode, ConcurrencyParams},
        fault::FaultParams,
        limit::{LimitKey, Period, Rate, RateLimitParams},
        overload::{Action, OverloadParams},
    },
};

const MAX_RATE: u32 = 1_000_000_000;
const MAX_BURST: u32 = 1_000_000_000;
const MAX_KEYS: u32 = 10_000_000;

/// Reads `rate_limit`: one, or a list of them. `name` gives the one with this number, from 1, its name.
pub(in crate::config) fn rate_limits(
    node: &Node,
    name: impl Fn(usize) -> String,
    report: &mut Report,
) -> Vec<RateLimitParams> {
    let items = match &node.content {
        Content::List(items) => items.as_slice(),
        Content::Map(_) | Content::Scalar(_) => std::slice::from_ref(node),
    };
    let mut limits = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        limits.extend(rate_limit(item, name(index + 1), report));
    }
    limits
}

fn rate_limit(node: &Node, name: String, report: &mut Report) -> Option<RateLimitParams> {
    let fields = Fields::open(node, &schema::RATE_LIMIT, report)?;
    let rate_node = fields.require("rate", "rate: 100/s", report);
    let rate = rate_node.and_then(|node| rate(node, report));
    let burst = fields.optional("burst", report, |node, report| {
        value::number_u32(node, 1..=MAX_BURST, report).and_then(NonZeroU32::new)
    });
    let key = fields.or("key", LimitKey::Route, report, key);
    let shadow = fields.or("shadow", false, report, value::flag);
    let max_keys = fields.or("max_keys", defaults::MAX_RATE_LIMIT_KEYS, report, |node, report| {
        value::number_u32(node, 1..=MAX_KEYS, report)
    });
    let rate = rate?;
    Some(RateLimitParams {
        name: name.into(),
        rate,
        burst: burst.unwrap_or(rate.count),
        key,
        shadow,
        max_keys,
    })
}

/// `100/s`, `30/m`, `5/h`.
fn rate(node: &Node, report: &mut Report) -> Option<Rate> {
    let scalar = value::text_scalar(node, "a rate", "100/s", report)?;
    let parsed = scalar.text.split_once('/').and_then(|(count, unit)| {
        let (_, per) = *Period::WORDS.iter().find(|(word, _)| *word == unit)?;
        let count = count.parse::<u32>().ok().filter(|count| *count <= MAX_RATE)?;
        Some(Rate { count: NonZeroU32::new(count)?, per })
    });
    parsed.or_else(|| {
        report.add(
            error(codes::BAD_QUANTITY, node.span, format!("{} is not a rate", value::shown(scalar)))
                .label("expected a number, a slash and one of s, m, h")
                .help("for example `100/s` or `30/m`"),
        )
    })
}

fn key(node: &Node, report: &mut Report) -> Option<LimitKey> {
    if !matches!(node.content, Content::Map(_)) {
        let words = [("route", LimitKey::Route), ("source_address", LimitKey::SourceAddress)];
        return value::word(node, &words, &["source_service"], report);
    }
    let fields = Fields::open(node, &schema::RATE_LIMIT_KEY, report)?;
    let (_, node) = fields.one_of(&["header"], MayLack::No, report)?;
    form::header_name(node, report).map(LimitKey::Header)
}

/// Reads `fault`.
/// Largest body of a request; zero is no limit.
pub(in crate::config) fn max_request_size(node: &Node, report: &mut Report) -> Option<u64> {
    value::size(node, 0..=u32::MAX, report).map(u64::from)
}

pub(in crate::config) fn fault(node: &Node, report: &mut Report) -> Option<FaultParams> {
    let fields = Fields::open(node, &schema::FAULT, report)?;
    let params = FaultParams {
        delay: fields.optional("delay", report, value::wait),
        abort: fields.optional("abort", report, abort),
        percent: fields.or("percent", 100, report, percent),
        headers: fields.or("headers", false, report, value::flag),
    };
    if fields.get("delay").is_none() && fields.get("abort").is_none() && !params.headers {
        return report.add(
            error(codes::CHOICE, node.span, "nothing would go wrong")
                .label("needs one of `delay`, `abort`, `headers: true`"),
        );
    }
    Some(params)
}

fn abort(node: &Node, report: &mut Report) -> Option<StatusCode> {
    let status = value::number(node, 400..=599, report)?;
    u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok())
}

/// Reads `mirror` but for its service, which is left to whoever knows which services there are.
pub(in crate::config) fn mirror<'n>(node: &'n Node, report: &mut Report) -> Option<(&'n Node, u8)> {
    let fields = Fields::open(node, &schema::MIRROR, report)?;
    let percent = fields.or("percent", 100, report, percent);
    Some((fields.require("service", "service: api-shadow", report)?, percent))
}

fn percent(node: &Node, report: &mut Report) -> Option<u8> {
    value::number(node, 0..=100, report).and_then(|percent| u8::try_from(percent).ok())
}

/// How `mode` is written.
pub(in crate::config) const MODES: [(&str, ConcurrencyMode); 3] = [
    ("observe", ConcurrencyMode::Observe),
    ("enforce", ConcurrencyMode::Enforce),
    ("off", ConcurrencyMode::Off),
];

/// Reads `concurrency` of `service`.
pub(in crate::config) fn concurrency(node: &Node, report: &mut Report) -> Option<ConcurrencyParams> {
    let fields = Fields::open(node, &schema::CONCURRENCY, report)?;
    let builtin = defaults::CONCURRENCY;
    let bound = |node: &Node, report: &mut Report| value::number_u32(node, 1..=1_000_000, report);
    let mode = fields.or("mode", builtin.mode, report, |node, report| value::word(node, &MODES, &[], report));
    let min = fields.or("min", builtin.min, report, bound);
    let max = fields.or("max", builtin.max.max(min), report, bound);
    if max < min {
        return report.add(
            error(codes::OUT_OF_RANGE, node.span, "`max` is smaller than `min`")
                .label("nothing fits between"),
        );
    }
    Some(ConcurrencyParams { mode, min, max })
}

/// The key of each action, by its discriminant.
pub(in crate::config) const ACTIONS: [&str; Action::ALL.len()] =
    ["stop_keep_alive", "shed_low_priority", "refuse_requests", "stop_accepting"];

/// Reads `overload`.
pub(in crate::config) fn overload(root: &Fields<'_>, report: &mut Report) -> OverloadParams {
    let mut params = defaults::OVERLOAD;
    let fields =
        root.optional("overload", report, |node, report| Fields::open(node, &schema::OVERLOAD, report));
    let Some(fields) = fields else { return params };
    params.enabled = fields.or("enabled", params.enabled, report, value::flag);
    let memory = |node: &Node, report: &mut Report| value::size(node, 0..=u32::MAX, report);
    params.max_memory = fields.optional("max_memory", report, memory).filter(|bytes| *bytes > 0);
    params.max_lag = fields.or("max_lag", params.max_lag, report, value::wait);
    for (key, threshold) in ACTIONS.into_iter().zip(&mut params.thresholds) {
        *threshold = fields.or(key, *threshold, report, |node, report| {
            value::number(node, 1..=100, report).and_then(|percent| u8::try_from(percent).ok())
        });
    }
    params
}

/// Reads `connection_rate` of `listeners`.
pub(in crate::config) fn connection_rate(
    node: &Node,
    report: &mut Report,
) -> Option<Option<RateLimitParams>> {
    if matches!(&node.content, Content::Scalar(scalar) if scalar.text == "none") {
        return Some(None);
    }
    let rate = rate(node, report)?;
    Some(Some(RateLimitParams {
        name: "connections".into(),
        rate,
        burst: rate.count,
        key: LimitKey::Route,
        shadow: false,
        max_keys: 1,
    }))
}
