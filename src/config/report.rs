//! Collects findings while a file is read, so that one run tells all of them.

use super::{codes, codes::Code, diagnostic::Severity, span::Span, tree::Aim};

/// More findings than this are counted, not kept: a file of another kind would fill the memory with them.
const MAX_KEPT: usize = 1_000;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    findings: Vec<Finding>,
    dropped: usize,
    failed: bool,
    unsubstituted: Vec<Span>,
}

/// A finding by byte ranges, before lines and columns are known.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) code: Code,
    pub(super) severity: Severity,
    pub(super) span: Span,
    pub(super) aim: Aim,
    pub(super) message: String,
    pub(super) label: Option<String>,
    pub(super) help: Option<String>,
    pub(super) notes: Vec<String>,
    pub(super) secondary: Vec<(Span, String)>,
}

impl Finding {
    /// Text at the caret.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// It is about the mapping that begins here, not about its first key.
    pub(super) fn of_mapping(mut self) -> Self {
        self.aim = Aim::Mapping;
        self
    }

    /// What to do about it.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// `did you mean …`, if there is something to mean.
    pub(super) fn suggest(self, word: Option<&str>) -> Self {
        match word {
            Some(word) => self.help(format!("did you mean `{word}`?")),
            None => self,
        }
    }

    /// More to know.
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Another place that has to do with it.
    pub(super) fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.secondary.push((span, label.into()));
        self
    }
}

/// A finding that makes the file unusable.
pub(super) fn error(code: Code, span: Span, message: impl Into<String>) -> Finding {
    finding(code, Severity::Error, span, message.into())
}

/// A finding that the file can be used with.
pub(super) fn warning(code: Code, span: Span, message: impl Into<String>) -> Finding {
    finding(code, Severity::Warning, span, message.into())
}

fn finding(code: Code, severity: Severity, span: Span, message: String) -> Finding {
    Finding {
        code,
        severity,
        span,
        aim: Aim::Value,
        message,
        label: None,
        help: None,
        notes: Vec::new(),
        secondary: Vec::new(),
    }
}

impl Report {
    /// Adds a finding. Returns `None` of any type, so that a reader can end with `return report.add(…)`.
    pub(super) fn add<T>(&mut self, finding: Finding) -> Option<T> {
        self.failed |= finding.severity == Severity::Error;
        if self.findings.len() < MAX_KEPT {
            self.findings.push(finding);
        } else {
            self.dropped += 1;
        }
        None
    }

    /// Adds the finding that `describe` makes, which is asked only if the finding will be kept: a suggestion
    /// for each of a million keys would take minutes.
    pub(super) fn add_with(&mut self, severity: Severity, describe: impl FnOnce() -> Finding) {
        if self.findings.len() < MAX_KEPT {
            self.add::<()>(describe());
        } else {
            self.failed |= severity == Severity::Error;
            self.dropped += 1;
        }
    }

    /// Adds the finding that a value could not be substituted: whatever else is found there is a consequence.
    pub(super) fn add_unsubstituted(&mut self, span: Span, message: String) {
        self.unsubstituted.push(span);
        self.add::<()>(error(codes::SUBSTITUTION, span, message));
    }

    /// Whether an error is among the findings.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// The findings by position, and how many more there were. A warning at the place of an error is left
    /// out: the error says more.
    pub(super) fn finish(mut self) -> (Vec<Finding>, usize) {
        let errors: Vec<Span> =
            self.findings.iter().filter(|f| f.severity == Severity::Error).map(|f| f.span).collect();
        self.findings.retain(|f| f.severity == Severity::Error || !errors.contains(&f.span));
        let consequence = |f: &Finding| f.code != codes::SUBSTITUTION && self.unsubstituted.contains(&f.span);
        self.findings.retain(|finding| !consequence(finding));
        self.findings.sort_by_key(|f| (f.span.start, f.code.id()));
        (self.findings, self.dropped)
    }
}
