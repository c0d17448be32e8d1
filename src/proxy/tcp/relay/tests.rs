//! The relay between two ends that a test holds.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::telemetry::metrics::{Registry, TcpMetrics};

const IDLE: Duration = Duration::from_secs(60);

struct Between {
    client: DuplexStream,
    endpoint: DuplexStream,
    relay: tokio::task::JoinHandle<(Result<(), Broken>, u64, u64)>,
}

/// A relay between two pipes that hold `room` bytes each. `early` was read before it began.
fn between(room: usize, preamble: &'static [u8], early: &'static [u8], idle: Duration) -> Between {
    let (client, mut near) = duplex(room);
    let (endpoint, mut far) = duplex(room);
    let relay = tokio::task::spawn_local(async move {
        let metrics = TcpMetrics::resolve(&Registry::new(10, 1), crate::types::Direction::Outbound, "db");
        let (mut up, mut down) = (Flow::new(metrics.received()), Flow::new(metrics.sent()));
        up.begin_with(preamble.to_vec(), early);
        let now = Cell::new(clock::now());
        let ended = relay(&mut near, &mut far, (&mut up, &mut down), idle, &now).await;
        assert_eq!((metrics.received().value(), metrics.sent().value()), (up.total(), down.total()));
        (ended, up.total(), down.total())
    });
    Between { client, endpoint, relay }
}

/// Runs a test as a worker runs its connections.
fn on_a_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(tokio::task::LocalSet::new().run_until(test));
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

#[test]
fn bytes_arrive_complete_and_in_order_through_a_pipe_smaller_than_them() {
    on_a_worker(async {
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (question, answer) =
                (noise(seed, rng.usize(0..300_000)), noise(!seed, rng.usize(0..300_000)));
            let Between { client, endpoint, relay } = between(rng.usize(1..5_000), b"", b"", IDLE);
            let (mut from_client, mut to_client) = tokio::io::split(client);
            let (mut from_endpoint, mut to_endpoint) = tokio::io::split(endpoint);
            let (mut asked, mut answered) = (Vec::new(), Vec::new());
            tokio::join!(
                async {
                    to_client.write_all(&question).await.unwrap();
                    to_client.shutdown().await.unwrap();
                },
                async {
                    to_endpoint.write_all(&answer).await.unwrap();
                    to_endpoint.shutdown().await.unwrap();
                },
                async { from_endpoint.read_to_end(&mut asked).await.unwrap() },
                async { from_client.read_to_end(&mut answered).await.unwrap() },
            );
            assert!(asked == question && answered == answer, "seed {seed}");
            let (ended, up, down) = relay.await.unwrap();
            assert!(ended.is_ok(), "seed {seed}: {ended:?}");
            assert_eq!((up, down), (question.len() as u64, answer.len() as u64), "seed {seed}");
        }
    });
}

#[test]
fn a_direction_that_has_ended_leaves_the_other_open() {
    on_a_worker(async {
        let Between { mut client, mut endpoint, relay } = between(64, b"", b"", IDLE);
        client.shutdown().await.unwrap();
        assert_eq!(endpoint.read(&mut [0; 8]).await.unwrap(), 0);
        for _ in 0..100 {
            endpoint.write_all(b"still here").await.unwrap();
            client.read_exact(&mut [0; 10]).await.unwrap();
        }
        endpoint.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        let (ended, up, down) = relay.await.unwrap();
        assert!(ended.is_ok());
        assert_eq!((up, down), (0, 1000));
    });
}

#[test]
fn a_preamble_comes_first_and_is_not_counted() {
    on_a_worker(async {
        let Between { mut client, mut endpoint, relay } = between(7, b"PROXY ", b"early ", IDLE);
        client.write_all(b"late").await.unwrap();
        client.shutdown().await.unwrap();
        endpoint.shutdown().await.unwrap();
        let mut seen = Vec::new();
        endpoint.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"PROXY early late");
        let (_, up, _) = relay.await.unwrap();
        assert_eq!(up, 10);
    });
}

#[test]
fn silence_ends_it() {
    on_a_worker(async {
        let Between { client: _client, endpoint: _endpoint, relay } =
            between(64, b"", b"", Duration::from_millis(5));
        assert!(matches!(relay.await.unwrap().0, Err(Broken::Idle)));
    });
}

#[test]
fn an_endpoint_that_takes_nothing_stops_the_reading() {
    on_a_worker(async {
        let Between { mut client, endpoint: _endpoint, relay } = between(1024, b"", b"", IDLE);
        let mut sent = 0;
        while let Ok(written) =
            tokio::time::timeout(Duration::from_millis(50), client.write(&[0; 1024])).await
        {
            sent += written.unwrap();
        }
        // What both pipes hold, and one read of the relay.
        assert!(sent <= 1024 * 2 + BUFFER, "{sent} bytes were taken");
        relay.abort();
    });
}
