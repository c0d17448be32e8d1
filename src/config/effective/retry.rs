//! Retries as they are in force.

use serde_json::{Value, json};

use super::{limit, object, put};
use crate::{
    config::value::{show_duration, show_size},
    policy::retry::{Backoff, BudgetParams, HedgeParams, RetryParams},
};

pub(super) fn retry(params: &RetryParams) -> Value {
    let RetryParams {
        attempts,
        retry_on,
        per_try_timeout,
        backoff: Backoff { base, max },
        max_body,
        retry_non_idempotent,
        hedge,
    } = params;
    let mut fields = object(json!({
        "attempts": attempts,
        "retry_on": retry_on.words(),
        "per_try_timeout": limit(*per_try_timeout),
        "backoff": { "base": show_duration(*base), "max": show_duration(*max) },
        "max_body": show_size(*max_body),
        "retry_non_idempotent": retry_non_idempotent,
    }));
    let hedge = hedge.map(|HedgeParams { percentile, min_delay }| {
        json!({ "percentile": percentile, "min_delay": show_duration(min_delay) })
    });
    put(&mut fields, "hedge", hedge);
    Value::Object(fields)
}

pub(super) fn budget(params: BudgetParams) -> Value {
    let BudgetParams { percent, min_per_second } = params;
    json!({ "percent": percent, "min_per_second": min_per_second })
}
