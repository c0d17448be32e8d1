//! Rate limits, faults, copies and sticky splits as they are in force.

use serde_json::{Map, Value, json};

use super::{load_balancer::hash_on, object, put};
use crate::{
    config::{
        sections::traffic::{ACTIONS, MODES},
        value::{show_duration, show_size},
    },
    policy::{
        concurrency::ConcurrencyParams,
        fault::FaultParams,
        limit::{LimitKey, Period, Rate, RateLimitParams},
        overload::OverloadParams,
        traffic::{MirrorParams, TrafficParams},
    },
};

/// Adds what there is.
pub(super) fn put_traffic(fields: &mut Map<String, Value>, params: &TrafficParams) {
    let TrafficParams { limits, fault: faults, mirror, sticky, max_request_bytes } = params;
    super::put_list(fields, "rate_limit", limits.iter().map(rate_limit));
    put(fields, "fault", faults.as_ref().map(fault));
    let mirror = mirror.as_ref();
    put(
        fields,
        "mirror",
        mirror.map(|MirrorParams { service, percent }| json!({ "service": &**service, "percent": percent })),
    );
    put(fields, "sticky", sticky.as_ref().map(hash_on));
    let most = u32::try_from(*max_request_bytes).unwrap_or(u32::MAX);
    put(fields, "max_request_size", (most > 0).then(|| show_size(most)));
}

fn rate_limit(params: &RateLimitParams) -> Value {
    // The name comes from the place.
    let RateLimitParams { name: _, rate: per_time, burst, key, shadow, max_keys } = params;
    let key = match key {
        LimitKey::Route => json!("route"),
        LimitKey::SourceAddress => json!("source_address"),
        LimitKey::Header(name) => json!({ "header": name.as_str() }),
    };
    json!({ "rate": rate(*per_time), "burst": burst, "key": key, "shadow": shadow, "max_keys": max_keys })
}

fn fault(params: &FaultParams) -> Value {
    let FaultParams { delay, abort, percent, headers } = params;
    let mut fields = object(json!({ "percent": percent, "headers": headers }));
    put(&mut fields, "delay", delay.map(show_duration));
    put(&mut fields, "abort", abort.map(|status| status.as_u16()));
    Value::Object(fields)
}

pub(super) fn concurrency(params: ConcurrencyParams) -> Value {
    let ConcurrencyParams { mode, min, max } = params;
    let mode = MODES.iter().find(|(_, known)| *known == mode).map_or("off", |(word, _)| word);
    json!({ "mode": mode, "min": min, "max": max })
}

pub(super) fn rate(Rate { count, per }: Rate) -> String {
    let unit = Period::WORDS.iter().find(|(_, period)| *period == per).map_or("s", |(word, _)| word);
    format!("{count}/{unit}")
}

pub(super) fn overload(params: OverloadParams) -> Value {
    let OverloadParams { enabled, max_memory, max_lag, thresholds } = params;
    let mut fields = object(json!({
        "enabled": enabled,
        "max_memory": show_size(max_memory.unwrap_or(0)),
        "max_lag": show_duration(max_lag),
    }));
    for (key, threshold) in ACTIONS.into_iter().zip(thresholds) {
        put(&mut fields, key, Some(threshold));
    }
    Value::Object(fields)
}
