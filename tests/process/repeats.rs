//! Which answers a route repeats, how often, what that costs, and who is told.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use crate::support::{
    App, Client, Sidecar, get, ok, send,
    sidecar::{api, free_address, with},
    wait_until,
};

fn failing(status: &str, extra: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{extra}content-length: 0\r\n\r\n").into_bytes()
}

/// Answers like this, always.
async fn always(status: &'static str, extra: &'static str) -> App {
    App::answering(move |_| failing(status, extra)).await
}

/// These endpoints in turn, with these keys of `retry`. The breaker would end what is to be seen here.
fn repeating(endpoints: &[&App], retry: &Value) -> Value {
    let endpoints: Vec<String> = endpoints.iter().map(|app| app.endpoint()).collect();
    with(
        api(&endpoints),
        json!({ "defaults": {
            "load_balancer": { "policy": "round_robin" },
            "circuit_breaker": "none",
            "retry": retry,
        } }),
    )
}

#[tokio::test]
async fn a_status_that_the_route_names_is_answered_by_another_endpoint() {
    let (sick, well) = (always("503 Service Unavailable", "").await, App::saying("well").await);
    let sidecar = Sidecar::start(repeating(&[&sick, &well], &json!({ "retry_on": [503] }))).await;
    for _ in 0..4 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "well");
    }
    assert!(!sick.requests().is_empty());
    sidecar.until_metric("outrigger_retries_total", &["reason=\"status\""], 1.0).await;
}

#[tokio::test]
async fn a_post_whose_sidecar_did_not_reach_its_application_goes_to_another_endpoint() {
    let lonely = Sidecar::start(json!({ "service": { "address": free_address().to_string() } })).await;
    let well = App::saying("well").await;
    let config = with(
        api(&[lonely.inbound().to_string(), well.endpoint()]),
        json!({ "defaults": { "load_balancer": { "policy": "round_robin" } } }),
    );
    let sidecar = Sidecar::start(config).await;
    for _ in 0..4 {
        let post = "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(send(sidecar.outbound(), post).await.text(), "well");
    }
    sidecar.until_metric("outrigger_retries_total", &["reason=\"refused\""], 1.0).await;
}

#[tokio::test]
async fn a_status_that_the_route_does_not_name_goes_to_the_client() {
    let (one, two) =
        (always("503 Service Unavailable", "").await, always("503 Service Unavailable", "").await);
    let sidecar = Sidecar::start(repeating(&[&one, &two], &json!({}))).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 503);
    assert_eq!(one.accepted() + two.accepted(), 1);
}

#[tokio::test]
async fn a_post_is_not_repeated_for_its_status_unless_the_route_says_so() {
    for (bold, sent, status) in [(false, 1, 503), (true, 2, 200)] {
        let (sick, well) = (always("503 Service Unavailable", "").await, App::saying("well").await);
        let retry = json!({ "retry_on": ["5xx"], "retry_non_idempotent": bold });
        let sidecar = Sidecar::start(repeating(&[&sick, &well], &retry)).await;
        // One of two requests meets the sick endpoint.
        let mut met = None;
        while met.is_none() {
            let before = sick.requests().len() + well.requests().len();
            let answer =
                send(sidecar.outbound(), "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi").await;
            if !sick.requests().is_empty() {
                met = Some((sick.requests().len() + well.requests().len() - before, answer.status));
            }
        }
        assert_eq!(met, Some((sent, status)), "retry_non_idempotent: {bold}");
        let denied = sidecar.metric("outrigger_retries_denied_total", &["reason=\"not_idempotent\""]).await;
        assert_eq!(denied, if bold { 0.0 } else { 1.0 });
    }
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_left_for_another() {
    let hanging = App::script(|mut connection| async move {
        connection.request().await;
        connection.until_closed().await;
    })
    .await;
    let well = App::saying("well").await;
    let sidecar = Sidecar::start(repeating(&[&hanging, &well], &json!({ "per_try_timeout": "100ms" }))).await;
    for _ in 0..2 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "well");
    }
    sidecar.until_metric("outrigger_retries_total", &["reason=\"timeout\""], 1.0).await;
    wait_until("the slow attempt is cancelled", || hanging.open() == 0).await;
}

#[tokio::test]
async fn what_always_fails_costs_no_more_than_the_budget_allows() {
    let (one, two) =
        (always("500 Internal Server Error", "").await, always("500 Internal Server Error", "").await);
    let retry = json!({ "attempts": 3, "retry_on": ["5xx"], "backoff": { "base": "1ms", "max": "1ms" } });
    let sidecar = Sidecar::start(repeating(&[&one, &two], &retry)).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..300 {
        let answer = client.get("h", "/").await;
        assert!(answer.status >= 500, "{answer:?}");
    }
    // 20 % of them, and 3 for each of 10 seconds.
    let sent = one.requests().len() + two.requests().len();
    assert!(sent <= 300 + 60 + 30, "{sent} attempts for 300 requests");
    sidecar.until_metric("outrigger_retries_denied_total", &["reason=\"budget\""], 1.0).await;
}

#[tokio::test]
async fn a_wait_that_does_not_fit_the_time_left_ends_the_request_with_the_answer_there_is() {
    let limited = always("429 Too Many Requests", "retry-after: 60\r\n").await;
    let sidecar = Sidecar::start(repeating(&[&limited], &json!({ "retry_on": [429] }))).await;
    let answer = get(sidecar.outbound(), "h", "/").await;
    assert_eq!((answer.status, answer.field("retry-after")), (429, Some("60")));
    assert_eq!(limited.requests().len(), 1);
    sidecar.until_metric("outrigger_retries_denied_total", &["reason=\"deadline\""], 1.0).await;
}

#[tokio::test]
async fn later_attempts_say_so_and_a_repetition_is_not_repeated_by_the_next_layer() {
    let number = |request: &crate::support::app::Request| {
        request.field("x-outrigger-attempt").unwrap_or("1").to_owned()
    };
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let app = App::answering(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => failing("503 Service Unavailable", ""),
        _ => ok(&number(request)),
    })
    .await;
    let sidecar = Sidecar::start(repeating(&[&app], &json!({ "retry_on": [503] }))).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "2");
    seen.store(0, Ordering::SeqCst);
    let repeated = "GET / HTTP/1.1\r\nhost: h\r\nx-outrigger-attempt: 2\r\n\r\n";
    assert_eq!(send(sidecar.outbound(), repeated).await.status, 503);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    sidecar.until_metric("outrigger_retries_denied_total", &["reason=\"attempts\""], 1.0).await;
}

#[tokio::test]
async fn a_hedge_answers_for_a_slow_endpoint_and_the_slow_attempt_is_cancelled() {
    let hanging = App::script(|mut connection| async move {
        connection.request().await;
        connection.until_closed().await;
    })
    .await;
    let well = App::saying("well").await;
    let retry = json!({ "hedge": { "percentile": 90, "min_delay": "20ms" } });
    let sidecar = Sidecar::start(repeating(&[&hanging, &well], &retry)).await;
    for _ in 0..4 {
        assert_eq!(get(sidecar.outbound(), "h", "/").await.text(), "well");
    }
    sidecar.until_metric("outrigger_hedges_total", &["outcome=\"won\""], 1.0).await;
    wait_until("the slow attempt is cancelled", || hanging.open() == 0).await;
    // What may not be sent twice is not hedged: the slow endpoint keeps it until the client goes.
    let before = hanging.requests().len();
    let mut clients = Vec::new();
    while hanging.requests().len() == before {
        let mut client = Client::connect(sidecar.outbound()).await;
        client.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
        clients.push(client);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn more_requests_than_a_service_may_have_in_flight_are_refused() {
    let hanging = App::script(|mut connection| async move {
        connection.request().await;
        connection.until_closed().await;
    })
    .await;
    let config = with(
        api(&[hanging.endpoint()]),
        json!({ "services": { "api": { "limits": { "max_requests": 2 } } } }),
    );
    let sidecar = Sidecar::start(config).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(sidecar.outbound()).await;
        client.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
        held.push(client);
    }
    wait_until("both are at the endpoint", || hanging.requests().len() == 2).await;
    let answer = get(sidecar.outbound(), "h", "/").await;
    assert_eq!((answer.status, answer.flag()), (503, "upstream_overflow"));
    sidecar.until_metric("outrigger_upstream_limit_rejections_total", &["limit=\"max_requests\""], 1.0).await;
    // A place that became free is given to the next.
    drop(held);
    let mut next = Client::connect(sidecar.outbound()).await;
    wait_until("the held ones are cancelled", || hanging.open() == 0).await;
    next.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    wait_until("the next is at the endpoint", || hanging.requests().len() == 3).await;
}

#[tokio::test]
async fn a_post_is_never_sent_twice_wherever_the_connection_breaks() {
    const REQUEST: &str = "POST /p HTTP/1.1\r\nhost: h\r\ncontent-length: 20\r\n\r\n01234567890123456789";
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
    let place = Arc::new(AtomicUsize::new(1));
    let read = Arc::new(AtomicUsize::new(0));
    let (here, reads) = (Arc::clone(&place), Arc::clone(&read));
    // What arrives is longer than what the client sent: the proxy adds its own fields. How long, a first request tells.
    let whole = Arc::new(AtomicUsize::new(0));
    let (length, measured) = (Arc::clone(&whole), Arc::clone(&whole));
    let app = App::script(move |mut connection| {
        let (place, reads) = (here.load(Ordering::SeqCst), Arc::clone(&reads));
        let (whole, measured) = (length.load(Ordering::SeqCst), Arc::clone(&measured));
        async move {
            if whole == 0 {
                let request = connection.request().await.expect("a request");
                let fields = request.head.fields.iter().map(|(name, value)| name.len() + value.len() + 4);
                let head = request.head.start.len() + 2 + fields.sum::<usize>() + 2;
                measured.store(head + request.body.data.len(), Ordering::SeqCst);
                connection.send(ANSWER).await;
                return;
            }
            if place < whole {
                connection.wire.exactly(place).await;
                reads.fetch_add(1, Ordering::SeqCst);
            } else {
                connection.request().await;
                reads.fetch_add(1, Ordering::SeqCst);
                connection.send(&ANSWER[..place - whole]).await;
            }
            connection.reset();
        }
    })
    .await;
    let config = with(
        api(&[app.endpoint()]),
        json!({ "defaults": { "retry": { "attempts": 5, "retry_on": ["5xx", "reset", "connect-failure"] } } }),
    );
    // Every attempt fails, which would open the circuit.
    let config = with(config, json!({ "services": { "api": { "circuit_breaker": "none" } } }));
    let sidecar = Sidecar::start(config).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(REQUEST).await;
    assert_eq!(client.response().await.status, 200);
    let whole = whole.load(Ordering::SeqCst);
    assert!(whole > REQUEST.len(), "{whole} bytes arrived");
    // Breaks after this many bytes of the request, and then of the answer.
    for at in 1..whole + ANSWER.len() {
        place.store(at, Ordering::SeqCst);
        read.store(0, Ordering::SeqCst);
        let mut client = Client::connect(sidecar.outbound()).await;
        client.send(REQUEST).await;
        // An answer that breaks at once may end the client's connection before any of it was written.
        if let Some(answer) = client.try_response().await {
            assert!(answer.status == 502 || !answer.is_complete(), "byte {at}: {answer:?}");
        }
        assert_eq!(read.load(Ordering::SeqCst), 1, "byte {at}: sent twice");
    }
}
