//! Keys of `intentions`.

use super::{NONE, Section};

pub(in crate::config) static INTENTIONS: Section = Section {
    name: "intentions",
    example: "rules: [{ source: web, action: allow }]",
    known: &["mode", "default_action", "roles", "rules", "jwt", "ext_authz"],
    later: NONE,
    aliases: &[
        ("default", "default_action"),
        ("policies", "rules"),
        ("sources", "rules"),
        ("dry_run", "mode"),
        ("request_authentication", "jwt"),
        ("jwt_rules", "jwt"),
        ("providers", "jwt"),
        ("forward_auth", "ext_authz"),
    ],
};

pub(in crate::config) static RULE: Section = Section {
    name: "rule",
    example: "source: web, action: allow",
    known: &["name", "source", "action", "permissions", "role", "claims"],
    later: NONE,
    aliases: &[
        ("from", "source"),
        ("principal", "source"),
        ("principals", "source"),
        ("to", "permissions"),
        ("permission", "permissions"),
        ("when", "claims"),
    ],
};

pub(in crate::config) static PERMISSION: Section = Section {
    name: "permission",
    example: "methods: [GET], path_prefix: /api",
    known: &["methods", "path", "path_prefix", "path_regex", "headers"],
    later: NONE,
    aliases: &[
        ("prefix", "path_prefix"),
        ("regex", "path_regex"),
        ("paths", "path_prefix"),
        ("method", "methods"),
        ("header", "headers"),
    ],
};
