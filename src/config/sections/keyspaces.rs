//! `store.keyspaces`: which keys are kept by quorum beside the log, and how.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use super::super::{
    codes, defaults,
    fields::{Fields, named},
    form,
    report::{Report, error},
    schema,
    tree::{Entry, Node},
    value,
};
use crate::store::{Keyspace, KeyspaceLevel, Keyspaces, Spec};

pub(in crate::config) const LEVELS: [(&str, KeyspaceLevel); 3] = [
    ("quorum", KeyspaceLevel::Quorum),
    ("session", KeyspaceLevel::Session),
    ("eventual", KeyspaceLevel::Eventual),
];

/// What sidecars keep themselves, in the log.
const RESERVED: [&str; 3] = ["routes", "intentions", "outrigger"];
const REPLICAS: RangeInclusive<u64> = 1..=7;
/// The admin API waits for an answer for four seconds, of which one is for the way to a server and back.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(3);

pub(super) fn read(node: &Node, report: &mut Report) -> Option<Keyspaces> {
    let entries = named(node, "keyspaces to how they are kept", report)?;
    let mut spaces = BTreeMap::new();
    for entry in entries {
        if let Some(space) = keyspace(entry, report) {
            spaces.insert(entry.key.clone(), space);
        }
    }
    Some(Keyspaces::new(spaces))
}

fn keyspace(entry: &Entry, report: &mut Report) -> Option<Keyspace> {
    if !form::is_name(&entry.key, "") {
        report.add::<()>(form::bad_name(entry.key_span, "keyspace", ""));
    }
    if RESERVED.contains(&entry.key.as_str()) {
        let message = format!("`{}` is kept in the log, for all sidecars to be sure of", entry.key);
        report.add::<()>(
            error(codes::MALFORMED, entry.key_span, message)
                .label("not by quorum")
                .help("use another name: the part of the keys before their first slash"),
        );
    }
    let fields = Fields::open(&entry.value, &schema::KEYSPACE, report)?;
    let level = fields.or("level", KeyspaceLevel::default(), report, level);
    let default = Spec::default();
    let count = |name, default: usize, most: usize, report: &mut Report| {
        fields.or(name, default, report, |node, report| {
            let read = value::number(node, *REPLICAS.start()..=*REPLICAS.end(), report)?;
            let read = usize::try_from(read).ok()?;
            if read <= most {
                return Some(read);
            }
            report.add(
                error(
                    codes::MALFORMED,
                    node.span,
                    format!("`{name}` is {read}, and there are {most} replicas"),
                )
                .label("it could never be reached")
                .help("no more than `replicas`"),
            )
        })
    };
    let replicas = count("replicas", default.replicas, usize::MAX, report);
    let majority = replicas / 2 + 1;
    let reads = count("quorum_reads", majority, replicas, report);
    let writes = count("quorum_writes", majority, replicas, report);
    if reads + writes <= replicas {
        let name = if fields.get("quorum_reads").is_some() { "quorum_reads" } else { "quorum_writes" };
        let span = fields.get(name).map_or(fields.span, |node| node.span);
        report.add::<()>(
            error(codes::MALFORMED, span, format!("{reads} reads and {writes} writes of {replicas} replicas may miss each other"))
                .label("a quorum read would not see what a quorum write has written")
                .help(format!(
                    "`quorum_reads` + `quorum_writes` > `replicas`, as {majority} and {majority}; who can do with less asks for \
                     `eventual`"
                )),
        );
    }
    let timeout = |name, default, report: &mut Report| {
        fields.or(name, default, report, |node, report| {
            let timeout = value::duration(node, report)?;
            if TIMEOUTS.contains(&timeout) {
                return Some(timeout);
            }
            report.add(
                error(codes::OUT_OF_RANGE, node.span, format!("`{name}` is 50ms to 3s"))
                    .label("out of range")
                    .help("it is the time of servers of one mesh, not of callers"),
            )
        })
    };
    let read_timeout = timeout("read_timeout", defaults::KEYSPACE_TIMEOUT, report);
    let write_timeout = timeout("write_timeout", defaults::KEYSPACE_TIMEOUT, report);
    Some(Keyspace { level, spec: Spec { replicas, reads, writes, read_timeout, write_timeout } })
}

fn level(node: &Node, report: &mut Report) -> Option<KeyspaceLevel> {
    let is_strong =
        matches!(&node.content, super::super::tree::Content::Scalar(scalar) if scalar.text == "strong");
    if is_strong {
        return report.add(
            error(codes::UNKNOWN_WORD, node.span, "`strong` is the log, which is no keyspace")
                .label("never by quorum: it is not linearizable while servers come and go")
                .help("leave the keyspace out: keys of keyspaces that are not named are `strong`"),
        );
    }
    value::word(node, &LEVELS, &[], report)
}
