//! `intentions.jwt`: whose tokens of end users are taken, where their keys are, and what of them the application gets.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderName, Uri, header, uri::Scheme};

use super::http_edits;
use crate::{
    config::{
        codes, defaults,
        fields::{Fields, MayLack, each, list, named},
        form,
        report::{Report, error},
        schema,
        span::Span,
        tree::Node,
        value,
    },
    identity::{
        external::{ExternalTlsParams, Roots, TlsVersion},
        jwt::{IssuerParams, JwtParams, KeySource, UrlSource},
    },
};

/// More often is an attack on the issuer.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);
/// Two clocks that are further apart than this are not clocks.
const LONGEST_LEEWAY: Duration = Duration::from_secs(3600);
const MAX_TOKEN: u32 = 1024 * 1024;
/// Issuers are labels of metrics.
const LONGEST_ISSUER: usize = 256;

/// The issuers, `None` if something about the list itself is wrong.
pub(in crate::config) fn read(node: &Node, report: &mut Report) -> Option<JwtParams> {
    let mut seen: HashMap<Arc<str>, Span> = HashMap::new();
    let mut issuers = Vec::new();
    for item in list(node, "issuers", report)? {
        let Some((params, span)) = issuer(item, report) else { continue };
        if let Some(first) = seen.insert(Arc::clone(&params.issuer), span) {
            report.add::<()>(
                error(codes::DUPLICATE_NAME, span, "the issuer is in the list twice")
                    .label("again here")
                    .also(first, "first here"),
            );
        }
        issuers.push(params);
    }
    Some(JwtParams { issuers })
}

fn issuer(node: &Node, report: &mut Report) -> Option<(IssuerParams, Span)> {
    let fields = Fields::open(node, &schema::JWT, report)?;
    let name_node = fields.require("issuer", "issuer: https://idp.example", report);
    let issuer = name_node.and_then(|node| name(node, report));
    let audiences = fields.optional("audiences", report, |node, report| {
        each(node, "audiences", report, |node, report| value::text(node, report).map(Into::into))
    });
    let source = source(&fields, report);
    let required = fields.or("required", false, report, value::flag);
    let leeway = fields.or("leeway", defaults::JWT_LEEWAY, report, leeway);
    let max_token = fields.or("max_token_size", defaults::JWT_MAX_TOKEN, report, |node, report| {
        value::size(node, 1..=MAX_TOKEN, report)
    });
    let forward_claims = fields.or("forward_claims", Vec::new(), report, forward_claims);
    let forward_token = fields.or("forward_token", true, report, value::flag);
    let params = IssuerParams {
        issuer: issuer?,
        audiences: audiences.unwrap_or_default(),
        source: source?,
        required,
        leeway,
        max_token: max_token as usize,
        forward_claims,
        forward_token,
    };
    Some((params, name_node.map_or(node.span, |node| node.span)))
}

fn name(node: &Node, report: &mut Report) -> Option<Arc<str>> {
    let name = value::text(node, report)?;
    if (1..=LONGEST_ISSUER).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(name.into());
    }
    report.add(
        error(codes::MALFORMED, node.span, "not the name of an issuer")
            .label("expected what its tokens have as `iss`, 1 to 256 visible characters"),
    )
}

fn leeway(node: &Node, report: &mut Report) -> Option<Duration> {
    let leeway = value::duration(node, report)?;
    if leeway <= LONGEST_LEEWAY {
        return Some(leeway);
    }
    report.add(error(codes::OUT_OF_RANGE, node.span, "must be at most 1h").label("too long"))
}

fn source(fields: &Fields<'_>, report: &mut Report) -> Option<KeySource> {
    let (key, node) = fields.one_of(&["jwks_file", "jwks_url", "secret_file"], MayLack::No, report)?;
    if key != "jwks_url" {
        for only in ["jwks_refresh", "ca_file"] {
            if let Some(given) = fields.get(only) {
                let message = format!("`{only}` has no effect with `{key}`");
                report.add::<()>(error(codes::CHOICE, given.span, message).label("only for `jwks_url`"));
            }
        }
        let path = form::file_path(node, report)?;
        return Some(if key == "jwks_file" { KeySource::File(path) } else { KeySource::Secret(path) });
    }
    let refresh = fields.or("jwks_refresh", defaults::JWKS_REFRESH, report, |node, report| {
        value::duration_from(node, SHORTEST_REFRESH, report)
    });
    let ca = fields.optional("ca_file", report, form::file_path);
    let (https, host, port, target) = url(node, report)?;
    if let (false, Some(given)) = (https, fields.get("ca_file")) {
        let message = "`ca_file` has no effect without TLS";
        report.add::<()>(error(codes::CHOICE, given.span, message).label("only for `https`"));
    }
    let tls = https.then(|| ExternalTlsParams {
        server_name: Some((*host).into()),
        roots: ca.map_or(Roots::System, Roots::File),
        client: None,
        min_version: TlsVersion::default(),
    });
    Some(KeySource::Url(Arc::new(UrlSource { host, port, target, tls, refresh })))
}

/// Whether it is `https`, then host, port and target.
fn url(node: &Node, report: &mut Report) -> Option<(bool, Box<str>, u16, Box<str>)> {
    let scalar = value::text_scalar(node, "a URL", "https://idp.example/keys", report)?;
    let malformed =
        || error(codes::MALFORMED, node.span, format!("{} is not a URL of keys", value::shown(scalar)));
    let parsed = scalar.text.parse::<Uri>().ok();
    let parts = parsed.as_ref().and_then(|uri| Some((uri.scheme()?, uri.authority()?, uri)));
    let Some((scheme, authority, uri)) = parts.filter(|(_, authority, _)| {
        !authority.as_str().contains('@') && form::is_host(authority.host()) && !scalar.text.contains('#')
    }) else {
        return report.add(malformed().label("expected `https://host/path`"));
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let https = *scheme == Scheme::HTTPS;
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !https && (*scheme != Scheme::HTTP || !loopback) {
        return report.add(
            malformed()
                .label("expected `https`; `http` only on this machine")
                .help("whoever is between could replace the keys, and sign what they like"),
        );
    }
    let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    Some((https, host.to_ascii_lowercase().into(), port, target.into()))
}

fn forward_claims(node: &Node, report: &mut Report) -> Option<Vec<(Box<str>, HeaderName)>> {
    let mut claims: Vec<(Box<str>, HeaderName)> = Vec::new();
    for entry in named(node, "claims to names of headers", report)? {
        let Some(header) = form::header_name(&entry.value, report) else { continue };
        let span = entry.value.span;
        if claims.iter().any(|(_, other)| *other == header) {
            let message = format!("the header `{header}` is given twice");
            report.add::<()>(error(codes::DUPLICATE_KEY, span, message).label("for another claim"));
            continue;
        }
        if allowed(&header, span, report).is_some() {
            claims.push((entry.key.as_str().into(), header));
        }
    }
    Some(claims)
}

/// A header for a claim is taken from every request. So it must not be one that requests need, or that sidecars set.
fn allowed(name: &HeaderName, span: Span, report: &mut Report) -> Option<()> {
    http_edits::allowed(name, span, report)?;
    let needed = [header::AUTHORIZATION, header::COOKIE, header::CONTENT_TYPE, header::EXPECT];
    let ours = name.as_str().starts_with("x-outrigger-") || name.as_str() == "x-forwarded-client-cert";
    if needed.contains(name) || ours {
        let message = format!("the header `{name}` cannot carry a claim");
        return report.add(error(codes::FORBIDDEN_HEADER, span, message).label("means something else"));
    }
    Some(())
}
