//! Bytes that are passed on unread to an application that may speak HTTP: they are never HTTP, whichever way they come,
//! and where every request must have something, they do not pass at all.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use serde_json::{Value, json};

use crate::{
    support::{
        App, Client, Sidecar, ok,
        sidecar::{Directory, api, with},
        wait_until,
    },
    tcp::{address, echo, line},
};

/// Claims what only a sidecar may say, and a path that may be forbidden.
const FORGED: &str = "GET /admin HTTP/1.1\r\nhost: web\r\nx-forwarded-client-cert: URI=spiffe://mesh.local/service/root\r\n\
                      x-outrigger-source: root\r\nx-user: root\r\n\r\n";
const CONNECTIONS: &str = "outrigger_tcp_connections_total";

/// Before an application of which nobody said what it speaks: silence passes on bytes.
fn open(app: &App) -> Value {
    json!({
        "service": { "name": "web", "address": app.endpoint() },
        "listeners": { "inbound": { "detect": true }, "detect_timeout": "20ms" },
    })
}

/// Greets first, then sends back what it gets.
async fn greeting_echo() -> App {
    App::script(|mut connection| async move {
        connection.send("220 ready").await;
        loop {
            let echoed = connection.wire.some().await;
            if echoed.is_empty() {
                return;
            }
            connection.send(echoed).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_was_silent_cannot_go_on_with_http() {
    let app = App::saying("hello").await;
    let sidecar = Sidecar::start(open(&app)).await;
    let mut client = Client::connect(sidecar.inbound()).await;
    wait_until("its connection is passed on", || app.accepted() == 1).await;
    client.send(FORGED).await;
    client.closed().await;
    assert!(app.requests().is_empty());
    let line = line(&sidecar, "http").await;
    assert_eq!((&line["listener"], &line["bytes_in"]), (&json!("inbound"), &json!(0)));
    let labels = ["direction=\"inbound\"", "service=\"web\"", "result=\"http\""];
    assert_eq!(sidecar.metric(CONNECTIONS, &labels).await, 1.0);
}

#[tokio::test]
async fn white_space_and_single_bytes_do_not_hide_a_request() {
    let app = greeting_echo().await;
    let sidecar = Sidecar::start(open(&app)).await;
    for (before, then) in [
        ("\n", FORGED),
        ("\r", FORGED),
        (" \t\r\n", FORGED),
        ("G", &FORGED[1..]),
        ("GET", &FORGED[3..]),
        ("a-method-that-is-longer-than-all-others", " /admin HTTP/1.1\r\n\r\n"),
        ("FOO x://web", "/admin HTTP/1.1\r\n\r\n"),
        ("PRI", " * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ] {
        let mut client = Client::connect(sidecar.inbound()).await;
        assert_eq!(client.bytes(9).await, b"220 ready", "{before:?}");
        client.send(before).await;
        // A word alone is no request, and its answer may be waited for.
        assert_eq!(client.bytes(before.len()).await, before.as_bytes());
        client.send(then).await;
        client.closed().await;
    }
    sidecar.until_metric(CONNECTIONS, &["result=\"http\""], 8.0).await;
}

#[tokio::test]
async fn an_application_that_speaks_first_is_answered_in_its_own_protocol() {
    let app = greeting_echo().await;
    let sidecar = Sidecar::start(open(&app)).await;
    let mut client = Client::connect(sidecar.inbound()).await;
    assert_eq!(client.bytes(9).await, b"220 ready");
    for said in ["ruok", "\r\nEHLO mail\r\n", FORGED] {
        client.send(said).await;
        assert_eq!(client.bytes(said.len()).await, said.as_bytes());
    }
    client.finish().await;
    client.closed().await;
    line(&sidecar, "closed").await;
}

#[tokio::test]
async fn empty_lines_of_any_kind_do_not_make_http_something_else() {
    let app = App::answering(|_| ok("hello")).await;
    let mut config = open(&app);
    config["listeners"]["detect_timeout"] = json!("0s");
    let sidecar = Sidecar::start(config).await;
    for before in ["\n", "\r\n\n", "\r", " ", "\t", "\u{1c}"] {
        let mut client = Client::connect(sidecar.inbound()).await;
        client.send(format!("{before}{FORGED}")).await;
        // Served as a request, or refused as one.
        let status = client.response().await.status;
        assert!([200, 400].contains(&status), "{before:?}: {status}");
    }
    for request in app.requests() {
        let forged = ["x-forwarded-client-cert", "x-outrigger-source"].map(|name| request.field(name));
        assert_eq!(forged, [None, None]);
    }
    assert_eq!(sidecar.metric(CONNECTIONS, &["direction=\"inbound\""]).await, 0.0);
}

#[tokio::test]
async fn where_every_request_is_asked_for_bytes_do_not_pass() {
    let (app, authz) = (echo().await, App::saying("").await);
    let directory = Directory::new();
    let secret = directory.0.join("secret");
    fs::write(&secret, "a secret of more than thirty-two bytes").expect("the directory is ours");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let issuer = |required: bool| {
        json!({ "jwt": [{ "issuer": "https://idp.test", "audiences": ["web"], "required": required,
                          "secret_file": secret }] })
    };
    for (intentions, passes) in [
        (json!({ "ext_authz": { "service": "api", "path": "/check" } }), false),
        (issuer(true), false),
        (issuer(false), true),
    ] {
        let config = with(api(&[authz.endpoint()]), open(&app));
        let sidecar = Sidecar::start(with(config, json!({ "intentions": intentions }))).await;
        let accepted = app.accepted();
        let mut client = Client::connect(sidecar.inbound()).await;
        client.send("EHLO mail.example\r\n").await;
        if passes {
            assert_eq!(client.bytes(19).await, b"EHLO mail.example\r\n");
        } else {
            client.closed().await;
            line(&sidecar, "denied").await;
            let labels = ["direction=\"inbound\"", "result=\"denied\""];
            assert_eq!(sidecar.metric(CONNECTIONS, &labels).await, 1.0);
            assert_eq!(app.accepted(), accepted);
        }
    }
}

/// Issues certificates for `service`; what the configuration says of them.
fn member(directory: &Directory, service: &str) -> Value {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.arg("ca").args(arguments).args(["--dir", "ca"]).current_dir(&directory.0);
        let output = command.env_remove("OUTRIGGER_CA_KEY").output().expect("the binary can be run");
        assert!(output.status.success(), "{output:?}");
    };
    if !directory.0.join("ca").exists() {
        run(&["init", "--trust-domain", "mesh.local"]);
    }
    run(&["issue", service, "--node", "n-1", "--out", service]);
    let file = |name: &str| directory.0.join(service).join(name).display().to_string();
    json!({
        "mode": "strict",
        "ca": { "cert_file": file("tls.crt"), "key_file": file("tls.key"), "ca_file": file("ca.crt") },
    })
}

#[tokio::test]
async fn a_member_of_the_mesh_cannot_announce_bytes_and_speak_http() {
    let app = greeting_echo().await;
    let directory = Directory::new();
    let everybody = json!({ "rules": [{ "source": "*", "action": "allow" }] });
    let web = with(open(&app), json!({ "mtls": member(&directory, "web"), "intentions": everybody.clone() }));
    let web = Sidecar::start(web).await;
    let shop = Sidecar::start(json!({
        "service": { "name": "shop" },
        "mtls": member(&directory, "shop"),
        "intentions": everybody,
        "listeners": { "tcp": [{ "name": "web", "address": "127.0.0.1:0", "service": "web" }] },
        "services": { "web": { "protocol": "tcp", "endpoints": [web.inbound().to_string()] } },
    }))
    .await;
    let announced = address(&shop, "web").await;
    for (before, then) in [("", FORGED), ("\n", FORGED), ("GET", &FORGED[3..])] {
        let mut client = Client::connect(announced).await;
        assert_eq!(client.bytes(9).await, b"220 ready");
        client.send(before).await;
        assert_eq!(client.bytes(before.len()).await, before.as_bytes());
        client.send(then).await;
        client.closed().await;
    }
    web.until_metric(CONNECTIONS, &["direction=\"inbound\"", "result=\"http\""], 3.0).await;
    assert_eq!(line(&web, "http").await["source"], "shop");

    let mut client = Client::connect(announced).await;
    client.send("EHLO mail.example\r\n").await;
    assert_eq!(client.bytes(28).await, b"220 readyEHLO mail.example\r\n");
}
