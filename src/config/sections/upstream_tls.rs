//! `tls` of a service: what connections to its endpoints are secured with.

use crate::{
    config::{
        codes,
        fields::Fields,
        form,
        report::{Report, error},
        schema,
        tree::Node,
        value,
    },
    identity::external::{ClientFiles, ExternalTlsParams, Roots, TlsVersion},
    snapshot::{EndpointSource, UpstreamTlsParams},
};

pub(in crate::config) const TLS_VERSIONS: [(&str, TlsVersion); 2] =
    [("tls1.2", TlsVersion::V1_2), ("tls1.3", TlsVersion::V1_3)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Mesh,
    Disabled,
    Simple,
    Mutual,
}

const MODES: [(&str, Mode); 4] =
    [("simple", Mode::Simple), ("mutual", Mode::Mutual), ("mesh", Mode::Mesh), ("disabled", Mode::Disabled)];

/// Keys that only TLS to the outside has.
const OUTSIDE: [&str; 5] = ["server_name", "ca_file", "cert_file", "key_file", "min_version"];

pub(in crate::config) fn read(node: &Node, report: &mut Report) -> Option<UpstreamTlsParams> {
    let fields = Fields::open(node, &schema::UPSTREAM_TLS, report)?;
    let mode = fields.require("mode", "mode: simple", report)?;
    let mode = value::word(mode, &MODES, &[], report)?;
    if matches!(mode, Mode::Mesh | Mode::Disabled) {
        for (key, given) in OUTSIDE.iter().filter_map(|key| fields.get(key).map(|given| (key, given))) {
            report.add::<()>(
                error(codes::CHOICE, given.span, format!("`{key}` has no effect in this mode"))
                    .label("only for `simple` and `mutual`"),
            );
        }
        return Some(if mode == Mode::Mesh { UpstreamTlsParams::Mesh } else { UpstreamTlsParams::Disabled });
    }
    let server_name = fields.optional("server_name", report, form::host).map(Into::into);
    let ca = fields.optional("ca_file", report, form::file_path);
    let min_version = fields.or("min_version", TlsVersion::default(), report, |node, report| {
        value::word(node, &TLS_VERSIONS, &[], report)
    });
    let client = if mode == Mode::Mutual {
        let certificate = fields.require("cert_file", "cert_file: /etc/ssl/client.pem", report);
        let key = fields.require("key_file", "key_file: /etc/ssl/client.key", report);
        let certificate = certificate.and_then(|node| form::file_path(node, report));
        let key = key.and_then(|node| form::file_path(node, report));
        Some(ClientFiles { certificate: certificate?, key: key? })
    } else {
        for given in ["cert_file", "key_file"].into_iter().filter_map(|key| fields.get(key)) {
            let message = "a client certificate is shown with `mode: mutual` only";
            report.add::<()>(error(codes::CHOICE, given.span, message).label("has no effect"));
        }
        None
    };
    let roots = ca.map_or(Roots::System, Roots::File);
    Some(UpstreamTlsParams::External(ExternalTlsParams { server_name, roots, client, min_version }))
}

/// A service that is found by its name proves to have that name, unless the file names another.
pub(in crate::config) fn with_name_of(source: &EndpointSource, tls: UpstreamTlsParams) -> UpstreamTlsParams {
    match (tls, source) {
        (UpstreamTlsParams::External(params), EndpointSource::Dns { name, port: Some(_), .. })
            if params.server_name.is_none() =>
        {
            let server_name = Some(name.trim_end_matches('.').into());
            UpstreamTlsParams::External(ExternalTlsParams { server_name, ..params })
        }
        (tls, _) => tls,
    }
}
