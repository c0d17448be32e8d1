//! What an operator can see from outside.

use serde_json::json;

use crate::support::{
    App, Client, Sidecar, eventually, get, send,
    sidecar::{api, with},
};

#[tokio::test]
async fn a_request_is_counted_with_its_labels_and_written_down_with_its_times() {
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    assert_eq!(
        send(sidecar.outbound(), "POST /seen HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc")
            .await
            .status,
        200
    );
    let labels = [
        "direction=\"outbound\"",
        "service=\"api\"",
        "route=\"all\"",
        "method=\"POST\"",
        "status=\"200\"",
        "flag=\"\"",
    ];
    sidecar.until_metric("outrigger_http_requests_total", &labels, 1.0).await;
    assert_eq!(sidecar.metric("outrigger_http_request_body_bytes_total", &["service=\"api\""]).await, 3.0);
    assert_eq!(sidecar.metric("outrigger_http_response_body_bytes_total", &["service=\"api\""]).await, 5.0);
    assert_eq!(
        sidecar.metric("outrigger_http_request_duration_seconds_count", &["route=\"all\""]).await,
        1.0
    );
    assert_eq!(sidecar.metric("outrigger_http_requests_in_flight", &[]).await, 0.0);
    assert_eq!(sidecar.metric("outrigger_upstream_connects_total", &["result=\"ok\""]).await, 1.0);
    assert!(sidecar.metric("process_resident_memory_bytes", &[]).await > 0.0);

    let line = sidecar.logged("/seen").await;
    for (key, expected) in [
        ("method", json!("POST")),
        ("host", json!("h")),
        ("route", json!("all")),
        ("service", json!("api")),
        ("endpoint", json!(app.endpoint())),
        ("status", json!(200)),
        ("flag", json!("")),
        ("bytes_in", json!(3)),
        ("bytes_out", json!(5)),
        ("attempts", json!(1)),
        ("protocol", json!("HTTP/1.1")),
    ] {
        assert_eq!(line[key], expected, "{key} in {line}");
    }
    assert!(line["duration_ms"].is_number() && line["request_id"].is_string(), "{line}");
}

#[tokio::test]
async fn gauges_of_connections_go_up_and_down() {
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    assert_eq!(client.get("h", "/").await.status, 200);
    sidecar.until_metric("outrigger_downstream_connections", &["outbound", "http1"], 1.0).await;
    sidecar.until_metric("outrigger_upstream_connections", &["state=\"idle\""], 1.0).await;
    drop(client);
    drop(app);
    for name in ["outrigger_downstream_connections", "outrigger_upstream_connections"] {
        eventually(&format!("{name} is 0"), async || (sidecar.metric(name, &[]).await == 0.0).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn a_request_id_is_kept_or_made_and_reaches_the_application() {
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    send(sidecar.outbound(), "GET /kept HTTP/1.1\r\nhost: h\r\nx-request-id: mine-1\r\n\r\n").await;
    get(sidecar.outbound(), "h", "/made").await;
    let seen = app.requests();
    assert_eq!(seen[0].field("x-request-id"), Some("mine-1"));
    assert_eq!(sidecar.logged("/kept").await["request_id"], "mine-1");
    let made = seen[1].field("x-request-id").expect("one was made");
    assert_eq!(made.len(), 36);
    assert_eq!(sidecar.logged("/made").await["request_id"], made);
}

#[tokio::test]
async fn the_trace_goes_on_through_the_sidecar() {
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    send(
        sidecar.outbound(),
        format!("GET /traced HTTP/1.1\r\nhost: h\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\ntracestate: a=b\r\n\r\n"),
    )
    .await;
    let seen = app.only_request();
    assert!(seen.field("traceparent").is_some_and(|parent| parent.contains(trace)), "{seen:?}");
    assert_eq!(seen.field("tracestate"), Some("a=b"));
    assert_eq!(sidecar.logged("/traced").await["trace_id"], trace);
}

#[tokio::test]
async fn the_level_of_the_log_changes_while_it_runs() {
    let nobody = crate::support::sidecar::free_address().to_string();
    let config = with(api(&[nobody]), json!({ "telemetry": { "log": { "level": "error" } } }));
    let sidecar = Sidecar::start(config).await;
    // Requests that fail are logged at debug.
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 502);
    assert!(!sidecar.log().contains("request failed"));
    let changed = sidecar.ask("PUT", "/v1/log", "{\"level\": \"debug\"}").await.expect("an answer");
    assert_eq!(changed.status, 200);
    let level = sidecar.document("/v1/log").await;
    assert!(level["level"].to_string().contains("debug"), "{level}");
    eventually("it tells more", async || {
        get(sidecar.outbound(), "h", "/").await;
        sidecar.log().contains("request failed").then_some(())
    })
    .await;
    let refused = sidecar.ask("PUT", "/v1/log", "{\"level\": \"nonsense=;\"}").await.expect("an answer");
    assert!(refused.status >= 400, "{refused:?}");
}

#[tokio::test]
async fn secrets_of_the_configuration_are_not_shown() {
    let directory = crate::support::sidecar::Directory::new();
    let secret = directory.0.join("secret");
    std::fs::write(&secret, "hunter2-hunter2\n").expect("the directory is ours");
    let app = App::saying("hello").await;
    let edits = json!({ "request": { "set": { "x-key": format!("${{file:{}}}", secret.display()) } } });
    let config = with(
        api(&[app.endpoint()]),
        json!({ "routes": [{ "name": "all", "service": "api", "headers": edits }] }),
    );
    let sidecar = Sidecar::start(config).await;
    get(sidecar.outbound(), "h", "/").await;
    assert_eq!(app.only_request().field("x-key"), Some("hunter2-hunter2"), "it is used");
    let shown = sidecar.admin_get("/v1/config").await.text();
    assert!(!shown.contains("hunter2") && shown.contains("x-key"), "{shown}");
}

#[tokio::test]
async fn services_and_routes_are_listed_with_their_state() {
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    get(sidecar.outbound(), "h", "/").await;
    assert_eq!(sidecar.endpoint_state(&app.endpoint()).await.as_deref(), Some("healthy"));
    let routes = sidecar.document("/v1/routes").await;
    assert_eq!((&routes["items"][0]["name"], &routes["items"][0]["hits"]), (&json!("all"), &json!(1)));
    let status = sidecar.status().await;
    assert_eq!((&status["state"], &status["service"]), (&json!("ready"), &json!("tested")));
}

#[tokio::test]
async fn the_metrics_listener_tells_metrics_and_nothing_else() {
    let metrics = crate::support::sidecar::free_address();
    let sidecar = Sidecar::start(json!({ "admin": { "metrics_address": metrics.to_string() } })).await;
    let answer = get(metrics, "prometheus", "/metrics").await;
    assert!(answer.status == 200 && answer.text().contains("outrigger_build_info"));
    assert_eq!(get(metrics, "prometheus", "/readyz").await.status, 200);
    for private in ["/v1/config", "/v1/status", "/v1/reload"] {
        assert_eq!(get(metrics, "prometheus", private).await.status, 404, "{private}");
    }
    assert_eq!(sidecar.admin_get("/v1/config").await.status, 200);
}

#[tokio::test]
async fn the_access_log_is_opened_anew_on_sigusr1() {
    let app = App::saying("hello").await;
    let directory = crate::support::sidecar::Directory::new();
    let path = directory.0.join("access.log");
    let log = json!({ "telemetry": { "access_log": { "path": path, "only": "all" } } });
    let sidecar = Sidecar::start(with(api(&[app.endpoint()]), log)).await;
    let contains = |file: &std::path::Path, what: &str| {
        std::fs::read_to_string(file).is_ok_and(|text| text.contains(what))
    };
    get(sidecar.outbound(), "h", "/before").await;
    crate::support::wait_until("the line is written", || contains(&path, "/before")).await;
    let moved = directory.0.join("access.log.1");
    std::fs::rename(&path, &moved).expect("the directory is ours");
    sidecar.signal("USR1");
    crate::support::wait_until("the file is there again", || path.exists()).await;
    get(sidecar.outbound(), "h", "/after").await;
    crate::support::wait_until("the line is written", || contains(&path, "/after")).await;
    assert!(!contains(&moved, "/after"));
}
