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

pub(in crate::config) static JWT: Section = Section {
    name: "jwt",
    example: "issuer: https://idp.example, jwks_file: /etc/outrigger/jwks.json",
    known: &[
        "issuer",
        "audiences",
        "jwks_file",
        "jwks_url",
        "secret_file",
        "jwks_refresh",
        "ca_file",
        "required",
        "leeway",
        "max_token_size",
        "forward_claims",
        "forward_token",
    ],
    later: NONE,
    aliases: &[
        ("iss", "issuer"),
        ("aud", "audiences"),
        ("audience", "audiences"),
        ("jwks", "jwks_file"),
        ("local_jwks", "jwks_file"),
        ("remote_jwks", "jwks_url"),
        ("jwks_uri", "jwks_url"),
        ("secret", "secret_file"),
        ("cache_duration", "jwks_refresh"),
        ("clock_skew", "leeway"),
        ("claim_to_headers", "forward_claims"),
        ("forward", "forward_token"),
        ("forward_original_token", "forward_token"),
    ],
};

pub(in crate::config) static EXT_AUTHZ: Section = Section {
    name: "ext_authz",
    example: "service: authz, path: /check",
    known: &[
        "service",
        "path",
        "timeout",
        "fail_open",
        "request_headers",
        "upstream_headers",
        "client_headers",
    ],
    later: NONE,
    aliases: &[
        ("cluster", "service"),
        ("path_prefix", "path"),
        ("failure_mode_allow", "fail_open"),
        ("allowed_headers", "request_headers"),
        ("allowed_upstream_headers", "upstream_headers"),
        ("auth_response_headers", "upstream_headers"),
        ("allowed_client_headers", "client_headers"),
    ],
};
