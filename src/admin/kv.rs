//! The replicated store over HTTP: reads, pages and long polls, writes and transactions. What requests look like is in
//! `written`, what answers look like in `told`; whose request may be answered at all is decided before.

mod leaderless;
pub(super) mod leases;
pub(super) mod told;
mod written;

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;

use self::written::{Ask, Change, Read};
use super::{
    API, Problem,
    answer::{self, Answer, Detail},
    dispatch::body,
    query::Query,
};
use crate::store::{
    Readable as _, Store, StoreError, Transactional as _, Watch as _, Watchable as _,
    core::{
        command::{RequestError, Transaction},
        key::{Key, Revision},
        outcome::{CommandResult, OperationResult, Outcome},
    },
};

/// Longest time that an answer of the store is waited for, but for a long poll. Longer than it takes to elect another
/// leader twice, and shorter than the patience of the command line, which would not hear that it was the store.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// How the store is.
pub(super) fn raft(store: Option<Store>) -> Result<Value, Problem> {
    let status = present(store)?.status();
    let status = status.and_then(|status| serde_json::to_value(status).ok());
    let Some(Value::Object(mut told)) = status else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "this sidecar has no part in keeping its store: it is in etcd, or in its memory alone",
        ));
    };
    told.insert("apiVersion".to_owned(), API.into());
    told.insert("kind".to_owned(), "StoreStatus".into());
    Ok(Value::Object(told))
}

/// Answers a request for the store.
pub(super) async fn answer(store: Option<Store>, request: Request<Incoming>) -> Result<Answer, Problem> {
    let store = present(store)?;
    let mut query = Query::parse(request.uri().query())?;
    match *request.method() {
        Method::GET | Method::HEAD => match leaderless::of_query(&store, &query) {
            Some(quorum) => leaderless::read(quorum, query).await,
            None => read(&store, written::read(query)?).await,
        },
        Method::DELETE => {
            if let Some(quorum) = leaderless::of_query(&store, &query) {
                body(request).await?;
                return leaderless::delete(quorum, query).await;
            }
            leaderless::only_strong(&mut query)?;
            let change = written::delete(query);
            body(request).await?;
            write(&store, change).await
        }
        Method::PUT => {
            let body = body(request).await?;
            if let Some(quorum) = leaderless::of_body(&store, &body) {
                return leaderless::put(quorum, query, &body).await;
            }
            leaderless::only_strong(&mut query)?;
            query.end()?;
            write(&store, written::put(&body)).await
        }
        _ => {
            query.end()?;
            let change = written::transaction(&body(request).await?);
            write(&store, change).await
        }
    }
}

/// The store of the sidecar, if it has one.
pub(super) fn present(store: Option<Store>) -> Result<Store, Problem> {
    let none = "this sidecar has no store (`store` in its configuration)";
    store.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, none))
}

/// Sets or removes one key, if its last change was at `if_revision` where that is given. What is told of it, and what is
/// written down.
pub(super) async fn write_key(
    store: &Store,
    key: &Key,
    value: Option<Bytes>,
    if_revision: Option<u64>,
) -> Result<(Value, String), Problem> {
    let change = written::change(key, value, if_revision);
    carry_out(store, change).await.map_err(|failure| failure.problem)
}

async fn read(store: &Store, read: Read) -> Result<Answer, Problem> {
    let told = match read {
        Read::Key(key, level) => match in_time(store.get(&key, level)).await? {
            Some(found) => told::entry(&key, &found),
            None => {
                let detail = format!("there is no key `{}`", written::named(&key));
                return Err(Problem::new(StatusCode::NOT_FOUND, detail));
            }
        },
        Read::Scan(scan, level) => told::page(&in_time(store.scan(&scan, level)).await?),
        Read::Watch { prefix, after, wait } => watch(store, &prefix, after, wait).await?,
    };
    Ok(answer::json(StatusCode::OK, &told))
}

/// Changes as soon as there are any, or none when `wait` is over.
async fn watch(store: &Store, prefix: &str, after: Revision, wait: Duration) -> Result<Value, Problem> {
    let mut watch = store.watch(prefix, after);
    let changes = match tokio::time::timeout(wait, watch.next()).await {
        Ok(changes) => changes?,
        Err(_) => Vec::new(),
    };
    Ok(told::changes(&changes, after.max(watch.seen())))
}

async fn in_time<T>(reading: impl Future<Output = Result<T, StoreError>>) -> Result<T, Problem> {
    let late = || Problem::new(StatusCode::GATEWAY_TIMEOUT, "the store did not answer in time");
    Ok(tokio::time::timeout(PATIENCE, reading).await.map_err(|_| late())??)
}

/// Makes a change, and says for the audit log which it was: by its keys, never by a value.
async fn write(store: &Store, change: Result<Change, Problem>) -> Result<Answer, Problem> {
    let (named, done) = match change {
        Ok(change) => {
            let named = change.named.clone();
            (named, carry_out(store, change).await)
        }
        // What is wrong with a body may quote it.
        Err(problem) => (String::new(), Err(Failure { problem, came: "not understood".to_owned() })),
    };
    let (mut answer, came) = match done {
        Ok((told, came)) => (answer::json(StatusCode::OK, &told), came),
        Err(failure) => (failure.problem.answer(), failure.came),
    };
    let detail = if named.is_empty() { came } else { format!("{named}: {came}") };
    answer.extensions_mut().insert(Detail(detail));
    Ok(answer)
}

/// Why a change was not made, to whoever asked and to the audit log.
struct Failure {
    problem: Problem,
    came: String,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let came = error.to_string();
        Self { problem: error.into(), came }
    }
}

async fn carry_out(store: &Store, change: Change) -> Result<(Value, String), Failure> {
    let Change { transaction, ask, .. } = change;
    let asked = transaction.clone();
    let written = store.transact(Store::next_op()?, transaction);
    let outcome = tokio::time::timeout(PATIENCE, written).await.map_err(|_| StoreError::TimedOut)??;
    let Outcome { revision, result: CommandResult::Transacted { held, results } } = outcome else {
        return Err(StoreError::Failed("a transaction became something else".to_owned()).into());
    };
    match ask {
        Ask::Put | Ask::Delete if !held => Err(conflict(&asked, &results)),
        Ask::Put => Ok((told::put(revision), format!("revision {revision}"))),
        Ask::Delete => {
            let deleted = matches!(results.first(), Some(OperationResult::Deleted(1..)));
            let came = if deleted { format!("revision {revision}") } else { "it was not there".to_owned() };
            Ok((told::deleted(revision, deleted), came))
        }
        Ask::Transaction => {
            let branch = if held { &asked.then } else { &asked.otherwise };
            let came = if held { "held" } else { "did not hold" };
            Ok((told::transaction(revision, held, branch, &results), format!("{came}, revision {revision}")))
        }
    }
}

/// The comparison of a put or a delete did not hold: its other branch has read why.
fn conflict(asked: &Transaction, results: &[OperationResult]) -> Failure {
    let current = match results.first() {
        Some(OperationResult::Got(Some(found))) => found.modified,
        _ => Revision::default(),
    };
    let key = asked.compare.first().map_or(String::new(), |compare| written::named(&compare.key));
    let detail = match current {
        Revision(0) => format!("there is no key `{key}`"),
        Revision(current) => format!("the last change of `{key}` was at revision {current}"),
    };
    let problem = Problem::new(StatusCode::CONFLICT, &*detail).with("revision", current.0.into());
    Failure { problem, came: detail }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::NoQuorum | StoreError::Unreachable(_) | StoreError::Leaving => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            StoreError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            StoreError::Request(
                RequestError::Value { .. } | RequestError::Transaction | RequestError::Removed,
            ) => StatusCode::PAYLOAD_TOO_LARGE,
            StoreError::Request(RequestError::Ttl(_) | RequestError::Author)
            | StoreError::Level(_)
            | StoreError::Keyspace { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            StoreError::Quorum(failure) => leaderless::status(*failure),
            StoreError::Denied(_) => StatusCode::FORBIDDEN,
            StoreError::NoLease(_) => StatusCode::NOT_FOUND,
            StoreError::Full => StatusCode::INSUFFICIENT_STORAGE,
            StoreError::Compacted { .. } => StatusCode::GONE,
            StoreError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let problem = Self::new(status, error.to_string());
        match error {
            StoreError::Compacted { oldest } => problem.with("oldest", oldest.0.into()),
            _ => problem,
        }
    }
}
