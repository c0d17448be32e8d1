//! The topology of the replicated store over HTTP: who has the log, orders about that, and a copy of all of it.

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    API, Problem,
    answer::{self, Answer, Detail},
    kv::present,
};
use crate::store::{
    EmbeddedStore, Level, Store,
    core::order::{Order, OrderError},
};

/// What is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Remove,
    Transfer,
}

/// Names a node.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    node: Option<String>,
}

/// Who has the log, and who may.
pub(super) async fn members(store: Option<Store>) -> Result<Value, Problem> {
    let members = embedded(&present(store)?)?.members().await?;
    Ok(json!({ "apiVersion": API, "kind": "StoreMemberList", "items": members }))
}

/// Has an order carried out, and says for the audit log what came of it.
pub(super) async fn order(store: Option<Store>, verb: Verb, body: &Bytes) -> Result<Answer, Problem> {
    let order = written(verb, body)?;
    let named = match &order {
        Order::Add(node) => format!("add {node}"),
        Order::Remove(node) => format!("remove {node}"),
        Order::Transfer(to) => format!("transfer to {}", to.as_deref().unwrap_or("whoever is furthest on")),
    };
    let outcome = embedded(&present(store)?)?.order(order).await?;
    let (mut answer, came) = match outcome {
        Ok(done) => {
            let told = json!({ "apiVersion": API, "kind": "StoreOrder", "steps": done.steps });
            (answer::json(StatusCode::OK, &told), done.steps.join("; "))
        }
        Err(error) => (refused(&error).answer(), error.to_string()),
    };
    answer.extensions_mut().insert(Detail(format!("{named}: {came}")));
    Ok(answer)
}

/// A copy of the whole store: with `stale`, as this node has it.
pub(super) async fn snapshot(store: Option<Store>, stale: bool) -> Result<Answer, Problem> {
    let level = if stale { Level::Eventual } else { Level::Strong };
    let store = present(store)?;
    Ok(answer::file(embedded(&store)?.archive(level).await?))
}

fn embedded(store: &Store) -> Result<&EmbeddedStore, Problem> {
    let none = "the store of this sidecar is not one that the sidecars keep among themselves";
    store.embedded().ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, none))
}

fn written(verb: Verb, body: &[u8]) -> Result<Order, Problem> {
    let unfit = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let expected = "expected a body like {\"node\": \"its name or id\"}";
    let body = if body.is_empty() { b"{}" } else { body };
    let Named { node } =
        serde_json::from_slice(body).map_err(|error| unfit(format!("{expected}: {error}")))?;
    match (verb, node.filter(|node| !node.is_empty())) {
        (Verb::Add, Some(node)) => Ok(Order::Add(node)),
        (Verb::Remove, Some(node)) => Ok(Order::Remove(node)),
        (Verb::Transfer, node) => Ok(Order::Transfer(node)),
        (Verb::Add | Verb::Remove, None) => Err(unfit(expected.to_owned())),
    }
}

fn refused(error: &OrderError) -> Problem {
    let status = match error {
        OrderError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        error if error.is_unknown() => StatusCode::NOT_FOUND,
        _ => StatusCode::CONFLICT,
    };
    Problem::new(status, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_a_node_and_only_a_transfer_need_not() {
        let node = br#"{"node": "a"}"#;
        assert_eq!(written(Verb::Add, node), Ok(Order::Add("a".into())));
        assert_eq!(written(Verb::Remove, node), Ok(Order::Remove("a".into())));
        assert_eq!(written(Verb::Transfer, b""), Ok(Order::Transfer(None)));
        for wrong in [&b""[..], b"{}", b"{\"node\": 5}", b"{\"node\": \"a\", \"x\": 1}", b"[]"] {
            assert!(written(Verb::Add, wrong).is_err());
        }
    }
}
