//! What all sidecars share, laid over the file of one: routes, rules about callers, policies of services and rate limits that
//! were written into the store.
//! The file is the base. A record that does not fit is left out with the reason, and never keeps the rest, or the file,
//! from being used. Where records come from is not known here.

mod compose;
mod document;
mod policies;
mod record;
#[cfg(test)]
mod tests;

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;

use self::{compose::Attributed, record::Candidate};
pub use self::{document::shared_yaml, policies::is_policy};
use super::{
    Bundle, Environment, Findings, Severity, Text, codes,
    parse::{self, Read},
    report::{Report, error},
    sections::mesh,
    span::Span,
    tree::{Content, Node},
    yaml,
};
use crate::{directory::DirectoryParams, policy::authz::Intentions};

/// Most records that a sidecar takes over.
pub const MAX_RECORDS: usize = 1000;
/// Most bytes of their names and texts together.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// An item of `routes`.
    Route,
    /// An item of `intentions.rules`, and besides that perhaps `destination`: the services whose callers it is about, as
    /// `shop`, `batch-*` or `*`, which is what its absence means.
    Intention,
    /// Keys of `services.NAME`: how the service of that name is called.
    Policy,
    /// An item of `service.rate_limit`, and besides that perhaps `destination`, as in a rule: whose requests are counted.
    Limit,
}

/// One entry that all sidecars share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is about.
    pub kind: RecordKind,
    /// The name that its key says it has.
    pub name: Arc<str>,
    /// The entry as it would stand in the file, in YAML or JSON.
    pub text: Bytes,
}

/// What became of a record.
#[derive(Clone, Debug)]
pub enum Standing {
    /// It is in the configuration; perhaps with warnings.
    Applied(Findings),
    /// It is about the callers of other services.
    Elsewhere,
    /// It is left out, for these errors.
    Quarantined(Findings),
}

/// A file that can be used, as what records are laid over.
#[derive(Clone, Debug)]
pub struct Base {
    name: String,
    text: Arc<str>,
    read: Read,
    /// What the file of the machine's name said when the configuration was read: laying something over it reads no files.
    host: Option<String>,
}

/// A file with records laid over it.
#[derive(Clone, Debug)]
pub struct Overlaid {
    /// What is in force then.
    pub bundle: Bundle,
    /// What became of each record.
    pub standings: Vec<Standing>,
}

impl RecordKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Route, Self::Intention, Self::Policy, Self::Limit];

    /// What keys of such records begin with.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Route => "routes/",
            Self::Intention => "intentions/",
            Self::Policy => "policies/",
            Self::Limit => "ratelimits/",
        }
    }

    /// What one is called.
    pub(super) const fn noun(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Intention => "rule",
            Self::Policy => "service",
            Self::Limit => "rate limit",
        }
    }

    /// What its names may have besides letters, digits and `._-`.
    const fn name_also(self) -> &'static str {
        match self {
            Self::Route | Self::Intention | Self::Limit => "/",
            Self::Policy => "",
        }
    }
}

impl Record {
    /// The record that a key of the store holds; `None` if the key is no record's.
    #[must_use]
    pub fn of_key(key: &str, text: Bytes) -> Option<Self> {
        let named = |kind: RecordKind| key.strip_prefix(kind.prefix()).map(|name| (kind, name));
        let (kind, name) = RecordKind::ALL.into_iter().find_map(named)?;
        Some(Self { kind, name: name.into(), text })
    }

    /// Its key in the store.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}{}", self.kind.prefix(), self.name)
    }

    /// The name that the text of an entry says it has.
    #[must_use]
    pub fn name_in(text: &str) -> Option<String> {
        field_in(text, record::NAME)
    }

    /// The text of one of its keys, if it has that and is an entry at all.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<String> {
        std::str::from_utf8(&self.text).ok().and_then(|text| field_in(text, key))
    }

    /// The keys of its text, if that is an entry at all, but for its name.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let text = std::str::from_utf8(&self.text).unwrap_or_default();
        match yaml::read(text, &mut Report::default()).map(|node| node.content) {
            Some(Content::Map(entries)) => {
                entries.into_iter().map(|entry| entry.key).filter(|key| key != record::NAME).collect()
            }
            Some(Content::Scalar(_) | Content::List(_)) | None => Vec::new(),
        }
    }

    fn size(&self) -> usize {
        self.name.len() + self.text.len()
    }
}

impl Standing {
    /// Why it is left out, in a line; `None` if it is not.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let Self::Quarantined(findings) = self else { return None };
        let first = findings.items().iter().find(|item| item.severity == Severity::Error)?;
        let label = first.label.as_ref().map_or(String::new(), |label| format!(" ({label})"));
        Some(format!("{}: {}{label}", first.code.id(), first.message))
    }
}

impl Base {
    /// Reads a configuration, as [`load`](super::load) does.
    ///
    /// # Errors
    /// Everything that is wrong, by position, if anything is.
    pub fn load(text: &Text, environment: &dyn Environment) -> Result<Self, Findings> {
        let content = parse::decoded(text)?;
        let read = parse::read(text.name(), content, environment)?;
        let host = environment.file(Path::new(mesh::HOST_NAME)).ok();
        Ok(Self { name: text.name().to_owned(), text: content.into(), read, host })
    }

    /// What the file alone says.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.read.bundle
    }

    /// Warnings about the file alone.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.read.findings
    }

    /// The file with `records` laid over it, whose order does not matter.
    ///
    /// A route takes the place of the file's route of the same name; others come after the file's, by name, so that among
    /// routes that are equally narrow the file's are tried first. A rule is added to the file's rules, of which one that
    /// denies still wins over all that allow; what happens to those whom no rule is about is the file's to say. Each key of a
    /// policy takes the place of that key of the service. A rate limit is added to the file's, all of which must allow a
    /// request.
    #[must_use]
    pub fn overlay(&self, records: &[Record]) -> Overlaid {
        self.lay(records, &[])
    }

    /// Whether `record` fits together with `others`, of which one with its key is replaced. Warnings, if it does.
    ///
    /// # Errors
    /// What is wrong with it, at its places in its text.
    pub fn check(&self, others: &[Record], record: &Record) -> Result<Findings, Findings> {
        let is_other = |other: &&Record| (other.kind, &other.name) != (record.kind, &record.name);
        let mut all: Vec<Record> = others.iter().filter(is_other).cloned().collect();
        let (count, size) = (all.len() + 1, all.iter().map(Record::size).sum::<usize>() + record.size());
        if count > MAX_RECORDS || size > MAX_RECORD_BYTES {
            return Err(beyond(record));
        }
        all.push(record.clone());
        match self.lay(&all, &[record]).standings.pop() {
            Some(Standing::Applied(warnings)) => Ok(warnings),
            Some(Standing::Quarantined(errors)) => Err(errors),
            Some(Standing::Elsewhere) | None => Ok(Findings::new(&record.key(), "", None, Report::default())),
        }
    }

    /// Whether those of `records` that `is_changed` picks fit, if these are all there are.
    ///
    /// # Errors
    /// What is wrong with each of them that does not.
    pub fn check_all(
        &self,
        records: &[Record],
        is_changed: impl Fn(&Record) -> bool,
    ) -> Result<(), Vec<Findings>> {
        let checked: Vec<&Record> = records.iter().filter(|record| is_changed(record)).collect();
        let standings = self.lay(records, &checked).standings;
        let left_out = records.iter().zip(standings).filter_map(|(record, standing)| match standing {
            Standing::Quarantined(findings) if checked.contains(&record) => Some(findings),
            Standing::Quarantined(_) | Standing::Applied(_) | Standing::Elsewhere => None,
        });
        let errors: Vec<Findings> = left_out.collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// As [`Base::overlay`]; of `checked` all that can be known here is checked also if it is about others.
    fn lay(&self, records: &[Record], checked: &[&Record]) -> Overlaid {
        let mut standings: Vec<Standing> = records.iter().map(|_| Standing::Elsewhere).collect();
        let mut order: Vec<usize> = (0..records.len()).collect();
        order.sort_by_key(|index| records.get(*index).map(|record| (record.kind, Arc::clone(&record.name))));
        let (mut live, mut size, mut offset) = (Vec::new(), 0, self.text.len() + GAP);
        for (rank, index) in order.into_iter().enumerate() {
            let (Some(record), Some(standing)) = (records.get(index), standings.get_mut(index)) else {
                continue;
            };
            size += record.size();
            if rank >= MAX_RECORDS || size > MAX_RECORD_BYTES {
                *standing = Standing::Quarantined(beyond(record));
                continue;
            }
            match Candidate::read(record, index, offset, self) {
                Ok(candidate) if self.is_about(&candidate, &live) || checked.contains(&record) => {
                    offset += record.text.len() + GAP;
                    live.push(candidate);
                }
                Ok(_) => {}
                Err(findings) => *standing = Standing::Quarantined(findings),
            }
        }
        let bundle = self.settle(live, &mut standings);
        Overlaid { bundle, standings }
    }

    /// Whether `candidate` is about this sidecar, given those before it: routes come first.
    fn is_about(&self, candidate: &Candidate, live: &[Candidate]) -> bool {
        match candidate.kind {
            RecordKind::Policy => {
                self.serves(&candidate.name) || live.iter().any(|other| other.sends_to(&candidate.name))
            }
            RecordKind::Route | RecordKind::Intention | RecordKind::Limit => candidate.is_here,
        }
    }

    /// Lays `live` over the file, without those for which it cannot be done.
    fn settle(&self, mut live: Vec<Candidate>, standings: &mut [Standing]) -> Bundle {
        loop {
            if live.is_empty() {
                return self.bundle().clone();
            }
            let Attributed { bundle, own, .. } = self.compose(&live);
            if let Some(bundle) = bundle {
                for (candidate, report) in live.iter().zip(own) {
                    if let Some(standing) = standings.get_mut(candidate.index) {
                        *standing = Standing::Applied(candidate.findings(report));
                    }
                }
                return bundle;
            }
            let guilty: Vec<bool> = own.iter().map(Report::failed).collect();
            if guilty.contains(&true) {
                let (mut kept, mut reports) = (Vec::with_capacity(live.len()), own.into_iter());
                for candidate in live {
                    let report = reports.next().unwrap_or_default();
                    match standings.get_mut(candidate.index) {
                        Some(standing) if report.failed() => *standing = candidate.left_out(report),
                        _ => kept.push(candidate),
                    }
                }
                live = kept;
            } else {
                // Something in the file does not go with one of them.
                let at = self.first_unfit(&live);
                let candidate = live.remove(at);
                if let Some(standing) = standings.get_mut(candidate.index) {
                    *standing = Standing::Quarantined(self.clash(&live, at, &candidate));
                }
            }
        }
    }

    /// The first of `live` with which those before it do not go. Without any the file is good, and with all it is not.
    fn first_unfit(&self, live: &[Candidate]) -> usize {
        let (mut good, mut bad) = (0, live.len());
        while bad - good > 1 {
            let middle = good.midpoint(bad);
            let fits = live.get(..middle).is_some_and(|some| self.compose(some).bundle.is_some());
            if fits { good = middle } else { bad = middle }
        }
        good
    }

    /// What the file says against `candidate`, given those of `live` before `at`.
    fn clash(&self, live: &[Candidate], at: usize, candidate: &Candidate) -> Findings {
        let mut with: Vec<Candidate> = live.get(..at).unwrap_or_default().to_vec();
        with.push(candidate.clone());
        let why = self.compose(&with).elsewhere;
        let message = why.unwrap_or_else(|| "it does not go with the file".to_owned());
        let mut report = Report::default();
        report.add::<()>(
            error(codes::RECORD, Span::new(0, candidate.text.len()), message).label("with this in it"),
        );
        candidate.findings(report)
    }

    /// The configuration in force, of which only what records are about is taken from the tree with them.
    fn with(&self, composed: Bundle, live: &[Candidate]) -> Bundle {
        let base = self.bundle().clone();
        let DirectoryParams { intentions, routes, clusters, local: with_limits, .. } = composed.directory;
        let mut local = base.directory.local;
        let of_the_file = local.traffic.limits.len();
        local.traffic.limits = with_limits.traffic.limits;
        // The file's are called by their places, and these would lose what they have counted if one before them went.
        let added = local.traffic.limits.iter_mut().skip(of_the_file);
        for (limit, candidate) in added.zip(live.iter().filter(|one| one.kind == RecordKind::Limit)) {
            limit.name = Arc::clone(&candidate.name);
        }
        let directory = DirectoryParams { intentions, routes, clusters, local, ..base.directory };
        Bundle { directory, masked: composed.masked, ..base }
    }

    fn rules(&self) -> impl Iterator<Item = &str> {
        let given = match &self.bundle().directory.intentions {
            Intentions::Absent(_) => None,
            Intentions::Given(given) => Some(given),
        };
        given.into_iter().flat_map(|given| &given.rules).map(|rule| &*rule.name)
    }

    fn root(&self) -> &Node {
        &self.read.root
    }
}

fn field_in(text: &str, key: &str) -> Option<String> {
    let node = yaml::read(text, &mut Report::default())?;
    match &record::entry(&node, key)?.content {
        Content::Scalar(scalar) => Some(scalar.text.clone()),
        Content::List(_) | Content::Map(_) => None,
    }
}

/// What stands between two texts, so that the end of one is not the beginning of the next.
const GAP: usize = 2;

/// The finding that there is no room for a record.
fn beyond(record: &Record) -> Findings {
    let most = MAX_RECORD_BYTES / 1024 / 1024;
    let message = format!("no more than {MAX_RECORDS} records and {most} MiB are shared");
    let mut report = Report::default();
    report.add::<()>(error(codes::RECORD, Span::default(), message));
    Findings::new(&record.key(), "", None, report)
}

/// A machine that has nothing but a name.
struct Named<'a>(Option<&'a str>);

impl Environment for Named<'_> {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &Path) -> io::Result<String> {
        self.0.map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
