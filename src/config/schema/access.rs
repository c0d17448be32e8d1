//! Keys of who is let in, and of what proves who somebody is.

use super::{NONE, Section};

pub(in crate::config) static UPSTREAM_TLS: Section = Section {
    name: "tls",
    example: "mode: simple, server_name: api.example.com",
    known: &["mode", "server_name", "ca_file", "cert_file", "key_file", "min_version"],
    later: NONE,
    aliases: &[
        ("sni", "server_name"),
        ("ca", "ca_file"),
        ("ca_certificates", "ca_file"),
        ("certificate", "cert_file"),
        ("client_certificate", "cert_file"),
        ("private_key", "key_file"),
    ],
};
