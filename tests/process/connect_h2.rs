//! CONNECT on streams of HTTP/2: the rules are those of HTTP/1.1 (`tcp_connect`), the ends are those of streams.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use h2::Reason;
use serde_json::{Value, json};

use crate::{
    support::{
        App, Sidecar, get,
        http2::Http2,
        sidecar::{self, with},
        streams::{End, Tunnel, connect},
        wait_until,
    },
    tcp::echo,
    tcp_connect::{self, web},
};

const DATABASE: &str = "db.internal:5432";

/// [`tunnelling`] for clients of HTTP/2 beside an application that does not speak it.
fn tunnelling(database: &App, web: &App) -> Value {
    with(tcp_connect::tunnelling(database, web), json!({ "services": { "web": { "protocol": "http1" } } }))
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_until_both_sides_are_done() {
    let (database, web) = (echo().await, web().await);
    let sidecar = Sidecar::start(tunnelling(&database, &web)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (status, fields, mut tunnel) = Tunnel::open(&client, connect(DATABASE)).await;
    assert_eq!((status, fields.get("content-length")), (200, None));
    tunnel.say("GET / HTTP/1.1\r\n\r\n is only bytes here");
    assert_eq!(tunnel.bytes(37).await, b"GET / HTTP/1.1\r\n\r\n is only bytes here");
    tunnel.finish();
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Orderly));
    let line = sidecar.logged("").await;
    assert_eq!(
        (&line["method"], &line["status"], &line["flag"]),
        (&json!("CONNECT"), &json!(200), &json!(""))
    );
    assert_eq!((&line["route"], &line["service"]), (&json!("tunnel"), &json!("db")));
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(37), &json!(37)));
    assert_eq!(client.get("web", "/").await.expect("an answer").data, b"web", "the connection goes on");
}

#[tokio::test]
async fn either_side_may_finish_first_and_the_other_goes_on() {
    let database = App::script(|mut connection| async move {
        let all = connection.wire.rest().await;
        connection.send([b"after the end: ", all.as_slice()].concat()).await;
    })
    .await;
    let web = web().await;
    let sidecar = Sidecar::start(tunnelling(&database, &web)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (_, _, mut tunnel) = Tunnel::open(&client, connect(DATABASE)).await;
    tunnel.say("the last word");
    tunnel.finish();
    assert_eq!(tunnel.rest().await, (b"after the end: the last word".to_vec(), End::Orderly));

    let database = App::script(|mut connection| async move {
        connection.send("at once").await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut connection.wire.stream).await;
        connection.request().await;
    })
    .await;
    let sidecar = Sidecar::start(tunnelling(&database, &web)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (_, _, mut tunnel) = Tunnel::open(&client, connect(DATABASE)).await;
    assert_eq!(tunnel.rest().await, (b"at once".to_vec(), End::Orderly));
    tunnel.say("GET /afterwards HTTP/1.1\r\n\r\n");
    wait_until("what is said afterwards arrives", || database.requests().len() == 1).await;
    tunnel.finish();
    wait_until("and the end of it", || database.open() == 0).await;
}

#[tokio::test]
async fn a_large_transfer_arrives_whole_although_windows_are_small() {
    let (database, web) = (echo().await, web().await);
    let sidecar = Sidecar::start(tunnelling(&database, &web)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (_, _, mut tunnel) = Tunnel::open(&client, connect(DATABASE)).await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number.wrapping_mul(31) as u8).collect();
    tunnel.say(sent.clone());
    tunnel.finish();
    let (received, end) = tunnel.rest().await;
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    assert_eq!(end, End::Orderly);
}

#[tokio::test]
async fn a_reset_stream_is_a_reset_connection() {
    let resets = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&resets);
    let database = App::script(move |mut connection| {
        let count = Arc::clone(&count);
        async move {
            connection.send("ready").await;
            if connection.wire.ends_with_reset().await {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let web = web().await;
    let sidecar = Sidecar::start(tunnelling(&database, &web)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    for (number, reason) in [Reason::CANCEL, Reason::INTERNAL_ERROR].into_iter().enumerate() {
        let (_, _, mut tunnel) = Tunnel::open(&client, connect(DATABASE)).await;
        assert_eq!(tunnel.bytes(5).await, b"ready");
        tunnel.send.send_reset(reason);
        wait_until("the endpoint's connection is reset", || resets.load(Ordering::SeqCst) > number).await;
    }
    // The whole connection of the client goes.
    let (_, _, mut tunnel) = Tunnel::open(&client, connect(DATABASE)).await;
    assert_eq!(tunnel.bytes(5).await, b"ready");
    drop((tunnel, client));
    wait_until("the endpoint's connection is reset", || resets.load(Ordering::SeqCst) == 3).await;
    assert_eq!(sidecar.logged("").await["flag"], "downstream_closed");
}

#[tokio::test]
async fn a_reset_connection_is_a_reset_stream_and_the_others_go_on() {
    let database = App::script(|mut connection| async move {
        match connection.wire.some().await.as_slice() {
            b"break" => connection.reset(),
            said => {
                let said = said.to_vec();
                connection.send(said).await;
                connection.until_closed().await;
            }
        }
    })
    .await;
    let web = web().await;
    let sidecar = Sidecar::start(tunnelling(&database, &web)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (_, _, mut other) = Tunnel::open(&client, connect(DATABASE)).await;
    let (_, _, mut broken) = Tunnel::open(&client, connect(DATABASE)).await;
    broken.say("break");
    assert_eq!(broken.rest().await, (Vec::new(), End::Reset(Reason::CANCEL)));
    assert_eq!(sidecar.logged("").await["flag"], "upstream_reset");
    other.say("stay");
    assert_eq!(other.bytes(4).await, b"stay");
}

#[tokio::test]
async fn without_a_route_of_its_own_connect_is_405_and_what_follows_is_no_request() {
    let (database, web) = (echo().await, web().await);
    let sidecar = Sidecar::start(tunnelling(&database, &web)).await;
    for to in [sidecar.outbound(), sidecar.inbound()] {
        let client = Http2::connect(to).await;
        let (response, mut send) = client.open(connect("web:80")).await;
        let early = "GET /smuggled HTTP/1.1\r\nhost: web\r\n\r\n";
        send.send_data(early.into(), false).expect("an open stream");
        let head = response.await.expect("an answer");
        assert_eq!(head.status(), 405);
        assert_eq!(head.headers()["x-outrigger-flag"], "bad_request");
    }
    let client = Http2::connect(sidecar.outbound()).await;
    let (status, _, _) = Tunnel::open(&client, connect("web:80")).await;
    assert_eq!(status, 405);
    assert_eq!(client.get("web", "/").await.expect("an answer").data, b"web", "the connection goes on");
    assert_eq!((web.requests().len(), database.accepted()), (1, 0));
}

#[tokio::test]
async fn bytes_before_the_answer_wait_for_the_tunnel() {
    let (database, web) = (echo().await, web().await);
    let sidecar = Sidecar::start(tunnelling(&database, &web)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (response, mut send) = client.open(connect(DATABASE)).await;
    send.send_data("GET /early HTTP/1.1\r\n\r\n".into(), true).expect("an open stream");
    let (head, receive) = response.await.expect("an answer").into_parts();
    assert_eq!(head.status, 200);
    let echoed = Tunnel::new(send, receive).rest().await;
    assert_eq!(echoed, (b"GET /early HTTP/1.1\r\n\r\n".to_vec(), End::Orderly));
    assert!(web.requests().is_empty());
}

#[tokio::test]
async fn a_target_must_be_one_authority_with_its_port() {
    let (database, web) = (echo().await, web().await);
    let sidecar = Sidecar::start(tunnelling(&database, &web)).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (status, fields, _) = Tunnel::open(&client, connect("db.internal")).await;
    assert_eq!((status, fields["x-outrigger-flag"].as_bytes()), (400, &b"bad_request"[..]));
    let mut contradicting = connect(DATABASE);
    contradicting.headers_mut().insert("host", http::HeaderValue::from_static("web:80"));
    assert_eq!(Tunnel::open(&client, contradicting).await.0, 400);
    for reason in ["reason=\"target\"", "reason=\"host\""] {
        assert_eq!(sidecar.metric("outrigger_http_rejected_total", &[reason]).await, 1.0);
    }
    assert_eq!(database.accepted(), 0);
}

#[tokio::test]
async fn a_service_that_is_down_is_an_answer_and_not_a_tunnel() {
    let (database, web) = (echo().await, web().await);
    let mut config = tunnelling(&database, &web);
    config["services"]["db"]["endpoints"] = json!([sidecar::free_address().to_string()]);
    let sidecar = Sidecar::start(config).await;
    let client = Http2::connect(sidecar.outbound()).await;
    // What a gRPC client would be told with 200 would be a tunnel here.
    let mut head = connect(DATABASE);
    head.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    let (status, fields, mut tunnel) = Tunnel::open(&client, head).await;
    assert_eq!((status, fields["x-outrigger-flag"].as_bytes()), (502, &b"upstream_connect"[..]));
    assert!(tunnel.rest().await.0.starts_with(b"502 Bad Gateway"));
    assert_eq!(get(sidecar.outbound(), "web", "/").await.text(), "web");
}

#[tokio::test]
async fn a_tunnel_on_which_nothing_moves_ends_and_its_connection_does_not() {
    let (database, web) = (echo().await, web().await);
    let mut config = tunnelling(&database, &web);
    config["listeners"] = json!({ "stream_idle_timeout": "300ms" });
    let sidecar = Sidecar::start(config).await;
    let client = Http2::connect(sidecar.outbound()).await;
    let (_, _, mut tunnel) = Tunnel::open(&client, connect(DATABASE)).await;
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Reset(Reason::CANCEL)));
    wait_until("the endpoint's connection is closed", || database.open() == 0).await;
    assert_eq!(client.get("web", "/").await.expect("an answer").data, b"web");
}
