//! Looking back at what all sidecars share: how it was, what has changed since and who did it, and putting it back as one
//! transaction. How it is written in JSON is in `told`.

mod back;
#[cfg(test)]
mod tests;
mod told;

use std::{collections::BTreeMap, sync::Arc, time::UNIX_EPOCH};

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;

use super::{
    Backend, Problem, SharedKind,
    answer::{self, Answer},
    kv::{self, PATIENCE},
    query::Query,
};
use crate::store::{
    Historical as _, Level, Readable as _, Scan, Store, StoreError,
    core::{
        key::{Key, Revision},
        outcome::{Change, Versioned},
    },
};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// How it was.
    At,
    /// What has changed between two revisions.
    Diff,
    /// Who has changed what lately.
    Log,
    /// To put it back.
    Revert,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Now,
    At(Revision),
    /// A time of the log, in milliseconds since 1970.
    Time(u64),
}

/// All that is shared, as it was at a revision.
#[derive(Debug)]
struct Entries {
    revision: Revision,
    items: BTreeMap<Key, Versioned>,
}

/// A change without its values.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    revision: Revision,
    at_ms: u64,
    author: Arc<str>,
    key: Key,
    is_put: bool,
}

/// Answers a request about the shared state.
pub(super) async fn answer(
    backend: &Arc<dyn Backend>,
    store: Option<Store>,
    look: Look,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let store = kv::present(store)?;
    if look == Look::Revert {
        return back::answer(backend, &store, request).await;
    }
    let mut query = Query::parse(request.uri().query())?;
    let told = match look {
        Look::At => {
            let at = query.take_as("at", MOMENT, moment)?.unwrap_or(Moment::Now);
            query.end()?;
            in_time(at_moment(&store, at)).await?
        }
        Look::Diff => {
            let from = query.take_as("from", MOMENT, moment)?;
            let to = query.take_as("to", MOMENT, moment)?.unwrap_or(Moment::Now);
            query.end()?;
            in_time(diff(&store, from, to)).await?
        }
        Look::Log | Look::Revert => {
            let limit = query.take_as("limit", "a number from 1 to 1000", |text| {
                text.parse::<usize>().ok().filter(|limit| (1..=MOST_STEPS).contains(limit))
            })?;
            query.end()?;
            in_time(log(&store, limit.unwrap_or(USUAL_STEPS))).await?
        }
    };
    Ok(answer::json(StatusCode::OK, &told))
}

async fn at_moment(store: &Store, at: Moment) -> Result<Value, Problem> {
    let revision = resolve(store, at).await?;
    Ok(told::state(&entries(store, revision).await?))
}

/// From the first revision that is remembered on, if no other is named.
async fn diff(store: &Store, from: Option<Moment>, to: Moment) -> Result<Value, Problem> {
    let from = match from {
        Some(from) => resolve(store, from).await?,
        None => oldest(store).await?,
    };
    let to = resolve(store, to).await?;
    if from > to {
        return Err(bad(&format!("revision {from} is after revision {to}: name the earlier one first")));
    }
    let (before, after) = (entries(store, from).await?, entries(store, to).await?);
    let steps = steps(store, from, to).await?;
    Ok(told::diff(&before, &after, &steps))
}

/// The last steps, the newest first.
async fn log(store: &Store, limit: usize) -> Result<Value, Problem> {
    let now = resolve(store, Moment::Now).await?;
    let oldest = oldest(store).await?;
    let steps = steps(store, oldest, now).await?;
    Ok(told::log(now, oldest, steps.iter().rev().take(limit)))
}

/// The first revision that can be looked back to.
async fn oldest(store: &Store) -> Result<Revision, Problem> {
    match store.changes(SharedKind::ALL[0].prefix(), Revision(0)).await {
        Ok(_) => Ok(Revision(0)),
        Err(StoreError::Compacted { oldest }) => Ok(Revision(oldest.0.saturating_sub(1))),
        Err(error) => Err(error.into()),
    }
}

/// The revision of a moment, which is not yet to come.
async fn resolve(store: &Store, moment: Moment) -> Result<Revision, Problem> {
    let scan = Scan { limit: 1, ..Scan::default() };
    let now = store.scan(&scan, Level::Strong).await?.revision;
    match moment {
        Moment::Now => Ok(now),
        Moment::At(revision) if revision > now => {
            let detail = format!("revision {revision} is yet to come: the store is at {now}");
            Err(Problem::new(StatusCode::NOT_FOUND, detail))
        }
        Moment::At(revision) => Ok(revision),
        Moment::Time(at_ms) => Ok(store.revision_at(at_ms).await.map_err(forgotten)?.min(now)),
    }
}

async fn entries(store: &Store, revision: Revision) -> Result<Entries, Problem> {
    let mut entries = Entries { revision, items: BTreeMap::new() };
    let mut bytes = 0;
    for kind in SharedKind::ALL {
        let mut scan = Scan { prefix: kind.prefix().to_owned(), after: None, limit: PAGE };
        loop {
            let page = store.scan_at(revision, &scan).await.map_err(forgotten)?;
            bytes +=
                page.entries.iter().map(|(key, has)| key.as_str().len() + has.value.len()).sum::<usize>();
            entries.items.extend(page.entries);
            if entries.items.len() > MOST_ENTRIES || bytes > MOST_BYTES {
                let detail =
                    format!("more than {MOST_ENTRIES} entries or {} MiB are shared", MOST_BYTES >> 20);
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
            }
            match page.next {
                Some(next) => scan.after = Some(next),
                None => break,
            }
        }
    }
    Ok(entries)
}

/// What has changed after `after`, up to and with `to`, the oldest first.
async fn steps(store: &Store, after: Revision, to: Revision) -> Result<Vec<Step>, Problem> {
    let mut steps = Vec::new();
    for kind in SharedKind::ALL {
        let mut seen = after;
        while seen < to {
            let (changes, reached) = store.changes(kind.prefix(), seen).await.map_err(forgotten)?;
            if reached <= seen {
                break;
            }
            seen = reached;
            steps.extend(changes.into_iter().filter(|change| change.revision <= to).map(Step::of));
        }
    }
    steps.sort_by(|one, other| (one.revision, &one.key).cmp(&(other.revision, &other.key)));
    Ok(steps)
}

impl Step {
    fn of(change: Change) -> Self {
        let Change { revision, at_ms, author, key, after, .. } = change;
        Self { revision, at_ms, author, key, is_put: after.is_some() }
    }
}

/// A revision, or a time as RFC 3339 writes it.
fn moment(text: &str) -> Option<Moment> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(|revision| Moment::At(Revision(revision)));
    }
    let at = humantime::parse_rfc3339_weak(text).ok()?;
    let at_ms = at.duration_since(UNIX_EPOCH).ok()?.as_millis();
    u64::try_from(at_ms).ok().map(Moment::Time)
}

/// Where it cannot be looked back to, the first revision that can be is told.
fn forgotten(error: StoreError) -> Problem {
    let StoreError::Compacted { oldest } = error else { return error.into() };
    let first = oldest.0.saturating_sub(1);
    let detail =
        format!("what was so long ago is forgotten: the state is remembered from revision {first} on");
    Problem::new(StatusCode::GONE, detail).with("oldest", first.into())
}

async fn in_time<T>(looking: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let late = || Problem::new(StatusCode::GATEWAY_TIMEOUT, "the store did not answer in time");
    tokio::time::timeout(PATIENCE, looking).await.map_err(|_| late())?
}

fn bad(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

const MOMENT: &str = "a revision, or a time as in 2026-01-31T14:02:00Z";
/// Entries of a page.
const PAGE: usize = 500;
/// More than sidecars take over.
const MOST_ENTRIES: usize = 4000;
const MOST_BYTES: usize = 4 << 20;
/// Most steps of a log.
const MOST_STEPS: usize = 1000;
const USUAL_STEPS: usize = 50;
