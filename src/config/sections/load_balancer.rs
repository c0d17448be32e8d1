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
    policy::balance::{BalanceParams, HashOn, Hashing},
};

const MAX_LOAD: u32 = 10_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    PeakEwma,
    LeastRequest,
    RoundRobin,
    WeightedRoundRobin,
    Random,
    RingHash,
    Maglev,
    JumpHash,
}

impl Policy {
    const fn hashes(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev | Self::JumpHash)
    }
}

const POLICIES: [(&str, Policy); 8] = [
    ("peak_ewma", Policy::PeakEwma),
    ("least_request", Policy::LeastRequest),
    ("round_robin", Policy::RoundRobin),
    ("weighted_round_robin", Policy::WeightedRoundRobin),
    ("random", Policy::Random),
    ("ring_hash", Policy::RingHash),
    ("maglev", Policy::Maglev),
    ("jump_hash", Policy::JumpHash),
];

pub(in crate::config) fn read(node: &Node, report: &mut Report) -> Option<BalanceParams> {
    let fields = Fields::open(node, &schema::LOAD_BALANCER, report)?;
    let policy_node = fields.require("policy", "policy: peak_ewma", report)?;
    let policy = value::word(policy_node, &POLICIES, &[], report)?;
    let full_scan = fields.or("full_scan", false, report, value::flag);
    if policy != Policy::LeastRequest {
        refuse_unused(&fields, "full_scan", "only `least_request` can scan", policy_node, report);
    }
    if !policy.hashes() {
        let hashes = "only `ring_hash`, `maglev` and `jump_hash` hash";
        let unused = refuse_unused(&fields, "hash_on", hashes, policy_node, report)
            | refuse_unused(&fields, "max_load", hashes, policy_node, report);
        if unused {
            return None;
        }
    }
    Some(match policy {
        Policy::PeakEwma => BalanceParams::PeakEwma,
        Policy::LeastRequest => BalanceParams::LeastRequest { full_scan },
        Policy::RoundRobin => BalanceParams::RoundRobin,
        Policy::WeightedRoundRobin => BalanceParams::WeightedRoundRobin,
        Policy::Random => BalanceParams::Random,
        Policy::RingHash => BalanceParams::RingHash(hashing(&fields, policy_node, report)?),
        Policy::Maglev => BalanceParams::Maglev(hashing(&fields, policy_node, report)?),
        Policy::JumpHash => BalanceParams::JumpHash(hashing(&fields, policy_node, report)?),
    })
}

/// Reports the key if it is there, and says whether it is.
fn refuse_unused(fields: &Fields<'_>, key: &str, why: &str, policy: &Node, report: &mut Report) -> bool {
    let Some(node) = fields.get(key) else { return false };
    let message = format!("`{key}` has no effect with this policy");
    report.add::<()>(
        error(codes::HASH_ON_UNUSED, node.span, message)
            .label(why)
            .also(policy.span, "this policy makes no use of it"),
    );
    true
}

fn hashing(fields: &Fields<'_>, policy: &Node, report: &mut Report) -> Option<Hashing> {
    let max_load_percent =
        fields.optional("max_load", report, |node, report| value::number_u32(node, 100..=MAX_LOAD, report));
    let Some(hash_on) = fields.get("hash_on") else {
        return report.add(
            error(codes::HASH_ON_MISSING, policy.span, "this policy needs `hash_on`")
                .label("what of a request is hashed?")
                .help("for example `hash_on: { header: x-user-id }`"),
        );
    };
    Some(Hashing { hash_on: read_hash_on(hash_on, report)?, max_load_percent })
}

pub(in crate::config) fn read_hash_on(node: &Node, report: &mut Report) -> Option<HashOn> {
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
