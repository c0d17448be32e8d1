//! Mutual TLS as it is in force.

use serde_json::{Value, json};

use super::{object, put};
use crate::{
    config::{
        sections::mtls::{MODES, VERSIONS},
        value::{show_duration, word_for},
    },
    identity::{
        AuthorityPlace, Builtin, IdentityFiles, IdentityParams, IdentitySource,
        edge::{EdgeFiles, EdgeParams},
    },
    proxy::MtlsParams,
};

pub(super) fn section(listener: &MtlsParams, identity: Option<&IdentityParams>) -> Value {
    let MtlsParams { mode, handshake_timeout, max_handshakes } = listener;
    let mut fields = object(json!({
        "mode": word_for(mode, &MODES),
        "handshake_timeout": show_duration(*handshake_timeout),
        "max_handshakes": max_handshakes,
    }));
    // Who we are follows from the name of the service.
    let Some(IdentityParams { domain, own: _, version, source }) = identity else {
        return Value::Object(fields);
    };
    put(&mut fields, "trust_domain", Some(domain.as_str()));
    put(&mut fields, "min_version", Some(word_for(version, &VERSIONS)));
    put(
        &mut fields,
        "ca",
        Some(match source {
            IdentitySource::Files(of_files) => files(of_files),
            IdentitySource::Builtin(of_builtin) => builtin(of_builtin),
        }),
    );
    Value::Object(fields)
}

fn files(files: &IdentityFiles) -> Value {
    let IdentityFiles { cert, key, ca, crl } = files;
    let mut fields = object(json!({ "mode": "files", "cert_file": cert, "key_file": key, "ca_file": ca }));
    put(&mut fields, "crl_file", crl.as_ref().map(|path| path.display().to_string()));
    Value::Object(fields)
}

fn builtin(builtin: &Builtin) -> Value {
    let Builtin { dir, authority, servers, token_file, leaf_ttl, node } = builtin;
    let mut fields = object(json!({ "mode": "builtin", "dir": dir, "leaf_ttl": show_duration(*leaf_ttl) }));
    let authority = authority.as_ref().map(|AuthorityPlace { dir, key_file, address }| {
        json!({ "dir": dir, "key_file": key_file, "address": address.to_string() })
    });
    put(&mut fields, "authority", authority);
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    put(&mut fields, "servers", Some(servers).filter(|servers| !servers.is_empty()));
    put(&mut fields, "token_file", token_file.as_ref().map(|path| path.display().to_string()));
    put(&mut fields, "node", node.as_ref().map(ToString::to_string));
    Value::Object(fields)
}

pub(super) fn edge(EdgeParams { certificates, version }: &EdgeParams) -> Value {
    let files = |EdgeFiles { cert, key }: &EdgeFiles| json!({ "cert_file": cert, "key_file": key });
    json!({
        "certificates": certificates.iter().map(files).collect::<Vec<_>>(),
        "min_version": word_for(version, &VERSIONS),
    })
}
