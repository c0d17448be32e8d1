//! Putting the shared state back: what differs from an earlier revision is checked as if it were written now, and written
//! as one transaction that holds only if nobody has changed any of it meanwhile.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Entries, Moment, bad, entries, in_time, resolve, steps,
    told::{Difference, difference},
};
use crate::{
    admin::{
        API, Backend, Problem,
        answer::{self, Answer, Detail},
        dispatch::body,
        kv::PATIENCE,
    },
    store::{
        Store, StoreError, Transactional as _,
        core::{
            command::{Compare, MAX_OPERATIONS, Operand, Operation, Relation, Stay, Transaction},
            key::{Key, Revision},
            outcome::{CommandResult, Versioned},
        },
    },
};

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// As it was then.
    revision: u64,
    /// Keys, or what keys begin with if it ends with a slash; everything if there are none.
    #[serde(default)]
    only: Vec<String>,
    /// Only if none of it was changed after this revision.
    if_revision: Option<u64>,
    /// Says what it would do.
    #[serde(default)]
    dry_run: bool,
}

/// How it is, how it was, and which keys are put back.
struct Plan {
    now: Entries,
    then: Entries,
    keys: Vec<Key>,
}

/// Answers the request.
pub(super) async fn answer(
    backend: &Arc<dyn Backend>,
    store: &Store,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    if request.uri().query().is_some_and(|query| !query.is_empty()) {
        return Err(bad("there is no query here; the body says what to do"));
    }
    let order: Order = serde_json::from_slice(&body(request).await?).map_err(|error| {
        bad(&format!(
            "expected {{\"revision\": 17}}, perhaps with `only`, `if_revision` and `dry_run`: {error}"
        ))
    })?;
    let named = format!("to revision {}", order.revision);
    let (mut answer, came) = match carry_out(backend, store, order).await {
        Ok(done) => done,
        Err(problem) => (problem.answer(), problem.detail().to_owned()),
    };
    answer.extensions_mut().insert(Detail(format!("{named}: {came}")));
    Ok(answer)
}

async fn carry_out(
    backend: &Arc<dyn Backend>,
    store: &Store,
    order: Order,
) -> Result<(Answer, String), Problem> {
    let plan = in_time(plan(store, &order)).await?;
    let (entries, changed) = plan.outcome();
    // What is wrong with a text quotes it, and the audit log names keys only.
    if let Err(problem) = Arc::clone(backend).check_all_shared(entries, changed).await {
        return Ok((problem.answer(), "what was there then does not fit here now".to_owned()));
    }
    let mut told = plan.told();
    if order.dry_run || plan.keys.is_empty() {
        let came = if order.dry_run { "tried" } else { "nothing differs" };
        return Ok((answer::json(StatusCode::OK, &told), came.to_owned()));
    }
    let written = store.transact(Store::next_op()?, plan.transaction());
    let outcome = tokio::time::timeout(PATIENCE, written).await.map_err(|_| StoreError::TimedOut)??;
    let CommandResult::Transacted { held: true, .. } = outcome.result else {
        let detail = "some of it was changed at this moment: nothing was put back. Look again";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    told["applied"] = true.into();
    told["written"] = outcome.revision.0.into();
    let keys: Vec<&str> = plan.keys.iter().map(Key::as_str).collect();
    Ok((answer::json(StatusCode::OK, &told), format!("revision {}: {}", outcome.revision, keys.join(", "))))
}

/// What is to be done, and whether it can be.
async fn plan(store: &Store, order: &Order) -> Result<Plan, Problem> {
    let revision = resolve(store, Moment::At(Revision(order.revision))).await?;
    let now = resolve(store, Moment::Now).await?;
    let (now, then) = (entries(store, now).await?, entries(store, revision).await?);
    let all: HashSet<&Key> = now.items.keys().chain(then.items.keys()).collect();
    for only in &order.only {
        if !all.iter().any(|key| is_of(key, only)) {
            let detail = format!("there is no `{only}`, neither at revision {revision} nor now");
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        }
    }
    let is_asked = |key: &Key| order.only.is_empty() || order.only.iter().any(|only| is_of(key, only));
    let differs = |key: &Key| value(&now, key) != value(&then, key);
    let mut keys: Vec<Key> = all.into_iter().filter(|key| is_asked(key) && differs(key)).cloned().collect();
    keys.sort();
    let plan = Plan { now, then, keys };
    plan.check()?;
    if let Some(seen) = order.if_revision {
        let steps = steps(store, Revision(seen), plan.now.revision).await?;
        if let Some(step) = steps.iter().rev().find(|step| plan.keys.contains(&step.key)) {
            let detail = format!(
                "`{}` was changed at revision {} by {}, after revision {seen}",
                step.key, step.revision, step.author
            );
            return Err(Problem::new(StatusCode::CONFLICT, detail).with("revision", step.revision.0.into()));
        }
    }
    Ok(plan)
}

impl Plan {
    fn check(&self) -> Result<(), Problem> {
        if self.keys.len() > MAX_OPERATIONS {
            let detail = format!(
                "{} entries differ, and at most {MAX_OPERATIONS} are put back at one moment: name some of them (`only`)",
                self.keys.len()
            );
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        let leased = |key: &&Key| self.then.items.get(*key).is_some_and(|had| had.lease.is_some());
        match self.keys.iter().find(leased) {
            Some(key) => {
                let detail =
                    format!("`{key}` had a lease then, which cannot be put back: name others (`only`)");
                Err(Problem::new(StatusCode::CONFLICT, detail))
            }
            None => Ok(()),
        }
    }

    /// All entries that there are then, and the keys of those that are put back.
    fn outcome(&self) -> (Vec<(String, Bytes)>, HashSet<String>) {
        let mut items = self.now.items.clone();
        for key in &self.keys {
            match self.then.items.get(key) {
                Some(had) => items.insert(key.clone(), had.clone()),
                None => items.remove(key),
            };
        }
        let entries = items.into_iter().map(|(key, has)| (key.into(), has.value)).collect();
        (entries, self.keys.iter().map(|key| key.as_str().to_owned()).collect())
    }

    fn transaction(&self) -> Transaction {
        let compare = |key: &Key| Compare {
            key: key.clone(),
            relation: Relation::Equal,
            with: Operand::Modified(self.now.items.get(key).map_or(Revision(0), |has| has.modified)),
        };
        let operation = |key: &Key| match self.then.items.get(key) {
            Some(had) => Operation::Put { key: key.clone(), value: had.value.clone(), stay: Stay::Forever },
            None => Operation::Delete(key.clone()),
        };
        Transaction {
            compare: self.keys.iter().map(compare).collect(),
            then: self.keys.iter().map(operation).collect(),
            otherwise: Vec::new(),
        }
    }

    fn told(&self) -> Value {
        let item = |key: &Key| {
            difference(Difference { key, before: self.now.items.get(key), after: self.then.items.get(key) })
        };
        json!({
            "apiVersion": API,
            "kind": "SharedRevert",
            "to": self.then.revision,
            "revision": self.now.revision,
            "applied": false,
            "items": self.keys.iter().map(item).collect::<Vec<_>>(),
        })
    }
}

fn value<'e>(entries: &'e Entries, key: &Key) -> Option<&'e Bytes> {
    entries.items.get(key).map(|has: &Versioned| &has.value)
}

fn is_of(key: &Key, only: &str) -> bool {
    key.as_str() == only || (only.ends_with('/') && key.as_str().starts_with(only))
}
