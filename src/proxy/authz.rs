//! Holds what comes in against the rules about callers, counts and logs what was decided, and says no. The rules are
//! policy/authz's.

mod refusals;

pub(super) use self::refusals::Refusals;

use std::{
    cell::{OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
};

use http::request::Parts;
use rustc_hash::FxHashMap;

use self::refusals::Say;
use super::{connection::Downstream, record::RequestRecord, reply::Reason, worker::Worker};
use crate::{
    policy::authz::{self, Action, Decision, Mode, Policy, Request},
    rt::clock,
    snapshot::MeshSnapshot,
    telemetry::metrics::{AuthzAction, AuthzMetrics, AuthzReason, Registry},
    types::{Direction, SpiffeId},
};

/// What metrics and logs call a caller without an identity.
const ANONYMOUS: &str = "anonymous";
/// What logs say instead of a rule if there was none.
const DEFAULT: &str = "default_action";
/// Callers whose counters a worker keeps at hand. More than these and all are looked up anew.
const MAX_SOURCES: usize = 4096;
/// Bytes of a path that are logged.
const MAX_LOGGED_PATH: usize = 256;

/// What a worker remembers of callers.
pub(super) struct Ledger {
    registry: Arc<Registry>,
    sources: RefCell<FxHashMap<Box<str>, Rc<AuthzMetrics>>>,
    refusals: Arc<Refusals>,
}

impl Ledger {
    pub(super) fn new(registry: &Arc<Registry>, refusals: &Arc<Refusals>) -> Self {
        Self { registry: Arc::clone(registry), sources: RefCell::default(), refusals: Arc::clone(refusals) }
    }

    /// Where decisions about `caller` are counted.
    fn of(&self, caller: Option<&SpiffeId>, policy: &Policy) -> Rc<AuthzMetrics> {
        let source = match caller {
            None => ANONYMOUS,
            // A service of that name would be taken for nobody.
            Some(id) => policy.service(id).filter(|name| *name != ANONYMOUS).unwrap_or(id.as_str()),
        };
        let mut sources = self.sources.borrow_mut();
        if let Some(known) = sources.get(source) {
            return Rc::clone(known);
        }
        if sources.len() >= MAX_SOURCES {
            sources.clear();
        }
        let made = Rc::new(AuthzMetrics::new(&self.registry, source));
        sources.insert(source.into(), Rc::clone(&made));
        made
    }
}

/// Where decisions about the caller of one connection are counted; looked up at the first.
#[derive(Default)]
pub(super) struct Decisions(OnceCell<Rc<AuthzMetrics>>);

/// What was asked for, for the log.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Request(&'a Parts),
    Tunnel,
    Connection,
}

/// Whether the caller may make this request, which has been cleaned: its path is the one that the application will see.
/// Requests of the application itself always pass.
///
/// # Errors
/// How it is refused; `record` knows then by which rule.
pub(super) fn check(
    downstream: &Downstream,
    snapshot: &MeshSnapshot,
    head: &Parts,
    record: &mut RequestRecord,
) -> Result<(), Reason> {
    let policy = &snapshot.inbound.callers;
    if downstream.side == Direction::Outbound || policy.is_open() {
        return Ok(());
    }
    let request = Request {
        source: downstream.caller_id(),
        method: &head.method,
        path: head.uri.path(),
        headers: &head.headers,
        claims: record.claims(),
    };
    enforce(downstream, policy, policy.decide(&request), Asked::Request(head), record)
}

/// Whether the caller may have a tunnel, of which nothing but the caller is known.
///
/// # Errors
/// How it is refused; `record` knows then by which rule.
pub(super) fn check_tunnel(
    downstream: &Downstream,
    snapshot: &MeshSnapshot,
    record: &mut RequestRecord,
) -> Result<(), Reason> {
    let policy = &snapshot.inbound.callers;
    if downstream.side == Direction::Outbound || policy.is_open() {
        return Ok(());
    }
    let decision = policy.decide_unread(downstream.caller_id());
    enforce(downstream, policy, decision, Asked::Tunnel, record)
}

fn enforce(
    downstream: &Downstream,
    policy: &Policy,
    decision: Decision,
    asked: Asked<'_>,
    record: &mut RequestRecord,
) -> Result<(), Reason> {
    let Downstream { worker, decisions, .. } = downstream;
    let caller = downstream.caller_id();
    let metrics = decisions.0.get_or_init(|| worker.callers.of(caller, policy));
    if passes(worker, policy, decision, metrics, caller.is_some(), asked) {
        return Ok(());
    }
    record.refused_by(rule(policy, decision).map_or_else(|| DEFAULT.into(), Arc::clone));
    // Which rule it was is nobody's business but the operator's.
    Err(Reason::denied("intentions"))
}

/// Whether a caller may have a connection whose bytes are passed on unread.
pub(super) fn may_connect(worker: &Worker, policy: &Policy, caller: Option<&SpiffeId>) -> bool {
    if policy.is_open() {
        return true;
    }
    let metrics = worker.callers.of(caller, policy);
    let decision = policy.decide_unread(caller);
    passes(worker, policy, decision, &metrics, caller.is_some(), Asked::Connection)
}

/// Counts a decision, logs it if it is a refusal, and says whether the caller may go on.
fn passes(
    worker: &Worker,
    policy: &Policy,
    decision: Decision,
    metrics: &AuthzMetrics,
    identified: bool,
    asked: Asked<'_>,
) -> bool {
    let action = match (decision.action, policy.mode()) {
        (Action::Allow, _) => AuthzAction::Allow,
        (Action::Deny, Mode::Enforce) => AuthzAction::Deny,
        (Action::Deny, Mode::Audit) => AuthzAction::AuditDeny,
    };
    let reason = match decision.reason {
        authz::Reason::Rule(_) => AuthzReason::Intention,
        authz::Reason::Default if !identified && action != AuthzAction::Allow => AuthzReason::NoIdentity,
        authz::Reason::Default => AuthzReason::Default,
    };
    metrics.decided(action, reason);
    if action != AuthzAction::Allow {
        let rule = rule(policy, decision).map_or(DEFAULT, |name| &**name);
        if let Say::Now { left_out } = worker.callers.refusals.note(metrics.source(), rule, clock::now()) {
            log(action, metrics.source(), rule, asked, left_out);
        }
    }
    action != AuthzAction::Deny
}

/// The name of the rule that decided; `None` if there was none.
fn rule(policy: &Policy, decision: Decision) -> Option<&Arc<str>> {
    match decision.reason {
        authz::Reason::Rule(index) => policy.name(index),
        authz::Reason::Default => None,
    }
}

/// Writes one refusal down. `left_out` were not written since the last one of this caller and rule.
fn log(action: AuthzAction, source: &str, rule: &str, asked: Asked<'_>, left_out: u64) {
    let (method, path) = match asked {
        Asked::Request(head) => (head.method.as_str(), head.uri.path()),
        Asked::Tunnel => ("CONNECT", ""),
        Asked::Connection => ("", ""),
    };
    // A path of the request is ASCII: it can be cut anywhere.
    let path = path.get(..MAX_LOGGED_PATH).unwrap_or(path);
    if action == AuthzAction::AuditDeny {
        tracing::info!(source, rule, method, path, left_out, "a caller would be refused");
    } else {
        tracing::warn!(source, rule, method, path, left_out, "a caller was refused");
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Uri};
    use proptest::prelude::*;

    use crate::{
        policy::{
            authz::{
                Action, Intentions, IntentionsParams, Mode, Permission, Policy, Request, RuleParams, Scope,
                Source,
            },
            route::PathPattern,
        },
        proxy::{headers, params::Normalisation},
        types::TrustDomain,
    };

    fn under_admin(action: Action, otherwise: Action) -> Policy {
        let path = PathPattern::Prefix("/admin".into());
        let params = IntentionsParams {
            mode: Mode::Enforce,
            default_action: otherwise,
            roles: Vec::new(),
            rules: vec![RuleParams {
                name: "admin".into(),
                source: Source::Anonymous,
                action,
                scope: Scope::Permissions([Permission { path, ..Permission::default() }].into()),
                claims: Vec::new(),
            }],
        };
        Policy::compile(&Intentions::Given(params), &TrustDomain::default())
    }

    /// Whether a server that decodes escapes, and drops parameters before or after that, serves something under
    /// `/admin`.
    fn is_admin(path: &str) -> bool {
        let cut = |segment: &str| segment.split(';').next().unwrap_or_default().to_owned();
        let decode = |text: &str| {
            let escapes = [
                ("%61", "a"),
                ("%2f", "/"),
                ("%2F", "/"),
                ("%5c", "/"),
                ("%3b", ";"),
                ("%2e", "."),
                ("%2E", "."),
            ];
            escapes.iter().fold(text.to_owned(), |text, (escape, clear)| text.replace(escape, clear))
        };
        let whole = |segments: Vec<String>| segments.join("/");
        let each = |path: &str, change: &dyn Fn(&str) -> String| whole(path.split('/').map(change).collect());
        let readings = [
            path.to_owned(),
            each(path, &cut),
            decode(path),
            decode(&each(path, &cut)),
            each(&decode(path), &cut),
        ];
        readings.iter().any(|path| {
            let mut kept = Vec::new();
            for segment in path.split('/') {
                match segment {
                    "" | "." => {}
                    ".." => {
                        kept.pop();
                    }
                    name => kept.push(name),
                }
            }
            kept.first() == Some(&"admin")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(5000) })]

        #[test]
        fn what_is_denied_cannot_be_reached_by_writing_its_path_differently(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "/", "/", "admin", "%61dmin", "x", ";", "%3b", "..", ".", "%2e", "%2f", "%5c", "?", "%2E.", "b=1",
                ]),
                0..8,
            ),
            merge_slashes: bool,
        ) {
            let target = format!("/{}", parts.concat());
            let (mut head, ()) = http::Request::new(()).into_parts();
            head.headers.insert("host", http::HeaderValue::from_static("web"));
            head.uri = target.parse::<Uri>().unwrap();
            let how = Normalisation { merge_slashes, ..Normalisation::default() };
            if headers::clean_request(&mut head, &how).is_err() {
                return Ok(());
            }
            let path = head.uri.path();
            let headers = &head.headers;
            let asked = Request { source: None, method: &Method::GET, path, headers, claims: None };
            let decide = |policy: Policy| policy.decide(&asked).action;
            if is_admin(path) {
                prop_assert_eq!(decide(under_admin(Action::Deny, Action::Allow)), Action::Deny, "{} sent", path);
            } else {
                prop_assert_eq!(decide(under_admin(Action::Allow, Action::Deny)), Action::Deny, "{} sent", path);
            }
        }
    }
}
