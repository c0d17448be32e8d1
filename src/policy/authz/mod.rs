//! Who may call this service, by the caller's identity. Here are the params and the questions that can be asked;
//! `table` finds the rule, `condition` decides one rule, `reading` knows what else a path may mean, `shadow` finds rules
//! that can never decide. What proves an identity is in `identity`, what becomes of a refused request in `proxy`.

mod condition;
mod reading;
mod shadow;
mod table;

pub use self::{reading::reads_as, shadow::never_deciding, table::Policy};

use std::sync::Arc;

use http::{HeaderMap, Method};

use super::route::{HeaderMatch, PathPattern};
use crate::types::{Claims, SpiffeId};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is refused.
    Deny,
}

/// Whether decisions are acted upon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// What is denied is refused.
    #[default]
    Enforce,
    /// Nothing is refused; what would have been is counted and logged.
    Audit,
}

/// What is configured about callers.
#[derive(Clone, Debug)]
pub enum Intentions {
    /// Nothing: this happens to everybody.
    Absent(Action),
    /// Rules.
    Given(IntentionsParams),
}

/// Rules, and what happens when none matches.
#[derive(Clone, Debug)]
pub struct IntentionsParams {
    /// Whether decisions are acted upon.
    pub mode: Mode,
    /// What happens to a request that no rule matches.
    pub default_action: Action,
    /// What roles may do, by their names, in the order of the file. The rules have taken it over already.
    pub roles: Vec<(Arc<str>, Arc<[Permission]>)>,
    /// In the order of the file.
    pub rules: Vec<RuleParams>,
}

/// One rule. It matches a request if all of its parts do.
#[derive(Clone, Debug)]
pub struct RuleParams {
    /// Unique; stands in logs, never in answers.
    pub name: Arc<str>,
    /// Whose requests.
    pub source: Source,
    /// What becomes of them.
    pub action: Action,
    /// Which of them.
    pub scope: Scope,
    /// All of these must hold for the verified token of the request.
    pub claims: Vec<ClaimMatch>,
}

/// Whose requests a rule is about. Names are those of services of the own trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// This service.
    Service(Arc<str>),
    /// Services whose names begin like this.
    ServicePrefix(Arc<str>),
    /// Any caller with an identity of the own trust domain.
    Any,
    /// This identity, also one of another trust domain.
    Id(SpiffeId),
    /// Callers without an identity.
    Anonymous,
}

/// Which requests of its callers a rule is about.
#[derive(Clone, Debug)]
pub enum Scope {
    /// All of them, and connections that are passed on as bytes.
    Everything,
    /// Those that one of these describes.
    Permissions(Arc<[Permission]>),
    /// Those that the role of this name may make.
    Role(Arc<str>, Arc<[Permission]>),
}

/// A description of requests. All parts must hold; an empty list holds for every request.
#[derive(Clone, Debug, Default)]
pub struct Permission {
    /// Any one of these methods.
    pub methods: Vec<Method>,
    /// The path, without the query.
    pub path: PathPattern,
    /// All of these headers.
    pub headers: Vec<HeaderMatch>,
}

/// Condition on a claim: one of the values must stand there.
#[derive(Clone, Debug)]
pub struct ClaimMatch {
    /// Name of the claim.
    pub name: Box<str>,
    /// Any one of these.
    pub values: Vec<Box<str>>,
}

/// A request as the application will see it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The verified identity of the caller; `None` if there is none.
    pub source: Option<&'a SpiffeId>,
    /// Method.
    pub method: &'a Method,
    /// Path without the query, exactly as it is sent on.
    pub path: &'a str,
    /// Head fields.
    pub headers: &'a HeaderMap,
    /// Claims of the token that was verified; `None` if the request has none.
    pub claims: Option<&'a Claims>,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is to become of the request.
    pub action: Action,
    /// Why.
    pub reason: Reason,
}

/// Why it was decided like that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The rule with this index, see [`Policy::name`].
    Rule(usize),
    /// No rule matched.
    Default,
}

#[cfg(test)]
mod tests;
