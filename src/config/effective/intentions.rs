//! `intentions` as they are in force.

use serde_json::{Map, Value, json};

use super::{condition, object, put, put_list, put_path_pattern};
use crate::{
    config::{
        sections::intentions::{ACTIONS, ANONYMOUS, MODES},
        value::word_for,
    },
    policy::authz::{ClaimMatch, Intentions, IntentionsParams, Permission, RuleParams, Scope, Source},
};

/// The section; `None` if there is none, which is not the same as one without rules.
pub(super) fn section(intentions: &Intentions) -> Option<Map<String, Value>> {
    let IntentionsParams { mode, default_action, roles, rules } = match intentions {
        Intentions::Absent(_) => return None,
        Intentions::Given(params) => params,
    };
    let mut fields = object(json!({
        "mode": word_for(mode, &MODES),
        "default_action": word_for(default_action, &ACTIONS),
    }));
    let roles: Map<String, Value> =
        roles.iter().map(|(name, granted)| (name.to_string(), permissions(granted))).collect();
    put(&mut fields, "roles", (!roles.is_empty()).then_some(roles));
    put_list(&mut fields, "rules", rules.iter().map(rule));
    Some(fields)
}

fn rule(rule: &RuleParams) -> Value {
    let RuleParams { name, source: callers, action, scope, claims } = rule;
    let mut fields = object(json!({
        "name": &**name,
        "source": source(callers),
        "action": word_for(action, &ACTIONS),
    }));
    match scope {
        Scope::Everything => {}
        Scope::Permissions(granted) => put(&mut fields, "permissions", Some(permissions(granted))),
        Scope::Role(name, _) => put(&mut fields, "role", Some(&**name)),
    }
    let claims: Map<String, Value> =
        claims.iter().map(|ClaimMatch { name, values }| (name.to_string(), json!(values))).collect();
    put(&mut fields, "claims", (!claims.is_empty()).then_some(claims));
    Value::Object(fields)
}

fn source(source: &Source) -> String {
    match source {
        Source::Service(name) => name.to_string(),
        Source::ServicePrefix(prefix) => format!("{prefix}*"),
        Source::Any => "*".to_owned(),
        Source::Id(id) => id.to_string(),
        Source::Anonymous => ANONYMOUS.to_owned(),
    }
}

fn permissions(permissions: &[Permission]) -> Value {
    permissions.iter().map(permission).collect()
}

fn permission(Permission { methods, path, headers }: &Permission) -> Value {
    let mut fields = Map::new();
    put_list(&mut fields, "methods", methods.iter().map(http::Method::as_str));
    put_path_pattern(&mut fields, path);
    put_list(&mut fields, "headers", headers.iter().map(|c| condition(c.name.as_str(), &c.value)));
    Value::Object(fields)
}
