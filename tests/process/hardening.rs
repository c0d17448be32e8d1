//! What a hostile or careless client may send that is well-formed in itself: paths and fields that servers read in
//! several ways, bodies that are too large or too slow, broken uploads.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    App, Client, Sidecar,
    footprint::Footprint,
    get,
    http2::{self, Http2},
    ok, send,
    sidecar::{api, with},
    wait_until,
};

/// An application that answers with the target and the names of the fields that it got, and a sidecar before it.
async fn echo(config: Value) -> (App, Sidecar) {
    let app = App::answering(|request| {
        let fields: Vec<&str> = request.head.fields.iter().map(|(name, _)| name.as_str()).collect();
        ok(&format!("{} {}", request.target(), fields.join(" ")))
    })
    .await;
    let sidecar = Sidecar::start(with(only_http1(&app), config)).await;
    (app, sidecar)
}

/// HTTP/2 clients reach an application that speaks HTTP/1.1.
fn only_http1(app: &App) -> Value {
    with(api(&[app.endpoint()]), json!({ "services": { "api": { "protocol": "http1" } } }))
}

fn normalize(how: &Value) -> Value {
    json!({ "listeners": { "normalize": how } })
}

/// The target that the application sees, or the status of the refusal, over both versions.
async fn seen(sidecar: &Sidecar, target: &str) -> Result<String, u16> {
    let over_http1 = get(sidecar.outbound(), "h", target).await;
    let result = match over_http1.status {
        200 => Ok(over_http1.text().split(' ').next().unwrap_or_default().to_owned()),
        status => Err(status),
    };
    let client = Http2::connect(sidecar.outbound()).await;
    let over_http2 = client.send(http2::get("h", target)).await.expect("an answer");
    let text = String::from_utf8_lossy(&over_http2.data);
    let also = match over_http2.status {
        200 => Ok(text.split(' ').next().unwrap_or_default().to_owned()),
        status => Err(status),
    };
    assert_eq!(result, also, "{target}: both versions see the same");
    result
}

#[tokio::test]
async fn a_traversal_is_resolved_or_refused_before_a_route_is_chosen() {
    let (_app, sidecar) = echo(json!({})).await;
    for (target, expected) in [
        ("/public/../admin", Ok("/admin")),
        ("/public/%2e%2E/admin", Ok("/admin")),
        ("/public/./x/..", Ok("/public/")),
        ("/../admin", Err(400)),
        ("/public/..;x=y/admin", Err(400)),
        ("/public/%2f..%2fadmin", Err(400)),
        ("/public%5c..%5cadmin", Err(400)),
        ("/public/..%2fadmin", Err(400)),
        ("/public/%00", Err(400)),
        ("/public/%zz", Err(400)),
        // What only a server that decodes twice takes for a traversal passes byte for byte, as it was decided upon.
        ("/public/%252e%252e/admin", Ok("/public/%252e%252e/admin")),
        ("/a//b%2Fc", Ok("/a//b%2Fc")),
    ] {
        assert_eq!(seen(&sidecar, target).await, expected.map(str::to_owned), "{target}");
    }
}

#[tokio::test]
async fn a_route_is_chosen_by_the_path_that_the_application_sees() {
    let app = App::answering(|request| ok(request.target())).await;
    let routes = json!([
        { "name": "admin", "match": { "path_prefix": "/admin" }, "direct_response": { "status": 403 } },
        { "name": "rest", "service": "api" },
    ]);
    let how = json!({ "escaped_slashes": "unescape", "merge_slashes": true });
    let config = with(api(&[app.endpoint()]), with(json!({ "routes": routes }), normalize(&how)));
    let sidecar = Sidecar::start(config).await;
    for target in
        ["/admin", "/x/../admin", "//admin", "/%2fadmin", "/x%2f..%5cadmin/y", "/%2e/admin", "/./admin/"]
    {
        assert_eq!(get(sidecar.outbound(), "h", target).await.status, 403, "{target}");
    }
    assert!(app.requests().is_empty());
    assert_eq!(get(sidecar.outbound(), "h", "/a%2Fb//c?d=%2f//").await.text(), "/a/b/c?d=%2f//");
}

#[tokio::test]
async fn escaped_slashes_are_refused_where_that_is_wanted() {
    let (_app, sidecar) = echo(normalize(&json!({ "escaped_slashes": "reject" }))).await;
    assert_eq!(seen(&sidecar, "/a%2fb").await, Err(400));
    assert_eq!(seen(&sidecar, "/a%5Cb").await, Err(400));
    assert_eq!(seen(&sidecar, "/a?b=%2f").await, Ok("/a?b=%2f".to_owned()));
}

async fn with_underscores(sidecar: &Sidecar) -> (u16, String) {
    let request = "GET / HTTP/1.1\r\nhost: h\r\nx_user: 1\r\nx_forwarded_client_cert: By=me\r\n\
                   x-outrigger_attempt: 9\r\nX_Outrigger_Flag: none\r\nx-user: 2\r\n\r\n";
    let answer = send(sidecar.outbound(), request).await;
    (answer.status, answer.text())
}

#[tokio::test]
async fn fields_with_underscores_never_pass_for_what_only_sidecars_say() {
    let (_app, sidecar) = echo(json!({})).await;
    let (status, fields) = with_underscores(&sidecar).await;
    assert_eq!(status, 200);
    assert!(fields.contains(" x_user") && fields.contains(" x-user"), "{fields}");
    assert!(!fields.contains("cert") && !fields.contains("outrigger"), "{fields}");

    let (_app, sidecar) = echo(normalize(&json!({ "headers_with_underscores": "drop" }))).await;
    let (status, fields) = with_underscores(&sidecar).await;
    assert!(status == 200 && fields.contains(" x-user") && !fields.contains('_'), "{fields}");

    let (app, sidecar) = echo(normalize(&json!({ "headers_with_underscores": "reject" }))).await;
    assert_eq!(with_underscores(&sidecar).await.0, 400);
    assert!(app.requests().is_empty());
    sidecar.until_metric("outrigger_http_rejected_total", &["reason=\"underscore\""], 1.0).await;
}

#[tokio::test]
async fn a_redirect_cannot_be_made_to_say_more_than_a_location() {
    let redirect = json!([{ "name": "moved", "redirect": { "host": "new.example" } }]);
    let sidecar = Sidecar::start(with(api(&["127.0.0.1:9".to_owned()]), json!({ "routes": redirect }))).await;
    let answer = get(sidecar.outbound(), "h", "/x%0d%0aset-cookie:%20a=b").await;
    assert_eq!(answer.field("location"), Some("http://new.example/x%0d%0aset-cookie:%20a=b"));
    assert_eq!(answer.field("set-cookie"), None);
}

#[tokio::test]
async fn a_body_that_is_larger_than_its_route_allows_is_answered_413_and_never_looks_whole() {
    let app = App::answering(|request| ok(&request.body.data.len().to_string())).await;
    let routes = json!([{ "name": "all", "service": "api", "max_request_size": "1000B" }]);
    let sidecar = Sidecar::start(with(only_http1(&app), json!({ "routes": routes }))).await;
    let post = |framing: &str, body: &str| format!("POST / HTTP/1.1\r\nhost: h\r\n{framing}\r\n\r\n{body}");
    let exact = "x".repeat(1000);
    assert_eq!(send(sidecar.outbound(), post("content-length: 1000", &exact)).await.text(), "1000");

    // One that is announced is not even begun, and costs no 100 Continue.
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(post("content-length: 1001\r\nexpect: 100-continue", "")).await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.flag()), (413, "bad_request"));
    assert!(answer.informational.is_empty());
    client.closed().await;
    assert_eq!(app.requests().len(), 1);

    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(post("transfer-encoding: chunked", &format!("3e8\r\n{exact}\r\n1\r\nx\r\n0\r\n\r\n"))).await;
    assert_eq!(client.response().await.status, 413);
    client.closed().await;
    let over_http2 = Http2::connect(sidecar.outbound()).await;
    let large = http2::get("h", "/").map(|_| vec![b'x'; 1001].into());
    assert_eq!(over_http2.send(large).await.expect("an answer").status, 413);
    assert!(app.requests().iter().skip(1).all(|request| !request.body.complete), "{:?}", app.requests());
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
}

#[tokio::test]
async fn an_upload_that_drips_is_ended_when_its_time_is_up() {
    let (app, sidecar) = echo(json!({ "listeners": { "request_timeout": "600ms" } })).await;
    let mut slow = Client::connect(sidecar.outbound()).await;
    slow.send("POST /slow HTTP/1.1\r\nhost: h\r\ncontent-length: 1000\r\n\r\n").await;
    let dripping = async {
        // The longest a test may take: the drip never ends by itself.
        for _ in 0..1000 {
            slow.send("x").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(get(sidecar.outbound(), "h", "/beside").await.status, 200);
        }
        unreachable!("it was let drip")
    };
    tokio::select! {
        () = dripping => {}
        _ = sidecar.logged("/slow") => {}
    }
    let answer = slow.response().await;
    assert_eq!((answer.status, answer.flag()), (408, "downstream_timeout"));
    slow.closed().await;
    let slow: Vec<_> = app.requests().into_iter().filter(|request| request.target() == "/slow").collect();
    assert!(slow.iter().all(|request| !request.body.complete));
}

#[tokio::test]
async fn uploads_that_clients_break_off_do_not_open_the_circuit_of_the_endpoint() {
    let app = App::answering(|request| ok(request.target())).await;
    let breaker = json!({ "consecutive_errors": 2, "error_rate": "none", "open_time": "60s" });
    let config =
        with(api(&[app.endpoint()]), json!({ "services": { "api": { "circuit_breaker": breaker } } }));
    let sidecar = Sidecar::start(config).await;
    for framing in ["content-length: 100", "transfer-encoding: chunked"] {
        for _ in 0..4 {
            let mut rude = Client::connect(sidecar.outbound()).await;
            rude.send(format!("POST /broken HTTP/1.1\r\nhost: h\r\n{framing}\r\n\r\n5\r\nfirst\r\n")).await;
            let before = app.requests().len();
            sidecar.until_metric("outrigger_upstream_connections", &["\"api\"", "active"], 1.0).await;
            rude.reset();
            wait_until("the endpoint has seen the end", || app.requests().len() > before).await;
        }
        for _ in 0..4 {
            let bad = "POST /malformed HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\nzz\r\n";
            assert_eq!(send(sidecar.outbound(), bad).await.status, 400);
        }
    }
    assert_eq!(get(sidecar.outbound(), "h", "/still").await.text(), "/still");
}

#[tokio::test]
async fn trailers_without_end_are_refused_and_the_request_never_looks_whole() {
    let app = App::saying("served").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    assert_eq!(get(sidecar.outbound(), "h", "/").await.status, 200);
    let before = Footprint::of(&sidecar);
    let head = "POST /trailers HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n";
    let many: String = (0..101).map(|number| format!("x-{number}: a\r\n")).collect();
    let large = format!("x-large: {}\r\n", "a".repeat(17 * 1024));
    for trailers in [many, large] {
        let mut client = Client::connect(sidecar.outbound()).await;
        client.send(format!("{head}{trailers}\r\n")).await;
        let answer = client.response().await;
        assert!(matches!(answer.status, 400 | 431), "{answer:?}");
        client.closed().await;
    }
    let seen = app.requests();
    assert!(seen.iter().filter(|request| request.target() == "/trailers").all(|one| !one.body.complete));
    before.is_reached_again(&sidecar).await;
}
