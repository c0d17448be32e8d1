//! What protects services and callers from each other, and the tools that stand beside a route: rate limits, faults,
//! copies, sticky splits.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    App, Client, Sidecar, get, ok, send,
    sidecar::{api, with},
    wait_until,
};

/// The one route with more keys.
fn route(app: &App, keys: Value) -> Value {
    let route = with(json!({ "name": "all", "service": "api" }), keys);
    with(api(&[app.endpoint()]), json!({ "routes": [route] }))
}

fn as_user(user: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: h\r\nx-user: {user}\r\n\r\n")
}

#[tokio::test]
async fn a_caller_beyond_its_rate_is_told_when_to_come_again_and_others_are_not_touched() {
    let app = App::saying("yes").await;
    let limit = json!({ "rate": "1/h", "burst": 2, "key": { "header": "x-user" } });
    let sidecar = Sidecar::start(route(&app, json!({ "rate_limit": limit }))).await;
    for _ in 0..2 {
        assert_eq!(send(sidecar.outbound(), as_user("greedy")).await.status, 200);
    }
    let refused = send(sidecar.outbound(), as_user("greedy")).await;
    assert_eq!((refused.status, refused.flag()), (429, "rate_limited"));
    let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&wait), "{wait}");
    assert_eq!(refused.field("ratelimit-policy"), Some("\"all\";q=2;w=7200"));
    assert_eq!(refused.field("ratelimit").unwrap(), format!("\"all\";r=0;t={wait}"));
    assert!(refused.field("proxy-status").unwrap().contains("http_request_denied"));
    assert_eq!(send(sidecar.outbound(), as_user("modest")).await.status, 200);
    assert_eq!(app.requests().len(), 3);
    let of = async |decision| {
        let labels = ["limit=\"all\"", decision];
        sidecar.metric("outrigger_rate_limit_decisions_total", &labels).await
    };
    assert_eq!((of("decision=\"allow\"").await, of("decision=\"deny\"").await), (3.0, 1.0));
    assert_eq!(sidecar.metric("outrigger_rate_limit_keys", &["limit=\"all\""]).await, 2.0);
    let counted = ["status=\"429\"", "flag=\"rate_limited\"", "route=\"all\""];
    sidecar.until_metric("outrigger_http_requests_total", &counted, 1.0).await;
}

#[tokio::test]
async fn a_grpc_caller_beyond_its_rate_gets_resource_exhausted() {
    let app = App::saying("yes").await;
    let sidecar = Sidecar::start(route(&app, json!({ "rate_limit": { "rate": "1/h" } }))).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
    let call = "GET /s/m HTTP/1.1\r\nhost: h\r\ncontent-type: application/grpc\r\n\r\n";
    let refused = send(sidecar.outbound(), call).await;
    assert_eq!((refused.status, refused.field("grpc-status")), (200, Some("8")));
}

#[tokio::test]
async fn a_limit_in_shadow_mode_only_counts() {
    let app = App::saying("yes").await;
    let limit = json!({ "rate": "1/h", "shadow": true });
    let sidecar = Sidecar::start(route(&app, json!({ "rate_limit": limit }))).await;
    for _ in 0..3 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
    }
    let would = ["decision=\"would_deny\""];
    assert_eq!(sidecar.metric("outrigger_rate_limit_decisions_total", &would).await, 2.0);
}

#[tokio::test]
async fn a_reload_is_no_refill_of_a_limit() {
    let app = App::saying("yes").await;
    let with_limit = |limit: Value| route(&app, json!({ "rate_limit": limit }));
    let mut sidecar = Sidecar::start(with_limit(json!({ "rate": "1/h", "burst": 2 }))).await;
    for expected in [200, 200, 429] {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.status, expected);
    }
    sidecar.edit(with_limit(json!({ "rate": "2/h", "burst": 2 })));
    assert_eq!(sidecar.reload().await.0, 200);
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 429);
}

#[tokio::test]
async fn the_application_is_kept_from_callers_that_are_too_fast() {
    let app = App::saying("yes").await;
    let service =
        json!({ "address": app.endpoint(), "rate_limit": { "rate": "1/h", "key": "source_address" } });
    let sidecar = Sidecar::start(json!({ "service": service })).await;
    assert_eq!(get(sidecar.inbound(), "h", "/").await.status, 200);
    let refused = get(sidecar.inbound(), "h", "/").await;
    assert_eq!((refused.status, refused.flag()), (429, "rate_limited"));
    assert_eq!(app.requests().len(), 1);
}

#[tokio::test]
async fn a_fault_aborts_before_the_service_sees_anything() {
    let app = App::saying("yes").await;
    let sidecar = Sidecar::start(route(&app, json!({ "fault": { "abort": 418 } }))).await;
    let aborted = get(sidecar.outbound(), "h", "/").await;
    assert_eq!((aborted.status, aborted.flag()), (418, "fault"));
    assert!(app.requests().is_empty());
    assert_eq!(sidecar.metric("outrigger_faults_injected_total", &["kind=\"abort\""]).await, 1.0);
}

#[tokio::test]
async fn a_fault_delays_but_never_beyond_the_time_of_the_request() {
    let app = App::saying("yes").await;
    let delayed = json!({ "fault": { "delay": "300ms" } });
    let sidecar = Sidecar::start(route(&app, delayed)).await;
    let began = Instant::now();
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(300));
    let endless = json!({ "fault": { "delay": "1h" }, "timeout": "200ms" });
    let sidecar = Sidecar::start(route(&app, endless)).await;
    let late = get(sidecar.outbound(), "h", "/").await;
    assert_eq!((late.status, app.requests().len()), (504, 1));
}

#[tokio::test]
async fn a_client_may_ask_for_a_fault_only_where_that_is_allowed() {
    let app = App::saying("yes").await;
    let asking = "GET / HTTP/1.1\r\nhost: h\r\nx-outrigger-fault-abort: 503\r\n\r\n";
    let open = Sidecar::start(route(&app, json!({ "fault": { "headers": true } }))).await;
    assert_eq!(send(open.outbound(), asking).await.flag(), "fault");
    let closed = Sidecar::start(route(&app, json!({ "fault": { "delay": "1ms" } }))).await;
    assert_eq!(send(closed.outbound(), asking).await.status, 200);
    assert!(app.only_request().field("x-outrigger-fault-abort").is_none());
}

fn mirrored(app: &App, shadow: &App) -> Value {
    let services = json!({ "services": { "shadow": { "endpoints": [shadow.endpoint()] } } });
    with(route(app, json!({ "mirror": { "service": "shadow" } })), services)
}

#[tokio::test]
async fn a_copy_goes_to_the_shadow_with_its_body_and_under_another_host() {
    let (app, shadow) = (App::saying("real").await, App::saying("ignored").await);
    let sidecar = Sidecar::start(mirrored(&app, &shadow)).await;
    let post = "POST /p HTTP/1.1\r\nhost: api:80\r\ncontent-length: 5\r\n\r\nhello";
    assert_eq!(send(sidecar.outbound(), post).await.text(), "real");
    wait_until("the copy arrives", || shadow.requests().len() == 1).await;
    let copy = shadow.only_request();
    assert_eq!((copy.target(), copy.field("host")), ("/p", Some("api-shadow:80")));
    assert_eq!(copy.body.data, b"hello");
    assert_eq!(app.only_request().body.data, b"hello");
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "real");
    sidecar.until_metric("outrigger_mirrored_requests_total", &["outcome=\"answered\""], 2.0).await;
    assert_eq!(shadow.accepted(), 1, "the connection was used again");
}

#[tokio::test]
async fn a_shadow_that_is_gone_or_a_body_too_long_is_seen_in_the_metrics_only() {
    let (app, shadow) = (App::saying("real").await, App::answering(|_| ok("x")).await);
    let config = mirrored(&app, &shadow);
    shadow.stop().await;
    let sidecar = Sidecar::start(config).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "real");
    let body = "x".repeat(65 * 1024);
    let post = format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    assert_eq!(send(sidecar.outbound(), post).await.text(), "real");
    assert_eq!(app.requests()[1].body.data.len(), body.len());
    sidecar.until_metric("outrigger_mirrored_requests_total", &["outcome=\"failed\""], 1.0).await;
    sidecar.until_metric("outrigger_mirrored_requests_total", &["outcome=\"body\""], 1.0).await;
}

#[tokio::test]
async fn a_user_stays_on_one_side_of_a_sticky_split() {
    let (one, two) = (App::saying("one").await, App::saying("two").await);
    let split = json!([{ "service": "one", "weight": 1 }, { "service": "two", "weight": 1 }]);
    let sidecar = Sidecar::start(json!({
        "routes": [{ "name": "all", "split": split, "sticky": { "header": "x-user" } }],
        "services": { "one": { "endpoints": [one.endpoint()] }, "two": { "endpoints": [two.endpoint()] } },
    }))
    .await;
    let mut sides = std::collections::HashSet::new();
    for user in 0..20 {
        let first = send(sidecar.outbound(), as_user(&user.to_string())).await.text();
        for _ in 0..3 {
            assert_eq!(send(sidecar.outbound(), as_user(&user.to_string())).await.text(), first);
        }
        sides.insert(first);
    }
    assert_eq!(sides.len(), 2, "both sides have users");
}

/// An application of which only `/slow` takes its time, until it is told to stop.
async fn with_slow_paths() -> App {
    App::script(|mut connection| async move {
        while let Some(request) = connection.request().await {
            if request.target() == "/slow" {
                return std::future::pending().await;
            }
            connection.send(ok("fast")).await;
        }
    })
    .await
}

fn of_priority(priority: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: h\r\nx-outrigger-priority: {priority}\r\n\r\n")
}

#[tokio::test]
async fn beyond_the_limit_of_the_application_the_least_important_requests_are_refused_first() {
    let app = with_slow_paths().await;
    let concurrency = json!({ "mode": "enforce", "min": 4, "max": 4 });
    let service = json!({ "address": app.endpoint(), "concurrency": concurrency });
    let sidecar = Sidecar::start(json!({ "service": service })).await;
    let mut held = Vec::new();
    for number in 1..=3 {
        let mut client = Client::connect(sidecar.inbound()).await;
        client.send("GET /slow HTTP/1.1\r\nhost: h\r\nx-outrigger-priority: critical\r\n\r\n").await;
        held.push(client);
        wait_until("it is in flight", || app.requests().len() == number).await;
    }
    for refused in ["sheddable", "default"] {
        let answer = send(sidecar.inbound(), of_priority(refused)).await;
        assert_eq!((answer.status, answer.flag()), (503, "overload"), "{refused}");
        assert_eq!(answer.field("retry-after"), Some("1"));
    }
    let critical = send(sidecar.inbound(), of_priority("critical")).await;
    assert_eq!(critical.status, 200);
    assert_eq!(app.requests()[3].field("x-outrigger-priority"), Some("critical"), "it travels on");
    let rejected = ["priority=\"sheddable\"", "outcome=\"rejected\""];
    assert_eq!(sidecar.metric("outrigger_concurrency_rejections_total", &rejected).await, 1.0);
    drop(held);
    sidecar.until_metric("outrigger_concurrency_limit", &[], 4.0).await;
    crate::support::eventually("there is room again", async || {
        (send(sidecar.inbound(), of_priority("sheddable")).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn by_default_the_limit_of_the_application_is_only_observed() {
    let app = with_slow_paths().await;
    let concurrency = json!({ "min": 1, "max": 1 });
    let service = json!({ "address": app.endpoint(), "concurrency": concurrency });
    let sidecar = Sidecar::start(json!({ "service": service })).await;
    let mut held = Client::connect(sidecar.inbound()).await;
    held.send("GET /slow HTTP/1.1\r\nhost: h\r\n\r\n").await;
    wait_until("it is in flight", || app.requests().len() == 1).await;
    assert_eq!(get(sidecar.inbound(), "h", "/").await.status, 200);
    let would = ["outcome=\"would_reject\""];
    assert_eq!(sidecar.metric("outrigger_concurrency_rejections_total", &would).await, 1.0);
}

#[tokio::test]
async fn a_process_out_of_memory_refuses_requests_closes_connections_and_recovers_by_itself() {
    let app = App::saying("yes").await;
    // Any process is larger than this.
    let tight = json!({ "overload": { "max_memory": "100KiB" } });
    let roomy = json!({ "overload": { "max_memory": "0B" } });
    let mut sidecar = Sidecar::start(with(api(&[app.endpoint()]), roomy.clone())).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    assert_eq!(client.get("h", "/").await.status, 200);
    sidecar.edit(tight);
    assert_eq!(sidecar.reload().await.0, 200);
    sidecar.until_metric("outrigger_overload_active", &["action=\"refuse_requests\""], 1.0).await;
    // Who asks whether to send it traffic hears no, and why.
    let ready = get(sidecar.admin(), "localhost", "/readyz?verbose").await;
    assert!(ready.status == 503 && ready.text().contains("overloaded"), "{}", ready.text());
    let refused = client.get("h", "/").await;
    assert_eq!((refused.status, refused.flag()), (503, "overload"));
    assert_eq!(refused.field("connection"), Some("close"));
    assert!(sidecar.metric("outrigger_overload_pressure", &["resource=\"memory\""]).await > 1.0);
    let shed = ["action=\"refuse_requests\""];
    assert_eq!(sidecar.metric("outrigger_overload_sheds_total", &shed).await, 1.0);
    sidecar.edit(roomy);
    assert_eq!(sidecar.reload().await.0, 200);
    crate::support::eventually("the pressure is gone", async || {
        (sidecar.metric("outrigger_overload_active", &[]).await == 0.0).then_some(())
    })
    .await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
    assert_eq!(get(sidecar.admin(), "localhost", "/readyz").await.status, 200);
}

#[tokio::test]
async fn connections_beyond_the_rate_of_the_listener_are_refused_in_words() {
    let app = App::saying("yes").await;
    let rate = json!({ "listeners": { "connection_rate": "2/h" } });
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), rate)).await;
    let mut kept = Client::connect(sidecar.outbound()).await;
    assert_eq!(kept.get("h", "/").await.status, 200);
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
    let refused = get(sidecar.outbound(), "h", "/").await;
    assert_eq!((refused.status, refused.flag()), (503, "overload"));
    assert_eq!(kept.get("h", "/").await.status, 200, "only new connections are counted");
}

#[tokio::test]
async fn requests_beyond_those_of_the_listener_are_refused_and_served_when_there_is_room() {
    let app = with_slow_paths().await;
    let most = json!({ "listeners": { "max_requests": 1 } });
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), most)).await;
    let mut held = Client::connect(sidecar.outbound()).await;
    held.send("GET /slow HTTP/1.1\r\nhost: h\r\n\r\n").await;
    wait_until("it is in flight", || app.requests().len() == 1).await;
    let refused = get(sidecar.outbound(), "h", "/").await;
    assert_eq!((refused.status, refused.flag()), (503, "overload"));
    drop(held);
    crate::support::eventually("there is room again", async || {
        (get(sidecar.outbound(), "h", "/").await.status == 200).then_some(())
    })
    .await;
}
