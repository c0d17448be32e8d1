//! `listeners.outbound.tls`: what clients outside of the mesh are shown.

use super::mtls::VERSIONS;
use crate::{
    config::{
        fields::{Fields, each},
        form,
        report::Report,
        schema,
        tree::Node,
        value,
    },
    identity::{
        TlsVersion,
        edge::{EdgeFiles, EdgeParams},
    },
};

pub(in crate::config) fn read(node: &Node, report: &mut Report) -> Option<EdgeParams> {
    let fields = Fields::open(node, &schema::EDGE_TLS, report)?;
    let version = fields
        .or("min_version", TlsVersion::V12, report, |node, report| value::word(node, &VERSIONS, &[], report));
    let example = "certificates: [{ cert_file: /etc/ssl/shop.crt, key_file: /etc/ssl/shop.key }]";
    let list = fields.require("certificates", example, report)?;
    let certificates = each(list, "certificates", report, files)?;
    Some(EdgeParams { certificates, version })
}

fn files(node: &Node, report: &mut Report) -> Option<EdgeFiles> {
    let fields = Fields::open(node, &schema::EDGE_FILES, report)?;
    let cert = fields.require("cert_file", "cert_file: /etc/ssl/shop.crt", report);
    let key = fields.require("key_file", "key_file: /etc/ssl/shop.key", report);
    let cert = cert.and_then(|node| form::file_path(node, report));
    let key = key.and_then(|node| form::file_path(node, report));
    Some(EdgeFiles { cert: cert?, key: key? })
}
