//! One record by itself: whether its text is an entry at all, has the name of its key, and whom it is for.

use std::{str, sync::Arc};

use super::{Base, Record, RecordKind, Standing, policies};
use crate::config::{
    Findings, Severity, codes, environment, form,
    report::{Report, error},
    span::Span,
    tree::{Content, Entry, Kind, Node, Scalar},
    value, yaml,
};

/// A record whose text is an entry, and which may go over the file.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Which of the records it is.
    pub(super) index: usize,
    pub(super) kind: RecordKind,
    pub(super) name: Arc<str>,
    pub(super) text: Arc<str>,
    /// As it was written.
    node: Node,
    /// Where its text begins, if it is thought of as standing behind that of the file.
    pub(super) offset: usize,
    /// Whether it is about this sidecar.
    pub(super) is_here: bool,
}

impl Candidate {
    /// Reads the text.
    ///
    /// # Errors
    /// What is wrong with it by itself.
    pub(super) fn read(record: &Record, index: usize, offset: usize, base: &Base) -> Result<Self, Findings> {
        let key = record.key();
        let refused =
            |text: &str, node: Option<&Node>, report: Report| Findings::new(&key, text, node, report);
        let mut report = Report::default();
        let text = match str::from_utf8(&record.text) {
            Ok(text) if !text.trim().is_empty() => text,
            Ok(_) => {
                report.add::<()>(error(codes::RECORD, Span::default(), "there is nothing in it"));
                return Err(refused("", None, report));
            }
            Err(_) => {
                report.add::<()>(error(codes::UNREADABLE, Span::default(), "it is not UTF-8 text"));
                return Err(refused("", None, report));
            }
        };
        let Some(mut node) = yaml::read(text, &mut report) else {
            return Err(refused(text, None, report));
        };
        environment::refuse(&mut node, &mut report);
        check_name(record, &node, &mut report);
        let mut is_here = true;
        if matches!(record.kind, RecordKind::Intention | RecordKind::Limit) {
            is_here = destination(&node, &base.bundle().directory.local.name, &mut report);
        }
        if record.kind == RecordKind::Policy {
            policies::check(&node, &mut report);
            is_here = base.serves(&record.name);
        }
        if record.kind == RecordKind::Intention && base.rules().any(|name| name == &*record.name) {
            let message = format!("a rule of the file is called `{}`, too", record.name);
            report.add::<()>(
                error(codes::RECORD, node.span, message)
                    .label("rules are added to those of the file")
                    .help("give this one another name"),
            );
        }
        if report.failed() {
            return Err(refused(text, Some(&node), report));
        }
        let (kind, name, text) = (record.kind, Arc::clone(&record.name), Arc::from(text));
        Ok(Self { index, kind, name, text, node, offset, is_here })
    }

    /// The entry as it goes into the tree of the file: with its name, and without what the file does not have.
    pub(super) fn entry(&self) -> Node {
        let mut node = self.node.moved(self.offset);
        let span = node.span;
        if let Content::Map(entries) = &mut node.content {
            match self.kind {
                RecordKind::Intention => entries.retain(|entry| entry.key != DESTINATION),
                RecordKind::Limit => entries.retain(|entry| entry.key != DESTINATION && entry.key != NAME),
                RecordKind::Policy => entries.retain(|entry| entry.key != NAME),
                RecordKind::Route => {}
            }
            let is_named = matches!(self.kind, RecordKind::Route | RecordKind::Intention);
            if is_named && !entries.iter().any(|entry| entry.key == NAME) {
                entries.push(text_entry(NAME, &self.name, span));
            }
        }
        node
    }

    /// Whether it is a route that has requests sent to `service`.
    pub(super) fn sends_to(&self, service: &str) -> bool {
        self.kind == RecordKind::Route && policies::names(&self.node, service)
    }

    /// Whether a place is in its text.
    pub(super) fn holds(&self, span: Span) -> bool {
        (self.offset..=self.offset + self.text.len()).contains(&span.start)
    }

    /// What was found in its text.
    pub(super) fn findings(&self, report: Report) -> Findings {
        let key = format!("{}{}", self.kind.prefix(), self.name);
        Findings::new(&key, &self.text, Some(&self.node), report)
    }

    /// What becomes of it with these errors. What it names of a sidecar that is not this one cannot be known here.
    pub(super) fn left_out(&self, report: Report) -> Standing {
        let findings = self.findings(report);
        let is_error = |severity: Severity| severity == Severity::Error;
        let mut errors = findings.items().iter().filter(|item| is_error(item.severity));
        if !self.is_here && errors.all(|item| item.code == codes::UNKNOWN_ROLE) {
            return Standing::Elsewhere;
        }
        Standing::Quarantined(findings)
    }
}

/// An entry of a mapping whose value is a text, as if it stood at `span`.
pub(super) fn text_entry(key: &str, text: &str, span: Span) -> Entry {
    let scalar = Scalar { text: text.to_owned(), kind: Kind::Text, plain: false, secret: false };
    let value = Node { span, content: Content::Scalar(scalar) };
    Entry { key: key.to_owned(), key_span: span, value }
}

fn check_name(record: &Record, node: &Node, report: &mut Report) {
    let (what, also) = (record.kind.noun(), record.kind.name_also());
    if !form::is_name(&record.name, also) {
        report.add::<()>(form::bad_name(Span::default(), what, also));
    }
    let Some(given) = entry(node, NAME) else { return };
    let Content::Scalar(scalar) = &given.content else { return };
    if scalar.text != *record.name {
        report.add::<()>(
            error(codes::RECORD, given.span, "the name is not that of the key")
                .label(format!("the key says `{}`", value::shorten(&record.name)))
                .help("leave `name` out, or write it under its own name"),
        );
    }
}

/// Whether the rule is about the callers of `local`.
fn destination(node: &Node, local: &str, report: &mut Report) -> bool {
    let Some(node) = entry(node, DESTINATION) else { return true };
    let Some(scalar) = value::text_scalar(node, "a destination", "shop", report) else { return false };
    let text = scalar.text.as_str();
    match text.strip_suffix('*') {
        Some("") => true,
        Some(prefix) if form::is_name(prefix, "") => local.starts_with(prefix),
        None if form::is_name(text, "") => local == text,
        _ => {
            report.add::<()>(
                error(codes::RECORD, node.span, format!("{} is not a destination", value::shown(scalar)))
                    .label("no name of a service")
                    .help("`shop`, `batch-*` or `*`"),
            );
            false
        }
    }
}

/// The value of a key, if the node is a mapping that has it.
pub(super) fn entry<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    match &node.content {
        Content::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
        Content::Scalar(_) | Content::List(_) => None,
    }
}

pub(super) const NAME: &str = "name";
const DESTINATION: &str = "destination";
