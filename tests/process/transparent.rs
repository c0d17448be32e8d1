//! Transparent listeners, as far as no firewall is needed: who dials them is served as ever, over both families.
//! What is redirected is tried by tests/scripts/transparent.py, in network namespaces.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};

use serde_json::json;

use crate::support::{App, Client, Sidecar, get};

async fn sidecar(app: &App) -> Sidecar {
    Sidecar::start(json!({
        "listeners": { "transparent": true },
        "routes": [{ "match": { "hosts": ["api"] }, "service": "api" }],
        "services": { "api": { "endpoints": [app.endpoint()] } },
    }))
    .await
}

#[tokio::test]
async fn who_dials_a_transparent_listener_is_routed_and_has_nowhere_else_to_go() {
    let app = App::saying("api").await;
    let sidecar = sidecar(&app).await;
    assert_eq!(get(sidecar.outbound(), "api", "/").await.text(), "api");
    let answer = get(sidecar.outbound(), "elsewhere", "/").await;
    assert_eq!((answer.status, answer.flag()), (404, "no_route"));
}

#[tokio::test]
async fn a_transparent_listener_on_loopback_listens_in_both_families() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return; // This machine has no IPv6.
    }
    let app = App::saying("api").await;
    let sidecar = sidecar(&app).await;
    let twin = SocketAddr::from((Ipv6Addr::LOCALHOST, sidecar.outbound().port()));
    assert_eq!(get(twin, "api", "/").await.text(), "api");
}

#[tokio::test]
async fn bytes_that_are_not_http_are_not_passed_on_if_nobody_redirected_them() {
    let app = App::saying("api").await;
    let sidecar = sidecar(&app).await;
    let mut client = Client::connect(sidecar.outbound()).await;
    client.send(b"\x16\x03\x01\x00\x05hello\r\n\r\n").await;
    let answer = client.try_response().await;
    assert_eq!(answer.map(|answer| answer.status), Some(400));
    assert_eq!(get(sidecar.outbound(), "api", "/").await.text(), "api");
}
