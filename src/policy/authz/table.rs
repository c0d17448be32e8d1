//! The compiled rules: hash maps for identities and prefixes, so that a decision costs the same among ten callers and
//! ten thousand. Rules of one source are asked one after the other.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{
    Action, Decision, Intentions, IntentionsParams, Mode, Reason, Request, RuleParams, Source,
    condition::{Condition, View},
};
use crate::types::{SpiffeId, TrustDomain};

/// Rules, compiled for decisions.
///
/// A rule that denies wins over all that allow. Among those of the winning kind that match, the one with the most
/// specific source gives the decision its name: an identity before the longest prefix before `*`, then the file's order.
#[derive(Debug)]
pub struct Policy {
    trust_domain: TrustDomain,
    mode: Mode,
    default_action: Action,
    given: bool,
    names: Vec<Arc<str>>,
    deny: BySource<Condition>,
    allow: BySource<Condition>,
}

impl Policy {
    /// What holds if nothing is configured: everybody meets `action`.
    #[must_use]
    pub fn absent(action: Action, trust_domain: &TrustDomain) -> Self {
        Self {
            trust_domain: trust_domain.clone(),
            mode: Mode::Enforce,
            default_action: action,
            given: false,
            names: Vec::new(),
            deny: BySource::default(),
            allow: BySource::default(),
        }
    }

    /// Compiles what is configured. Whether it makes sense was decided when it was read; nothing can fail here.
    #[must_use]
    pub fn compile(intentions: &Intentions, trust_domain: &TrustDomain) -> Self {
        let IntentionsParams { mode, default_action, roles: _, rules } = match intentions {
            Intentions::Absent(action) => return Self::absent(*action, trust_domain),
            Intentions::Given(params) => params,
        };
        let mut policy = Self::absent(*default_action, trust_domain);
        policy.mode = *mode;
        policy.given = true;
        for (index, rule) in rules.iter().enumerate() {
            policy.names.push(Arc::clone(&rule.name));
            let table = match rule.action {
                Action::Allow => &mut policy.allow,
                Action::Deny => &mut policy.deny,
            };
            table.insert(rule, trust_domain, Condition::new(index, rule));
        }
        for table in [&mut policy.allow, &mut policy.deny] {
            table.order_prefixes();
        }
        policy
    }

    /// Whether everybody may do everything because nothing is configured: then there is nothing to ask or to count.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.given && self.default_action == Action::Allow
    }

    /// Whether decisions are acted upon.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Name of the rule with this index, which came from a decision of this policy.
    #[must_use]
    pub fn name(&self, rule: usize) -> Option<&Arc<str>> {
        self.names.get(rule)
    }

    /// The service of the own trust domain that a caller is; `None` if it is something else.
    #[must_use]
    pub fn service<'a>(&self, caller: &'a SpiffeId) -> Option<&'a str> {
        caller.service().filter(|_| caller.is_of(&self.trust_domain))
    }

    /// Decides about a request. Allocates only for a path with escapes, parameters or slashes in a row, and for a
    /// condition on a field that came several times.
    #[must_use]
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        self.decision(request.source, Some(&View::new(request)))
    }

    /// Decides about a connection whose bytes are passed on unread. A rule with conditions cannot be held against it:
    /// one that allows does not, one that denies does.
    #[must_use]
    pub fn decide_unread(&self, source: Option<&SpiffeId>) -> Decision {
        self.decision(source, None)
    }

    fn decision(&self, source: Option<&SpiffeId>, view: Option<&View<'_>>) -> Decision {
        for (action, table) in [(Action::Deny, &self.deny), (Action::Allow, &self.allow)] {
            if let Some(rule) = table.find(source, &self.trust_domain, |condition| condition.holds(view)) {
                return Decision { action, reason: Reason::Rule(rule.index) };
            }
        }
        Decision { action: self.default_action, reason: Reason::Default }
    }
}

/// Something for each rule, by its source; lists are in the order of insertion.
#[derive(Debug)]
pub(super) struct BySource<T> {
    /// By the whole identity.
    exact: FxHashMap<Box<str>, Vec<T>>,
    prefix: FxHashMap<Box<str>, Vec<T>>,
    /// Distinct lengths of the keys of `prefix`, longest first.
    prefix_lengths: Vec<usize>,
    any: Vec<T>,
    anonymous: Vec<T>,
}

impl<T> Default for BySource<T> {
    fn default() -> Self {
        Self {
            exact: FxHashMap::default(),
            prefix: FxHashMap::default(),
            prefix_lengths: Vec::new(),
            any: Vec::new(),
            anonymous: Vec::new(),
        }
    }
}

impl<T> BySource<T> {
    /// Afterwards [`Self::order_prefixes`] has to be called before anything is found.
    pub(super) fn insert(&mut self, rule: &RuleParams, trust_domain: &TrustDomain, item: T) {
        let list = match &rule.source {
            Source::Service(name) => match trust_domain.service(name) {
                Ok(id) => self.exact.entry(id.as_str().into()).or_default(),
                // A name of a service cannot come out of validation that has no identity.
                Err(_) => return,
            },
            Source::Id(id) => self.exact.entry(id.as_str().into()).or_default(),
            Source::ServicePrefix(prefix) => self.prefix.entry((**prefix).into()).or_default(),
            Source::Any => &mut self.any,
            Source::Anonymous => &mut self.anonymous,
        };
        list.push(item);
    }

    pub(super) fn order_prefixes(&mut self) {
        self.prefix_lengths = self.prefix.keys().map(|key| key.len()).collect();
        self.prefix_lengths.sort_unstable_by(|one, other| other.cmp(one));
        self.prefix_lengths.dedup();
    }

    /// The first item, most specific source first, that `holds`.
    fn find(
        &self,
        source: Option<&SpiffeId>,
        trust_domain: &TrustDomain,
        holds: impl Fn(&T) -> bool,
    ) -> Option<&T> {
        let Some(id) = source else { return self.anonymous.iter().find(|item| holds(item)) };
        let exact = self.exact.get(id.as_str()).into_iter().flatten().find(|item| holds(item));
        if exact.is_some() || !id.is_of(trust_domain) {
            return exact;
        }
        id.service()
            .and_then(|name| self.of_prefix(name, &holds))
            .or_else(|| self.any.iter().find(|item| holds(item)))
    }

    /// The first item of a prefix of `name`, the longest first, that `holds`.
    pub(super) fn of_prefix(&self, name: &str, holds: &impl Fn(&T) -> bool) -> Option<&T> {
        let lists = self.prefix_lengths.iter().filter_map(|length| self.prefix.get(name.get(..*length)?));
        lists.flatten().find(|item| holds(item))
    }

    /// The first item that was inserted for any caller.
    pub(super) fn of_any(&self) -> Option<&T> {
        self.any.first()
    }

    /// The first item that was inserted for callers without an identity.
    pub(super) fn of_anonymous(&self) -> Option<&T> {
        self.anonymous.first()
    }

    /// The first item for a source that covers all callers of `id`.
    pub(super) fn of_id(&self, id: &SpiffeId, trust_domain: &TrustDomain) -> Option<&T> {
        self.find(Some(id), trust_domain, |_| true)
    }
}
