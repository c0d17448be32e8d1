//! One tree of a file and what is laid over it, and whose each finding about it is.

use super::{
    Base, Named, RecordKind,
    record::{Candidate, text_entry},
};
use crate::{
    config::{
        Bundle, codes,
        diagnostic::Severity,
        parse,
        report::{Finding, Report},
        sections::intentions::ACTIONS,
        span::{Lines, Span},
        tree::{Content, Entry, Node},
        value,
    },
    policy::authz::Intentions,
};

/// What a tree means, and what is wrong with it.
pub(super) struct Attributed {
    /// `None` if anything is wrong.
    pub(super) bundle: Option<Bundle>,
    /// What was found in each of the texts, by places in it.
    pub(super) own: Vec<Report>,
    /// The first error that is in none of them.
    pub(super) elsewhere: Option<String>,
}

impl Base {
    /// The file with all of `live` laid over it.
    pub(super) fn compose(&self, live: &[Candidate]) -> Attributed {
        let (root, masked) = self.tree(live);
        let mut report = Report::default();
        let bundle = parse::bundle(&root, masked, &Named(self.host.as_deref()), &mut report);
        let bundle = bundle.filter(|_| !report.failed()).map(|bundle| self.with(bundle, live));
        let (findings, _) = report.finish();
        let mut own: Vec<Report> = live.iter().map(|_| Report::default()).collect();
        let mut elsewhere = None;
        for finding in findings {
            // Those of the records stand one behind the other.
            let after = live.partition_point(|candidate| candidate.offset <= finding.span.start);
            let at =
                after.checked_sub(1).filter(|at| live.get(*at).is_some_and(|one| one.holds(finding.span)));
            match at.and_then(|at| live.get(at).zip(own.get_mut(at))) {
                Some((candidate, report)) => {
                    report.add::<()>(self.within(finding, candidate, live));
                }
                None if finding.severity == Severity::Error && elsewhere.is_none() => {
                    elsewhere = Some(format!(
                        "{} ({}, {})",
                        finding.message,
                        finding.code.id(),
                        self.place(finding.span)
                    ));
                }
                None => {}
            }
        }
        Attributed { bundle, own, elsewhere }
    }

    fn tree(&self, live: &[Candidate]) -> (Node, Vec<String>) {
        let mut root = self.root().clone();
        let mut masked = self.bundle().masked.clone();
        let Content::Map(entries) = &mut root.content else { return (root, masked) };
        let of = |kind: RecordKind| live.iter().filter(move |candidate| candidate.kind == kind).peekable();
        let mut routes = of(RecordKind::Route);
        if routes.peek().is_some()
            && let Some(items) = list_in(entries, "routes")
        {
            let base = &self.bundle().directory.routes;
            for candidate in routes {
                let place = base.iter().position(|route| *route.name == *candidate.name);
                match place.and_then(|place| items.get_mut(place).map(|item| (place, item))) {
                    Some((place, item)) => {
                        *item = candidate.entry();
                        // What was secret there is gone.
                        masked.retain(|pointer| !is_within(pointer, place));
                    }
                    None => items.push(candidate.entry()),
                }
            }
        }
        let mut rules = of(RecordKind::Intention);
        if rules.peek().is_some()
            && let Some(section) = map_in(entries, "intentions")
        {
            if let Intentions::Absent(usual) = self.bundle().directory.intentions
                && let Some((word, _)) = ACTIONS.iter().find(|(_, action)| *action == usual)
            {
                section.push(text_entry("default_action", word, Span::default()));
            }
            if let Some(items) = list_in(section, "rules") {
                items.extend(rules.map(Candidate::entry));
            }
        }
        for policy in of(RecordKind::Policy) {
            self.put_policy(entries, policy, &mut masked);
        }
        let mut limits = of(RecordKind::Limit);
        if limits.peek().is_some()
            && let Some(section) = map_in(entries, "service")
            && let Some(items) = several_in(section, "rate_limit")
        {
            items.extend(limits.map(Candidate::entry));
        }
        (root, masked)
    }

    /// The finding by places in the text of `candidate`; other texts are named instead of shown.
    fn within(&self, mut finding: Finding, candidate: &Candidate, live: &[Candidate]) -> Finding {
        let back = |span: Span| {
            Span::new(span.start.saturating_sub(candidate.offset), span.end.saturating_sub(candidate.offset))
        };
        finding.span = back(finding.span);
        let mut secondary = Vec::new();
        for (span, label) in std::mem::take(&mut finding.secondary) {
            match live.iter().find(|other| other.holds(span)) {
                _ if candidate.holds(span) => secondary.push((back(span), label)),
                Some(other) => finding.notes.push(format!("{label}: {}{}", other.kind.prefix(), other.name)),
                None => finding.notes.push(format!("{label}: {}", self.place(span))),
            }
        }
        finding.secondary = secondary;
        if finding.code == codes::NEVER_DECIDES || finding.code == codes::SHADOWED {
            // Deleting the one in the file is not for whoever writes for all.
            finding.help = None;
        }
        finding
    }

    /// A place in the file, for messages.
    fn place(&self, span: Span) -> String {
        format!("{}:{}", value::shorten(&self.name), Lines::of(&self.text).position(span.start).line)
    }
}

/// Whether a pointer to a secret leads into the route at `place`.
fn is_within(pointer: &str, place: usize) -> bool {
    let rest = pointer.strip_prefix("/routes/");
    rest.and_then(|rest| rest.split('/').next()).is_some_and(|index| index.parse() == Ok(place))
}

/// The items at `key`, which are made if they are not there.
fn list_in<'e>(entries: &'e mut Vec<Entry>, key: &str) -> Option<&'e mut Vec<Node>> {
    match content_in(entries, key, Content::List(Vec::new()))? {
        Content::List(items) => Some(items),
        Content::Scalar(_) | Content::Map(_) => None,
    }
}

/// The items at `key`, where one may stand without a list around it.
fn several_in<'e>(entries: &'e mut Vec<Entry>, key: &str) -> Option<&'e mut Vec<Node>> {
    if let Some(entry) = entries.iter_mut().find(|entry| entry.key == key)
        && let Content::Map(_) = &entry.value.content
    {
        let span = entry.value.span;
        let one = std::mem::replace(&mut entry.value, Node { span, content: Content::List(Vec::new()) });
        entry.value.content = Content::List(vec![one]);
    }
    list_in(entries, key)
}

/// The entries at `key`, which are made if they are not there.
pub(super) fn map_in<'e>(entries: &'e mut Vec<Entry>, key: &str) -> Option<&'e mut Vec<Entry>> {
    match content_in(entries, key, Content::Map(Vec::new()))? {
        Content::Map(entries) => Some(entries),
        Content::Scalar(_) | Content::List(_) => None,
    }
}

fn content_in<'e>(entries: &'e mut Vec<Entry>, key: &str, empty: Content) -> Option<&'e mut Content> {
    let at = entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
        let value = Node { span: Span::default(), content: empty };
        entries.push(Entry { key: key.to_owned(), key_span: Span::default(), value });
        entries.len() - 1
    });
    entries.get_mut(at).map(|entry| &mut entry.value.content)
}
