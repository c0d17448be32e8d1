//! `intentions.ext_authz`: which service is asked whether a request may pass, and what the two tell each other.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, header};

use super::{
    http_edits,
    services::{Named, Services},
};
use crate::{
    config::{
        codes, defaults,
        fields::{Fields, each},
        form,
        report::{Report, error},
        schema,
        span::Span,
        suggest::closest,
        tree::Node,
        value,
    },
    snapshot::{ExtAuthzParams, Protocol},
};

/// The params, and the place of the name of the service.
pub(in crate::config) fn read(node: &Node, report: &mut Report) -> Option<(ExtAuthzParams, Span)> {
    let fields = Fields::open(node, &schema::EXT_AUTHZ, report)?;
    let service_node = fields.require("service", "service: authz", report);
    let service = service_node.and_then(|node| form::service_name(node, report));
    let path = fields.or("path", String::new(), report, form::path);
    let timeout = fields.or("timeout", defaults::EXT_AUTHZ_TIMEOUT, report, |node, report| {
        value::duration_from(node, Duration::from_millis(1), report)
    });
    let fail_open = fields.or("fail_open", false, report, value::flag);
    let usual = || vec![header::AUTHORIZATION];
    let request_headers = fields.optional("request_headers", report, names).unwrap_or_else(usual);
    let upstream_headers = fields.optional("upstream_headers", report, names).unwrap_or_default();
    let usual = || vec![header::CONTENT_TYPE, header::LOCATION, header::SET_COOKIE, header::WWW_AUTHENTICATE];
    let client_headers = fields.optional("client_headers", report, names).unwrap_or_else(usual);
    let params = ExtAuthzParams {
        service: service?,
        // A slash at its end would be the second of two.
        path: path.trim_end_matches('/').into(),
        timeout,
        fail_open,
        request_headers,
        upstream_headers,
        client_headers,
    };
    Some((params, service_node.map_or(node.span, |node| node.span)))
}

/// The service that is asked.
pub(in crate::config) fn named(params: &ExtAuthzParams, span: Span) -> Named {
    Named { service: Arc::clone(&params.service), span, is_tcp: false }
}

fn names(node: &Node, report: &mut Report) -> Option<Vec<HeaderName>> {
    each(node, "names of headers", report, |node, report| {
        let name = form::header_name(node, report)?;
        http_edits::allowed(&name, node.span, report)?;
        if name.as_str().starts_with("x-outrigger-") || name.as_str() == "x-forwarded-client-cert" {
            let message = format!("the header `{name}` is set by sidecars only");
            return report.add(error(codes::FORBIDDEN_HEADER, node.span, message).label("not passed on"));
        }
        Some(name)
    })
}

/// Reports a service that nobody defines, or that cannot be asked.
pub(in crate::config) fn check(
    params: &ExtAuthzParams,
    span: Span,
    services: &Services,
    report: &mut Report,
) {
    let service = &params.service;
    if !services.names.contains_key(service) {
        let mut names: Vec<&str> = services.names.keys().map(|name| &**name).collect();
        names.sort_unstable();
        report.add::<()>(
            error(
                codes::UNKNOWN_SERVICE,
                span,
                "requests would be asked for at a service that does not exist",
            )
            .label(format!("no `services.{service}`"))
            .suggest(closest(service, names, &[])),
        );
    }
    // A service that could not be read is reported already.
    let found = services.read.iter().find(|found| found.params.name == *service);
    if found.is_some_and(|found| found.params.protocol == Protocol::Tcp) {
        report.add::<()>(
            error(codes::NOT_TCP, span, format!("`{service}` is a TCP service")).label("it cannot be asked"),
        );
    }
}
