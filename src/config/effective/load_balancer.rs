//! Load balancing as it is in force.

use serde_json::{Value, json};

use super::{object, put};
use crate::policy::balance::{BalanceParams, HashOn, Hashing};

pub(super) fn load_balancer(balance: &BalanceParams) -> Value {
    let policy = match balance {
        BalanceParams::PeakEwma => "peak_ewma",
        BalanceParams::LeastRequest { .. } => "least_request",
        BalanceParams::RoundRobin => "round_robin",
        BalanceParams::WeightedRoundRobin => "weighted_round_robin",
        BalanceParams::Random => "random",
        BalanceParams::RingHash(_) => "ring_hash",
        BalanceParams::Maglev(_) => "maglev",
        BalanceParams::JumpHash(_) => "jump_hash",
    };
    let mut fields = object(json!({ "policy": policy }));
    if let BalanceParams::LeastRequest { full_scan } = balance {
        put(&mut fields, "full_scan", Some(*full_scan));
    }
    if let Some(Hashing { hash_on, max_load_percent }) = balance.hashing() {
        put(&mut fields, "hash_on", Some(self::hash_on(hash_on)));
        put(&mut fields, "max_load", *max_load_percent);
    }
    Value::Object(fields)
}

pub(super) fn hash_on(hashed: &HashOn) -> Value {
    match hashed {
        HashOn::Header(name) => json!({ "header": name.as_str() }),
        HashOn::Cookie(name) => json!({ "cookie": name }),
        HashOn::Path => json!({ "path": true }),
        HashOn::Query(name) => json!({ "query": name }),
        HashOn::SourceAddress => json!({ "source_address": true }),
    }
}
