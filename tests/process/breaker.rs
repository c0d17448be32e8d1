//! Circuit breakers and outlier detection: who fails gets probes only, who does worse than its peers is put out,
//! and both come back.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering::SeqCst},
};

use serde_json::{Value, json};

use crate::support::{
    App, Client, Sidecar, eventually, get, ok, send,
    sidecar::{api, with},
    wait_until,
};

const TRANSITIONS: &str = "outrigger_circuit_breaker_transitions_total";
/// In this state the application takes requests and does not answer.
const HANGS: u16 = 0;

/// An application whose every answer has a status that can be changed.
async fn with_status(status: u16) -> (App, Arc<AtomicU16>) {
    let shared = Arc::new(AtomicU16::new(status));
    let status = Arc::clone(&shared);
    let app = App::script(move |mut connection| {
        let status = Arc::clone(&status);
        async move {
            while connection.request().await.is_some() {
                match status.load(SeqCst) {
                    HANGS => return connection.until_closed().await,
                    status => {
                        let answer = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: 0\r\n\r\n");
                        connection.send(answer).await;
                    }
                }
            }
        }
    })
    .await;
    (app, shared)
}

fn api_with(endpoints: &[&App], keys: &Value) -> Value {
    let endpoints: Vec<String> = endpoints.iter().map(|app| app.endpoint()).collect();
    with(
        api(&endpoints),
        json!({
            "defaults": { "load_balancer": { "policy": "round_robin" } },
            "services": { "api": keys },
        }),
    )
}

async fn until_state(sidecar: &Sidecar, app: &App, state: &str) {
    let endpoint = app.endpoint();
    eventually(&format!("{endpoint} is {state}"), async || {
        (sidecar.endpoint_state(&endpoint).await.as_deref() == Some(state)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_service_that_always_fails_gets_probes_only_and_is_found_again_when_it_is_well() {
    let (app, status) = with_status(503).await;
    let config = with(
        api_with(&[&app], &json!({ "circuit_breaker": { "open_time": "100ms", "max_open_time": "200ms" } })),
        json!({ "defaults": { "retry": { "attempts": 3, "retry_on": ["5xx"] } } }),
    );
    let sidecar = Sidecar::start(config).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    let mut requests = 0;
    // Opened once, and probed in vain at least three times.
    while sidecar.metric(TRANSITIONS, &["to=\"open\""]).await < 4.0 {
        let answer = client.get("h", "/").await;
        assert_eq!(answer.status, 503);
        requests += 1;
    }
    let probes = sidecar.metric(TRANSITIONS, &["to=\"half_open\""]).await;
    let attempts = app.requests().len();
    assert!(attempts as f64 <= 7.0 + probes, "{attempts} attempts, {probes} probes");
    assert!(
        attempts as f64 <= f64::from(requests) * 1.25 + 30.0,
        "{attempts} attempts of {requests} requests"
    );
    status.store(200, SeqCst);
    eventually("the circuit closes", async || (client.get("h", "/").await.status == 200).then_some(())).await;
    assert_eq!(sidecar.metric(TRANSITIONS, &["to=\"closed\""]).await, 1.0);
    assert_eq!(
        sidecar.metric(TRANSITIONS, &["to=\"open\""]).await,
        sidecar.metric(TRANSITIONS, &["to=\"half_open\""]).await
    );
    until_state(&sidecar, &app, "healthy").await;
    assert!(sidecar.log().contains("consecutive_errors") && sidecar.log().contains("probe_failed"));
}

#[tokio::test]
async fn an_open_circuit_is_told_to_clients_and_operators_with_its_reason() {
    let (app, _) = with_status(500).await;
    let config = api_with(&[&app], &json!({ "circuit_breaker": { "open_time": "30s" } }));
    let sidecar = Sidecar::start(config).await;
    for _ in 0..7 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 500);
    }
    let refused = get(sidecar.outbound(), "h", "/refused").await;
    assert_eq!((refused.status, refused.flag()), (503, "circuit_open"));
    let wait: u64 = refused.field("retry-after").and_then(|text| text.parse().ok()).unwrap_or_default();
    assert!((25..=45).contains(&wait), "retry after {wait}");
    let call = "POST /shop.Cart/Get HTTP/1.1\r\nhost: h\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n";
    let refused = send(sidecar.outbound(), call).await;
    assert_eq!(refused.field("grpc-status"), Some("14"));
    let wait: u64 =
        refused.field("grpc-retry-pushback-ms").and_then(|text| text.parse().ok()).unwrap_or_default();
    assert!((25_000..=45_000).contains(&wait), "push-back {wait}");
    assert_eq!(app.requests().len(), 7);
    assert_eq!(sidecar.logged("/refused").await["flag"], "circuit_open");
    let services = sidecar.document("/v1/services").await;
    let endpoint = &services["items"][0]["endpoints"][0];
    assert_eq!((&endpoint["state"], &endpoint["reason"]), (&json!("open"), &json!("consecutive_errors")));
    assert!(endpoint["since"].is_string(), "{endpoint}");
    assert_eq!(sidecar.status().await["endpoints"]["open"], 1);
    sidecar.until_metric("outrigger_endpoints", &["state=\"open\""], 1.0).await;
}

#[tokio::test]
async fn only_one_request_at_a_time_probes_and_one_that_is_cancelled_makes_room() {
    let (app, status) = with_status(500).await;
    let config = api_with(&[&app], &json!({ "circuit_breaker": { "open_time": "50ms" } }));
    let sidecar = Sidecar::start(config).await;
    for _ in 0..7 {
        get(sidecar.outbound(), "h", "/").await;
    }
    status.store(HANGS, SeqCst);
    until_state(&sidecar, &app, "half_open").await;
    let mut probe = Client::connect(sidecar.outbound()).await;
    probe.send("GET /probe HTTP/1.1\r\nhost: h\r\n\r\n").await;
    wait_until("the probe is at the endpoint", || app.requests().len() == 8).await;
    for _ in 0..5 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.flag(), "circuit_open");
    }
    assert_eq!(app.requests().len(), 8);
    status.store(200, SeqCst);
    // The client of the probe goes away: nothing was learned, the next request is the probe.
    drop(probe);
    eventually("the circuit closes", async || {
        (get(sidecar.outbound(), "h", "/").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_fails_is_steered_around_and_throttling_is_no_failure() {
    let ((sick, status), well) = (with_status(500).await, App::saying("well").await);
    let config = api_with(&[&sick, &well], &json!({ "circuit_breaker": { "open_time": "30s" } }));
    let sidecar = Sidecar::start(config).await;
    status.store(429, SeqCst);
    for _ in 0..40 {
        get(sidecar.outbound(), "h", "/").await;
    }
    assert_eq!(sidecar.endpoint_state(&sick.endpoint()).await.as_deref(), Some("healthy"));
    status.store(500, SeqCst);
    for _ in 0..40 {
        get(sidecar.outbound(), "h", "/").await;
    }
    until_state(&sidecar, &sick, "open").await;
    let before = sick.requests().len();
    for _ in 0..10 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "well");
    }
    assert_eq!(sick.requests().len(), before);
}

#[tokio::test]
async fn switched_off_it_keeps_nothing_away_and_a_reload_switches_it_on() {
    let (app, _) = with_status(500).await;
    let mut sidecar = Sidecar::start(api_with(&[&app], &json!({ "circuit_breaker": "none" }))).await;
    for _ in 0..30 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 500);
    }
    sidecar.edit(json!({ "services": { "api": { "circuit_breaker": { "consecutive_errors": 2 } } } }));
    assert_eq!(sidecar.reload().await.0, 200);
    for _ in 0..2 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 500);
    }
    assert_eq!(get(sidecar.outbound(), "h", "/").await.flag(), "circuit_open");
    // What the circuit knows survives the next one.
    sidecar.edit(json!({ "services": { "api": { "connect_timeout": "2s" } } }));
    assert_eq!(sidecar.reload().await.0, 200);
    assert_eq!(get(sidecar.outbound(), "h", "/").await.flag(), "circuit_open");
}

#[tokio::test]
async fn the_own_application_is_judged_by_its_callers_only() {
    let (app, _) = with_status(500).await;
    let config = with(api(&[app.endpoint()]), json!({ "service": { "address": app.endpoint() } }));
    let sidecar = Sidecar::start(config).await;
    for _ in 0..30 {
        assert_eq!(send(sidecar.inbound(), "GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.status, 500);
    }
    assert_eq!(app.requests().len(), 30);
}

#[tokio::test]
async fn panic_routing_overrides_failed_checks_but_no_open_circuit() {
    let (app, status) = with_status(500).await;
    let config = api_with(
        &[&app],
        &json!({
            "circuit_breaker": { "open_time": "30s" },
            "health_check": {
                "path": "/healthz", "interval": "50ms", "timeout": "40ms",
                "healthy_threshold": 1, "unhealthy_threshold": 1,
            },
        }),
    );
    let sidecar = Sidecar::start(config).await;
    sidecar.until_metric("outrigger_panic_mode", &["service=\"api\""], 1.0).await;
    for _ in 0..7 {
        let answer = get(sidecar.outbound(), "h", "/").await;
        assert_eq!((answer.status, answer.flag()), (500, ""));
    }
    assert_eq!(get(sidecar.outbound(), "h", "/").await.flag(), "circuit_open");
    // Checks that pass end the panic, and leave the circuit as it is: they do not test what requests need.
    status.store(200, SeqCst);
    sidecar.until_metric("outrigger_endpoints", &["state=\"open\""], 1.0).await;
    assert_eq!(sidecar.metric("outrigger_panic_mode", &["service=\"api\""]).await, 0.0);
    assert_eq!(get(sidecar.outbound(), "h", "/").await.flag(), "circuit_open");
}

#[tokio::test]
async fn with_two_of_five_endpoints_left_all_are_used_and_every_request_is_answered() {
    let mut apps = Vec::new();
    for _ in 0..5 {
        apps.push(App::saying("alive").await);
    }
    let endpoints: Vec<&App> = apps.iter().collect();
    let config = with(
        api_with(
            &endpoints,
            &json!({ "health_check": {
                "tcp": true, "interval": "50ms", "timeout": "40ms",
                "healthy_threshold": 1, "unhealthy_threshold": 1,
            } }),
        ),
        json!({ "defaults": { "retry": { "attempts": 4 } } }),
    );
    let sidecar = Sidecar::start(config).await;
    for app in apps.drain(..3) {
        app.stop().await;
    }
    sidecar.until_metric("outrigger_panic_mode", &["service=\"api\""], 1.0).await;
    for _ in 0..20 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "alive");
    }
    // Some went to the dead ones first: that is what panic routing is.
    assert!(sidecar.metric("outrigger_retries_total", &["reason=\"connect\""]).await >= 1.0);
}

#[tokio::test]
async fn an_outlier_is_ejected_comes_back_and_is_ejected_longer_the_second_time() {
    let (outlier, status) = with_status(500).await;
    let (one, two) = (App::answering(|_| ok("")).await, App::answering(|_| ok("")).await);
    let config = api_with(
        &[&outlier, &one, &two],
        &json!({
            "circuit_breaker": "none",
            // Back at once, so that an interval has enough requests to judge it by.
            "slow_start": "1ms",
            "outlier_detection": {
                "interval": "300ms",
                "base_ejection_time": "400ms",
                "failure_percentage_minimum_hosts": 3,
                "failure_percentage_request_volume": 3,
            },
        }),
    );
    let sidecar = Sidecar::start(config).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    let ejected =
        async || sidecar.metric("outrigger_endpoint_ejections_total", &["\"failure_percentage\""]).await;
    for times in [1.0, 2.0] {
        eventually("it is ejected", async || {
            client.get("h", "/").await;
            (ejected().await >= times).then_some(())
        })
        .await;
    }
    let log = sidecar.log();
    let out: Vec<String> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|line| Some(line.to_string()).filter(|text| text.contains("endpoint is ejected")))
        .collect();
    assert!(out[0].contains("\"400ms\"") && out[1].contains("\"800ms\""), "{out:?}");
    assert!(log.contains("endpoint is back after its ejection"));
    status.store(200, SeqCst);
    until_state(&sidecar, &outlier, "healthy").await;
    let before = outlier.requests().len();
    eventually("it gets requests again", async || {
        client.get("h", "/").await;
        (outlier.requests().len() > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn failures_in_a_row_eject_where_that_is_configured_but_never_more_than_the_cap() {
    let ((one, _), (two, _)) = (with_status(502).await, with_status(502).await);
    let config = api_with(
        &[&one, &two],
        &json!({
            "circuit_breaker": "none",
            "panic_threshold": 0,
            "outlier_detection": { "consecutive_gateway_failure": 3, "base_ejection_time": "60s" },
        }),
    );
    let sidecar = Sidecar::start(config).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    eventually("one of them is ejected", async || {
        assert_eq!(client.get("h", "/").await.status, 502);
        (sidecar.metric("outrigger_endpoints", &["state=\"ejected\""]).await == 1.0).then_some(())
    })
    .await;
    for _ in 0..20 {
        assert_eq!(client.get("h", "/").await.status, 502, "the other one stays in");
    }
    let reasons = sidecar.document("/v1/services").await.to_string();
    assert!(reasons.contains("consecutive_gateway_failure"), "{reasons}");
}
