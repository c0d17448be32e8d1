//! `headers` of a route: what may be set, added and removed.

use http::{HeaderName, HeaderValue, header};

use crate::{
    config::{
        codes,
        fields::{Fields, each, named},
        form,
        report::{Report, error},
        schema,
        schema::Section,
        span::Span,
        tree::Node,
    },
    policy::route::HeaderEdits,
};

/// Edits on the way up and on the way down.
pub(in crate::config) fn read(node: &Node, report: &mut Report) -> Option<(HeaderEdits, HeaderEdits)> {
    let fields = Fields::open(node, &schema::HEADERS, report)?;
    let request =
        fields.optional("request", report, |node, report| edits(node, &schema::HEADER_EDITS, report));
    let response =
        fields.optional("response", report, |node, report| edits(node, &schema::HEADER_EDITS, report));
    Some((request.unwrap_or_default(), response.unwrap_or_default()))
}

fn edits(node: &Node, section: &'static Section, report: &mut Report) -> Option<HeaderEdits> {
    let fields = Fields::open(node, section, report)?;
    let remove =
        fields.optional("remove", report, |node, report| each(node, "header names", report, removed));
    let set = fields.optional("set", report, written);
    let add = fields.optional("add", report, written);
    Some(HeaderEdits {
        remove: remove.unwrap_or_default(),
        set: set.unwrap_or_default(),
        add: add.unwrap_or_default(),
    })
}

fn removed(node: &Node, report: &mut Report) -> Option<HeaderName> {
    let name = form::header_name(node, report)?;
    allowed(&name, node.span, report)?;
    Some(name)
}

fn written(node: &Node, report: &mut Report) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for entry in named(node, "header names to values", report)? {
        let Some((name, value)) = form::header(entry, report) else { continue };
        if fields.iter().any(|(other, _)| *other == name) {
            report.add::<()>(
                error(codes::DUPLICATE_KEY, entry.key_span, format!("the header `{name}` is given twice"))
                    .label("the same header, whatever its case"),
            );
        }
        if allowed(&name, entry.key_span, report).is_some() {
            fields.push((name, value));
        }
    }
    Some(fields)
}

/// Reports headers that only the proxy itself may write.
pub(in crate::config) fn allowed(name: &HeaderName, span: Span, report: &mut Report) -> Option<()> {
    let finding = error(codes::FORBIDDEN_HEADER, span, format!("the header `{name}` cannot be edited"));
    if *name == header::HOST {
        return report
            .add(finding.label("names the service").help("use `host` of `rewrite` or `health_check`"));
    }
    let per_connection = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    if per_connection.contains(name) || matches!(name.as_str(), "keep-alive" | "proxy-connection") {
        return report.add(finding.label("frames the message or belongs to one connection"));
    }
    Some(())
}
