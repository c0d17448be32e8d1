//! Active health checks: who fails them leaves the rotation, who passes them comes back.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use serde_json::{Value, json};

use crate::support::{
    App, Client, Sidecar,
    app::answers,
    eventually, get, ok,
    sidecar::{api, with},
};

/// An endpoint whose checks are answered with a status that can be changed.
async fn checked(name: &'static str) -> (App, Arc<AtomicU16>) {
    let health = Arc::new(AtomicU16::new(200));
    let shared = Arc::clone(&health);
    let app = App::answering(move |request| {
        if request.target() == "/healthz" {
            let status = shared.load(Ordering::SeqCst);
            return format!("HTTP/1.1 {status} Checked\r\ncontent-length: 0\r\n\r\n").into_bytes();
        }
        ok(name)
    })
    .await;
    (app, health)
}

fn check(kind: Value) -> Value {
    with(
        json!({ "interval": "100ms", "timeout": "90ms", "healthy_threshold": 2, "unhealthy_threshold": 2 }),
        kind,
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
async fn an_endpoint_that_fails_its_checks_gets_no_requests_until_it_passes_them_again() {
    let ((one, health), (two, _)) = (checked("one").await, checked("two").await);
    let config = with(
        api(&[one.endpoint(), two.endpoint()]),
        json!({
            "defaults": { "load_balancer": { "policy": "round_robin" } },
            // Back at once: what is looked at is that it gets requests, not how many.
            "services": { "api": {
                "slow_start": "1ms",
                "health_check": check(json!({ "path": "/healthz", "host": "checked" })),
            } },
        }),
    );
    let sidecar = Sidecar::start(config).await;
    health.store(503, Ordering::SeqCst);
    until_state(&sidecar, &one, "unhealthy").await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..10 {
        assert_eq!(client.get("h", "/").await.text(), "two");
    }
    assert_eq!(sidecar.metric("outrigger_endpoints", &["state=\"unhealthy\"", "\"api\""]).await, 1.0);
    assert!(sidecar.log().contains("endpoint is unhealthy"));

    health.store(204, Ordering::SeqCst);
    until_state(&sidecar, &one, "healthy").await;
    let mut answered_by = Vec::new();
    for _ in 0..4 {
        answered_by.push(client.get("h", "/").await.text());
    }
    assert!(answered_by.contains(&"one".to_owned()), "{answered_by:?}");
    let checks = one.requests().into_iter().filter(|request| request.target() == "/healthz");
    assert!(
        checks.clone().count() > 2 && checks.into_iter().all(|check| check.field("host") == Some("checked"))
    );
}

#[tokio::test]
async fn a_tcp_check_asks_only_whether_connections_are_accepted() {
    let one = App::saying("one").await;
    let two = App::saying("two").await;
    let config = with(
        api(&[one.endpoint(), two.endpoint()]),
        json!({ "services": { "api": { "health_check": check(json!({ "tcp": true })) } } }),
    );
    let sidecar = Sidecar::start(config).await;
    sidecar.until_metric("outrigger_health_checks_total", &["result=\"success\""], 4.0).await;
    let address = one.endpoint();
    one.stop().await;
    eventually("it is out", async || {
        (sidecar.endpoint_state(&address).await.as_deref() == Some("unhealthy")).then_some(())
    })
    .await;
    for _ in 0..5 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "two");
    }
    let again = App::on(&address, answers(|_| ok("again"))).await;
    until_state(&sidecar, &again, "healthy").await;
}

#[tokio::test]
async fn when_too_few_endpoints_are_healthy_all_are_used() {
    let ((one, first), (two, second)) = (checked("one").await, checked("two").await);
    let config = with(
        api(&[one.endpoint(), two.endpoint()]),
        json!({ "services": { "api": { "health_check": check(json!({ "path": "/healthz" })) } } }),
    );
    let sidecar = Sidecar::start(config).await;
    first.store(500, Ordering::SeqCst);
    second.store(500, Ordering::SeqCst);
    until_state(&sidecar, &one, "unhealthy").await;
    until_state(&sidecar, &two, "unhealthy").await;
    sidecar.until_metric("outrigger_panic_mode", &["service=\"api\""], 1.0).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
}

#[tokio::test]
async fn without_panic_a_service_whose_endpoints_are_all_unhealthy_is_answered_503() {
    let (app, health) = checked("one").await;
    let config = with(
        api(&[app.endpoint()]),
        json!({ "services": { "api": {
            "panic_threshold": 0,
            "health_check": check(json!({ "path": "/healthz" })),
        } } }),
    );
    let sidecar = Sidecar::start(config).await;
    health.store(500, Ordering::SeqCst);
    until_state(&sidecar, &app, "unhealthy").await;
    let answer = get(sidecar.outbound(), "h", "/").await;
    assert_eq!((answer.status, answer.flag()), (503, "no_healthy_endpoint"));
    assert_eq!(answer.field("proxy-status"), Some("outrigger; error=destination_unavailable"));
    health.store(200, Ordering::SeqCst);
    until_state(&sidecar, &app, "healthy").await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
}

#[tokio::test]
async fn a_check_that_hangs_is_a_failed_check() {
    let app = App::script(|mut connection| async move {
        while let Some(request) = connection.request().await {
            if request.target() == "/healthz" {
                connection.until_closed().await;
                return;
            }
            connection.send(ok("served")).await;
        }
    })
    .await;
    let config = with(
        api(&[app.endpoint()]),
        json!({ "services": { "api": { "health_check": check(json!({ "path": "/healthz" })) } } }),
    );
    let sidecar = Sidecar::start(config).await;
    until_state(&sidecar, &app, "unhealthy").await;
}
