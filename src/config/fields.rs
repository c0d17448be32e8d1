//! Reads mappings: which keys may stand there, which are missing, what a wrong one was meant to be.

use super::{
    codes,
    diagnostic::Severity,
    report::{Finding, Report, error},
    schema::Section,
    span::Span,
    suggest::closest,
    tree::{Content, Entry, Node},
    value::shorten,
};

/// A mapping whose keys have been checked against its section of the schema.
#[derive(Debug)]
pub(super) struct Fields<'n> {
    entries: &'n [Entry],
    section: &'static Section,
    /// What to point at when something is missing.
    pub(super) span: Span,
}

impl<'n> Fields<'n> {
    /// Takes `node` for a mapping and reports every key that does not belong there.
    pub(super) fn open(node: &'n Node, section: &'static Section, report: &mut Report) -> Option<Self> {
        let Content::Map(entries) = &node.content else {
            return report.add(
                error(
                    codes::WRONG_TYPE,
                    node.span,
                    format!("`{}` is a mapping of keys to values", section.name),
                )
                .label(format!("found {}", node.found()))
                .help(format!("write it as `{{ {} }}`", section.example)),
            );
        };
        let fields = Self { entries, section, span: node.span };
        for entry in entries.iter().filter(|entry| !section.known.contains(&entry.key.as_str())) {
            report.add_with(Severity::Error, || fields.refusal(entry));
        }
        Some(fields)
    }

    /// A mapping without keys, that what is named at `span` stands for.
    pub(super) fn empty(section: &'static Section, span: Span) -> Self {
        Self { entries: &[], section, span }
    }

    /// What to say about a key that may not stand here.
    fn refusal(&self, entry: &Entry) -> Finding {
        let Section { name, known, later, aliases, .. } = self.section;
        if later.contains(&entry.key.as_str()) {
            let message = format!("`{}` is not available in this version", entry.key);
            return error(codes::LATER_KEY, entry.key_span, message)
                .label("not built yet")
                .help("remove the key: nothing would act on it");
        }
        let candidates = known.iter().chain(later.iter()).copied();
        error(codes::UNKNOWN_KEY, entry.key_span, format!("unknown key `{}`", shorten(&entry.key)))
            .label(format!("not a key of `{name}`"))
            .suggest(closest(&entry.key, candidates, aliases))
            .note(format!("keys of `{name}`: {}", known.join(", ")))
    }

    fn entry(&self, key: &str) -> Option<&'n Entry> {
        debug_assert!(self.section.known.contains(&key), "`{key}` is missing in the schema");
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of `key`, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The value of `key`; its absence is an error, with `example` as the help.
    pub(super) fn require(&self, key: &str, example: &str, report: &mut Report) -> Option<&'n Node> {
        self.get(key).or_else(|| {
            report.add(
                error(
                    codes::MISSING_KEY,
                    self.span,
                    format!("`{key}` is missing in `{}`", self.section.name),
                )
                .label(format!("needs `{key}`"))
                .help(format!("add `{example}`"))
                .of_mapping(),
            )
        })
    }

    /// The value of `key` read by `read`; `default` when it is not there (or is reported as wrong).
    pub(super) fn or<T>(
        &self,
        key: &str,
        default: T,
        report: &mut Report,
        read: impl FnOnce(&'n Node, &mut Report) -> Option<T>,
    ) -> T {
        self.optional(key, report, read).unwrap_or(default)
    }

    /// The value of `key` read by `read`; `None` when it is not there (or is reported as wrong).
    pub(super) fn optional<T>(
        &self,
        key: &str,
        report: &mut Report,
        read: impl FnOnce(&'n Node, &mut Report) -> Option<T>,
    ) -> Option<T> {
        self.get(key).and_then(|node| read(node, report))
    }

    /// The one of `keys` that is there. Two of them are an error, and so is none unless `may_lack` says that
    /// it has a meaning.
    pub(super) fn one_of(
        &self,
        keys: &[&'static str],
        may_lack: MayLack,
        report: &mut Report,
    ) -> Option<(&'static str, &'n Node)> {
        let list = || keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        let mut present = keys.iter().filter_map(|key| self.entry(key).map(|entry| (*key, entry)));
        let Some((key, first)) = present.next() else {
            if may_lack == MayLack::No {
                report.add::<()>(
                    error(
                        codes::CHOICE,
                        self.span,
                        format!("`{}` needs one of {}", self.section.name, list()),
                    )
                    .label("none of them is here")
                    .of_mapping(),
                );
            }
            return None;
        };
        for (other, second) in present {
            report.add::<()>(
                error(codes::CHOICE, second.key_span, format!("`{other}` and `{key}` exclude each other"))
                    .label("remove one of the two")
                    .also(first.key_span, "the other one")
                    .note(format!("one of {} may be given", list())),
            );
        }
        Some((key, &first.value))
    }
}

/// Whether it means something if none of several keys is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayLack {
    Yes,
    No,
}

/// The items of a list.
pub(super) fn list<'n>(node: &'n Node, what: &str, report: &mut Report) -> Option<&'n [Node]> {
    match &node.content {
        Content::List(items) => Some(items),
        Content::Scalar(_) | Content::Map(_) => report.add(
            error(codes::WRONG_TYPE, node.span, format!("expected a list of {what}"))
                .label(format!("found {}", node.found()))
                .help("write it as `[a, b]`, or as lines that begin with `- `"),
        ),
    }
}

/// The entries of a mapping whose keys are names that the user chose.
pub(super) fn named<'n>(node: &'n Node, what: &str, report: &mut Report) -> Option<&'n [Entry]> {
    match &node.content {
        Content::Map(entries) => Some(entries),
        Content::Scalar(_) | Content::List(_) => report.add(
            error(codes::WRONG_TYPE, node.span, format!("expected a mapping of {what}"))
                .label(format!("found {}", node.found())),
        ),
    }
}

/// Reads every item of a list, leaving out those that are reported as wrong.
pub(super) fn each<'n, T>(
    node: &'n Node,
    what: &str,
    report: &mut Report,
    mut read: impl FnMut(&'n Node, &mut Report) -> Option<T>,
) -> Option<Vec<T>> {
    let items = list(node, what, report)?;
    Some(items.iter().filter_map(|item| read(item, report)).collect())
}
