//! Requests find the service, the path and the fields that the configuration says.

use serde_json::{Value, json};

use crate::support::{
    App, Client, Sidecar, get, ok, send,
    sidecar::{api, with},
};

/// Services that say their own name, and a sidecar with `routes` to them.
async fn sidecar(names: &[&'static str], routes: Value) -> (Vec<App>, Sidecar) {
    let mut apps = Vec::new();
    let mut services = json!({});
    for name in names {
        let app = App::saying(name).await;
        services[*name] = json!({ "endpoints": [app.endpoint()] });
        apps.push(app);
    }
    let sidecar = Sidecar::start(json!({ "routes": routes, "services": services })).await;
    (apps, sidecar)
}

#[tokio::test]
async fn the_most_specific_host_decides_and_its_port_and_case_do_not() {
    let (_apps, sidecar) = sidecar(
        &["any", "suffix", "exact"],
        json!([
            { "service": "any" },
            { "match": { "hosts": ["*.shop.mesh"] }, "service": "suffix" },
            { "match": { "hosts": ["api.shop.mesh"] }, "service": "exact" },
        ]),
    )
    .await;
    for (host, expected) in [
        ("api.shop.mesh", "exact"),
        ("API.shop.mesh:8080", "exact"),
        ("a.shop.mesh", "suffix"),
        ("a.b.shop.mesh", "suffix"),
        ("shop.mesh", "any"),
        ("elsewhere", "any"),
    ] {
        assert_eq!(get(sidecar.outbound(), host, "/").await.text(), expected, "{host}");
    }
}

#[tokio::test]
async fn exact_paths_come_before_expressions_and_those_before_the_longest_prefix() {
    let (_apps, sidecar) = sidecar(
        &["root", "long", "regex", "exact"],
        json!([
            { "match": { "path_prefix": "/" }, "service": "root" },
            { "match": { "path_prefix": "/a/b" }, "service": "long" },
            { "match": { "path_regex": "/a/b/[0-9]+" }, "service": "regex" },
            { "match": { "path": "/a/b/1" }, "service": "exact" },
        ]),
    )
    .await;
    for (path, expected) in [
        ("/a/b/1", "exact"),
        ("/a/b/1?q", "exact"),
        ("/a/b/12", "regex"),
        ("/a/b/12x", "long"),
        ("/a/bc", "root"),
        ("/a/b", "long"),
        ("/x/../a/b/1", "exact"),
    ] {
        assert_eq!(get(sidecar.outbound(), "h", path).await.text(), expected, "{path}");
    }
}

#[tokio::test]
async fn method_fields_and_query_choose_among_routes_of_one_path() {
    let (_apps, sidecar) = sidecar(
        &["plain", "post", "canary", "second"],
        json!([
            { "service": "plain" },
            { "match": { "methods": ["POST"] }, "service": "post" },
            { "match": { "headers": [{ "name": "x-canary", "exact": "1" }] }, "service": "canary" },
            { "match": { "query": [{ "name": "version", "exact": "2" }] }, "service": "second" },
        ]),
    )
    .await;
    let to = sidecar.outbound();
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nhost: h\r\n\r\n", "plain"),
        ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n", "post"),
        ("GET / HTTP/1.1\r\nhost: h\r\nx-canary: 1\r\n\r\n", "canary"),
        ("GET / HTTP/1.1\r\nhost: h\r\nx-canary: 2\r\n\r\n", "plain"),
        ("GET /?version=2 HTTP/1.1\r\nhost: h\r\n\r\n", "second"),
        ("GET /?version=3&version=2 HTTP/1.1\r\nhost: h\r\n\r\n", "plain"),
    ] {
        assert_eq!(send(to, request).await.text(), expected, "{request}");
    }
}

#[tokio::test]
async fn a_split_shares_requests_out_by_weight() {
    let split = json!([{ "split": [
        { "service": "much", "weight": 80 },
        { "service": "little", "weight": 20 },
        { "service": "nothing", "weight": 0 },
    ] }]);
    let (apps, sidecar) = sidecar(&["much", "little", "nothing"], split).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..500 {
        assert_eq!(client.get("h", "/").await.status, 200);
    }
    let counts: Vec<usize> = apps.iter().map(|app| app.requests().len()).collect();
    // 400 are expected, with a deviation of 9: nine deviations do not happen by chance.
    assert!((320..480).contains(&counts[0]), "{counts:?}");
    assert_eq!((counts[0] + counts[1], counts[2]), (500, 0));
}

#[tokio::test]
async fn requests_are_spread_over_the_endpoints_of_a_service() {
    let (one, two) = (App::saying("one").await, App::saying("two").await);
    let config = api(&[one.endpoint(), two.endpoint()]);
    let config = with(config, json!({ "defaults": { "load_balancer": { "policy": "round_robin" } } }));
    let sidecar = Sidecar::start(config).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    for _ in 0..10 {
        client.get("h", "/").await;
    }
    assert_eq!((one.requests().len(), two.requests().len()), (5, 5));
}

#[tokio::test]
async fn a_ring_hash_keeps_each_key_at_its_endpoint() {
    let (one, two) = (App::saying("one").await, App::saying("two").await);
    let policy = json!({ "policy": "ring_hash", "hash_on": { "header": "x-user" } });
    let config = with(
        api(&[one.endpoint(), two.endpoint()]),
        json!({ "services": { "api": { "load_balancer": policy } } }),
    );
    let sidecar = Sidecar::start(config).await;
    let mut seen = std::collections::BTreeMap::<usize, String>::new();
    for round in 0..40 {
        let user = round % 20;
        let request = format!("GET / HTTP/1.1\r\nhost: h\r\nx-user: user-{user}\r\n\r\n");
        let answered_by = send(sidecar.outbound(), request).await.text();
        assert_eq!(*seen.entry(user).or_insert_with(|| answered_by.clone()), answered_by, "user {user}");
    }
    assert!(seen.values().any(|by| by == "one") && seen.values().any(|by| by == "two"), "{seen:?}");
}

#[tokio::test]
async fn path_and_host_are_rewritten_and_the_query_is_kept() {
    let (apps, sidecar) = sidecar(
        &["api"],
        json!([
            { "match": { "path_prefix": "/api" }, "service": "api",
              "rewrite": { "path_prefix": "/v2", "host": "api.internal" } },
            { "match": { "path": "/whole" }, "service": "api", "rewrite": { "path": "/other" } },
        ]),
    )
    .await;
    get(sidecar.outbound(), "public", "/api/items?q=1").await;
    get(sidecar.outbound(), "public", "/whole?q=2").await;
    let seen = apps[0].requests();
    assert_eq!((seen[0].target(), seen[0].field("host")), ("/v2/items?q=1", Some("api.internal")));
    assert_eq!((seen[1].target(), seen[1].field("host")), ("/other?q=2", Some("public")));
}

#[tokio::test]
async fn redirects_and_direct_answers_need_no_service() {
    let sidecar = Sidecar::start(json!({ "routes": [
        { "match": { "path_prefix": "/old" },
          "redirect": { "status": 308, "scheme": "https", "host": "www.example.com", "path_prefix": "/new" } },
        { "match": { "path": "/teapot" }, "direct_response": { "status": 418, "body": "short and stout" },
          "headers": { "response": { "set": { "x-kind": "direct" } } } },
    ] }))
    .await;
    let moved = get(sidecar.outbound(), "h:81", "/old/page?q").await;
    assert_eq!(moved.status, 308);
    assert_eq!(moved.field("location"), Some("https://www.example.com/new/page?q"));
    let teapot = get(sidecar.outbound(), "h", "/teapot").await;
    assert_eq!((teapot.status, teapot.text().as_str()), (418, "short and stout"));
    assert_eq!((teapot.flag(), teapot.field("x-kind")), ("direct", Some("direct")));
    assert_eq!(teapot.field("proxy-status"), Some("outrigger"));
}

#[tokio::test]
async fn fields_are_removed_set_and_added_in_both_directions() {
    let app = App::answering(|_| {
        b"HTTP/1.1 200 OK\r\nserver: secret\r\nx-frame: weak\r\nvia: a\r\ncontent-length: 0\r\n\r\n".to_vec()
    })
    .await;
    let edits = json!({
        "request": { "remove": ["x-debug"], "set": { "x-env": "prod" }, "add": { "x-hop": "second" } },
        "response": { "remove": ["server"], "set": { "x-frame": "deny" }, "add": { "via": "b" } },
    });
    let config = json!({
        "routes": [{ "service": "api", "headers": edits }],
        "services": { "api": { "endpoints": [app.endpoint()] } },
    });
    let sidecar = Sidecar::start(config).await;
    let request = "GET / HTTP/1.1\r\nhost: h\r\nx-debug: 1\r\nx-env: dev\r\nx-hop: first\r\n\r\n";
    let answer = send(sidecar.outbound(), request).await;
    let seen = app.only_request();
    assert_eq!((seen.field("x-debug"), seen.head.all("x-env")), (None, vec!["prod"]));
    assert_eq!(seen.head.all("x-hop"), ["first", "second"]);
    assert_eq!((answer.field("server"), answer.head.all("x-frame")), (None, vec!["deny"]));
    assert_eq!(answer.head.all("via"), ["a", "b"]);
}

#[tokio::test]
async fn what_belongs_to_one_connection_does_not_pass_in_either_direction() {
    let app = App::answering(|_| {
        b"HTTP/1.1 200 OK\r\nconnection: keep-alive, x-hop-secret\r\nkeep-alive: timeout=5\r\n\
          x-hop-secret: 1\r\nproxy-connection: keep-alive\r\nx-kept: 1\r\ncontent-length: 0\r\n\r\n"
            .to_vec()
    })
    .await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    let answer = send(
        sidecar.outbound(),
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, x-secret\r\nx-secret: 1\r\nkeep-alive: 3\r\n\
         proxy-connection: keep-alive\r\nte: gzip\r\nx-kept: 1\r\n\r\n",
    )
    .await;
    let seen = app.only_request();
    for name in ["connection", "x-secret", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert_eq!(seen.field(name), None, "{name} reached the application");
    }
    assert_eq!(seen.field("x-kept"), Some("1"));
    for name in ["keep-alive", "x-hop-secret", "proxy-connection"] {
        assert_eq!(answer.field(name), None, "{name} reached the client");
    }
    assert_eq!(answer.field("x-kept"), Some("1"));
}

#[tokio::test]
async fn a_client_cannot_take_away_what_says_who_sent_the_request() {
    let app = App::saying("").await;
    let sidecar = Sidecar::start(api(&[app.endpoint()])).await;
    send(
        sidecar.outbound(),
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: x-forwarded-for, authorization, host\r\n\
         x-forwarded-for: 10.0.0.1\r\nauthorization: Basic eA==\r\n\r\n",
    )
    .await;
    let seen = app.only_request();
    assert_eq!(seen.field("x-forwarded-for"), Some("10.0.0.1"));
    assert_eq!(seen.field("authorization"), Some("Basic eA=="));
    assert_eq!(seen.field("host"), Some("h"));
}

#[tokio::test]
async fn a_claimed_identity_never_reaches_an_application() {
    let app = App::saying("").await;
    let config = with(api(&[app.endpoint()]), json!({ "service": { "address": app.endpoint() } }));
    let sidecar = Sidecar::start(config).await;
    let request = "GET / HTTP/1.1\r\nhost: h\r\nx-forwarded-client-cert: By=spiffe://x\r\n\
                   X-Outrigger-Source: admin\r\nx-outrigger-flag: none\r\n\r\n";
    for to in [sidecar.inbound(), sidecar.outbound()] {
        assert_eq!(send(to, request).await.status, 200);
    }
    for seen in app.requests() {
        let claimed = |name: &str| name.starts_with("x-outrigger-") || name == "x-forwarded-client-cert";
        assert!(!seen.head.fields.iter().any(|(name, _)| claimed(name)), "{seen:?}");
    }
}

#[tokio::test]
async fn the_inbound_listener_serves_the_application_whatever_the_host() {
    let app = App::saying("inside").await;
    let sidecar = Sidecar::start(json!({ "service": { "address": app.endpoint() } })).await;
    for host in ["web", "anything.else:81"] {
        assert_eq!(get(sidecar.inbound(), host, "/").await.text(), "inside");
    }
    assert_eq!(app.requests()[1].field("host"), Some("anything.else:81"));
}

#[tokio::test]
async fn an_application_may_listen_on_a_unix_socket() {
    let directory = crate::support::sidecar::Directory::new();
    let path = directory.0.join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("the directory is ours");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut wire = crate::support::wire::Wire::new(stream);
                while wire.head().await.is_some() {
                    // A failure shows at the client.
                    let _ = wire.write(&ok("by path")).await;
                }
            });
        }
    });
    let address = format!("unix:{}", path.display());
    let config = json!({
        "service": { "address": address },
        "routes": [{ "service": "api" }],
        "services": { "api": { "endpoints": [address] } },
    });
    let sidecar = Sidecar::start(config).await;
    for to in [sidecar.inbound(), sidecar.outbound()] {
        assert_eq!(get(to, "h", "/").await.text(), "by path");
    }
}

#[tokio::test]
async fn a_name_of_the_hosts_file_is_an_endpoint() {
    let app = App::saying("by name").await;
    let name = format!("localhost:{}", app.address.port());
    let config = json!({ "routes": [{ "service": "api" }], "services": { "api": { "dns": name } } });
    let sidecar = Sidecar::start(config).await;
    crate::support::eventually("the name is resolved", async || {
        (get(sidecar.outbound(), "h", "/").await.text() == "by name").then_some(())
    })
    .await;
}
