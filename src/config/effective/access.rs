//! Who is let in, and what proves who somebody is, as it is in force.

use http::HeaderName;
use serde_json::{Map, Value, json};

use super::{intentions, object, put, put_list};
use crate::{
    config::{
        sections::upstream_tls::TLS_VERSIONS,
        value::{show_duration, show_size, word_for},
    },
    identity::{
        external::{ClientFiles, ExternalTlsParams, Roots},
        jwt::{IssuerParams, JwtParams, KeySource, UrlSource},
    },
    policy::authz::Intentions,
    snapshot::{ExtAuthzParams, UpstreamTlsParams},
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

pub(super) fn intentions(
    rules: &Intentions,
    jwt: Option<&JwtParams>,
    ext_authz: Option<&ExtAuthzParams>,
) -> Option<Value> {
    let given = intentions::section(rules);
    let none = given.is_none() && jwt.is_none() && ext_authz.is_none();
    let mut fields = given.unwrap_or_default();
    put(&mut fields, "jwt", jwt.map(self::jwt));
    put(&mut fields, "ext_authz", ext_authz.map(self::ext_authz));
    (!none).then_some(Value::Object(fields))
}

fn ext_authz(params: &ExtAuthzParams) -> Value {
    let ExtAuthzParams {
        service,
        path,
        timeout,
        fail_open,
        request_headers,
        upstream_headers,
        client_headers,
    } = params;
    let names =
        |names: &[HeaderName]| names.iter().map(HeaderName::as_str).map(Value::from).collect::<Value>();
    json!({
        "service": &**service,
        "path": if path.is_empty() { "/" } else { path },
        "timeout": show_duration(*timeout),
        "fail_open": fail_open,
        "request_headers": names(request_headers),
        "upstream_headers": names(upstream_headers),
        "client_headers": names(client_headers),
    })
}

fn jwt(JwtParams { issuers }: &JwtParams) -> Value {
    issuers.iter().map(issuer).collect()
}

fn issuer(params: &IssuerParams) -> Value {
    let IssuerParams {
        issuer,
        audiences,
        source,
        required,
        leeway,
        max_token,
        forward_claims,
        forward_token,
    } = params;
    let mut fields = object(json!({
        "issuer": &**issuer,
        "required": required,
        "leeway": show_duration(*leeway),
        "max_token_size": show_size(u32::try_from(*max_token).unwrap_or(u32::MAX)),
        "forward_token": forward_token,
    }));
    put_list(&mut fields, "audiences", audiences.iter().map(|audience| &**audience));
    let claims: Map<String, Value> =
        forward_claims.iter().map(|(claim, header)| (claim.to_string(), header.as_str().into())).collect();
    put(&mut fields, "forward_claims", (!claims.is_empty()).then_some(claims));
    match source {
        KeySource::File(path) => put(&mut fields, "jwks_file", Some(path.to_string_lossy())),
        KeySource::Secret(path) => put(&mut fields, "secret_file", Some(path.to_string_lossy())),
        KeySource::Url(url) => {
            put(&mut fields, "jwks_url", Some(url.to_string()));
            put(&mut fields, "jwks_refresh", Some(show_duration(url.refresh)));
            if let UrlSource { tls: Some(ExternalTlsParams { roots: Roots::File(path), .. }), .. } = &**url {
                put(&mut fields, "ca_file", Some(path.to_string_lossy()));
            }
        }
    }
    Value::Object(fields)
}
