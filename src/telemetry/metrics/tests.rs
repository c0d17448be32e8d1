//! The registry as a scraper sees it.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use ::http::Method;

use super::*;
use crate::types::Flag;

const MINUTE: Duration = Duration::from_secs(60);

fn ok() -> RequestOutcome<'static> {
    RequestOutcome {
        method: &Method::GET,
        status: 200,
        flag: Flag::None,
        duration: Duration::from_millis(3),
        time_to_first_byte: Some(Duration::from_millis(2)),
        overhead: Some(Duration::from_micros(15)),
        request_bytes: 10,
        response_bytes: 200,
    }
}

fn at(minutes: u32) -> Mono {
    Mono::ZERO.after(MINUTE * minutes)
}

fn live(routes: &[(&str, &str)]) -> LiveLabels {
    let route = |(service, route): &(&str, &str)| RouteLabels {
        direction: Direction::Outbound,
        service: Arc::from(*service),
        route: Arc::from(*route),
    };
    LiveLabels {
        routes: routes.iter().map(route).collect(),
        services: routes.iter().map(|(service, _)| Arc::from(*service)).collect(),
    }
}

fn assert_has(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "no line {line:?} in:\n{text}");
}

/// One of everything.
fn full_registry() -> Arc<Registry> {
    let registry = Registry::new(2000, 2);
    let http = HttpMetrics::resolve(&registry, Direction::Outbound, "shop", "shop/all");
    let guard = http.enter();
    guard.observe(&ok());
    http.observe(&RequestOutcome { status: 0, flag: Flag::DownstreamClosed, ..ok() });
    http.observe(&RequestOutcome { status: 799, time_to_first_byte: None, overhead: None, ..ok() });
    http.retried(RetryReason::Refused);
    let cluster = ClusterMetrics::resolve(&registry, "shop");
    cluster.set_endpoints([1, 0, 0, 0, 2]);
    cluster.set_panic_mode(true);
    cluster.connections(ConnectionState::Idle, ConnectionProtocol::Http2).increment();
    cluster.connected(ConnectResult::Ok, Duration::from_millis(1));
    cluster.connected(ConnectResult::Refused, Duration::from_millis(1));
    cluster.pending().increment();
    cluster.limit_reached(LimitKind::QueueTimeout);
    cluster.health_checked(false);
    let listener = ListenerMetrics::resolve(&registry, Direction::Inbound);
    listener.open(ConnectionProtocol::Http1).increment();
    listener.opened(ConnectionProtocol::Http1, ListenerOutcome::Accepted);
    listener.rejected("cl_te");
    listener.rejected("cl_te");
    let config = ConfigMetrics::resolve(&registry);
    config.running("aaaa", "shop");
    config.running("bbbb", "shop");
    let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    config.reloaded(ReloadTrigger::Start, ReloadOutcome::Success, noon);
    config.reloaded(ReloadTrigger::Signal, ReloadOutcome::Failure, noon + MINUTE);
    config.published(Duration::from_millis(2));
    GossipMetrics::resolve(&registry).probed(Duration::from_millis(2));
    registry
}

#[test]
fn everything_that_was_counted_is_rendered() {
    let text = full_registry().render(Mono::ZERO);
    let requests = "outrigger_http_requests_total{direction=\"outbound\",source=\"unknown\",service=\"shop\",route=\"shop/all\",method=\"GET\"";
    assert_has(&text, &format!("{requests},status=\"200\",flag=\"\"}} 1"));
    assert_has(&text, &format!("{requests},status=\"0\",flag=\"downstream_closed\"}} 1"));
    assert_has(&text, &format!("{requests},status=\"other\",flag=\"\"}} 1"));
    for line in [
        "outrigger_http_request_duration_seconds_bucket{direction=\"outbound\",service=\"shop\",route=\"shop/all\",le=\"0.0025\"} 0",
        "outrigger_http_request_duration_seconds_bucket{direction=\"outbound\",service=\"shop\",route=\"shop/all\",le=\"0.005\"} 3",
        "outrigger_http_request_duration_seconds_bucket{direction=\"outbound\",service=\"shop\",route=\"shop/all\",le=\"+Inf\"} 3",
        "outrigger_http_time_to_first_byte_seconds_count{direction=\"outbound\",service=\"shop\",route=\"shop/all\"} 2",
        "outrigger_proxy_overhead_seconds_bucket{direction=\"outbound\",le=\"0.00002\"} 2",
        "outrigger_http_requests_in_flight{direction=\"outbound\",service=\"shop\"} 0",
        "outrigger_http_response_body_bytes_total{direction=\"outbound\",service=\"shop\"} 600",
        "outrigger_retries_total{service=\"shop\",route=\"shop/all\",reason=\"refused\"} 1",
        "outrigger_endpoints{service=\"shop\",state=\"unhealthy\"} 1",
        "outrigger_panic_mode{service=\"shop\"} 1",
        "outrigger_upstream_connections{service=\"shop\",state=\"idle\",protocol=\"http2\"} 1",
        "outrigger_upstream_connects_total{service=\"shop\",result=\"refused\"} 1",
        "outrigger_upstream_connect_duration_seconds_count{service=\"shop\"} 1",
        "outrigger_upstream_pending_requests{service=\"shop\"} 1",
        "outrigger_upstream_limit_rejections_total{service=\"shop\",limit=\"queue_timeout\"} 1",
        "outrigger_health_checks_total{service=\"shop\",result=\"failure\"} 1",
        "outrigger_downstream_connections{direction=\"inbound\",protocol=\"http1\"} 1",
        "outrigger_downstream_connections_total{direction=\"inbound\",protocol=\"http1\",result=\"accepted\"} 1",
        "outrigger_http_rejected_total{direction=\"inbound\",reason=\"cl_te\"} 2",
        "outrigger_config_info{hash=\"bbbb\",service=\"shop\"} 1",
        "outrigger_config_last_reload_successful 0",
        "outrigger_config_last_reload_success_timestamp_seconds 1800000000",
        "outrigger_config_reloads_total{result=\"failure\",trigger=\"signal\"} 1",
        "outrigger_access_log_dropped_total 0",
        "outrigger_runtime_workers 2",
    ] {
        assert_has(&text, line);
    }
    assert!(!text.contains("aaaa"), "the configuration that ran before is gone");
    for name in [
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "process_start_time_seconds ",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is missing");
    }
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        eprintln!("SKIPPED: promtool is not installed, the exposition format was not checked");
        return;
    };
    let text = full_registry().render(Mono::ZERO);
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}

#[test]
fn every_family_has_its_help_and_type_exactly_once() {
    let text = full_registry().render(Mono::ZERO);
    let mut types: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let helps = text.lines().filter(|line| line.starts_with("# HELP ")).count();
    let all = types.len();
    types.sort_unstable();
    types.dedup();
    assert_eq!((types.len(), helps), (all, all));
}

#[test]
fn the_same_labels_give_the_same_handle() {
    let registry = Registry::new(2000, 1);
    let first = HttpMetrics::resolve(&registry, Direction::Inbound, "a", "r");
    let again = HttpMetrics::resolve(&registry, Direction::Inbound, "a", "r");
    let other = HttpMetrics::resolve(&registry, Direction::Outbound, "a", "r");
    assert!(Arc::ptr_eq(&first, &again) && !Arc::ptr_eq(&first, &other));
    assert!(Arc::ptr_eq(&ClusterMetrics::resolve(&registry, "a"), &ClusterMetrics::resolve(&registry, "a")));
}

#[test]
fn a_request_is_in_flight_until_its_guard_is_dropped() {
    let registry = Registry::new(2000, 1);
    let guard = HttpMetrics::resolve(&registry, Direction::Inbound, "a", "r").enter();
    let line =
        |n: u8| format!("outrigger_http_requests_in_flight{{direction=\"inbound\",service=\"a\"}} {n}");
    assert_has(&registry.render(Mono::ZERO), &line(1));
    drop(guard);
    assert_has(&registry.render(Mono::ZERO), &line(0));
}

#[test]
fn routes_beyond_the_cap_share_the_overflow_series_and_are_counted() {
    let registry = Registry::new(2, 1);
    for route in ["a", "b", "c", "d"] {
        HttpMetrics::resolve(&registry, Direction::Outbound, "s", route).observe(&ok());
    }
    let text = registry.render(Mono::ZERO);
    assert_has(
        &text,
        "outrigger_http_request_duration_seconds_count{direction=\"outbound\",service=\"__overflow__\",route=\"__overflow__\"} 2",
    );
    assert_has(
        &text,
        "outrigger_http_requests_total{direction=\"outbound\",source=\"__overflow__\",service=\"__overflow__\",route=\"__overflow__\",method=\"GET\",status=\"200\",flag=\"\"} 2",
    );
    assert_has(
        &text,
        "outrigger_metrics_series_overflow_total{metric=\"outrigger_http_request_duration_seconds\"} 2",
    );
}

#[test]
fn a_service_with_arbitrary_statuses_cannot_grow_the_table_of_its_route() {
    let registry = Registry::new(100_000, 1);
    let http = HttpMetrics::resolve(&registry, Direction::Outbound, "s", "r");
    for status in 100..=599 {
        http.observe(&RequestOutcome { status, ..ok() });
    }
    let text = registry.render(Mono::ZERO);
    let series = text.lines().filter(|line| line.starts_with("outrigger_http_requests_total{")).count();
    assert_eq!(series, 257);
    assert!(text.contains("status=\"__overflow__\",flag=\"__overflow__\"} 244"));
}

#[test]
fn series_of_a_removed_route_disappear_after_five_minutes_and_come_back_with_their_values() {
    let registry = Registry::new(2000, 1);
    HttpMetrics::resolve(&registry, Direction::Outbound, "old", "gone").observe(&ok());
    HttpMetrics::resolve(&registry, Direction::Outbound, "old", "gone").retried(RetryReason::Reset);
    HttpMetrics::resolve(&registry, Direction::Outbound, "kept", "stays").observe(&ok());
    let _clusters = ["old", "kept"].map(|service| ClusterMetrics::resolve(&registry, service));

    registry.retain(&live(&[("kept", "stays")]), at(10));
    registry.retain(&live(&[("kept", "stays")]), at(14));
    assert!(registry.render(at(14)).contains("service=\"old\""));
    let later = registry.render(at(15));
    assert!(!later.contains("service=\"old\""), "{later}");
    assert!(later.contains("outrigger_endpoints{service=\"kept\""));

    let returned = HttpMetrics::resolve(&registry, Direction::Outbound, "old", "gone");
    returned.observe(&ok());
    assert_has(
        &registry.render(at(20)),
        "outrigger_http_request_duration_seconds_count{direction=\"outbound\",service=\"old\",route=\"gone\"} 2",
    );
}

#[test]
fn a_service_that_lost_one_of_two_routes_keeps_its_totals() {
    let registry = Registry::new(2000, 1);
    for route in ["gone", "stays"] {
        HttpMetrics::resolve(&registry, Direction::Outbound, "s", route).observe(&ok());
    }
    registry.retain(&live(&[("s", "stays")]), at(0));
    let text = registry.render(at(6));
    assert!(!text.contains("route=\"gone\""));
    assert_has(&text, "outrigger_http_response_body_bytes_total{direction=\"outbound\",service=\"s\"} 400");
}

#[test]
fn the_first_registry_stays_the_global_one() {
    Registry::new(10, 1).install_global();
    assert!(!Registry::new(10, 1).install_global());
}
