//! The store over real sockets.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};

use super::written::{self, Ask, Read};
use crate::{
    admin::{
        Scope, base64,
        query::Query,
        tests::{JSON, Reply, Running, SOON, start},
    },
    store::{
        Level, Scan,
        core::{
            command::{Compare, MAX_VALUE, Operand, Operation, Relation, Stay},
            key::{Key, Revision},
        },
    },
};

async fn put(api: &Running, body: Value) -> Reply {
    api.send("PUT /v1/kv", JSON, &body.to_string()).await
}

async fn transact(api: &Running, body: Value) -> Reply {
    api.send("POST /v1/kv", JSON, &body.to_string()).await
}

async fn delete(api: &Running, query: &str) -> Reply {
    api.send(&format!("DELETE /v1/kv?{query}"), "X-Outrigger: 1\r\n", "").await
}

#[tokio::test]
async fn what_is_put_is_there_until_it_is_deleted() {
    let api = start(Scope::Full).await;
    let written = put(&api, json!({ "key": "routes/web ü", "value": "{\"a\":1}" })).await;
    assert_eq!(written.status, 200, "{}", written.body);
    let revision = written.json()["revision"].as_u64().unwrap();
    assert_eq!(
        api.get("/v1/kv?key=routes%2Fweb%20%C3%BC").await.json(),
        json!({
            "apiVersion": "v1", "kind": "KeyValue", "key": "routes/web ü", "value": "{\"a\":1}",
            "revision": revision, "created": revision, "version": 1, "lease": null,
        })
    );
    for level in ["strong", "lease", "eventual", &format!("at_least:{revision}")] {
        let found = api.get(&format!("/v1/kv?key=routes/web%20%c3%bc&level={level}")).await;
        assert_eq!(found.status, 200, "{level}");
    }
    let gone = delete(&api, "key=routes/web%20%C3%BC").await.json();
    assert_eq!((&gone["deleted"], gone["revision"].as_u64()), (&json!(true), Some(revision + 1)));
    assert_eq!(delete(&api, "key=routes/web%20%C3%BC").await.json()["deleted"], false);
    let none = api.get("/v1/kv?key=routes/web%20%C3%BC").await;
    assert_eq!((none.status, &none.json()["detail"]), (404, &json!("there is no key `routes/web ü`")));
}

#[tokio::test]
async fn a_value_that_is_no_text_travels_in_base64() {
    let api = start(Scope::Full).await;
    let bytes: Vec<u8> = (0..=255).collect();
    let reply = put(&api, json!({ "key": "a", "value_base64": base64::encode(&bytes) })).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let found = api.get("/v1/kv?key=a").await.json();
    assert_eq!(found["value_base64"], base64::encode(&bytes));
    assert!(found.get("value").is_none(), "{found}");
}

#[tokio::test]
async fn the_largest_value_fits_and_a_larger_one_is_refused() {
    let api = start(Scope::Full).await;
    let mut value = vec![0xff; MAX_VALUE];
    let reply = put(&api, json!({ "key": "a", "value_base64": base64::encode(&value) })).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    value.push(0xff);
    let reply = put(&api, json!({ "key": "a", "value_base64": base64::encode(&value) })).await;
    assert_eq!(reply.status, 413);
    assert!(reply.body.contains("524289 bytes"), "{}", reply.body);
}

#[tokio::test]
async fn a_comparison_that_does_not_hold_is_409_with_the_revision_that_is_there() {
    let api = start(Scope::Full).await;
    assert_eq!(put(&api, json!({ "key": "a", "value": "1", "if_revision": 3 })).await.status, 409);
    let first = put(&api, json!({ "key": "a", "value": "1", "if_revision": 0 })).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let revision = first.json()["revision"].clone();
    let second = put(&api, json!({ "key": "a", "value": "2", "if_revision": 0 })).await;
    assert_eq!((second.status, &second.json()["revision"]), (409, &revision));
    assert_eq!(delete(&api, "key=a&if_revision=0").await.status, 409);
    assert_eq!(api.get("/v1/kv?key=a").await.json()["value"], "1");
    assert_eq!(delete(&api, &format!("key=a&if_revision={revision}")).await.status, 200);
    let gone = delete(&api, &format!("key=a&if_revision={revision}")).await;
    assert_eq!((gone.status, &gone.json()["detail"]), (409, &json!("there is no key `a`")));
}

#[tokio::test]
async fn keys_come_in_pages() {
    let api = start(Scope::Full).await;
    for key in ["b", "a/2", "a/1", "a/3"] {
        put(&api, json!({ "key": key, "value": key })).await;
    }
    let keys = |page: &Value| -> Vec<String> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["key"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = api.get("/v1/kv?prefix=a/&limit=2").await.json();
    assert_eq!((keys(&first), &first["next"]), (vec!["a/1".to_owned(), "a/2".to_owned()], &json!("a/2")));
    let second = api.get("/v1/kv?prefix=a/&limit=2&after=a/2").await.json();
    assert_eq!((keys(&second), &second["next"]), (vec!["a/3".to_owned()], &Value::Null));
    assert_eq!(keys(&api.get("/v1/kv").await.json()).len(), 4);
    assert_eq!(first["revision"], 4);
}

#[tokio::test]
async fn a_watch_waits_for_changes_and_begins_after_a_revision() {
    let api = start(Scope::Full).await;
    put(&api, json!({ "key": "a/1", "value": "x" })).await;
    put(&api, json!({ "key": "b", "value": "x" })).await;
    let told = api.get("/v1/kv?watch=a/&after=0").await.json();
    assert_eq!(told["items"].as_array().unwrap().len(), 1);
    let (item, by) = (&told["items"][0], "address/127.0.0.1 via admin of shop");
    assert_eq!(
        [&item["change"], &item["key"], &item["value"], &item["author"], &item["previous"]],
        [&json!("put"), &json!("a/1"), &json!("x"), &json!(by), &Value::Null]
    );
    // The other key is behind it, too: nothing is told twice, and nothing is forgotten for being long ago.
    assert_eq!(told["revision"], 2);
    let waits = api.get("/v1/kv?watch=a/&after=2&wait=20s");
    let (told, _) = tokio::join!(waits, delete(&api, "key=a/1"));
    let told = told.json();
    assert_eq!([&told["items"][0]["change"], &told["items"][0]["revision"]], [&json!("delete"), &json!(3)]);
    assert_eq!(told["items"][0]["previous"], 1);
    let nothing = api.get("/v1/kv?watch=a/&after=3&wait=1ms").await.json();
    assert_eq!((&nothing["items"], &nothing["revision"]), (&json!([]), &json!(3)));
}

#[tokio::test]
async fn a_key_with_a_ttl_goes_and_a_watch_is_told() {
    let api = start(Scope::Full).await;
    let revision =
        put(&api, json!({ "key": "a", "value": "x", "ttl": "1s" })).await.json()["revision"].clone();
    assert!(api.get("/v1/kv?key=a").await.json()["lease"].is_u64());
    let gone = tokio::time::timeout(SOON, api.get(&format!("/v1/kv?watch=&after={revision}"))).await.unwrap();
    assert_eq!(gone.json()["items"][0]["change"], "delete");
    assert_eq!(api.get("/v1/kv?key=a").await.status, 404);
    for ttl in ["1ms", "2days"] {
        assert_eq!(put(&api, json!({ "key": "a", "value": "x", "ttl": ttl })).await.status, 422, "{ttl}");
    }
}

#[tokio::test]
async fn a_transaction_does_one_of_two_things() {
    let api = start(Scope::Full).await;
    let body = json!({
        "if": [{ "key": "lock", "revision": 0 }],
        "then": [{ "put": { "key": "lock", "value": "me", "ttl": "30s" } }, { "get": "lock" }],
        "else": [{ "get": "lock" }, { "delete": "none" }, { "delete_prefix": "loc" }],
    });
    let first = transact(&api, body.clone()).await.json();
    assert_eq!((&first["held"], &first["results"][0]), (&json!(true), &json!({ "put": "lock" })), "{first}");
    assert_eq!(first["results"][1]["found"]["value"], "me");
    let second = transact(&api, body).await.json();
    assert_eq!(second["held"], false);
    assert_eq!(second["results"][0]["found"]["value"], "me");
    assert_eq!(second["results"][1], json!({ "delete": "none", "deleted": 0 }));
    assert_eq!(second["results"][2], json!({ "delete_prefix": "loc", "deleted": 1 }));
}

#[tokio::test]
async fn what_is_not_understood_changes_nothing() {
    let api = start(Scope::Full).await;
    for query in [
        "keys=a",
        "key=a&prefix=b",
        "key=a&limit=3",
        "key=a&level=weak",
        "key=a&level=at_least:",
        "prefix=&limit=0",
        "prefix=&limit=1001",
        "prefix=&after=1&key=a",
        "watch=a",
        "watch=a&after=x",
        "watch=a&after=-1",
        "watch=a&after=1&wait=61s",
        "watch=a&after=1&wait=5",
        "key=%zz",
        "key=a&key=b",
    ] {
        let reply = api.get(&format!("/v1/kv?{query}")).await;
        assert_eq!(reply.status, 400, "{query}: {}", reply.body);
    }
    assert_eq!(api.get("/v1/kv?key=").await.status, 422);
    assert_eq!(api.get("/v1/kv?key=a%00").await.status, 422);
    for body in ["", "[]", "{}", r#"{"key":"a"}"#, r#"{"key":"a","value":"1","leases":1}"#] {
        let status = api.send("PUT /v1/kv", JSON, body).await.status;
        assert!(status == 400 || status == 422, "{body}: {status}");
    }
    let put = r#"{"key":"a","value":"1"}"#;
    assert_eq!(api.send("PUT /v1/kv?ttl=1s", JSON, put).await.status, 400);
    assert_eq!(api.send("PUT /v1/kv", "Content-Type: text/plain\r\n", put).await.status, 415);
    for query in ["", "key=a&x=1", "key=a&if_revision=x", "prefix=a"] {
        assert_eq!(delete(&api, query).await.status, 400, "{query}");
    }
    for body in [
        r#"{"than":[]}"#,
        r#"{"then":[{"put":"a"}]}"#,
        r#"{"then":[{"get":"a","delete":"b"}]}"#,
        r#"{"then":[{"put":{"key":"a","value":"1","if_revision":2}}]}"#,
        r#"{"if":[{"key":"a"}]}"#,
        r#"{"if":[{"key":"a","revision":1,"version":1}]}"#,
        r#"{"if":[{"key":"a","revision":1,"relation":"like"}]}"#,
        r#"{"then":[{"get":""}]}"#,
    ] {
        let status = api.send("POST /v1/kv", JSON, body).await.status;
        assert!(status == 400 || status == 422, "{body}: {status}");
    }
    assert_eq!(api.get("/v1/kv").await.json()["revision"], 0);
}

#[tokio::test]
async fn a_read_of_what_is_still_to_come_ends_in_time() {
    let api = start(Scope::Full).await;
    let reply = tokio::time::timeout(SOON, api.get("/v1/kv?key=a&level=at_least:9")).await.unwrap();
    assert_eq!(reply.status, 504, "{}", reply.body);
}

#[tokio::test]
async fn without_a_store_there_is_nothing_to_read_or_write() {
    let api = start(Scope::Full).await;
    api.backend.alone.store(true, Ordering::Relaxed);
    let detail = json!("this sidecar has no store (`store` in its configuration)");
    let replies = [api.get("/v1/kv?key=a").await, put(&api, json!({ "key": "a", "value": "1" })).await];
    for reply in replies {
        assert_eq!((reply.status, &reply.json()["detail"]), (404, &detail));
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

#[test]
fn queries_say_what_is_read() {
    let read = |query: &str| written::read(Query::parse(Some(query)).unwrap()).unwrap();
    assert_eq!(read("key=a"), Read::Key(key("a"), Level::Strong));
    assert_eq!(read("key=a&level=at_least:7"), Read::Key(key("a"), Level::AtLeast(Revision(7))));
    assert_eq!(read("key=a&level=within:5s"), Read::Key(key("a"), Level::Within(Duration::from_secs(5))));
    let scan = Scan { prefix: "p".to_owned(), after: Some(key("pa")), limit: 5 };
    assert_eq!(read("prefix=p&after=pa&limit=5&level=lease"), Read::Scan(scan, Level::Lease));
    assert_eq!(read(""), Read::Scan(Scan { limit: 1000, ..Scan::default() }, Level::Strong));
    let wait = Duration::from_secs(5);
    assert_eq!(
        read("watch=p&after=9&wait=5s"),
        Read::Watch { prefix: "p".to_owned(), after: Revision(9), wait }
    );
}

#[test]
fn a_change_is_named_by_its_keys_and_never_by_a_value() {
    let body = json!({ "key": "a", "value": "geheim", "ttl": "1m", "if_revision": 4 });
    let put = written::put(body.to_string().as_bytes()).unwrap();
    assert_eq!((put.ask, put.named.as_str()), (Ask::Put, "put a"));
    assert_eq!(
        put.transaction.then,
        [Operation::Put { key: key("a"), value: "geheim".into(), stay: Stay::Ttl(60_000) }]
    );
    assert_eq!(put.transaction.otherwise, [Operation::Get(key("a"))]);
    let body = json!({
        "if": [{ "key": "a", "value": "geheim", "relation": "not_equal" }],
        "then": [{ "delete_prefix": "b/" }, { "put": { "key": "c", "value_base64": "Z2VoZWlt" } }],
        "else": [{ "delete": "a" }],
    });
    let whole = written::transaction(body.to_string().as_bytes()).unwrap();
    assert_eq!(whole.named, "transaction on a, b/*, c");
    let with = Operand::Value("geheim".into());
    assert_eq!(whole.transaction.compare, [Compare { key: key("a"), relation: Relation::NotEqual, with }]);
    let long = written::delete(Query::parse(Some(&format!("key={}", "k".repeat(4096)))).unwrap()).unwrap();
    assert!(long.named.len() < 200, "{}", long.named);
}

#[tokio::test]
async fn keys_go_with_their_lease() {
    let api = start(Scope::Full).await;
    let ask = async |line: &str| api.send(line, "X-Outrigger: 1\r\n", "").await;
    let granted = api.send("POST /v1/kv/leases", JSON, "{\"ttl\": \"1h\"}").await;
    assert_eq!((granted.status, &granted.json()["ttl_seconds"]), (200, &json!(3600.0)), "{}", granted.body);
    let lease = granted.json()["lease"].as_u64().unwrap();
    for key in ["a", "b"] {
        let written = put(&api, json!({ "key": key, "value": "1", "lease": lease })).await;
        assert_eq!(written.status, 200, "{}", written.body);
    }
    let step = json!({ "then": [{ "put": { "key": "c", "value": "1", "lease": lease } }] });
    assert_eq!(transact(&api, step).await.status, 200);
    assert_eq!(api.get("/v1/kv?key=a").await.json()["lease"], lease);
    let place = format!("/v1/kv/leases/{lease}");
    let kept = ask(&format!("PUT {place}")).await;
    assert_eq!((kept.status, &kept.json()["ttl_seconds"]), (200, &json!(3600.0)), "{}", kept.body);
    let ended = ask(&format!("DELETE {place}")).await;
    assert_eq!((ended.status, &ended.json()["keys"]), (200, &json!(3)), "{}", ended.body);
    assert_eq!(api.get("/v1/kv?key=a").await.status, 404);
    for method in ["PUT", "DELETE"] {
        let gone = ask(&format!("{method} {place}")).await;
        assert!(gone.status == 404 && gone.body.contains("no lease"), "{}", gone.body);
    }
    assert_eq!(put(&api, json!({ "key": "a", "value": "1", "lease": lease })).await.status, 404);
}

#[tokio::test]
async fn what_is_no_lease_is_refused() {
    let api = start(Scope::Full).await;
    for (body, status) in [
        ("{}", 400),
        ("{\"ttl\": 30}", 400),
        ("{\"ttl\": \"30s\", \"id\": 1}", 400),
        ("{\"ttl\": \"soon\"}", 422),
        ("{\"ttl\": \"1ms\"}", 422),
        ("{\"ttl\": \"25h\"}", 422),
    ] {
        assert_eq!(api.send("POST /v1/kv/leases", JSON, body).await.status, status, "{body}");
    }
    assert_eq!(api.send("PUT /v1/kv/leases/a", "X-Outrigger: 1\r\n", "").await.status, 400);
    let both = put(&api, json!({ "key": "a", "value": "1", "ttl": "1h", "lease": 1 })).await;
    assert_eq!(both.status, 422, "{}", both.body);
}
