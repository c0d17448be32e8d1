//! Mutual TLS as it is in force.

use serde_json::{Value, json};

use super::{object, put};
use crate::{
    config::{
        sections::mtls::{MODES, VERSIONS},
        value::{show_duration, word_for},
    },
    identity::{
        IdentityFiles, IdentityParams,
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
    let Some(IdentityParams { domain, own: _, version, files }) = identity else {
        return Value::Object(fields);
    };
    let IdentityFiles { cert, key, ca, crl } = files;
    put(&mut fields, "trust_domain", Some(domain.as_str()));
    put(&mut fields, "min_version", Some(word_for(version, &VERSIONS)));
    let mut ca = object(json!({ "mode": "files", "cert_file": cert, "key_file": key, "ca_file": ca }));
    put(&mut ca, "crl_file", crl.as_ref().map(|path| path.display().to_string()));
    put(&mut fields, "ca", Some(ca));
    Value::Object(fields)
}

pub(super) fn edge(EdgeParams { certificates, version }: &EdgeParams) -> Value {
    let files = |EdgeFiles { cert, key }: &EdgeFiles| json!({ "cert_file": cert, "key_file": key });
    json!({
        "certificates": certificates.iter().map(files).collect::<Vec<_>>(),
        "min_version": word_for(version, &VERSIONS),
    })
}
