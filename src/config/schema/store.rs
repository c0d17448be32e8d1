//! `store`: how a sidecar takes part in the replicated store of its mesh.

use super::{NONE, Section};

pub(in crate::config) static STORE: Section = Section {
    name: "store",
    example: "mode: server, data_dir: /var/lib/outrigger/store",
    known: &[
        "mode",
        "bind",
        "advertise",
        "data_dir",
        "bootstrap_expect",
        "encryption_key",
        "older_encryption_keys",
        "heartbeat",
        "election_timeout",
        "dead_after",
        "stable_after",
    ],
    later: NONE,
    aliases: &[
        ("role", "mode"),
        ("server", "mode"),
        ("address", "bind"),
        ("listen", "bind"),
        ("bind_addr", "bind"),
        ("port", "bind"),
        ("advertise_addr", "advertise"),
        ("advertise_address", "advertise"),
        ("dir", "data_dir"),
        ("path", "data_dir"),
        ("expect", "bootstrap_expect"),
        ("encryption", "encryption_key"),
        ("key", "encryption_key"),
        ("old_keys", "older_encryption_keys"),
        ("heartbeat_interval", "heartbeat"),
        ("election", "election_timeout"),
        ("replace_after", "dead_after"),
        ("last_contact_threshold", "dead_after"),
        ("server_stabilization_time", "stable_after"),
    ],
};
