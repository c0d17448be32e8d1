//! Who gets the traffic of a service beside health and load: priorities, zones, subsets, and the endpoint that a client
//! had before.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{
    App, Client, Sidecar,
    app::answers,
    eventually, get, ok,
    sidecar::{api, with},
};

/// An endpoint of a configuration, with more to say about it.
fn endpoint(app: &App, more: Value) -> Value {
    with(json!({ "address": app.endpoint() }), more)
}

fn service(endpoints: &[Value], more: Value) -> Value {
    with(api(&[]), json!({ "services": { "api": with(json!({ "endpoints": endpoints }), more) } }))
}

/// Who answers how many of `count` requests, which must all succeed.
async fn shares(sidecar: &Sidecar, count: usize) -> BTreeMap<String, usize> {
    let mut client = Client::connect(sidecar.outbound()).await;
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        let answer = client.get("h", "/").await;
        assert_eq!(answer.status, 200);
        *shares.entry(answer.text()).or_default() += 1;
    }
    shares
}

fn only(name: &str, count: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([(name.to_owned(), count)])
}

fn check() -> Value {
    json!({
        "tcp": true,
        "interval": "100ms",
        "timeout": "90ms",
        "healthy_threshold": 1,
        "unhealthy_threshold": 1,
    })
}

#[tokio::test]
async fn the_next_priority_takes_over_while_the_first_is_gone() {
    let (first, second) = (App::saying("first").await, App::saying("second").await);
    let sidecar = Sidecar::start(service(
        &[endpoint(&first, json!({})), endpoint(&second, json!({ "priority": 1 }))],
        json!({ "health_check": check() }),
    ))
    .await;
    assert_eq!(shares(&sidecar, 20).await, only("first", 20));
    assert_eq!(sidecar.metric("outrigger_failover_ratio", &["\"api\""]).await, 0.0);

    let address = first.endpoint();
    first.stop().await;
    sidecar.until_metric("outrigger_failover_ratio", &["\"api\""], 1.0).await;
    assert_eq!(shares(&sidecar, 20).await, only("second", 20));
    assert!(sidecar.log().contains("others take over"));
    assert_eq!(sidecar.metric("outrigger_panic_mode", &["\"api\""]).await, 0.0);

    let _again = App::on(&address, answers(|_| ok("first"))).await;
    eventually("the first one takes everything", async || {
        (sidecar.metric("outrigger_failover_ratio", &["\"api\""]).await == 0.0).then_some(())
    })
    .await;
    assert_eq!(shares(&sidecar, 20).await, only("first", 20));
}

#[tokio::test]
async fn open_circuits_lead_to_the_next_priority_and_back() {
    let (first, second) = (App::saying("first").await, App::saying("second").await);
    let breaker = json!({ "consecutive_errors": 1, "open_time": "300ms" });
    let sidecar = Sidecar::start(service(
        &[endpoint(&first, json!({})), endpoint(&second, json!({ "priority": 1 }))],
        json!({ "circuit_breaker": breaker }),
    ))
    .await;
    let address = first.endpoint();
    first.stop().await;
    // Nobody checks: the first request finds out, and is repeated at the other one.
    assert_eq!(shares(&sidecar, 20).await, only("second", 20));
    let _again = App::on(&address, answers(|_| ok("first"))).await;
    eventually("a probe has closed the circuit", async || {
        (get(sidecar.outbound(), "h", "/").await.text() == "first").then_some(())
    })
    .await;
}

#[tokio::test]
async fn traffic_stays_in_the_own_zone_until_that_is_gone() {
    let (near, far) = (App::saying("near").await, App::saying("far").await);
    let config = service(
        &[
            endpoint(&near, json!({ "tags": { "zone": "a" } })),
            endpoint(&far, json!({ "tags": { "zone": "b" } })),
        ],
        json!({ "health_check": check(), "zones": { "mode": "local" } }),
    );
    let sidecar = Sidecar::start(with(config, json!({ "service": { "tags": { "zone": "a" } } }))).await;
    assert_eq!(shares(&sidecar, 20).await, only("near", 20));
    let address = near.endpoint();
    near.stop().await;
    eventually("it is out", async || {
        (sidecar.endpoint_state(&address).await.as_deref() == Some("unhealthy")).then_some(())
    })
    .await;
    assert_eq!(shares(&sidecar, 20).await, only("far", 20));
}

#[tokio::test]
async fn zones_get_traffic_by_their_weights() {
    let (one, two) = (App::saying("one").await, App::saying("two").await);
    let sidecar = Sidecar::start(service(
        &[
            endpoint(&one, json!({ "tags": { "zone": "a" } })),
            endpoint(&two, json!({ "tags": { "zone": "b" } })),
        ],
        json!({ "zones": { "mode": "weighted", "weights": { "a": 3, "b": 0 } } }),
    ))
    .await;
    assert_eq!(shares(&sidecar, 20).await, only("one", 20));
}

fn versions(old: &App, new: &App, route: Value, more: Value) -> Value {
    let routes = json!([
        with(json!({ "name": "new", "match": { "path_prefix": "/new" }, "service": "api" }), route),
        { "name": "old", "service": "api", "subset": { "version": "v1" } },
    ]);
    let endpoints = [
        endpoint(old, json!({ "tags": { "version": "v1" } })),
        endpoint(new, json!({ "tags": { "version": "v2", "zone": "a" } })),
    ];
    with(service(&endpoints, more), json!({ "routes": routes }))
}

#[tokio::test]
async fn routes_lead_to_endpoints_with_their_tags() {
    let (old, new) = (App::saying("old").await, App::saying("new").await);
    let route = json!({ "subset": { "version": "v2", "zone": "a" } });
    let sidecar = Sidecar::start(versions(&old, &new, route, json!({}))).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..10 {
        assert_eq!(client.get("h", "/new/x").await.text(), "new");
        assert_eq!(client.get("h", "/x").await.text(), "old");
    }
    // Nobody else may answer for them.
    new.stop().await;
    let answer = get(sidecar.outbound(), "h", "/new/x").await;
    assert_eq!((answer.status, answer.flag()), (502, "upstream_connect"));
    assert_eq!(get(sidecar.outbound(), "h", "/x").await.text(), "old");
}

#[tokio::test]
async fn a_subset_without_anybody_fails_or_is_everybody() {
    let (old, new) = (App::saying("old").await, App::saying("new").await);
    let route = json!({ "subset": { "version": "v3" } });
    let sidecar = Sidecar::start(versions(&old, &new, route.clone(), json!({}))).await;
    let answer = get(sidecar.outbound(), "h", "/new").await;
    assert_eq!((answer.status, answer.flag()), (503, "no_healthy_endpoint"));

    let more = json!({ "subset_fallback": "any", "load_balancer": { "policy": "round_robin" } });
    let sidecar = Sidecar::start(versions(&old, &new, route, more)).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(get(sidecar.outbound(), "h", "/new").await.text());
    }
    assert!(seen.contains(&"old".to_owned()) && seen.contains(&"new".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn a_client_with_the_cookie_comes_back_to_its_endpoint_while_that_is_well() {
    let mut apps = BTreeMap::from([
        ("a", App::saying("a").await),
        ("b", App::saying("b").await),
        ("c", App::saying("c").await),
    ]);
    let endpoints: Vec<String> = apps.values().map(App::endpoint).collect();
    let affinity = json!({ "cookie": "sid", "ttl": "1h", "path": "/shop" });
    let more = json!({ "session_affinity": affinity, "load_balancer": { "policy": "round_robin" } });
    let config = with(api(&endpoints), json!({ "services": { "api": more } }));
    let sidecar = Sidecar::start(config).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    let first = client.get("h", "/").await;
    let cookie = first.field("set-cookie").unwrap().to_owned();
    assert!(cookie.ends_with("; Path=/shop; Max-Age=3600; HttpOnly; SameSite=Lax"), "{cookie}");
    let pair = cookie.split(';').next().unwrap().to_owned();
    let home = first.text();
    let request = format!("GET / HTTP/1.1\r\nhost: h\r\ncookie: theme=dark; {pair}\r\n\r\n");
    for _ in 0..9 {
        client.send(request.as_bytes()).await;
        let answer = client.response().await;
        assert_eq!(answer.text(), home);
        assert_eq!(answer.field("set-cookie"), None, "it knows already");
    }

    apps.remove(&*home).unwrap().stop().await;
    client.send(request.as_bytes()).await;
    let answer = client.response().await;
    assert_eq!(answer.status, 200);
    assert_ne!(answer.text(), home);
    assert!(answer.field("set-cookie").unwrap().starts_with("sid="), "a new home");
}
