//! Nodes that call each other over sockets: what is promised, with mTLS and without, and what strangers get.

mod relay;
mod world;

use std::{
    net::SocketAddr,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use self::{
    relay::{Relay, Wire},
    world::{Authorities, Node, caller, eventually, own, raw},
};
use super::{caller::Part, *};
use crate::rt::Phase;

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(20);

fn target(node: u64, address: SocketAddr) -> Target {
    Target { node, address }
}

async fn echo(caller: &Caller, to: &Target, lane: Lane) -> Result<Bytes, RpcError> {
    caller.call(to, lane, "echo", Bytes::from_static(b"hello"), LONG).await
}

#[tokio::test]
async fn a_call_is_answered_in_plain_text() {
    let node = Node::start(7, None).await;
    let caller = caller(3, None);
    assert_eq!(echo(&caller, &node.target(), Lane::Log).await.unwrap(), "hello");
    let who = caller.call(&node.target(), Lane::Beat, "who", Bytes::new(), LONG).await.unwrap();
    assert_eq!(who, "3 -");
}

#[tokio::test]
async fn a_call_within_mtls_is_answered_and_says_whose_identity_was_proved() {
    let world = Authorities::new();
    let node = Node::start(7, Some(world.ours("api"))).await;
    let caller = caller(3, Some(&world.ours("web")));
    let body = Bytes::from(vec![7; LARGEST]);
    let answer = caller.call(&node.target(), Lane::Bulk, "echo", body.clone(), LONG).await.unwrap();
    assert!(answer == body, "the largest body comes back");
    let who = caller.call(&node.target(), Lane::Beat, "who", Bytes::new(), LONG).await.unwrap();
    assert_eq!(who, "3 spiffe://mesh.local/service/web");
}

#[tokio::test]
async fn nobody_calls_in_the_name_of_a_node_of_another_service() {
    let world = Authorities::new();
    let known = Arc::new(Known::default());
    let node = Node::start_knowing(7, world.ours("api"), Arc::clone(&known)).await;
    let web = caller(3, Some(&world.ours("web")));
    let refused = |error: RpcError| match error.failure {
        Failure::Refused { status: StatusCode::FORBIDDEN, text } => text,
        other => panic!("{other}"),
    };
    let text = refused(echo(&web, &node.target(), Lane::Log).await.unwrap_err());
    assert!(text.contains("has not proved yet who it is"), "{text}");
    known.learn([(3, Arc::from("web")), (4, Arc::from("db"))]);
    assert_eq!(echo(&web, &node.target(), Lane::Log).await.unwrap(), "hello");
    // The number of another node, with a certificate that is good for its own.
    let error = echo(&caller(4, Some(&world.ours("web"))), &node.target(), Lane::Log).await.unwrap_err();
    assert!(error.failure.is_undone());
    let text = refused(error);
    assert!(text.contains("of the service `db`") && text.contains("service/web"), "{text}");
    assert_eq!(node.answers.calls.load(Relaxed), 1, "neither came to be answered");
}

#[tokio::test]
async fn nobody_answers_in_the_place_of_a_node_of_another_service() {
    let world = Authorities::new();
    let node = Node::start(7, Some(world.ours("web"))).await;
    let known = Arc::new(Known::default());
    let ours = Caller::knowing(&own(3), Some(world.ours("api").anyone().unwrap()), Arc::clone(&known));
    for (service, is_answered) in [(None, false), (Some("db"), false), (Some("web"), true)] {
        known.learn(service.map(|service| (7, Arc::from(service))));
        // What failed is not tried again at once.
        tokio::time::sleep(line::BACKOFF).await;
        let answer = echo(&ours, &node.target(), Lane::Log).await;
        assert_eq!(answer.is_ok(), is_answered, "{service:?} {answer:?}");
    }
    assert_eq!(node.answers.calls.load(Relaxed), 1, "nothing was sent to it before");
}

#[tokio::test]
async fn a_port_that_others_need_to_the_end_answers_until_the_process_stops() {
    let rpc = Rpc::bind(([127, 0, 0, 1], 0).into(), None, own(7)).unwrap();
    let node = Node::run(rpc.until_stopped(), 7);
    node.drain.advance(Phase::Draining);
    assert_eq!(echo(&caller(3, None), &node.target(), Lane::Log).await.unwrap(), "hello");
    node.stop().await;
}

#[tokio::test]
async fn another_cluster_and_another_node_refuse() {
    let node = Node::start(7, None).await;
    let other = Own { cluster: "else where %".into(), node: 3 };
    let error = echo(&Caller::new(&other, None), &node.target(), Lane::Log).await.unwrap_err();
    assert!(matches!(error.failure, Failure::Refused { status: StatusCode::FORBIDDEN, .. }), "{error}");
    let wrong = target(8, node.address);
    let error = echo(&caller(3, None), &wrong, Lane::Log).await.unwrap_err();
    let expected = format!("node 8 at {}: refuses (421): this is node 7, not node 8", node.address);
    assert_eq!(error.to_string(), expected);
    assert!(error.failure.is_undone());
    assert_eq!(node.answers.calls.load(Relaxed), 0, "neither came to be answered");
}

#[tokio::test]
async fn a_refusal_comes_back_as_it_was_said() {
    let node = Node::start(7, None).await;
    let caller = caller(3, None);
    let refused = caller.call(&node.target(), Lane::Log, "refuse", Bytes::new(), LONG).await;
    let text = "not today".to_owned();
    assert_eq!(refused.unwrap_err().failure, Failure::Refused { status: StatusCode::CONFLICT, text });
    let unknown = caller.call(&node.target(), Lane::Log, "Nonsense!", Bytes::new(), LONG).await;
    let failure = unknown.unwrap_err().failure;
    assert!(matches!(failure, Failure::Refused { status: StatusCode::NOT_FOUND, .. }), "{failure}");
}

#[tokio::test]
async fn when_the_deadline_has_passed_the_caller_knows_it_and_the_answer_is_dropped() {
    let node = Node::start(7, None).await;
    let limit = Duration::from_millis(200);
    let began = Instant::now();
    let late = caller(3, None).call(&node.target(), Lane::Log, "hang", Bytes::new(), limit).await;
    assert_eq!(late.unwrap_err().failure, Failure::TimedOut(limit));
    assert!(began.elapsed() >= limit && began.elapsed() < 5 * SECOND);
    eventually("the answer is dropped", || node.answers.dropped.load(Relaxed) == 1).await;
}

#[tokio::test]
async fn a_node_gives_up_at_the_deadline_though_its_caller_waits() {
    let node = Node::start(7, None).await;
    let request = raw::request("hang", 7, 100).body(raw::empty()).unwrap();
    let response = raw::send(node.address, request).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(node.answers.dropped.load(Relaxed), 1);
}

#[tokio::test]
async fn a_call_that_is_given_up_is_dropped_over_there() {
    let node = Node::start(7, None).await;
    let (caller, to) = (caller(3, None), node.target());
    let hanging = caller.call(&to, Lane::Log, "hang", Bytes::from(vec![0; 1 << 20]), LONG);
    tokio::select! {
        _ = hanging => panic!("it hangs"),
        () = eventually("it came", || node.answers.calls.load(Relaxed) == 1) => {}
    }
    eventually("the answer is dropped", || node.answers.dropped.load(Relaxed) == 1).await;
    assert_eq!(echo(&caller, &to, Lane::Log).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_without_being_read() {
    let node = Node::start(7, None).await;
    let long = Bytes::from(vec![0; LARGEST + 1]);
    let error = caller(3, None).call(&node.target(), Lane::Log, "echo", long, LONG).await.unwrap_err();
    assert_eq!(error.failure, Failure::TooLong(Part::Call));
    // What only says that it is long.
    let (body, pulled) = raw::endless();
    let said = raw::request("echo", 7, 20_000).header("content-length", LARGEST + 1).body(body).unwrap();
    assert_eq!(raw::send(node.address, said).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(pulled.load(Relaxed) < LARGEST, "{pulled:?}");
    // What does not say so, and is.
    let (body, _) = raw::endless();
    let silent = raw::request("echo", 7, 20_000).body(body).unwrap();
    assert_eq!(raw::send(node.address, silent).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(node.answers.calls.load(Relaxed), 0);
    // An answer that is too long was made all the same.
    let error =
        caller(3, None).call(&node.target(), Lane::Log, "much", Bytes::new(), LONG).await.unwrap_err();
    assert!(!error.failure.is_undone(), "{error}");
}

#[tokio::test]
async fn malformed_calls_are_refused_one_by_one() {
    let node = Node::start(7, None).await;
    for (name, value) in [
        ("outrigger-to", "seven"),
        ("outrigger-to", "+7"),
        ("outrigger-from", ""),
        ("outrigger-deadline-ms", "-1"),
        ("outrigger-deadline-ms", "99999999999999999999"),
    ] {
        let mut request = raw::request("echo", 7, 1000).body(raw::empty()).unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(
            raw::send(node.address, request).await.status(),
            StatusCode::BAD_REQUEST,
            "{name}: {value}"
        );
    }
    let twice = raw::request("echo", 7, 1000).header("outrigger-to", "8").body(raw::empty()).unwrap();
    assert_eq!(raw::send(node.address, twice).await.status(), StatusCode::BAD_REQUEST);
    for path in ["", "Echo", "a-b", "e%63ho", &"x".repeat(65)] {
        let request = raw::request(path, 7, 1000).body(raw::empty()).unwrap();
        assert_eq!(raw::send(node.address, request).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(node.answers.calls.load(Relaxed), 0);
}

#[tokio::test]
async fn a_peer_that_is_gone_is_unreachable_at_once_and_works_again_when_it_is_back() {
    let world = Authorities::new();
    let mesh = world.ours("api");
    let node = Node::start(7, Some(mesh.clone())).await;
    let to = node.target();
    let caller = caller(3, Some(&world.ours("web")));
    assert!(echo(&caller, &to, Lane::Beat).await.is_ok());
    node.stop().await;
    let began = Instant::now();
    for _ in 0..100 {
        let error = echo(&caller, &to, Lane::Beat).await.unwrap_err();
        assert!(matches!(error.failure, Failure::Unreachable(_)), "{error}");
    }
    assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
    let _back = Node::start_at(to.address, 7, Some(mesh)).await;
    let again = tokio::time::timeout(LONG, async {
        while echo(&caller, &to, Lane::Beat).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(again.await.is_ok());
}

#[tokio::test]
async fn a_connection_that_has_ended_costs_no_call() {
    let node = Node::start(7, None).await;
    let relay = Relay::to(node.address).await;
    let (caller, to) = (caller(3, None), target(7, relay.address));
    for round in 1..5 {
        let answer = echo(&caller, &to, Lane::Log).await;
        assert!(answer.is_ok(), "{answer:?}");
        assert_eq!(relay.count(), round);
        relay.cut();
        eventually("it is cut", || relay.open() == 0).await;
        // One that breaks as soon as it is made is not tried again at once.
        let cut = Instant::now();
        eventually("the back-off is over", || cut.elapsed() > 2 * line::BACKOFF).await;
    }
}

/// The runtime has one thread and looks at its sockets only when it is idle: it learns in one look that the connection has
/// ended and that the test goes on, and the test is first.
#[tokio::test]
async fn a_call_that_met_the_end_of_its_connection_before_it_left_is_undone() {
    let node = Node::start(7, None).await;
    let wire = Wire::to(node.address);
    let (caller, to) = (caller(3, None), target(7, wire.address));
    let starting_signal = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    assert!(echo(&caller, &to, Lane::Log).await.is_ok());
    let calls = node.answers.calls.load(Relaxed);
    wire.cut();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"go", starting_signal.local_addr().unwrap()).unwrap();
    starting_signal.recv(&mut [0; 2]).await.unwrap();
    if let Err(error) = echo(&caller, &to, Lane::Log).await {
        assert!(error.failure.is_undone(), "{error}");
        assert_eq!(node.answers.calls.load(Relaxed), calls);
    }
}

#[tokio::test]
async fn lanes_are_connections_of_their_own() {
    let node = Node::start(7, None).await;
    let relay = Relay::to(node.address).await;
    let (caller, to) = (caller(3, None), target(7, relay.address));
    assert!(echo(&caller, &to, Lane::Bulk).await.is_ok());
    relay.freeze();
    assert!(echo(&caller, &to, Lane::Beat).await.is_ok());
    let big = caller.call(&to, Lane::Bulk, "echo", Bytes::from(vec![0; LARGEST]), 2 * SECOND);
    let beats = async {
        let began = Instant::now();
        for _ in 0..50 {
            assert!(echo(&caller, &to, Lane::Beat).await.is_ok());
        }
        began.elapsed()
    };
    let (stalled, took) = tokio::join!(big, beats);
    assert!(took < SECOND, "{took:?}");
    assert!(matches!(stalled.unwrap_err().failure, Failure::TimedOut(_)));
    assert!(echo(&caller, &to, Lane::Log).await.is_ok());
    assert_eq!(relay.count(), 3);
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_noticed_by_pings() {
    let node = Node::start(7, None).await;
    let relay = Relay::to(node.address).await;
    let (caller, to) = (caller(3, None), target(7, relay.address));
    assert!(echo(&caller, &to, Lane::Beat).await.is_ok());
    relay.freeze();
    let began = Instant::now();
    let error = echo(&caller, &to, Lane::Beat).await.unwrap_err();
    assert!(matches!(error.failure, Failure::Broken(_)), "{error}");
    assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
    assert!(echo(&caller, &to, Lane::Beat).await.is_ok());
}

#[tokio::test]
async fn two_hundred_calls_at_once_share_one_connection() {
    let world = Authorities::new();
    let node = Node::start(7, Some(world.ours("api"))).await;
    let relay = Relay::to(node.address).await;
    let (caller, to) = (caller(3, Some(&world.ours("web"))), target(7, relay.address));
    let mut calls = JoinSet::new();
    for number in 0..200_u8 {
        let caller = caller.clone();
        calls.spawn(async move {
            let body = Bytes::from(vec![number; 1000]);
            // Answered when all of them are there.
            caller.call(&to, Lane::Log, "gather", body.clone(), LONG).await.unwrap() == body
        });
    }
    let answered = calls.join_all().await;
    assert!(answered.len() == 200 && answered.iter().all(|is_right| *is_right));
    assert_eq!(relay.count(), 1);
}

#[tokio::test]
async fn strangers_get_nothing() {
    let world = Authorities::new();
    let node = Node::start(7, Some(world.ours("api"))).await;
    for stranger in [world.of_another_domain("web"), world.of_another_root("web")] {
        let error = echo(&caller(3, Some(&stranger)), &node.target(), Lane::Log).await.unwrap_err();
        assert!(matches!(error.failure, Failure::Unreachable(_)), "{error}");
    }
    let plain = echo(&caller(3, None), &node.target(), Lane::Log).await.unwrap_err();
    assert!(matches!(plain.failure, Failure::Unreachable(_)), "{plain}");
    assert_eq!(node.answers.calls.load(Relaxed), 0);
    // And a stranger who listens is told nothing.
    let stranger = Node::start(8, Some(world.of_another_root("api"))).await;
    let error = echo(&caller(3, Some(&world.ours("web"))), &stranger.target(), Lane::Log).await.unwrap_err();
    assert!(matches!(error.failure, Failure::Unreachable(_)), "{error}");
    assert_eq!(stranger.answers.calls.load(Relaxed), 0);
}

#[tokio::test]
async fn who_is_not_believed_any_more_is_refused_on_the_connection_that_it_has() {
    let world = Authorities::new();
    let mesh = world.ours("api");
    let node = Node::start(7, Some(mesh.clone())).await;
    let caller = caller(3, Some(&world.ours("web")));
    assert!(echo(&caller, &node.target(), Lane::Log).await.is_ok());
    mesh.replace_trust(world.trust_in_another_root());
    let error = echo(&caller, &node.target(), Lane::Log).await.unwrap_err();
    assert!(matches!(error.failure, Failure::Refused { status: StatusCode::FORBIDDEN, .. }), "{error}");
    assert_eq!(node.answers.calls.load(Relaxed), 1);
}

#[tokio::test]
async fn a_new_certificate_is_shown_on_a_new_connection_and_calls_in_progress_go_on() {
    let world = Authorities::new();
    let node = Node::start(7, Some(world.ours("api"))).await;
    let relay = Relay::to(node.address).await;
    let mesh = world.ours("web");
    let (caller, to) = (caller(3, Some(&mesh)), target(7, relay.address));
    let slow = caller.call(&to, Lane::Log, "wait", Bytes::new(), LONG);
    let meanwhile = async {
        eventually("it came", || node.answers.calls.load(Relaxed) == 1).await;
        mesh.replace_trust(world.trust());
        assert!(echo(&caller, &to, Lane::Log).await.is_ok());
        assert_eq!(relay.count(), 2);
        node.answers.go_on.add_permits(1);
    };
    let (slow, ()) = tokio::join!(slow, meanwhile);
    assert!(slow.is_ok(), "{slow:?}");
    eventually("the old one is closed", || relay.open() == 1).await;
}

#[tokio::test]
async fn garbage_and_silence_harm_nobody() {
    let world = Authorities::new();
    for mesh in [None, Some(world.ours("api"))] {
        let node = Node::start(7, mesh.clone()).await;
        let mut silent = Vec::new();
        for text in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0; 4096],
            &[0xff; 70_000],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0",
        ] {
            let mut stream = TcpStream::connect(node.address).await.unwrap();
            // It may be refused while it is still being written.
            let _ = stream.write_all(text).await;
            silent.push(stream);
        }
        silent.push(TcpStream::connect(node.address).await.unwrap());
        let client = mesh.as_ref().map(|_| world.ours("web"));
        assert!(echo(&caller(3, client.as_ref()), &node.target(), Lane::Log).await.is_ok());
        // It hangs up on those that it cannot understand.
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(LONG, silent[0].read_to_end(&mut rest)).await;
        assert!(ended.is_ok());
        node.stop().await;
    }
}

#[tokio::test]
async fn a_listener_that_is_no_node_is_sent_no_call() {
    let service = raw::service_that_says_yes().await;
    let error = echo(&caller(3, None), &target(7, service.address), Lane::Log).await.unwrap_err();
    assert!(matches!(error.failure, Failure::Unreachable(_)), "{error}");
    assert_eq!(*service.paths.lock().unwrap(), ["/v1/hello"]);
}

#[tokio::test]
async fn calls_in_progress_are_answered_before_the_port_closes() {
    let node = Node::start(7, None).await;
    let (caller, to) = (caller(3, None), node.target());
    let slow = caller.call(&to, Lane::Log, "wait", Bytes::new(), LONG);
    let draining = async {
        eventually("it came", || node.answers.calls.load(Relaxed) == 1).await;
        node.drain.advance(Phase::Draining);
        // The port closes at once.
        eventually("it is closed", || std::net::TcpStream::connect(node.address).is_err()).await;
        node.answers.go_on.add_permits(1);
    };
    let (answer, ()) = tokio::join!(slow, draining);
    assert!(answer.is_ok(), "{answer:?}");
    node.ended().await;
    let error = echo(&caller, &to, Lane::Log).await.unwrap_err();
    assert!(error.failure.is_undone(), "{error}");
}

#[tokio::test]
async fn what_hangs_is_dropped_when_the_process_stops() {
    let node = Node::start(7, None).await;
    let (caller, to) = (caller(3, None), node.target());
    let hanging = caller.call(&to, Lane::Log, "hang", Bytes::new(), LONG);
    let answers = node.answers.clone();
    let stopping = async {
        eventually("it came", || answers.calls.load(Relaxed) == 1).await;
        node.drain.advance(Phase::Stopped);
        node.ended().await;
        assert_eq!(answers.dropped.load(Relaxed), 1);
    };
    let (hanging, ()) = tokio::join!(hanging, stopping);
    assert!(!hanging.unwrap_err().failure.is_undone());
}

#[tokio::test]
async fn a_call_that_is_turned_away_unread_is_sent_once_more_and_is_undone() {
    let (address, refused, _tasks) = raw::node_that_turns_calls_away(7).await;
    let error = echo(&caller(3, None), &target(7, address), Lane::Log).await.unwrap_err();
    assert!(error.failure.is_undone(), "{error}");
    assert_eq!(refused.load(Relaxed), 2);
}

#[tokio::test]
async fn a_node_that_stops_says_which_calls_it_has_received() {
    let node = Node::start(7, None).await;
    let (mut sender, connection) =
        h2::client::handshake(TcpStream::connect(node.address).await.unwrap()).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let request = raw::request("hello", 7, 1000).body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    node.stop().await;
    tasks.join_all().await;
    let error = sender.ready().await.unwrap_err();
    assert!(error.is_go_away() && error.is_remote(), "{error}");
}

#[tokio::test]
async fn the_peer_that_was_called_least_recently_makes_room() {
    let node = Node::start(7, None).await;
    let relay = Relay::to(node.address).await;
    let (caller, first) = (caller(3, None), target(7, relay.address));
    assert!(echo(&caller, &first, Lane::Log).await.is_ok());
    for other in 100..164 {
        assert!(echo(&caller, &target(other, node.address), Lane::Log).await.is_err());
    }
    eventually("its connection is closed", || relay.open() == 0).await;
    assert!(echo(&caller, &first, Lane::Log).await.is_ok());
    assert_eq!(relay.count(), 2);
    assert_eq!(own(3).node, 3);
}
