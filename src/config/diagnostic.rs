//! What a reader is told about a configuration: findings with their places, as text for people and as JSON
//! for machines.

use std::{ops::Range, sync::Arc};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use super::{
    codes::Code,
    report::{Finding, Report},
    span::{Lines, Span},
    tree::Node,
};

/// More are counted in the text form: nobody reads them before having corrected these.
const MAX_SHOWN: usize = 20;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but probably does not do what was meant.
    Warning,
}

/// One finding. Lines and columns count from 1, columns in characters; the end is exclusive.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnostic {
    /// Stable code, as `OR104`.
    #[serde(serialize_with = "code_id")]
    pub code: Code,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// File that it is in.
    pub file: String,
    /// Key path, as `routes[0].timeout`; empty for the file as a whole.
    pub path: String,
    /// First line.
    pub line: usize,
    /// First column.
    pub column: usize,
    /// Last line.
    pub end_line: usize,
    /// Column after the last character.
    pub end_column: usize,
    /// Text at the caret.
    pub label: Option<String>,
    /// What to do.
    pub help: Option<String>,
    /// More to know.
    pub notes: Vec<String>,
    /// Other places that have to do with it.
    pub related: Vec<Related>,
    #[serde(skip)]
    span: Range<usize>,
}

/// Another place that a finding points at.
#[derive(Clone, Debug, Serialize)]
pub struct Related {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is there.
    pub label: String,
    #[serde(skip)]
    span: Range<usize>,
}

fn code_id<S: serde::Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code.id())
}

/// Everything found in one file, by position, with the text it was found in.
#[derive(Clone, Debug)]
pub struct Findings {
    file: String,
    text: Arc<str>,
    items: Vec<Diagnostic>,
    dropped: usize,
}

/// Whether rendered text has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For files and pipes.
    Plain,
    /// With ANSI colours, for terminals.
    Coloured,
}

impl Findings {
    pub(super) fn new(file: &str, text: &str, root: Option<&Node>, report: Report) -> Self {
        let (findings, dropped) = report.finish();
        let lines = Lines::of(text);
        let items =
            findings.into_iter().map(|finding| diagnostic(finding, file, &lines, text, root)).collect();
        Self { file: file.to_owned(), text: text.into(), items, dropped }
    }

    /// The findings, by position.
    #[must_use]
    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many findings have this severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.items.iter().filter(|item| item.severity == severity).count()
    }

    /// The findings as a compiler shows them, with the lines they are in, and a closing line with their number.
    #[must_use]
    pub fn render_text(&self, style: Style) -> String {
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Coloured => Renderer::styled(),
        };
        let lines = Lines::of(&self.text);
        let mut out = String::new();
        for item in self.items.iter().take(MAX_SHOWN) {
            out.push_str(&renderer.render(&[self.group(item, &lines)]));
            out.push_str("\n\n");
        }
        let more = self.items.len().saturating_sub(MAX_SHOWN) + self.dropped;
        if more > 0 {
            out.push_str(&format!("and {more} more\n"));
        }
        out.push_str(&self.summary());
        out.push('\n');
        out
    }

    /// `outrigger.yaml: 3 errors, 1 warning`.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = |severity, one: &str| match self.count(severity) {
            0 => None,
            1 => Some(format!("1 {one}")),
            count => Some(format!("{count} {one}s")),
        };
        let counts: Vec<String> = [count(Severity::Error, "error"), count(Severity::Warning, "warning")]
            .into_iter()
            .flatten()
            .collect();
        let counts = if counts.is_empty() { "ok".to_owned() } else { counts.join(", ") };
        let more = if self.dropped == 0 { String::new() } else { format!(" and {} more", self.dropped) };
        format!("{}: {counts}{more}", self.file)
    }

    /// The findings as one JSON document.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigFindings",
            "file": self.file,
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "omitted": self.dropped,
            "items": self.items,
        })
    }

    /// The lines of all places of `item`, and nothing else, so that a large file is not laid out for each.
    fn group<'a>(&'a self, item: &'a Diagnostic, lines: &Lines<'_>) -> Group<'a> {
        let places = || std::iter::once(&item.span).chain(item.related.iter().map(|related| &related.span));
        let first = places().map(|span| lines.position(span.start).line).min().unwrap_or(1);
        let last = places().map(|span| lines.position(span.end).line).max().unwrap_or(first);
        let excerpt = lines.range(first, last);
        let within = |span: &Range<usize>| {
            let clamp = |at: usize| at.clamp(excerpt.start, excerpt.end) - excerpt.start;
            clamp(span.start)..clamp(span.end)
        };
        let source = self.text.get(excerpt.start..excerpt.end).unwrap_or_default();
        let primary = AnnotationKind::Primary.span(within(&item.span)).label(item.label.as_deref());
        let related = item
            .related
            .iter()
            .map(|related| AnnotationKind::Context.span(within(&related.span)).label(related.label.as_str()));
        let snippet = Snippet::source(source)
            .line_start(first)
            .path(self.file.as_str())
            .annotation(primary)
            .annotations(related);
        let level = match item.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = level.primary_title(item.message.as_str()).id(item.code.id()).element(snippet);
        if let Some(help) = &item.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        group.elements(item.notes.iter().map(|note| Level::NOTE.message(note.as_str())))
    }
}

fn diagnostic(
    finding: Finding,
    file: &str,
    lines: &Lines<'_>,
    text: &str,
    root: Option<&Node>,
) -> Diagnostic {
    let span = whole_characters(finding.span, text);
    let (start, end) = (lines.position(span.start), lines.position(span.end));
    let related = finding.secondary.into_iter().map(|(place, label)| {
        let position = lines.position(place.start);
        Related { line: position.line, column: position.column, label, span: whole_characters(place, text) }
    });
    Diagnostic {
        code: finding.code,
        severity: finding.severity,
        message: finding.message,
        file: file.to_owned(),
        path: root.map(|root| root.path_at(span.start, finding.aim)).unwrap_or_default(),
        line: start.line,
        column: start.column,
        end_line: end.line,
        end_column: end.column,
        label: finding.label,
        help: finding.help,
        notes: finding.notes,
        related: related.collect(),
        span,
    }
}

/// The span within the text and at boundaries of characters, whatever the parsers said.
fn whole_characters(span: Span, text: &str) -> Range<usize> {
    let boundary = |at: usize| (at.min(text.len())..=text.len()).find(|at| text.is_char_boundary(*at));
    let start = boundary(span.start).unwrap_or(text.len());
    start..boundary(span.end).unwrap_or(text.len()).max(start)
}
