//! `retry` of routes and of `defaults`, and `retry_budget` of services.

use std::time::Duration;

use http::StatusCode;

use crate::{
    config::{
        codes,
        fields::{Fields, list},
        report::{Report, error},
        schema,
        suggest::closest,
        tree::{Content, Kind, Node},
        value,
    },
    policy::retry::{Backoff, BudgetParams, Condition, HedgeParams, MAX_ATTEMPTS, RetryOn, RetryParams},
};

const MAX_BODY: u32 = 16 * 1024 * 1024;
const MAX_PERCENT: u32 = 1000;
const MAX_PER_SECOND: u32 = 100_000;

/// Reads `retry`; what it does not say is taken from `inherited`.
pub(in crate::config) fn read(
    node: &Node,
    inherited: &RetryParams,
    report: &mut Report,
) -> Option<RetryParams> {
    let mut params = inherited.clone();
    let fields = Fields::open(node, &schema::RETRY, report)?;
    let most = u32::try_from(MAX_ATTEMPTS - 1).unwrap_or(u32::MAX);
    params.attempts = fields
        .or("attempts", params.attempts, report, |node, report| value::number_u32(node, 0..=most, report));
    params.retry_on = fields.or("retry_on", params.retry_on, report, retry_on);
    params.per_try_timeout = fields.or("per_try_timeout", params.per_try_timeout, report, value::limit);
    params.backoff =
        fields.or("backoff", params.backoff, report, |node, report| backoff(node, inherited.backoff, report));
    params.max_body = fields
        .or("max_body", params.max_body, report, |node, report| value::size(node, 0..=MAX_BODY, report));
    params.retry_non_idempotent =
        fields.or("retry_non_idempotent", params.retry_non_idempotent, report, value::flag);
    if let Some(node) = fields.get("hedge") {
        params.hedge = hedge(node, report);
    }
    Some(params)
}

/// A try that may take longer than the whole request can never run into its limit.
pub(in crate::config) fn check_per_try(
    node: Option<&Node>,
    params: &RetryParams,
    timeout: Option<Duration>,
    report: &mut Report,
) {
    let (Some(node), Some(per_try), Some(timeout)) = (node, params.per_try_timeout, timeout) else { return };
    if per_try <= timeout {
        return;
    }
    let Content::Map(entries) = &node.content else { return };
    let Some(entry) = entries.iter().find(|entry| entry.key == "per_try_timeout") else { return };
    report.add::<()>(
        error(
            codes::PER_TRY_TOO_LONG,
            entry.value.span,
            "the limit of one try is longer than that of the whole request",
        )
        .label("so this can never expire")
        .help(format!("the whole request may take {}", value::show_duration(timeout))),
    );
}

fn retry_on(node: &Node, report: &mut Report) -> Option<RetryOn> {
    let mut set = RetryOn::default();
    for item in list(node, "conditions", report)? {
        condition(item, &mut set, report);
    }
    Some(set)
}

fn condition(node: &Node, set: &mut RetryOn, report: &mut Report) {
    let Content::Scalar(scalar) = &node.content else {
        report.add::<()>(error(codes::WRONG_TYPE, node.span, "expected a word or a status").label("not one"));
        return;
    };
    if let Kind::Unsigned(status) = scalar.kind {
        let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        match status.filter(|status| status.is_client_error() || status.is_server_error()) {
            Some(status) => set.add_status(status),
            None => {
                let message = format!("{} is not a status from 400 to 599", value::shown(scalar));
                report.add::<()>(
                    error(codes::OUT_OF_RANGE, node.span, message)
                        .label("an answer that is no error is not repeated"),
                );
            }
        }
        return;
    }
    let names = || Condition::WORDS.iter().map(|(name, _)| *name);
    if let Some((_, word)) = Condition::WORDS.iter().find(|(name, _)| *name == scalar.text) {
        set.add(*word);
        return;
    }
    let message = format!("{} is not a condition for a retry", value::shown(scalar));
    let all = names().collect::<Vec<_>>().join(", ");
    report.add::<()>(
        error(codes::UNKNOWN_WORD, node.span, message)
            .label("unknown")
            .suggest(closest(&scalar.text, names(), &[("timeout", "reset"), ("502-504", "gateway-error")]))
            .note(format!("one of: {all}, or a status from 400 to 599")),
    );
}

fn backoff(node: &Node, inherited: Backoff, report: &mut Report) -> Option<Backoff> {
    let fields = Fields::open(node, &schema::BACKOFF, report)?;
    let base = fields.or("base", inherited.base, report, value::wait);
    let max = fields.or("max", inherited.max.max(base), report, value::wait);
    if max < base {
        return report.add(
            error(codes::OUT_OF_RANGE, node.span, "`max` is shorter than `base`")
                .label("the longest wait is `max`"),
        );
    }
    Some(Backoff { base, max })
}

fn hedge(node: &Node, report: &mut Report) -> Option<HedgeParams> {
    let fields = Fields::open(node, &schema::HEDGE, report)?;
    let percentile = fields.or("percentile", 95, report, |node, report| {
        value::number(node, 50..=99, report).and_then(|percent| u8::try_from(percent).ok())
    });
    let min_delay = fields.or("min_delay", Duration::from_millis(10), report, value::wait);
    Some(HedgeParams { percentile, min_delay })
}

/// Reads `retry_budget`.
pub(in crate::config) fn budget(
    node: &Node,
    inherited: BudgetParams,
    report: &mut Report,
) -> Option<BudgetParams> {
    let fields = Fields::open(node, &schema::RETRY_BUDGET, report)?;
    Some(BudgetParams {
        percent: fields.or("percent", inherited.percent, report, |node, report| {
            value::number_u32(node, 0..=MAX_PERCENT, report)
        }),
        min_per_second: fields.or("min_per_second", inherited.min_per_second, report, |node, report| {
            value::number_u32(node, 0..=MAX_PER_SECOND, report)
        }),
    })
}
