//! `mtls`: what proves who is who, and who signs it.

use super::{NONE, Section};

pub(in crate::config) static MTLS: Section = Section {
    name: "mtls",
    example: "mode: strict",
    known: &["mode", "trust_domain", "ca", "min_version", "handshake_timeout", "max_handshakes"],
    later: NONE,
    aliases: &[
        ("cert_file", "ca"),
        ("key_file", "ca"),
        ("ca_file", "ca"),
        ("tls_min_version", "min_version"),
    ],
};

pub(in crate::config) static CA: Section = Section {
    name: "ca",
    example: "mode: files, cert_file: /etc/outrigger/tls.crt",
    known: &[
        "mode",
        "cert_file",
        "key_file",
        "ca_file",
        "crl_file",
        "authority",
        "servers",
        "token_file",
        "dir",
        "leaf_ttl",
        "node",
    ],
    later: NONE,
    aliases: &[
        ("certificate", "cert_file"),
        ("cert", "cert_file"),
        ("key", "key_file"),
        ("private_key", "key_file"),
        ("trust_bundle", "ca_file"),
        ("root_ca", "ca_file"),
        ("crl", "crl_file"),
        ("address", "servers"),
        ("join_token", "token_file"),
        ("token", "token_file"),
        ("directory", "dir"),
        ("ttl", "leaf_ttl"),
    ],
};

pub(in crate::config) static AUTHORITY: Section = Section {
    name: "authority",
    example: "dir: /var/lib/outrigger/ca",
    known: &["dir", "key_file", "address"],
    later: NONE,
    aliases: &[("directory", "dir"), ("key", "key_file"), ("listen", "address"), ("port", "address")],
};

pub(in crate::config) static EDGE_TLS: Section = Section {
    name: "tls",
    example: "certificates: [{ cert_file: /etc/ssl/shop.crt, key_file: /etc/ssl/shop.key }]",
    known: &["certificates", "min_version"],
    later: NONE,
    aliases: &[("certs", "certificates"), ("tls_certificates", "certificates")],
};

pub(in crate::config) static EDGE_FILES: Section = Section {
    name: "certificate",
    example: "cert_file: /etc/ssl/shop.crt, key_file: /etc/ssl/shop.key",
    known: &["cert_file", "key_file"],
    later: NONE,
    aliases: &[("certificate", "cert_file"), ("cert", "cert_file"), ("key", "key_file")],
};
