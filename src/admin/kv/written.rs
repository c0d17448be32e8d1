//! What is asked of the store, as it is written in queries and bodies.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    admin::{Problem, base64, query::Query},
    store::{
        Level, Scan,
        core::{
            command::{Compare, Operand, Operation, Relation, Stay, Transaction},
            key::{Key, LeaseId, Revision},
        },
    },
};

/// What is read.
#[derive(Debug, PartialEq)]
pub(super) enum Read {
    /// One key.
    Key(Key, Level),
    /// A page of keys.
    Scan(Scan, Level),
    /// Changes, as soon as there are any.
    Watch { prefix: String, after: Revision, wait: Duration },
}

/// What is changed, and how the audit log names it.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    pub(super) ask: Ask,
    pub(super) transaction: Transaction,
    pub(super) named: String,
}

/// How a change was asked for, and so how it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Put,
    Delete,
    Transaction,
}

/// `?key=K`, `?prefix=P` (all keys without one), or `?watch=P`.
pub(super) fn read(mut query: Query) -> Result<Read, Problem> {
    let read = match (query.take("key"), query.take("watch"), query.take("prefix")) {
        (Some(key), None, None) => Read::Key(self::key(&key)?, level(&mut query)?),
        (None, Some(prefix), None) => {
            let after = query.take_as("after", "a revision", number)?;
            let after = after.ok_or_else(|| bad("a watch needs `after`: the revision to begin after"))?;
            let wait = query.take_as("wait", "a duration of at most 60s", |text| {
                humantime::parse_duration(text).ok().filter(|wait| *wait <= LONGEST_WAIT)
            })?;
            Read::Watch { prefix, after: Revision(after), wait: wait.unwrap_or(USUAL_WAIT) }
        }
        (None, None, prefix) => {
            let limit = query.take_as("limit", "a number from 1 to 1000", |text| {
                text.parse::<usize>().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit))
            })?;
            let after = query.take("after").map(|after| key(&after)).transpose()?;
            let prefix = prefix.unwrap_or_default();
            Read::Scan(Scan { prefix, after, limit: limit.unwrap_or(LARGEST_PAGE) }, level(&mut query)?)
        }
        _ => return Err(bad("one of `key`, `prefix` and `watch` is asked for at a time")),
    };
    query.end()?;
    Ok(read)
}

/// `?key=K[&if_revision=N]`.
pub(super) fn delete(mut query: Query) -> Result<Change, Problem> {
    let key = query.take("key").ok_or_else(|| bad("which key? `?key=` names it"))?;
    let key = self::key(&key)?;
    let if_revision = query.take_as("if_revision", "a revision", number)?;
    query.end()?;
    let named = format!("delete {}", named(&key));
    let transaction = only_if(Transaction::delete(key.clone()), &key, if_revision);
    Ok(Change { ask: Ask::Delete, transaction, named })
}

/// A body that sets one key.
pub(super) fn put(body: &[u8]) -> Result<Change, Problem> {
    let written: Put = parse(
        body,
        "{\"key\": ..., \"value\" or \"value_base64\": ..., \"ttl\": \"30s\" or \"lease\": 7, \"if_revision\": 3}, the \
         last two only if need be",
    )?;
    let Put { key, value, value_base64, ttl, lease, if_revision } = written;
    let key = self::key(&key)?;
    let value = self::value(value, value_base64.as_deref())?;
    let stay = stay(ttl.as_deref(), lease)?;
    let named = format!("put {}", named(&key));
    let transaction = only_if(Transaction::put(key.clone(), value, stay), &key, if_revision);
    Ok(Change { ask: Ask::Put, transaction, named })
}

/// Sets one key for good, or removes it.
pub(super) fn change(key: &Key, value: Option<Bytes>, if_revision: Option<u64>) -> Change {
    let (ask, transaction) = match value {
        Some(value) => (Ask::Put, Transaction::put(key.clone(), value, Stay::Forever)),
        None => (Ask::Delete, Transaction::delete(key.clone())),
    };
    Change { ask, transaction: only_if(transaction, key, if_revision), named: named(key) }
}

/// Compares first, if that is asked for, and reads what is there if it does not hold.
fn only_if(transaction: Transaction, key: &Key, revision: Option<u64>) -> Transaction {
    match revision {
        Some(revision) => Transaction {
            otherwise: vec![Operation::Get(key.clone())],
            ..transaction.if_modified_at(key.clone(), Revision(revision))
        },
        None => transaction,
    }
}

/// A body that says what must hold, what is done then, and what is done otherwise.
pub(super) fn transaction(body: &[u8]) -> Result<Change, Problem> {
    let written: Whole = parse(
        body,
        "{\"if\": [{\"key\": ..., \"revision\": 3}], \"then\": [{\"put\": {\"key\": ..., \"value\": ...}}], \"else\": \
         [{\"get\": ...}]}",
    )?;
    let operations =
        |written: Vec<Step>| written.into_iter().map(operation).collect::<Result<Vec<Operation>, Problem>>();
    let transaction = Transaction {
        compare: written.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        then: operations(written.then)?,
        otherwise: operations(written.otherwise)?,
    };
    let named = format!("transaction on {}", all_named(&transaction));
    Ok(Change { ask: Ask::Transaction, transaction, named })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Put {
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
    ttl: Option<String>,
    lease: Option<u64>,
    if_revision: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    #[serde(default, rename = "if")]
    compare: Vec<Condition>,
    #[serde(default)]
    then: Vec<Step>,
    #[serde(default, rename = "else")]
    otherwise: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    key: String,
    #[serde(default)]
    relation: Relates,
    revision: Option<u64>,
    created: Option<u64>,
    version: Option<u64>,
    value: Option<String>,
    value_base64: Option<String>,
}

/// How [`Relation`] is written.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Relates {
    #[default]
    Equal,
    NotEqual,
    Less,
    Greater,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Get(String),
    Put(StepPut),
    Delete(String),
    DeletePrefix(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepPut {
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
    ttl: Option<String>,
    lease: Option<u64>,
}

fn compare(written: Condition) -> Result<Compare, Problem> {
    let has_value = written.value.is_some() || written.value_base64.is_some();
    let with = match (written.revision, written.created, written.version, has_value) {
        (Some(revision), None, None, false) => Operand::Modified(Revision(revision)),
        (None, Some(created), None, false) => Operand::Created(Revision(created)),
        (None, None, Some(version), false) => Operand::Version(version),
        (None, None, None, true) => Operand::Value(value(written.value, written.value_base64.as_deref())?),
        _ => {
            let detail = "a comparison has one of `revision`, `created`, `version` and `value`";
            return Err(unfit(detail));
        }
    };
    let relation = match written.relation {
        Relates::Equal => Relation::Equal,
        Relates::NotEqual => Relation::NotEqual,
        Relates::Less => Relation::Less,
        Relates::Greater => Relation::Greater,
    };
    Ok(Compare { key: key(&written.key)?, relation, with })
}

fn operation(written: Step) -> Result<Operation, Problem> {
    Ok(match written {
        Step::Get(text) => Operation::Get(key(&text)?),
        Step::Put(put) => Operation::Put {
            key: key(&put.key)?,
            value: value(put.value, put.value_base64.as_deref())?,
            stay: stay(put.ttl.as_deref(), put.lease)?,
        },
        Step::Delete(text) => Operation::Delete(key(&text)?),
        Step::DeletePrefix(prefix) => Operation::DeletePrefix(prefix),
    })
}

/// Reads a body; `expected` says how it is written.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8], expected: &str) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| bad(&format!("expected {expected}: {error}")))
}

pub(super) fn key(text: &str) -> Result<Key, Problem> {
    Key::new(text).map_err(|error| unfit(&error.to_string()))
}

pub(super) fn value(text: Option<String>, base64: Option<&str>) -> Result<Bytes, Problem> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(text)) => {
            let bytes = base64::decode(text);
            bytes.map(Bytes::from).ok_or_else(|| unfit("`value_base64` is no base64 with padding"))
        }
        _ => Err(unfit("it needs one of `value` and `value_base64`")),
    }
}

fn stay(ttl: Option<&str>, lease: Option<u64>) -> Result<Stay, Problem> {
    let ttl = match (ttl, lease) {
        (None, None) => return Ok(Stay::Forever),
        (None, Some(lease)) => return Ok(Stay::Lease(LeaseId(lease))),
        (Some(ttl), None) => ttl,
        (Some(_), Some(_)) => return Err(unfit("a key goes with a `lease` or after its `ttl`, not both")),
    };
    let duration = humantime::parse_duration(ttl).map_err(|_| unfit("`ttl` must be a duration, as 30s"))?;
    // What is out of range is the store's to refuse.
    Ok(Stay::Ttl(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
}

fn level(query: &mut Query) -> Result<Level, Problem> {
    let expected = "strong, lease, eventual, at_least:REVISION or within:DURATION, as within:5s (quorum and session are for \
                    keyspaces of `store.keyspaces`)";
    let level = query.take_as("level", expected, |text| match text {
        "strong" => Some(Level::Strong),
        "lease" => Some(Level::Lease),
        "eventual" => Some(Level::Eventual),
        other => match other.strip_prefix("within:") {
            Some(age) => humantime::parse_duration(age).ok().map(Level::Within),
            None => number(other.strip_prefix("at_least:")?).map(|least| Level::AtLeast(Revision(least))),
        },
    })?;
    Ok(level.unwrap_or_default())
}

fn number(text: &str) -> Option<u64> {
    // `parse` would also take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

pub(super) fn bad(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

pub(super) fn unfit(detail: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

/// A key as messages name it: so much of it that what follows is not lost.
pub(super) fn named(key: &Key) -> String {
    shortened(key.as_str())
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_NAME) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The keys that a transaction is about.
fn all_named(transaction: &Transaction) -> String {
    let compared = transaction.compare.iter().map(|compare| named(&compare.key));
    let done = transaction.then.iter().chain(&transaction.otherwise).map(|operation| match operation {
        Operation::Get(key) | Operation::Put { key, .. } | Operation::Delete(key) => named(key),
        Operation::DeletePrefix(prefix) => shortened(prefix) + "*",
    });
    let mut names: Vec<String> = Vec::new();
    for name in compared.chain(done) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    shortened(&names.join(", "))
}

/// Most keys of a page.
pub(super) const LARGEST_PAGE: usize = 1000;
/// How long a watch waits if nothing is said, and at most: less than proxies in between allow, and a client that has gone
/// without a word holds its connection no longer.
const USUAL_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Characters of a key that are shown in messages; the audit log writes 256 bytes in all.
const LONGEST_NAME: usize = 120;
