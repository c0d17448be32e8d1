//! Finds rules that can never decide, for advice.

use std::hash::Hash;

use rustc_hash::FxHashMap;

use super::{Action, RuleParams, Scope, Source, table::BySource};
use crate::types::TrustDomain;

/// Indices of rules that can never decide, each with the rule that is the reason. That is an earlier one of the same
/// source and action that matches whatever the rule does, or, of one that allows, a rule without conditions that denies
/// all of its callers.
#[must_use]
pub fn never_deciding(rules: &[RuleParams], trust_domain: &TrustDomain) -> Vec<(usize, usize)> {
    let mut denied = BySource::default();
    for (index, rule) in rules.iter().enumerate() {
        if rule.action == Action::Deny && is_unconditional(rule) {
            denied.insert(rule, trust_domain, index);
        }
    }
    denied.order_prefixes();
    let mut first_unconditional = FxHashMap::default();
    let mut first_alike = FxHashMap::default();
    let mut found = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let source = (source_key(&rule.source, trust_domain), rule.action);
        let before = first(&mut first_alike, (source.clone(), conditions(rule)), index)
            .or_else(|| first_unconditional.get(&source).copied());
        if is_unconditional(rule) {
            first_unconditional.entry(source).or_insert(index);
        }
        let covering = || match &rule.source {
            _ if rule.action == Action::Deny => None,
            Source::Anonymous => denied.of_anonymous(),
            Source::Any => denied.of_any(),
            Source::ServicePrefix(prefix) => denied.of_prefix(prefix, &|_| true).or_else(|| denied.of_any()),
            Source::Service(name) => denied.of_id(&trust_domain.service(name).ok()?, trust_domain),
            Source::Id(id) => denied.of_id(id, trust_domain),
        };
        if let Some(by) = before.or_else(|| covering().copied()) {
            found.push((index, by));
        }
    }
    found
}

/// Remembers `index` as the first with this key, or tells who was.
fn first<K: Eq + Hash>(known: &mut FxHashMap<K, usize>, key: K, index: usize) -> Option<usize> {
    let first = *known.entry(key).or_insert(index);
    (first != index).then_some(first)
}

fn is_unconditional(rule: &RuleParams) -> bool {
    matches!(rule.scope, Scope::Everything) && rule.claims.is_empty()
}

/// The same for two ways to write one identity.
fn source_key(source: &Source, trust_domain: &TrustDomain) -> Source {
    match source {
        Source::Service(name) => trust_domain.service(name).map_or_else(|_| source.clone(), Source::Id),
        other => other.clone(),
    }
}

/// A text that is the same for the same conditions.
fn conditions(rule: &RuleParams) -> String {
    let permissions = match &rule.scope {
        Scope::Everything => None,
        Scope::Permissions(permissions) | Scope::Role(_, permissions) => Some(permissions),
    };
    format!("{permissions:?} {:?}", rule.claims)
}
