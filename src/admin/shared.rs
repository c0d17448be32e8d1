//! What all sidecars share, one entry at a time: routes, rules about callers, policies and rate limits that are written into
//! the store. Each is checked before it is proposed. What is in force is told by the backend.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header::IF_MATCH};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{
    API, Backend, Problem,
    answer::{self, Answer, Detail},
    dispatch::body,
    kv,
    query::{Query, decoded},
};
use crate::store::{Store, core::key::Key};

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedKind {
    /// A route.
    Route,
    /// A rule about callers.
    Intention,
    /// How a service is called.
    Policy,
    /// A rate limit.
    Limit,
}

impl SharedKind {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Route, Self::Intention, Self::Policy, Self::Limit];

    /// What keys of such entries begin with.
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::Route => "routes/",
            Self::Intention => "intentions/",
            Self::Policy => "policies/",
            Self::Limit => "ratelimits/",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Intention => "intention",
            Self::Policy => "policy",
            Self::Limit => "rate limit",
        }
    }
}

/// Sets or removes the entry that `path` names, which is percent-encoded.
pub(super) async fn answer(
    backend: &Arc<dyn Backend>,
    store: Option<Store>,
    kind: SharedKind,
    path: &str,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let store = kv::present(store)?;
    let name = decoded(path).ok_or_else(|| bad("the name is not percent-encoded UTF-8"))?;
    let mut query = Query::parse(request.uri().query())?;
    let asked = query.take_as("if_revision", "a revision", number)?;
    query.end()?;
    let if_revision = match (asked, if_match(request.headers())?) {
        (Some(_), Some(_)) => return Err(bad("`if_revision` and `If-Match` say the same; give one")),
        (asked, matched) => asked.or(matched),
    };
    let is_removed = *request.method() == Method::DELETE;
    let text = body(request).await?;
    let key = Key::new(&format!("{}{name}", kind.prefix()))
        .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
    if is_removed {
        let (told, came) = kv::write_key(&store, &key, None, if_revision).await?;
        if told["deleted"] == false {
            let what = kind.word();
            let detail =
                format!("there is no {what} `{name}` in the store; what stands in the file is changed there");
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        }
        return Ok(done(&key, &told, &came, Value::Null));
    }
    let checked = match Arc::clone(backend).check_shared(kind, name, Bytes::clone(&text)).await {
        Ok(checked) => checked,
        Err(problem) => {
            let mut answer = problem.answer();
            // What is wrong with a text quotes it, and the audit log names keys only.
            answer.extensions_mut().insert(Detail(format!("{key}: not written")));
            return Ok(answer);
        }
    };
    let (told, came) = kv::write_key(&store, &key, Some(text), if_revision).await?;
    Ok(done(&key, &told, &came, checked["warnings"].clone()))
}

fn done(key: &Key, told: &Value, came: &str, warnings: Value) -> Answer {
    let mut document = json!({
        "apiVersion": API,
        "kind": "SharedEntry",
        "key": key.as_str(),
        "revision": told["revision"],
    });
    if !warnings.is_null() {
        document["warnings"] = warnings;
    }
    let mut answer = answer::json(StatusCode::OK, &document);
    answer.extensions_mut().insert(Detail(format!("{key}: {came}")));
    answer
}

/// The revision that `If-Match` names, with quotes or without (RFC 9110 §13.1.1).
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let mut all = headers.get_all(IF_MATCH).iter();
    let Some(first) = all.next() else { return Ok(None) };
    let text = first.to_str().ok().filter(|_| all.next().is_none());
    let bare =
        text.map(|text| text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text));
    match bare.and_then(number) {
        Some(revision) => Ok(Some(revision)),
        None => Err(bad("`If-Match` must be one revision, as in `If-Match: \"17\"`")),
    }
}

fn number(text: &str) -> Option<u64> {
    // `parse` would also take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn bad(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::admin::{
        Scope,
        tests::{Reply, Running, start},
    };

    const OWN: &str = "X-Outrigger: 1\r\n";

    async fn put(api: &Running, path: &str, fields: &str, text: &str) -> Reply {
        api.send(&format!("PUT {path}"), &format!("{OWN}{fields}"), text).await
    }

    async fn delete(api: &Running, path: &str) -> Reply {
        api.send(&format!("DELETE {path}"), OWN, "").await
    }

    #[tokio::test]
    async fn an_entry_is_written_under_its_name_as_it_was_given() {
        let api = start(Scope::Full).await;
        let written = put(&api, "/v1/routes/a%2Fcanary", "", "service: api # v2\n").await;
        assert_eq!(written.status, 200, "{}", written.body);
        let (told, found) = (written.json(), api.get("/v1/kv?key=routes/a/canary").await.json());
        assert_eq!((&told["key"], &told["revision"]), (&json!("routes/a/canary"), &found["revision"]));
        assert_eq!(found["value"], "service: api # v2\n");
        let intention = put(&api, "/v1/intentions/web", "", "{}").await.json();
        assert_eq!((&intention["key"], &intention["warnings"]), (&json!("intentions/web"), &json!("beware")));
        assert_eq!(delete(&api, "/v1/routes/a/canary").await.status, 200);
        let gone = delete(&api, "/v1/routes/a/canary").await;
        assert_eq!(gone.status, 404);
        assert!(gone.body.contains("no route `a/canary` in the store"), "{}", gone.body);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_before_it_is_written() {
        let api = start(Scope::Full).await;
        let refused = put(&api, "/v1/routes/a", "", "wrong").await;
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert_eq!(refused.json()["findings"], json!({ "errors": 1 }));
        assert_eq!(api.get("/v1/kv?key=routes/a").await.status, 404);
    }

    #[tokio::test]
    async fn a_write_can_depend_on_the_last_one() {
        let api = start(Scope::Full).await;
        let first = put(&api, "/v1/routes/a?if_revision=0", "", "1").await;
        assert_eq!(first.status, 200, "{}", first.body);
        let revision = first.json()["revision"].as_u64().unwrap();
        let late = put(&api, "/v1/routes/a", "If-Match: \"0\"\r\n", "2").await;
        assert_eq!((late.status, late.json()["revision"].as_u64()), (409, Some(revision)));
        let matched = format!("If-Match: \"{revision}\"\r\n");
        assert_eq!(put(&api, "/v1/routes/a", &matched, "2").await.status, 200);
        assert_eq!(delete(&api, &format!("/v1/routes/a?if_revision={revision}")).await.status, 409);
        for (path, fields) in [
            ("/v1/routes/a?if_revision=x", ""),
            ("/v1/routes/a?if=1", ""),
            ("/v1/routes/a?if_revision=1", "If-Match: 1\r\n"),
            ("/v1/routes/a", "If-Match: *\r\n"),
            ("/v1/routes/a", "If-Match: 1\r\nIf-Match: 2\r\n"),
            ("/v1/routes/%ff", ""),
        ] {
            assert_eq!(put(&api, path, fields, "3").await.status, 400, "{path} {fields}");
        }
        assert_eq!(api.get("/v1/kv?key=routes/a").await.json()["value"], "2");
    }

    #[tokio::test]
    async fn without_a_store_nothing_is_shared() {
        let api = start(Scope::Full).await;
        api.backend.alone.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(put(&api, "/v1/routes/a", "", "1").await.status, 404);
        assert_eq!(api.get("/v1/intentions").await.status, 200);
        assert_eq!(put(&api, "/v1/routes/", "", "1").await.status, 404);
        assert_eq!(api.send("POST /v1/routes/a", OWN, "1").await.status, 405);
    }
}
