//! `store.etcd`: how an etcd is reached that keeps the store instead of the sidecars.

use std::{sync::Arc, time::Duration};

use http::Uri;

use super::mtls;
use crate::{
    config::{
        codes, defaults,
        fields::{Fields, each},
        form,
        report::{Report, error},
        schema,
        tree::{Content, Node},
        value::{self, shorten},
    },
    store::{EtcdCertificate, EtcdLogin, EtcdParams, EtcdTls},
    types::Secret,
};

/// Longest prefix: it stands before each key.
const MAX_PREFIX: usize = 256;
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);

/// `cluster` is the name of the mesh, from which the prefix is made if none is given.
pub(super) fn read(node: &Node, cluster: &str, report: &mut Report) -> Option<EtcdParams> {
    let fields = Fields::open(node, &schema::ETCD, report)?;
    let endpoints = endpoints(&fields, report);
    let prefix = fields.or("prefix", default_prefix(cluster), report, prefix);
    let login = login(&fields, report);
    let tls = tls(&fields, endpoints.as_deref(), report);
    let timeout = fields.or("timeout", defaults::ETCD_TIMEOUT, report, |node, report| {
        value::duration_from(node, SHORTEST_TIMEOUT, report)
    });
    Some(EtcdParams { endpoints: endpoints?, prefix, login: login?, tls: tls?, timeout })
}

pub(in crate::config) fn default_prefix(cluster: &str) -> Arc<str> {
    format!("outrigger/{cluster}/").into()
}

fn endpoints(fields: &Fields<'_>, report: &mut Report) -> Option<Vec<Arc<str>>> {
    let node = fields.require("endpoints", "endpoints: [\"http://10.0.0.1:2379\"]", report)?;
    let read = each(node, "addresses of etcd", report, endpoint)?;
    if matches!(&node.content, Content::List(items) if items.is_empty()) {
        return report.add(
            error(codes::MALFORMED, node.span, "`endpoints` names nobody")
                .label("needs one member of etcd at least"),
        );
    }
    let is_tls = read.first()?.0;
    if read.iter().any(|one| one.0 != is_tls) {
        return report.add(
            error(codes::MALFORMED, node.span, "some of the endpoints are `http`, others `https`")
                .label("write all of them alike"),
        );
    }
    Some(read.into_iter().map(|(_, endpoint)| endpoint).collect())
}

/// One endpoint, and whether it is with TLS.
fn endpoint(node: &Node, report: &mut Report) -> Option<(bool, Arc<str>)> {
    let text = value::text(node, report)?;
    let uri = text.parse::<Uri>().ok();
    let parts = uri.as_ref().and_then(|uri| {
        let is_tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let is_bare = uri.path() == "/" && uri.query().is_none() && !text.ends_with('/');
        let is_named = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        let port = uri.port_u16().filter(|port| *port != 0)?;
        (is_bare && is_named).then(|| {
            (
                is_tls,
                format!(
                    "{}://{}:{port}",
                    uri.scheme_str().unwrap_or_default(),
                    uri.host().unwrap_or_default()
                ),
            )
        })
    });
    match parts {
        Some((is_tls, endpoint)) => Some((is_tls, endpoint.into())),
        None => report.add(
            error(codes::MALFORMED, node.span, format!("`{}` is no address of an etcd", shorten(text)))
                .label("expected http://HOST:PORT or https://HOST:PORT")
                .help("for example `http://10.0.0.1:2379`"),
        ),
    }
}

fn prefix(node: &Node, report: &mut Report) -> Option<Arc<str>> {
    let text = value::text(node, report)?;
    let fits = (1..=MAX_PREFIX).contains(&text.len()) && !text.chars().any(char::is_control);
    if !fits {
        return report.add(
            error(codes::MALFORMED, node.span, "this cannot stand before the keys of the store")
                .label(format!("expected 1 to {MAX_PREFIX} bytes without control characters")),
        );
    }
    Some(format!("{}/", text.trim_end_matches('/')).into())
}

/// `None` if something is reported.
fn login(fields: &Fields<'_>, report: &mut Report) -> Option<Option<EtcdLogin>> {
    let (user, password) = (fields.get("username"), fields.get("password"));
    let (user, password) = match (user, password) {
        (None, None) => return Some(None),
        (Some(user), Some(password)) => (user, password),
        (Some(given), None) | (None, Some(given)) => {
            return report.add(
                error(codes::MISSING_KEY, given.span, "`username` and `password` belong together")
                    .label("one of them is missing")
                    .help("add `password: ${file:/etc/outrigger/etcd.password}`"),
            );
        }
    };
    let user = value::text(user, report)?.into();
    // Whatever YAML takes it for: it may be digits alone.
    let text = match &password.content {
        Content::Scalar(scalar) if !scalar.text.trim().is_empty() => {
            scalar.text.trim_end_matches(['\r', '\n'])
        }
        Content::Scalar(_) | Content::List(_) | Content::Map(_) => {
            return report.add(
                error(codes::MALFORMED, password.span, "this is no password")
                    .label("expected text")
                    .help("name a file, as `${file:/etc/outrigger/etcd.password}`"),
            );
        }
    };
    Some(Some(EtcdLogin { user, password: Secret::new(text) }))
}

/// `None` if something is reported.
fn tls(fields: &Fields<'_>, endpoints: Option<&[Arc<str>]>, report: &mut Report) -> Option<Option<EtcdTls>> {
    let is_tls = endpoints.map(|endpoints| endpoints.iter().any(|one| one.starts_with("https:")));
    let Some(node) = fields.get("tls") else {
        if is_tls == Some(true) {
            let span = fields.get("endpoints").map_or(fields.span, |node| node.span);
            return report.add(
                error(codes::MISSING_KEY, span, "`https` needs `tls`")
                    .label("nobody says by which roots etcd is to be believed")
                    .help("add `tls: { ca: /etc/outrigger/etcd-ca.pem }`"),
            );
        }
        return Some(None);
    };
    if is_tls == Some(false) {
        report.add::<()>(
            error(codes::CHOICE, node.span, "`tls` has no effect on endpoints with `http`")
                .label("nothing would be encrypted")
                .help("write the endpoints with `https`"),
        );
    }
    let fields = Fields::open(node, &schema::ETCD_TLS, report)?;
    let ca = fields.require("ca", "ca: /etc/outrigger/etcd-ca.pem", report);
    let ca = ca.and_then(|node| mtls::path(node, report));
    let own = match (fields.get("cert"), fields.get("key")) {
        (None, None) => None,
        (Some(cert), Some(key)) => {
            let (cert, key) = (mtls::path(cert, report), mtls::path(key, report));
            Some(EtcdCertificate { cert: cert?, key: key? })
        }
        (Some(given), None) | (None, Some(given)) => {
            return report.add(
                error(codes::MISSING_KEY, given.span, "`cert` and `key` belong together")
                    .label("one of them is missing"),
            );
        }
    };
    let server_name =
        fields.optional("server_name", report, |node, report| form::host(node, report).map(Arc::from));
    Some(Some(EtcdTls { ca: ca?, own, server_name }))
}
