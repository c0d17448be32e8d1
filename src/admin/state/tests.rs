//! The shared state over real sockets.

use serde_json::{Value, json};

use crate::{
    admin::{
        Scope,
        tests::{JSON, Reply, Running, start},
    },
    store::core::command::MAX_VALUE,
};

/// Sets a key, whether it fits or not; the revision that did so.
async fn put(api: &Running, key: &str, value: &str) -> u64 {
    let body = json!({ "key": key, "value": value });
    let written = api.send("PUT /v1/kv", JSON, &body.to_string()).await;
    assert_eq!(written.status, 200, "{}", written.body);
    written.json()["revision"].as_u64().unwrap()
}

async fn delete(api: &Running, key: &str) -> u64 {
    let gone = api.send(&format!("DELETE /v1/kv?key={key}"), "X-Outrigger: 1\r\n", "").await;
    gone.json()["revision"].as_u64().unwrap()
}

async fn revert(api: &Running, order: Value) -> Reply {
    api.send("POST /v1/state/revert", JSON, &order.to_string()).await
}

/// `key=value` of all entries.
async fn state(api: &Running, query: &str) -> String {
    let told = api.get(&format!("/v1/state{query}")).await;
    assert_eq!(told.status, 200, "{}", told.body);
    let shown =
        |item: &Value| format!("{}={}", item["key"].as_str().unwrap(), item["value"].as_str().unwrap());
    told.json()["items"].as_array().unwrap().iter().map(shown).collect::<Vec<_>>().join(" ")
}

fn words(told: &Value, name: &str) -> Vec<String> {
    let items = told["items"].as_array().unwrap();
    items.iter().map(|item| item[name].as_str().unwrap_or("-").to_owned()).collect()
}

#[tokio::test]
async fn the_state_is_told_as_it_was_and_nothing_but_what_is_shared() {
    let api = start(Scope::Full).await;
    let first = put(&api, "routes/a", "1").await;
    put(&api, "other", "x").await;
    put(&api, "intentions/b", "2").await;
    let last = put(&api, "routes/a", "3").await;
    assert_eq!(state(&api, "").await, "intentions/b=2 routes/a=3");
    assert_eq!(state(&api, &format!("?at={first}")).await, "routes/a=1");
    assert_eq!(state(&api, "?at=0").await, "");
    assert_eq!(state(&api, "?at=2999-01-01T00:00:00Z").await, "intentions/b=2 routes/a=3");
    assert_eq!(state(&api, "?at=1971-01-01%2000:00:00").await, "");
    for (query, status) in [
        (format!("?at={}", last + 1), 404),
        ("?at=x".into(), 400),
        ("?at=1960-01-01T00:00:00Z".into(), 400),
        ("?att=1".into(), 400),
    ] {
        assert_eq!(api.get(&format!("/v1/state{query}")).await.status, status, "{query}");
    }
}

#[tokio::test]
async fn a_difference_tells_what_became_of_each_entry_and_who_did_it() {
    let api = start(Scope::Full).await;
    put(&api, "routes/changed", "1").await;
    put(&api, "routes/removed", "1").await;
    let from = put(&api, "routes/back", "1").await;
    put(&api, "routes/changed", "2").await;
    delete(&api, "routes/removed").await;
    put(&api, "routes/back", "2").await;
    put(&api, "routes/back", "1").await;
    let to = put(&api, "intentions/added", "1").await;
    put(&api, "routes/later", "1").await;
    let told = api.get(&format!("/v1/state/diff?from={from}&to={to}")).await.json();
    assert_eq!((&told["from"], &told["to"]), (&from.into(), &to.into()));
    assert_eq!(words(&told, "key"), ["intentions/added", "routes/back", "routes/changed", "routes/removed"]);
    assert_eq!(words(&told, "what"), ["added", "same", "changed", "removed"]);
    let changed = &told["items"][2];
    assert_eq!((&changed["before"]["value"], &changed["after"]["value"]), (&json!("1"), &json!("2")));
    let step = &changed["changes"][0];
    assert_eq!((&step["revision"], &step["change"]), (&(from + 1).into(), &json!("put")));
    assert!(!step["author"].as_str().unwrap().is_empty() && step["at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(told["items"][1]["changes"].as_array().unwrap().len(), 2);
    assert_eq!(api.get(&format!("/v1/state/diff?from={to}&to={from}")).await.status, 400);
    assert_eq!(words(&api.get("/v1/state/diff").await.json(), "key").len(), 5);
}

#[tokio::test]
async fn the_log_begins_with_the_latest() {
    let api = start(Scope::Full).await;
    put(&api, "routes/a", "1").await;
    put(&api, "other", "1").await;
    put(&api, "intentions/b", "1").await;
    delete(&api, "routes/a").await;
    let told = api.get("/v1/state/log").await.json();
    assert_eq!(words(&told, "key"), ["routes/a", "intentions/b", "routes/a"]);
    assert_eq!(words(&told, "change"), ["delete", "put", "put"]);
    assert_eq!(words(&api.get("/v1/state/log?limit=1").await.json(), "change"), ["delete"]);
    assert_eq!(api.get("/v1/state/log?limit=0").await.status, 400);
}

#[tokio::test]
async fn a_revert_puts_everything_back_at_one_moment() {
    let api = start(Scope::Full).await;
    put(&api, "routes/changed", "1").await;
    put(&api, "routes/same", "1").await;
    let then = put(&api, "routes/removed", "1").await;
    put(&api, "routes/changed", "2").await;
    delete(&api, "routes/removed").await;
    let last = put(&api, "intentions/added", "1").await;
    put(&api, "other", "1").await;
    let tried = revert(&api, json!({ "revision": then, "dry_run": true })).await.json();
    assert_eq!(words(&tried, "what"), ["removed", "changed", "added"]);
    assert_eq!((&tried["applied"], &tried["revision"]), (&json!(false), &(last + 1).into()));
    assert_eq!(state(&api, "").await, "intentions/added=1 routes/changed=2 routes/same=1");
    let done = revert(&api, json!({ "revision": then })).await;
    assert_eq!(
        (done.status, &done.json()["applied"], &done.json()["written"]),
        (200, &json!(true), &(last + 2).into())
    );
    assert_eq!(state(&api, "").await, "routes/changed=1 routes/removed=1 routes/same=1");
    // What is not shared is nobody's business here.
    assert_eq!(api.get("/v1/kv?key=other").await.status, 200);
    let again = revert(&api, json!({ "revision": then })).await.json();
    assert_eq!((&again["items"], &again["applied"]), (&json!([]), &json!(false)));
}

#[tokio::test]
async fn a_revert_can_be_of_some_entries() {
    let api = start(Scope::Full).await;
    for key in ["routes/a", "routes/b", "intentions/c", "intentions/d"] {
        put(&api, key, "1").await;
    }
    let then = put(&api, "routes/a", "1").await;
    for key in ["routes/a", "routes/b", "intentions/c", "intentions/d"] {
        put(&api, key, "2").await;
    }
    let done = revert(&api, json!({ "revision": then, "only": ["routes/a", "intentions/"] })).await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!(state(&api, "").await, "intentions/c=1 intentions/d=1 routes/a=1 routes/b=2");
    let none = revert(&api, json!({ "revision": then, "only": ["routes/", "routes/x"] })).await;
    assert_eq!(none.status, 404, "{}", none.body);
    assert!(none.body.contains("`routes/x`"), "{}", none.body);
}

#[tokio::test]
async fn nobodys_change_is_lost_by_a_revert() {
    let api = start(Scope::Full).await;
    let then = put(&api, "routes/a", "1").await;
    put(&api, "routes/b", "1").await;
    let seen = put(&api, "routes/a", "2").await;
    // Somebody else, after it was looked at.
    let other = delete(&api, "routes/b").await;
    let order = json!({ "revision": then + 1, "if_revision": seen });
    let late = revert(&api, order).await;
    assert_eq!((late.status, &late.json()["revision"]), (409, &other.into()), "{}", late.body);
    assert_eq!(state(&api, "").await, "routes/a=2");
    // What they did does not matter to the other entry.
    let order = json!({ "revision": then + 1, "if_revision": seen, "only": ["routes/a"] });
    assert_eq!(revert(&api, order).await.status, 200);
}

#[tokio::test]
async fn what_does_not_fit_now_is_not_put_back() {
    let api = start(Scope::Full).await;
    let then = put(&api, "routes/a", "wrong").await;
    put(&api, "routes/b", "wrong").await;
    put(&api, "routes/a", "right").await;
    for dry_run in [true, false] {
        let refused = revert(&api, json!({ "revision": then, "dry_run": dry_run })).await;
        assert_eq!((refused.status, &refused.json()["findings"]["errors"]), (422, &json!(1)));
    }
    assert_eq!(state(&api, "").await, "routes/a=right routes/b=wrong");
    // Of what stays as it is nothing is said.
    let next = put(&api, "routes/c", "1").await;
    put(&api, "routes/c", "2").await;
    assert_eq!(revert(&api, json!({ "revision": next })).await.status, 200);
}

#[tokio::test]
async fn a_lease_is_not_put_back() {
    let api = start(Scope::Full).await;
    let body = json!({ "key": "routes/a", "value": "1", "ttl": "1h" });
    let leased = api.send("PUT /v1/kv", JSON, &body.to_string()).await.json();
    put(&api, "routes/a", "2").await;
    let refused = revert(&api, json!({ "revision": leased["revision"] })).await;
    assert!(refused.status == 409 && refused.body.contains("lease"), "{}", refused.body);
}

#[tokio::test]
async fn what_is_forgotten_is_refused() {
    let api = start(Scope::Full).await;
    let then = put(&api, "routes/a", "1").await;
    let large = "x".repeat(MAX_VALUE);
    for _ in 0..40 {
        put(&api, "other", &large).await;
    }
    put(&api, "routes/a", "2").await;
    let paths = ["/v1/state?at=1", "/v1/state/diff?from=1", "/v1/state?at=1971-01-01T00:00:00Z"];
    for path in paths {
        let gone = api.get(path).await;
        assert_eq!(gone.status, 410, "{path}: {}", gone.body);
        let oldest = gone.json()["oldest"].as_u64().unwrap();
        assert!(oldest > then, "{oldest}");
        assert_eq!(api.get(&format!("/v1/state?at={oldest}")).await.status, 200);
    }
    assert_eq!(revert(&api, json!({ "revision": then })).await.status, 410);
    // A log goes back as far as it can.
    assert_eq!(words(&api.get("/v1/state/log").await.json(), "key"), ["routes/a"]);
}

#[tokio::test]
async fn too_much_is_not_put_back_at_once() {
    let api = start(Scope::Full).await;
    for number in 0..130 {
        put(&api, &format!("routes/{number}"), "1").await;
    }
    let refused = revert(&api, json!({ "revision": 0 })).await;
    assert_eq!(refused.status, 413, "{}", refused.body);
    assert_eq!(revert(&api, json!({ "revision": 0, "only": ["routes/7"] })).await.status, 200);
    for order in [json!({}), json!({ "revision": 1, "dryrun": true }), json!({ "revision": "1" })] {
        assert_eq!(revert(&api, order).await.status, 400);
    }
}
