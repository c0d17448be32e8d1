//! Keyspaces that are kept by quorum, over HTTP: `level` and `session` are in the query, and answers have a `stamp` where
//! those of the strong tier have a revision.

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    PATIENCE,
    written::{LARGEST_PAGE, bad, key, named, parse, unfit, value},
};
use crate::{
    admin::{
        API, Problem,
        answer::{self, Answer, Detail},
        base64,
        query::Query,
    },
    store::{
        Consistency, Held, Quorum, Store, StoreError, Token,
        core::key::Key,
        quorum::core::{clock::Stamp, rules::Failure},
    },
};

/// The tier that keeps what a query is about, if it is this one.
pub(super) fn of_query<'a>(store: &'a Store, query: &Query) -> Option<&'a Quorum> {
    let text = query.peek("key").or_else(|| query.peek("prefix"))?;
    store.quorum().filter(|quorum| quorum.keyspace(text).is_some())
}

/// The tier that keeps the key that a body sets, if it is this one.
pub(super) fn of_body<'a>(store: &'a Store, body: &[u8]) -> Option<&'a Quorum> {
    #[derive(Deserialize)]
    struct About {
        key: String,
    }
    // What cannot be read is refused by whoever reads all of it.
    let about: About = serde_json::from_slice(body).ok()?;
    store.quorum().filter(|quorum| quorum.keyspace(&about.key).is_some())
}

/// A write of the strong tier has no other level.
pub(super) fn only_strong(query: &mut Query) -> Result<(), Problem> {
    match query.take("level").as_deref() {
        None | Some("strong") => Ok(()),
        Some(_) => Err(unfit("a write is `strong`, unless the keyspace of its key is in `store.keyspaces`")),
    }
}

/// `?key=K` or `?prefix=P[&limit=N][&after=K]`, with `level` and `session`.
pub(super) async fn read(quorum: &Quorum, mut query: Query) -> Result<Answer, Problem> {
    let text = query.peek("key").or_else(|| query.peek("prefix")).unwrap_or_default().to_owned();
    let consistency = consistency(quorum, &text, &mut query)?;
    let Some(text) = query.take("key") else { return list(quorum, consistency, query).await };
    query.end()?;
    let key = key(&text)?;
    let got = in_time(quorum.get(&key, consistency)).await?;
    let session = got.session.map(|session| Value::from(session.text()));
    let Some(held) = got.found else {
        let problem = Problem::new(StatusCode::NOT_FOUND, format!("there is no key `{}`", named(&key)));
        return Err(match session {
            Some(session) => problem.with("session", session),
            None => problem,
        });
    };
    let mut told = entry(&key, &held);
    told.insert("apiVersion".to_owned(), API.into());
    told.insert("kind".to_owned(), "KeyValue".into());
    session.into_iter().for_each(|session| drop(told.insert("session".to_owned(), session)));
    Ok(answer::json(StatusCode::OK, &Value::Object(told)))
}

async fn list(
    quorum: &Quorum,
    consistency: Option<Consistency>,
    mut query: Query,
) -> Result<Answer, Problem> {
    let limit = query.take_as("limit", "a number from 1 to 1000", |text| {
        text.parse::<usize>().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit))
    })?;
    let after = query.take("after").map(|after| key(&after)).transpose()?;
    let prefix = query.take("prefix").unwrap_or_default();
    query.end()?;
    let page = in_time(quorum.list(&prefix, after, limit.unwrap_or(LARGEST_PAGE), consistency)).await?;
    let told = json!({
        "apiVersion": API,
        "kind": "KeyValueList",
        "items": page.entries.iter().map(|(key, held)| entry(key, held)).collect::<Vec<_>>(),
        "next": page.next.as_ref().map(Key::as_str),
    });
    Ok(answer::json(StatusCode::OK, &told))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Put {
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
    ttl: Option<Value>,
    if_revision: Option<Value>,
}

/// A body that sets one key, with `level` and `session` in the query.
pub(super) async fn put(quorum: &Quorum, mut query: Query, body: &[u8]) -> Result<Answer, Problem> {
    let expected = "{\"key\": ..., \"value\" or \"value_base64\": ...}";
    let Put { key: text, value: plain, value_base64, ttl, if_revision } = parse(body, expected)?;
    if ttl.is_some() || if_revision.is_some() {
        return Err(refused(quorum, &text, "a write with `--cas` or a time to live").into());
    }
    let consistency = consistency(quorum, &text, &mut query)?;
    query.end()?;
    let (key, value) = (key(&text)?, value(plain, value_base64.as_deref())?);
    write(quorum, &key, Some(value), consistency).await
}

/// `?key=K`, with `level` and `session`.
pub(super) async fn delete(quorum: &Quorum, mut query: Query) -> Result<Answer, Problem> {
    let text = query.take("key").ok_or_else(|| bad("which key? `?key=` names it"))?;
    if query.peek("if_revision").is_some() {
        return Err(refused(quorum, &text, "a write with `--cas`").into());
    }
    let consistency = consistency(quorum, &text, &mut query)?;
    query.end()?;
    write(quorum, &key(&text)?, None, consistency).await
}

/// Makes a change, and says for the audit log which it was.
async fn write(
    quorum: &Quorum,
    key: &Key,
    value: Option<Bytes>,
    consistency: Option<Consistency>,
) -> Result<Answer, Problem> {
    let verb = if value.is_some() { "put" } else { "delete" };
    let is_delete = value.is_none();
    let written = in_time(quorum.put(Store::next_op()?, key, value, consistency)).await;
    let (mut answer, came) = match written {
        Ok(written) => {
            let stamp = shown(written.found.stamp);
            let mut told = json!({ "apiVersion": API, "kind": "Write", "stamp": stamp });
            if is_delete {
                told["deleted"] = written.found.existed.into();
            }
            if let Some(session) = written.session {
                told["session"] = session.text().into();
            }
            (answer::json(StatusCode::OK, &told), stamp)
        }
        Err(problem) => {
            let came = problem.detail().to_owned();
            (problem.answer(), came)
        }
    };
    answer.extensions_mut().insert(Detail(format!("{verb} {}: {came}", named(key))));
    Ok(answer)
}

/// What `level` and `session` ask for; nothing if neither is there. A session alone is a level, and a level `session`
/// alone begins one.
fn consistency(quorum: &Quorum, text: &str, query: &mut Query) -> Result<Option<Consistency>, Problem> {
    let session = query.take("session").filter(|session| !session.is_empty());
    let session =
        session.map(|text| Token::parse(&text).map_err(|error| unfit(&error.to_string()))).transpose()?;
    let level = query.take("level");
    Ok(Some(match (level.as_deref(), session) {
        (None, None) => return Ok(None),
        (None | Some("session"), session) => Consistency::Session(session.unwrap_or_default()),
        (Some(_), Some(_)) => return Err(bad("a `session` goes with `level=session` only")),
        (Some("quorum"), None) => Consistency::Quorum,
        (Some("eventual"), None) => Consistency::Eventual,
        (Some(other), None)
            if matches!(other, "strong" | "lease")
                || other.starts_with("at_least:")
                || other.starts_with("within:") =>
        {
            return Err(refused(quorum, text, "a read by `strong`, `lease`, age or revision").into());
        }
        (Some(_), None) => return Err(bad("`level` must be quorum, session or eventual")),
    }))
}

fn refused(quorum: &Quorum, text: &str, what: &'static str) -> StoreError {
    let keyspace = quorum.keyspace(text).map_or(String::new(), |(name, _)| name.to_owned());
    StoreError::Keyspace { keyspace, what }
}

async fn in_time<T>(asking: impl Future<Output = Result<T, StoreError>>) -> Result<T, Problem> {
    let late = || Problem::from(StoreError::Quorum(Failure::TimedOut));
    Ok(tokio::time::timeout(PATIENCE, asking).await.map_err(|_| late())??)
}

/// The status of what was not done.
pub(super) fn status(failure: Failure) -> StatusCode {
    match failure {
        Failure::NoQuorum | Failure::Behind | Failure::Returning | Failure::Busy => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Failure::TimedOut | Failure::Clock => StatusCode::GATEWAY_TIMEOUT,
        Failure::Full => StatusCode::INSUFFICIENT_STORAGE,
    }
}

fn entry(key: &Key, held: &Held) -> Map<String, Value> {
    let (name, value) = match std::str::from_utf8(&held.value) {
        Ok(text) => ("value", text.to_owned()),
        Err(_) => ("value_base64", base64::encode(&held.value)),
    };
    let told = [("key", key.as_str().to_owned()), (name, value), ("stamp", shown(held.stamp))];
    told.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// A stamp as text: in the order of time within one key, if it is compared by its numbers.
fn shown(Stamp { ms, count, writer }: Stamp) -> String {
    format!("{ms}-{count}-{writer:016x}")
}
