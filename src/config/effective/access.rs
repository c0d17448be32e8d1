//! Who is let in, and what proves who somebody is, as it is in force.

use serde_json::{Value, json};

use super::{object, put};
use crate::{
    config::{sections::upstream_tls::TLS_VERSIONS, value::word_for},
    identity::external::{ClientFiles, ExternalTlsParams, Roots},
    snapshot::UpstreamTlsParams,
};

pub(super) fn upstream_tls(tls: &UpstreamTlsParams) -> Value {
    let ExternalTlsParams { server_name, roots, client, min_version } = match tls {
        UpstreamTlsParams::Mesh => return json!({ "mode": "mesh" }),
        UpstreamTlsParams::Disabled => return json!({ "mode": "disabled" }),
        UpstreamTlsParams::External(params) => params,
    };
    let mut fields = object(json!({
        "mode": if client.is_some() { "mutual" } else { "simple" },
        "min_version": word_for(min_version, &TLS_VERSIONS),
    }));
    put(&mut fields, "server_name", server_name.as_deref());
    if let Roots::File(path) = roots {
        put(&mut fields, "ca_file", Some(path.to_string_lossy()));
    }
    if let Some(ClientFiles { certificate, key }) = client {
        put(&mut fields, "cert_file", Some(certificate.to_string_lossy()));
        put(&mut fields, "key_file", Some(key.to_string_lossy()));
    }
    Value::Object(fields)
}
