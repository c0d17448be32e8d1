//! `store`: how a sidecar takes part in the replicated store of its mesh.

use super::{NONE, Section};

pub(in crate::config) static STORE: Section = Section {
    name: "store",
    example: "mode: server, data_dir: /var/lib/outrigger/store",
    known: &[
        "backend",
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
        "etcd",
        "allow",
        "keyspaces",
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
        ("allowed", "allow"),
        ("writers", "allow"),
        ("allow_list", "allow"),
    ],
};

pub(in crate::config) static ETCD: Section = Section {
    name: "store.etcd",
    example: "endpoints: [\"http://10.0.0.1:2379\"]",
    known: &["endpoints", "prefix", "username", "password", "tls", "timeout"],
    later: NONE,
    aliases: &[
        ("endpoint", "endpoints"),
        ("hosts", "endpoints"),
        ("servers", "endpoints"),
        ("namespace", "prefix"),
        ("user", "username"),
        ("token", "password"),
        ("request_timeout", "timeout"),
        ("dial_timeout", "timeout"),
    ],
};

pub(in crate::config) static ETCD_TLS: Section = Section {
    name: "store.etcd.tls",
    example: "ca: /etc/outrigger/etcd-ca.pem",
    known: &["ca", "cert", "key", "server_name"],
    later: NONE,
    aliases: &[
        ("cacert", "ca"),
        ("ca_file", "ca"),
        ("trusted_ca", "ca"),
        ("certificate", "cert"),
        ("cert_file", "cert"),
        ("key_file", "key"),
        ("sni", "server_name"),
    ],
};

pub(in crate::config) static KEYSPACE: Section = Section {
    name: "keyspace",
    example: "level: quorum, replicas: 3",
    known: &["level", "replicas", "quorum_reads", "quorum_writes", "read_timeout", "write_timeout"],
    later: NONE,
    aliases: &[
        ("consistency", "level"),
        ("n", "replicas"),
        ("r", "quorum_reads"),
        ("w", "quorum_writes"),
        ("replication_factor", "replicas"),
        ("reads", "quorum_reads"),
        ("writes", "quorum_writes"),
    ],
};
