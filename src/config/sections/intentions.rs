//! `intentions`: who may call this service.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::route_match;
use crate::{
    config::{
        codes,
        fields::{Fields, MayLack, each, list, named},
        form,
        report::{Report, error, warning},
        schema,
        span::Span,
        suggest::closest,
        tree::{Content, Node},
        value,
    },
    policy::authz::{
        Action, ClaimMatch, Intentions, IntentionsParams, Mode, Permission, RuleParams, Scope, Source,
        never_deciding,
    },
    types::TrustDomain,
};

/// How `mode` is written.
pub(in crate::config) const MODES: [(&str, Mode); 2] = [("enforce", Mode::Enforce), ("audit", Mode::Audit)];

/// How actions are written.
pub(in crate::config) const ACTIONS: [(&str, Action); 2] = [("allow", Action::Allow), ("deny", Action::Deny)];

/// Keys that say something of callers.
const RULES: [&str; 4] = ["mode", "default_action", "roles", "rules"];

/// How the source of callers without an identity is written.
pub(in crate::config) const ANONYMOUS: &str = "anonymous";

/// Whether callers can have an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Identities {
    /// Never: connections are in the clear.
    None,
    /// Those who prove one with a certificate.
    Proved,
}

impl Identities {
    /// What happens to everybody if there is no section.
    fn absent(self) -> Action {
        match self {
            Self::None => Action::Allow,
            Self::Proved => Action::Deny,
        }
    }
}

type Role = (Arc<str>, Arc<[Permission]>);

/// A rule with where it stands.
struct Read {
    params: RuleParams,
    span: Span,
    source: Span,
}

/// Reads the rules of `intentions`, whose mapping is `fields` if it is there.
pub(in crate::config) fn read(
    root: &Fields<'_>,
    fields: Option<&Fields<'_>>,
    identities: Identities,
    trust_domain: &TrustDomain,
    report: &mut Report,
) -> Intentions {
    // A section that only says whose tokens are good says nothing of callers.
    let has = |fields: &Fields<'_>, keys: &[&str]| keys.iter().any(|key| fields.get(key).is_some());
    let given = |fields: &&Fields<'_>| has(fields, &RULES) || !has(fields, &["jwt", "ext_authz"]);
    let Some(fields) = fields.filter(given) else {
        if identities.absent() == Action::Deny {
            report.add::<()>(
                warning(
                    codes::NOBODY,
                    root.span,
                    "there are no `intentions`, so nobody may call this service",
                )
                .of_mapping()
                .label("every caller would be refused")
                .help("for example `intentions: { rules: [{ source: \"*\", action: allow }] }`"),
            );
        }
        return Intentions::Absent(identities.absent());
    };
    let mode =
        fields.or("mode", Mode::Enforce, report, |node, report| value::word(node, &MODES, &[], report));
    let default_action = fields.or("default_action", Action::Deny, report, action);
    let roles = fields.optional("roles", report, roles).unwrap_or_default();
    let rules =
        fields.optional("rules", report, |node, report| rules(node, &roles, report)).unwrap_or_default();
    check_names(&rules, report);
    advise(fields, mode, default_action, report);
    advise_rules(&rules, identities, trust_domain, report);
    let rules = rules.into_iter().map(|rule| rule.params).collect();
    Intentions::Given(IntentionsParams { mode, default_action, roles, rules })
}

fn action(node: &Node, report: &mut Report) -> Option<Action> {
    value::word(node, &ACTIONS, &[], report)
}

fn roles(node: &Node, report: &mut Report) -> Option<Vec<Role>> {
    let entries = named(node, "roles to permissions", report)?;
    let mut roles = Vec::with_capacity(entries.len());
    for entry in entries {
        if !form::is_name(&entry.key, "") {
            report.add::<()>(form::bad_name(entry.key_span, "role", ""));
            continue;
        }
        if let Some(permissions) = permissions(&entry.value, report) {
            roles.push((entry.key.as_str().into(), permissions));
        }
    }
    Some(roles)
}

fn rules(node: &Node, roles: &[Role], report: &mut Report) -> Option<Vec<Read>> {
    let mut place = 0;
    let known: FxHashMap<&str, &Role> = roles.iter().map(|role| (&*role.0, role)).collect();
    each(node, "rules", report, |node, report| {
        place += 1;
        rule(node, place, &known, report)
    })
}

fn rule(node: &Node, place: usize, roles: &FxHashMap<&str, &Role>, report: &mut Report) -> Option<Read> {
    let fields = Fields::open(node, &schema::RULE, report)?;
    let name = fields.optional("name", report, form::rule_name);
    let source_node = fields.require("source", "source: web", report);
    let source = source_node.and_then(|node| source(node, report));
    let action = fields.require("action", "action: allow", report).and_then(|node| action(node, report));
    let scope = match fields.one_of(&["permissions", "role"], MayLack::Yes, report) {
        None => Some(Scope::Everything),
        Some(("permissions", node)) => permissions(node, report).map(Scope::Permissions),
        Some((_, node)) => role(node, roles, report),
    };
    let claims = match fields.get("claims") {
        None => Some(Vec::new()),
        Some(node) => claims(node, report),
    };
    Some(Read {
        params: RuleParams {
            name: name.unwrap_or_else(|| format!("rule-{place}").into()),
            source: source?,
            action: action?,
            scope: scope?,
            claims: claims?,
        },
        span: node.span,
        source: source_node?.span,
    })
}

/// A service, the beginning of names with `*` behind it, a SPIFFE identity, or `anonymous`.
fn source(node: &Node, report: &mut Report) -> Option<Source> {
    let scalar = value::text_scalar(node, "a source", "web", report)?;
    let text = scalar.text.as_str();
    let prefix = text.strip_suffix('*');
    let is_service = |name: &str| form::is_name(name, "") && name != "." && name != "..";
    match prefix {
        _ if text == ANONYMOUS => return Some(Source::Anonymous),
        Some("") => return Some(Source::Any),
        Some(prefix) if form::is_name(prefix, "") => return Some(Source::ServicePrefix(prefix.into())),
        None if is_service(text) => return Some(Source::Service(text.into())),
        _ => {}
    }
    let finding = error(codes::MALFORMED, node.span, format!("{} is not a source", value::shown(scalar)));
    if text.contains("://") && !text.ends_with('*') {
        return match text.parse() {
            Ok(id) => Some(Source::Id(id)),
            Err(problem) => report.add(finding.label(problem.to_string())),
        };
    }
    report.add(
        finding
            .label("neither a service nor an identity")
            .help("`web`, `batch-*`, `*`, `anonymous`, or `spiffe://mesh.example/service/web`"),
    )
}

/// A list with at least one item: an empty one would look like a limit, and be none.
fn some<'n, T>(
    node: &'n Node,
    what: &str,
    report: &mut Report,
    read: impl FnMut(&'n Node, &mut Report) -> Option<T>,
) -> Option<Vec<T>> {
    if list(node, what, report)?.is_empty() {
        return report.add(
            error(codes::MISSING_KEY, node.span, format!("the list of {what} is empty"))
                .label("needs at least one")
                .help("leave the key out if it should not matter"),
        );
    }
    each(node, what, report, read)
}

fn permissions(node: &Node, report: &mut Report) -> Option<Arc<[Permission]>> {
    some(node, "permissions", report, permission).map(Into::into)
}

fn permission(node: &Node, report: &mut Report) -> Option<Permission> {
    let fields = Fields::open(node, &schema::PERMISSION, report)?;
    let methods =
        fields.optional("methods", report, |node, report| some(node, "methods", report, form::method));
    let path = route_match::path_pattern(&fields, report);
    let headers = fields
        .optional("headers", report, |node, report| some(node, "conditions", report, route_match::header));
    if matches!(&node.content, Content::Map(entries) if entries.is_empty()) {
        return report.add(
            error(codes::CHOICE, node.span, "the permission has no condition")
                .label("it would be for everything")
                .help("leave `permissions` out to mean everything"),
        );
    }
    Some(Permission {
        methods: methods.unwrap_or_default(),
        path: path.unwrap_or_default(),
        headers: headers.unwrap_or_default(),
    })
}

fn role(node: &Node, roles: &FxHashMap<&str, &Role>, report: &mut Report) -> Option<Scope> {
    let scalar = value::text_scalar(node, "a role", "admin", report)?;
    if let Some((name, permissions)) = roles.get(scalar.text.as_str()) {
        return Some(Scope::Role(Arc::clone(name), Arc::clone(permissions)));
    }
    let shown = value::shown(scalar);
    report.add(
        error(codes::UNKNOWN_ROLE, node.span, format!("there is no role {shown}"))
            .label("not under `intentions.roles`")
            .suggest(closest(&scalar.text, roles.keys().copied(), &[])),
    )
}

/// Claims to values, of each of which one must be there.
fn claims(node: &Node, report: &mut Report) -> Option<Vec<ClaimMatch>> {
    let entries = named(node, "claims to values", report)?;
    if entries.is_empty() {
        return report.add(
            error(codes::MISSING_KEY, node.span, "the mapping of claims is empty")
                .label("needs at least one")
                .help("leave the key out if no token is needed"),
        );
    }
    let text = |node: &Node, report: &mut Report| value::text(node, report).map(Box::from);
    let mut claims = Vec::with_capacity(entries.len());
    for entry in entries {
        let values = match &entry.value.content {
            Content::Scalar(_) => text(&entry.value, report).map(|value| vec![value]),
            Content::List(_) | Content::Map(_) => some(&entry.value, "values", report, text),
        };
        claims.push(ClaimMatch { name: entry.key.as_str().into(), values: values? });
    }
    Some(claims)
}

fn check_names(rules: &[Read], report: &mut Report) {
    let mut first: FxHashMap<&str, Span> = FxHashMap::default();
    for rule in rules {
        if let Some(before) = first.get(&*rule.params.name) {
            report.add::<()>(
                error(
                    codes::DUPLICATE_NAME,
                    rule.span,
                    format!("two rules are called `{}`", rule.params.name),
                )
                .label("again here")
                .also(*before, "first here"),
            );
        } else {
            first.insert(&rule.params.name, rule.span);
        }
    }
}

/// What is allowed, but leaves more open than it seems.
fn advise(fields: &Fields<'_>, mode: Mode, default_action: Action, report: &mut Report) {
    if let Some(node) = fields.get("default_action").filter(|_| default_action == Action::Allow) {
        report.add::<()>(
            warning(codes::ALLOWS_BY_DEFAULT, node.span, "who is in no rule may do everything")
                .label("everybody else passes")
                .help("leave it at `deny`, and write down who may call"),
        );
    }
    if let Some(node) = fields.get("mode").filter(|_| mode == Mode::Audit) {
        report.add::<()>(
            warning(codes::ONLY_AUDITED, node.span, "nothing is refused")
                .label("what the rules deny is only counted and logged")
                .help("set `mode: enforce` when the rules have shown to be right"),
        );
    }
}

/// Rules that do nothing.
fn advise_rules(rules: &[Read], identities: Identities, trust_domain: &TrustDomain, report: &mut Report) {
    let params: Vec<RuleParams> = rules.iter().map(|rule| rule.params.clone()).collect();
    for (rule, by) in never_deciding(&params, trust_domain) {
        report.add::<()>(
            warning(codes::NEVER_DECIDES, rules[rule].span, "this rule never decides anything")
                .label(format!("rule `{}` comes before it", rules[by].params.name))
                .also(rules[by].span, "this one decides")
                .help("delete one of the two, or make it narrower"),
        );
    }
    for rule in rules {
        if identities == Identities::None && rule.params.source != Source::Anonymous {
            report.add::<()>(
                warning(codes::NO_IDENTITIES, rule.source, "this rule matches nobody")
                    .label("without mTLS no caller has an identity")
                    .help("all callers are `anonymous` while `mtls.mode` is `disabled`"),
            );
        }
    }
}
