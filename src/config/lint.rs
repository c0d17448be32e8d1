//! Advice: what is allowed, but probably not what was meant.

use super::{
    codes,
    report::{Report, warning},
    sections::routes::Routes,
    span::Span,
    tree::{Content, Kind, Node},
};
use crate::policy::route::RouteTable;

/// Warns of unquoted scalars that YAML 1.1 readers take for something else.
pub(super) fn yaml_words(node: &Node, report: &mut Report) {
    match &node.content {
        Content::Scalar(scalar) => {
            let word = scalar.kind == Kind::Text && misread(&scalar.text);
            if scalar.plain && (word || octal(&scalar.text)) {
                warn(&scalar.text, node.span, report);
            }
        }
        Content::List(items) => {
            for item in items {
                yaml_words(item, report);
            }
        }
        Content::Map(entries) => {
            for entry in entries {
                if misread(&entry.key) && entry.key_span.end - entry.key_span.start == entry.key.len() {
                    warn(&entry.key, entry.key_span, report);
                }
                yaml_words(&entry.value, report);
            }
        }
    }
}

fn warn(text: &str, span: Span, report: &mut Report) {
    report.add::<()>(
        warning(
            codes::YAML_WORD,
            span,
            format!("other YAML readers take `{text}` for a truth value or a number"),
        )
        .label("unquoted")
        .help(format!("quote it: \"{text}\"")),
    );
}

fn misread(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "y" | "n" | "yes" | "no" | "on" | "off") || sexagesimal(text)
}

/// `22:22` is 1342 in YAML 1.1.
fn sexagesimal(text: &str) -> bool {
    let mut parts = text.split(':');
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let small = |part: &str| digits(part) && part.parse::<u32>().is_ok_and(|n| n < 60);
    text.contains(':') && parts.next().is_some_and(digits) && parts.all(small)
}

/// `012` is 10 in YAML 1.1.
fn octal(text: &str) -> bool {
    text.len() > 1 && text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit())
}

/// Warns of routes that no request can reach.
pub(super) fn shadowed_routes(routes: &Routes, report: &mut Report) {
    for (route, by) in RouteTable::compile(&routes.params).shadowed() {
        let (Some(span), Some(place), Some(winner)) =
            (routes.spans.get(route), routes.spans.get(by), routes.params.get(by))
        else {
            continue;
        };
        report.add::<()>(
            warning(codes::SHADOWED, *span, "route can never match")
                .label(format!("every such request is taken by route `{}`", winner.name))
                .also(*place, "which comes first with the same precedence")
                .help("delete one of the two, or make this match narrower"),
        );
    }
}
