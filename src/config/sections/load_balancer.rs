//! `load_balancer`: the policy and, for hashing, what of the request is hashed.

use crate::{
    config::{
        codes,
        fields::{Fields, MayLack},
        form,
        report::{Report, error},
        schema,
        tree::Node,
        value,
    },
    policy::balance::{BalanceParams, HashOn},
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    RoundRobin,
    WeightedRoundRobin,
    Random,
    LeastRequest,
    RingHash,
}

const POLICIES: [(&str, Policy); 5] = [
    ("least_request", Policy::LeastRequest),
    ("round_robin", Policy::RoundRobin),
    ("weighted_round_robin", Policy::WeightedRoundRobin),
    ("random", Policy::Random),
    ("ring_hash", Policy::RingHash),
];

pub(in crate::config) fn read(node: &Node, report: &mut Report) -> Option<BalanceParams> {
    let fields = Fields::open(node, &schema::LOAD_BALANCER, report)?;
    let policy_node = fields.require("policy", "policy: least_request", report)?;
    let policy = value::word(policy_node, &POLICIES, &["peak_ewma", "maglev"], report)?;
    let hash_on = fields.get("hash_on");
    match (policy, hash_on) {
        (Policy::RingHash, Some(hash_on)) => {
            read_hash_on(hash_on, report).map(|hash_on| BalanceParams::RingHash { hash_on })
        }
        (Policy::RingHash, None) => report.add(
            error(codes::HASH_ON_MISSING, policy_node.span, "`ring_hash` needs `hash_on`")
                .label("what of a request is hashed?")
                .help("for example `hash_on: { header: x-user-id }`"),
        ),
        (_, Some(hash_on)) => report.add(
            error(codes::HASH_ON_UNUSED, hash_on.span, "`hash_on` has no effect with this policy")
                .label("only `ring_hash` hashes")
                .also(policy_node.span, "this policy does not hash"),
        ),
        (Policy::RoundRobin, None) => Some(BalanceParams::RoundRobin),
        (Policy::WeightedRoundRobin, None) => Some(BalanceParams::WeightedRoundRobin),
        (Policy::Random, None) => Some(BalanceParams::Random),
        (Policy::LeastRequest, None) => Some(BalanceParams::LeastRequest),
    }
}

fn read_hash_on(node: &Node, report: &mut Report) -> Option<HashOn> {
    let fields = Fields::open(node, &schema::HASH_ON, report)?;
    let keys = ["header", "cookie", "query", "path", "source_address"];
    let (key, node) = fields.one_of(&keys, MayLack::No, report)?;
    match key {
        "header" => form::header_name(node, report).map(HashOn::Header),
        "cookie" => text_of(node, report).map(HashOn::Cookie),
        "query" => text_of(node, report).map(HashOn::Query),
        "path" => only_true(node, report).map(|()| HashOn::Path),
        _ => only_true(node, report).map(|()| HashOn::SourceAddress),
    }
}

fn text_of(node: &Node, report: &mut Report) -> Option<String> {
    let name = value::text(node, report)?;
    if name.is_empty() {
        return report.add(error(codes::MALFORMED, node.span, "the name is empty").label("needs a name"));
    }
    Some(name.to_owned())
}

/// For keys that are a choice by being there: `true` is the only value.
pub(in crate::config) fn only_true(node: &Node, report: &mut Report) -> Option<()> {
    if value::flag(node, report)? {
        return Some(());
    }
    report.add(
        error(codes::MALFORMED, node.span, "only `true` has a meaning here")
            .label("remove the key instead")
            .help("leave the key out if it is not wanted"),
    )
}
