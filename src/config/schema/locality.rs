//! Keys of `zones` and `session_affinity`.

use super::{NONE, Section};

pub(in crate::config) static ZONES: Section = Section {
    name: "zones",
    example: "mode: aware",
    known: &["mode", "min_endpoints", "weights"],
    later: NONE,
    aliases: &[
        ("min_cluster_size", "min_endpoints"),
        ("locality_weights", "weights"),
        ("distribute", "weights"),
    ],
};

pub(in crate::config) static SESSION_AFFINITY: Section = Section {
    name: "session_affinity",
    example: "cookie: outrigger-session",
    known: &["cookie", "ttl", "path"],
    later: NONE,
    aliases: &[("name", "cookie"), ("max_age", "ttl"), ("cookie_name", "cookie")],
};
