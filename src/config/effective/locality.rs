//! Tags, zones and session affinity as they are in force.

use serde_json::{Map, Value, json};

use super::{limit, object, put};
use crate::{
    policy::{affinity::AffinityParams, locality::ZoneParams},
    snapshot::{EndpointParams, SubsetFallback},
    types::Tags,
};

pub(super) fn tags(tags: &Tags) -> Option<Value> {
    let pairs: Map<String, Value> =
        tags.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    (!pairs.is_empty()).then_some(Value::Object(pairs))
}

pub(super) fn endpoint(params: &EndpointParams) -> Value {
    let EndpointParams { address, weight, priority, tags } = params;
    if *params == EndpointParams::new(address.clone()) {
        return Value::from(address.to_string());
    }
    let mut fields =
        object(json!({ "address": address.to_string(), "weight": weight, "priority": priority }));
    put(&mut fields, "tags", self::tags(tags));
    Value::Object(fields)
}

pub(super) fn zones(zones: &ZoneParams) -> Value {
    match zones {
        ZoneParams::None => json!({ "mode": "none" }),
        ZoneParams::Aware { min_endpoints } => json!({ "mode": "aware", "min_endpoints": min_endpoints }),
        ZoneParams::Local => json!({ "mode": "local" }),
        ZoneParams::Weighted(weights) => {
            let weights: Map<String, Value> =
                weights.iter().map(|(zone, weight)| (zone.to_string(), (*weight).into())).collect();
            json!({ "mode": "weighted", "weights": weights })
        }
    }
}

pub(super) const fn subset_fallback(fallback: SubsetFallback) -> &'static str {
    match fallback {
        SubsetFallback::None => "none",
        SubsetFallback::Any => "any",
    }
}

pub(super) fn affinity(affinity: &AffinityParams) -> Value {
    let AffinityParams { cookie, ttl, path } = affinity;
    json!({ "cookie": &**cookie, "ttl": limit(*ttl), "path": &**path })
}
