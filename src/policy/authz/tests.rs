//! Decisions by table and, for rules that nobody thought of, against an evaluator that is too simple to be wrong.

use http::{HeaderName, HeaderValue};
use proptest::{prelude::*, sample::select};
use regex::Regex;

use super::{reading::freely, *};
use crate::{policy::route::ValueMatch, types::TrustDomain};

fn domain() -> TrustDomain {
    "mesh.local".parse().unwrap()
}

fn id(text: &str) -> SpiffeId {
    if text.contains("://") { text.parse().unwrap() } else { domain().service(text).unwrap() }
}

fn source(text: &str) -> Source {
    match (text, text.strip_suffix('*')) {
        ("anonymous", _) => Source::Anonymous,
        (_, Some("")) => Source::Any,
        (_, Some(prefix)) => Source::ServicePrefix(prefix.into()),
        _ if text.contains("://") => Source::Id(id(text)),
        _ => Source::Service(text.into()),
    }
}

fn rule(of: &str, action: Action, scope: Scope) -> RuleParams {
    RuleParams {
        name: format!("{of}-{action:?}").into(),
        source: source(of),
        action,
        scope,
        claims: Vec::new(),
    }
}

fn allow(of: &str) -> RuleParams {
    rule(of, Action::Allow, Scope::Everything)
}

fn deny(of: &str) -> RuleParams {
    rule(of, Action::Deny, Scope::Everything)
}

fn claim(name: &str, values: &[&str]) -> ClaimMatch {
    ClaimMatch { name: name.into(), values: values.iter().map(|value| (*value).into()).collect() }
}

fn under(prefix: &str) -> Scope {
    permission(&[], PathPattern::Prefix(prefix.into()), Vec::new())
}

fn permission(methods: &[Method], path: PathPattern, headers: Vec<HeaderMatch>) -> Scope {
    Scope::Permissions([Permission { methods: methods.to_vec(), path, headers }].into())
}

fn with(default_action: Action, rules: Vec<RuleParams>) -> Policy {
    let params = IntentionsParams { mode: Mode::Enforce, default_action, roles: Vec::new(), rules };
    Policy::compile(&Intentions::Given(params), &domain())
}

fn policy(rules: Vec<RuleParams>) -> Policy {
    with(Action::Deny, rules)
}

struct Asked<'a> {
    method: Method,
    path: &'a str,
    headers: HeaderMap,
    claims: Option<Claims>,
}

fn get(path: &str) -> Asked<'_> {
    Asked { method: Method::GET, path, headers: HeaderMap::new(), claims: None }
}

fn decide(policy: &Policy, caller: &str, asked: &Asked<'_>) -> Decision {
    let source = (caller != "anonymous").then(|| id(caller));
    let Asked { method, path, headers, claims } = asked;
    policy.decide(&Request { source: source.as_ref(), method, path, headers, claims: claims.as_ref() })
}

fn passes(policy: &Policy, caller: &str, asked: &Asked<'_>) -> bool {
    decide(policy, caller, asked).action == Action::Allow
}

#[test]
fn sources_are_names_beginnings_anybody_identities_and_nobody() {
    let callers =
        ["web", "web-2", "anonymous", "spiffe://mesh.local/ns/web", "spiffe://other.mesh/service/web"];
    for (source, expected) in [
        ("web", [true, false, false, false, false]),
        ("we*", [true, true, false, false, false]),
        ("*", [true, true, false, true, false]),
        ("anonymous", [false, false, true, false, false]),
        ("spiffe://mesh.local/service/web", [true, false, false, false, false]),
        ("spiffe://mesh.local/ns/web", [false, false, false, true, false]),
        ("spiffe://other.mesh/service/web", [false, false, false, false, true]),
    ] {
        let policy = policy(vec![allow(source)]);
        assert_eq!(callers.map(|caller| passes(&policy, caller, &get("/"))), expected, "{source}");
    }
}

#[test]
fn one_rule_that_denies_wins_over_all_that_allow() {
    for rules in [vec![allow("web"), deny("*")], vec![deny("*"), allow("web")], vec![allow("*"), deny("we*")]]
    {
        assert!(!passes(&with(Action::Allow, rules), "web", &get("/")));
    }
    assert!(passes(&with(Action::Allow, vec![deny("web")]), "shop", &get("/")));
}

#[test]
fn the_most_specific_source_names_the_decision_and_then_the_files_order() {
    let rules =
        vec![allow("*"), allow("w*"), allow("we*"), allow("web"), allow("spiffe://mesh.local/service/web")];
    let mut left = rules.clone();
    // An identity and the service that it is of are equally specific.
    for expected in [3, 3, 2, 1, 0] {
        let decision = decide(&policy(left.clone()), "web", &get("/"));
        assert_eq!(decision, Decision { action: Action::Allow, reason: Reason::Rule(expected) });
        left.remove(expected);
    }
    assert_eq!(decide(&policy(left), "web", &get("/")).reason, Reason::Default);
    assert_eq!(policy(rules).name(2).map(|name| &**name), Some("we*-Allow"));
}

#[test]
fn prefixes_end_at_segments_and_other_paths_are_exact() {
    let pay = policy(vec![rule("web", Action::Allow, under("/pay/"))]);
    for (path, expected) in
        [("/pay", true), ("/pay/", true), ("/pay/x", true), ("/payx", false), ("/", false)]
    {
        assert_eq!(passes(&pay, "web", &get(path)), expected, "{path}");
    }
    let exact =
        policy(vec![rule("web", Action::Allow, permission(&[], PathPattern::Exact("/a".into()), vec![]))]);
    for (path, expected) in [("/a", true), ("/a/", false), ("/A", false), ("/a/b", false)] {
        assert_eq!(passes(&exact, "web", &get(path)), expected, "{path}");
    }
    let regex = PathPattern::Regex(Regex::new("^(?:/v[0-9]+)$").unwrap());
    let regex = policy(vec![rule("web", Action::Allow, permission(&[], regex, vec![]))]);
    assert!(passes(&regex, "web", &get("/v12")) && !passes(&regex, "web", &get("/v12/x")));
}

#[test]
fn a_path_that_can_be_read_in_two_ways_is_denied_by_either_and_allowed_by_both() {
    let denied = with(Action::Allow, vec![rule("web", Action::Deny, under("/admin"))]);
    for path in [
        "/%61dmin",
        "//admin",
        "/admin;x=1",
        "/admin%3bx",
        "/a%64min/x",
        "/x/..%3b/admin",
        "/admin%2fx",
        "/admin;/x",
    ] {
        assert!(!passes(&denied, "web", &get(path)), "{path}");
    }
    for path in ["/ADMIN", "/x/admin", "/%2561dmin", "/adminx", "/x;/admin=1"] {
        assert!(passes(&denied, "web", &get(path)), "{path}");
    }
    let allowed = policy(vec![rule("web", Action::Allow, under("/pay"))]);
    for (path, expected) in [
        ("/pay/a;v=1", true),
        ("/pay//x", true),
        ("/%70ay", false),
        ("//pay", false),
        ("/pay;x", false),
        ("/pay/..%3b/admin", false),
    ] {
        assert_eq!(passes(&allowed, "web", &get(path)), expected, "{path}");
    }
    let escaped = policy(vec![rule("web", Action::Allow, under("/caf%C3%A9"))]);
    assert!(passes(&escaped, "web", &get("/caf%C3%A9/x")) && !passes(&escaped, "web", &get("/caf%c3%a9/x")));
}

#[test]
fn methods_are_exact_to_allow_and_in_any_case_to_deny() {
    let any = || permission(&[Method::DELETE], PathPattern::Any, vec![]);
    let lower = Asked { method: Method::from_bytes(b"delete").unwrap(), ..get("/") };
    let upper = Asked { method: Method::DELETE, ..get("/") };
    let allowed = policy(vec![rule("web", Action::Allow, any())]);
    assert!(passes(&allowed, "web", &upper) && !passes(&allowed, "web", &lower));
    let denied = with(Action::Allow, vec![rule("web", Action::Deny, any())]);
    assert!(!passes(&denied, "web", &upper) && !passes(&denied, "web", &lower));
    assert!(passes(&denied, "web", &get("/")));
}

#[test]
fn of_a_field_that_comes_twice_one_value_is_enough_to_deny_and_all_are_needed_to_allow() {
    let prod = || {
        let value = ValueMatch::Exact("prod".into());
        permission(&[], PathPattern::Any, vec![HeaderMatch { name: HeaderName::from_static("x-env"), value }])
    };
    let twice = |values: &[&'static str]| {
        let mut asked = get("/");
        for value in values {
            asked.headers.append("x-env", HeaderValue::from_static(value));
        }
        asked
    };
    let allowed = policy(vec![rule("web", Action::Allow, prod())]);
    let denied = with(Action::Allow, vec![rule("web", Action::Deny, prod())]);
    for (values, is_allowed, is_denied) in [
        (&["prod"][..], true, true),
        (&["prod", "test"], false, true),
        (&["test", "prod"], false, true),
        (&["test"], false, false),
        (&[], false, false),
    ] {
        assert_eq!(passes(&allowed, "web", &twice(values)), is_allowed, "{values:?}");
        assert_eq!(!passes(&denied, "web", &twice(values)), is_denied, "{values:?}");
    }
}

#[test]
fn a_field_that_some_read_as_the_one_of_the_rule_denies_and_does_not_allow() {
    let rule_of = |name: &'static str, action, value| {
        let header = HeaderMatch { name: HeaderName::from_static(name), value };
        let scope = permission(&[], PathPattern::Any, vec![header]);
        let default = if action == Action::Deny { Action::Allow } else { Action::Deny };
        with(default, vec![rule("web", action, scope)])
    };
    let asked = |fields: &[(&'static str, &'static str)]| {
        let mut asked = get("/");
        for (name, value) in fields {
            asked.headers.append(*name, HeaderValue::from_static(value));
        }
        asked
    };
    let prod = || ValueMatch::Exact("prod".into());
    for (fields, is_allowed, is_denied) in [
        (&[("x_user_env", "prod")][..], false, true),
        (&[("x-user_env", "prod")], false, true),
        (&[("x-user-env", "prod"), ("x_user_env", "test")], false, true),
        (&[("x-user-env", "test"), ("x_user_env", "prod")], false, true),
        (&[("x-user-env", "prod"), ("x_user_env", "prod")], true, true),
        (&[("x_user_env", "test")], false, false),
        (&[("x_user_envy", "prod"), ("x_user", "prod")], false, false),
    ] {
        let asked = asked(fields);
        let allowed = rule_of("x-user-env", Action::Allow, prod());
        assert_eq!(passes(&allowed, "web", &asked), is_allowed, "{fields:?}");
        let denied = rule_of("x-user-env", Action::Deny, prod());
        assert_eq!(!passes(&denied, "web", &asked), is_denied, "{fields:?}");
    }
    // A rule may have the underscore as well.
    assert!(!passes(&rule_of("x_env", Action::Deny, prod()), "web", &asked(&[("x-env", "prod")])));
    // What may be taken for there is not surely absent.
    let absent = || ValueMatch::Present(false);
    assert!(!passes(&rule_of("x-env", Action::Allow, absent()), "web", &asked(&[("x_env", "1")])));
    assert!(!passes(&rule_of("x-env", Action::Deny, absent()), "web", &asked(&[("x_env", "1")])));
}

#[test]
fn underscores_read_as_dashes() {
    assert!(reads_as("x_user", "x-user") && reads_as("x-user", "x_user") && reads_as("x-user", "x-user"));
    assert!(!reads_as("x_users", "x-user") && !reads_as("x_use", "x-user"));
}

#[test]
fn all_claims_must_have_one_of_their_values() {
    let mut wanted = allow("web");
    wanted.claims = vec![claim("role", &["admin", "owner"]), claim("team", &["pay"])];
    let policy = policy(vec![wanted]);
    let bearing = |pairs: &[(&str, &str)]| {
        let claims = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Asked { claims: Some(claims), ..get("/") }
    };
    assert!(passes(&policy, "web", &bearing(&[("role", "owner"), ("role", "dev"), ("team", "pay")])));
    assert!(!passes(&policy, "web", &bearing(&[("role", "owner")])));
    assert!(!passes(&policy, "web", &bearing(&[("role", "dev"), ("team", "pay")])));
    assert!(!passes(&policy, "web", &get("/")));
}

#[test]
fn bytes_that_are_passed_on_unread_meet_conditions_only_where_they_deny() {
    let web = Some(id("web"));
    let unread = |rules: Vec<RuleParams>| with(Action::Deny, rules).decide_unread(web.as_ref()).action;
    assert_eq!(unread(vec![allow("web")]), Action::Allow);
    assert_eq!(unread(vec![rule("web", Action::Allow, under("/"))]), Action::Deny);
    let mut bearing = allow("web");
    bearing.claims = vec![claim("role", &["admin"])];
    assert_eq!(unread(vec![bearing]), Action::Deny);
    assert_eq!(unread(vec![allow("web"), rule("web", Action::Deny, under("/admin"))]), Action::Deny);
    assert_eq!(unread(vec![allow("web"), rule("shop", Action::Deny, under("/admin"))]), Action::Allow);
}

#[test]
fn without_rules_everybody_meets_the_same() {
    for (action, open) in [(Action::Allow, true), (Action::Deny, false)] {
        let policy = Policy::absent(action, &domain());
        for caller in ["web", "anonymous", "spiffe://other.mesh/x"] {
            assert_eq!(decide(&policy, caller, &get("/")), Decision { action, reason: Reason::Default });
        }
        assert_eq!(policy.is_open(), open);
        // Rules that are written down are asked and counted, also if there are none.
        assert!(!with(action, Vec::new()).is_open());
    }
}

#[test]
fn a_caller_of_another_trust_domain_is_no_service_of_this_one() {
    let policy = policy(Vec::new());
    assert_eq!(policy.service(&id("web")), Some("web"));
    assert_eq!(policy.service(&id("spiffe://other.mesh/service/web")), None);
    assert_eq!(policy.service(&id("spiffe://mesh.local/ns/web")), None);
}

#[test]
fn rules_that_can_never_decide_are_found() {
    let shadowed = |rules: Vec<RuleParams>| never_deciding(&rules, &domain());
    let pay = |of: &str, action| rule(of, action, under("/pay"));
    let (yes, no) = (Action::Allow, Action::Deny);
    assert_eq!(shadowed(vec![pay("web", yes), pay("web", yes)]), [(1, 0)]);
    assert_eq!(shadowed(vec![allow("web"), pay("spiffe://mesh.local/service/web", yes)]), [(1, 0)]);
    assert_eq!(shadowed(vec![pay("web", yes), deny("we*")]), [(0, 1)]);
    assert_eq!(shadowed(vec![deny("*"), allow("w*"), allow("anonymous")]), [(1, 0)]);
    assert_eq!(shadowed(vec![deny("anonymous"), pay("anonymous", yes)]), [(1, 0)]);
    for rules in [
        vec![pay("web", yes), allow("web")],
        vec![pay("web", yes), pay("web", no)],
        vec![pay("web", yes), pay("shop", yes)],
        vec![allow("*"), allow("web")],
        vec![deny("web*"), allow("we*")],
        vec![deny("*"), allow("spiffe://other.mesh/service/web")],
        vec![deny("*"), deny("web")],
        vec![pay("*", no), allow("web")],
    ] {
        assert_eq!(shadowed(rules.clone()), [], "{rules:?}");
    }
}

/// What [`Policy`] decides, rule by rule.
fn naive(
    rules: &[RuleParams],
    default: Action,
    caller: Option<&SpiffeId>,
    asked: Option<&Asked<'_>>,
) -> Decision {
    let specificity = |source: &Source| match source {
        Source::Service(_) | Source::Id(_) => 1000,
        Source::ServicePrefix(prefix) => prefix.len(),
        Source::Any | Source::Anonymous => 0,
    };
    let is_from = |source: &Source| match (source, caller) {
        (Source::Anonymous, caller) => caller.is_none(),
        (_, None) => false,
        (Source::Service(name), Some(caller)) => {
            caller.as_str() == format!("spiffe://mesh.local/service/{name}")
        }
        (Source::ServicePrefix(prefix), Some(caller)) => {
            caller.as_str().starts_with(&format!("spiffe://mesh.local/service/{prefix}"))
                && caller.service().is_some()
        }
        (Source::Any, Some(caller)) => caller.trust_domain() == "mesh.local",
        (Source::Id(id), Some(caller)) => id == caller,
    };
    let path_is = |path: &PathPattern, text: &str| match path {
        PathPattern::Any => true,
        PathPattern::Exact(exact) => exact == text,
        PathPattern::Prefix(prefix) => {
            let prefix = prefix.trim_end_matches('/');
            (text == prefix && !text.is_empty()) || text.starts_with(&format!("{prefix}/"))
        }
        PathPattern::Regex(regex) => regex.is_match(text),
    };
    let fits = |rule: &RuleParams, permission: &Permission| {
        let Some(asked) = asked else { return rule.action == Action::Deny };
        let (sent, free) =
            (path_is(&permission.path, asked.path), path_is(&permission.path, &freely(asked.path)));
        let path = if rule.action == Action::Allow { sent && free } else { sent || free };
        path && (permission.methods.is_empty() || permission.methods.contains(&asked.method))
    };
    let best = |action| {
        let matching = rules.iter().enumerate().filter(|(_, rule)| {
            let in_scope = match &rule.scope {
                Scope::Everything => true,
                Scope::Permissions(all) | Scope::Role(_, all) => all.iter().any(|one| fits(rule, one)),
            };
            rule.action == action && is_from(&rule.source) && in_scope
        });
        matching
            .min_by_key(|(index, rule)| (usize::MAX - specificity(&rule.source), *index))
            .map(|(index, _)| index)
    };
    match (best(Action::Deny), best(Action::Allow)) {
        (Some(rule), _) => Decision { action: Action::Deny, reason: Reason::Rule(rule) },
        (None, Some(rule)) => Decision { action: Action::Allow, reason: Reason::Rule(rule) },
        (None, None) => Decision { action: default, reason: Reason::Default },
    }
}

const CALLERS: &[&str] = &[
    "a",
    "ab",
    "abc",
    "b",
    "anonymous",
    "spiffe://mesh.local/ns/a",
    "spiffe://other.mesh/service/a",
    "spiffe://mesh.local/service/a/b",
];
const PATHS: &[&str] = &["/", "/a", "/a/", "/a/b", "/ab", "/%61", "//a/b", "/a;x/b", "/A", "/a%2fb", "*", ""];

fn actions() -> impl Strategy<Value = Action> {
    select(vec![Action::Allow, Action::Deny])
}

fn rules() -> impl Strategy<Value = Vec<RuleParams>> {
    let sources =
        ["a", "ab", "a*", "ab*", "*", "anonymous", "spiffe://mesh.local/service/a", CALLERS[5], CALLERS[6]];
    let paths = vec![
        PathPattern::Any,
        PathPattern::Exact("/a".into()),
        PathPattern::Prefix("/".into()),
        PathPattern::Prefix("/a".into()),
        PathPattern::Prefix("/a/b/".into()),
        PathPattern::Regex(Regex::new("^(?:/a/?[b;]*)$").unwrap()),
    ];
    let permission = (select(paths), prop::option::of(select(vec![Method::GET, Method::POST]))).prop_map(
        |(path, method)| Permission { path, methods: method.into_iter().collect(), headers: Vec::new() },
    );
    let scope = prop::option::of(prop::collection::vec(permission, 1..3))
        .prop_map(|some| some.map_or(Scope::Everything, |some| Scope::Permissions(some.into())));
    let rule =
        (select(sources.to_vec()), actions(), scope).prop_map(|(of, action, scope)| rule(of, action, scope));
    prop::collection::vec(rule, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn decisions_are_those_of_the_naive_evaluator(
        rules in rules(),
        default in actions(),
        caller in select(CALLERS),
        path in select(PATHS),
        method in select(vec![Method::GET, Method::POST]),
    ) {
        let policy = with(default, rules.clone());
        let caller = (caller != "anonymous").then(|| id(caller));
        let asked = Asked { method, ..get(path) };
        let request = Request {
            source: caller.as_ref(),
            method: &asked.method,
            path,
            headers: &asked.headers,
            claims: None,
        };
        prop_assert_eq!(policy.decide(&request), naive(&rules, default, caller.as_ref(), Some(&asked)));
        prop_assert_eq!(policy.decide_unread(caller.as_ref()), naive(&rules, default, caller.as_ref(), None));
    }

    #[test]
    fn a_rule_that_was_found_to_decide_nothing_decides_nothing(
        rules in rules(),
        caller in select(CALLERS),
        path in select(PATHS),
    ) {
        let dead: Vec<usize> = never_deciding(&rules, &domain()).into_iter().map(|(rule, _)| rule).collect();
        if let Reason::Rule(rule) = decide(&policy(rules), caller, &get(path)).reason {
            prop_assert!(!dead.contains(&rule));
        }
    }

    #[test]
    fn any_path_can_be_decided_about(path in "\\PC{0,40}") {
        decide(&policy(vec![rule("web", Action::Deny, under("/a%"))]), "web", &get(&path));
    }
}
