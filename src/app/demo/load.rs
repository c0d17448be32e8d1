//! A steady stream of requests over a few kept connections. What becomes of them is counted in tally.rs.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval_at},
};

use super::{
    client::{Answer, ClientError, Connection},
    tally::Sample,
};
use crate::rt::{Tasks, clock};

/// Connections, each with one request at a time. They take the sidecars in turn.
pub(super) const CONNECTIONS: u32 = 8;

/// Requests per second of all connections together.
pub(super) const RATE: u32 = 300;

/// Longest wait for an answer before it counts as failed.
const LIMIT: Duration = Duration::from_secs(10);

/// Samples on their way to whoever counts them. When it is full, the load waits.
const SAMPLES: usize = 4096;

/// The running load.
#[derive(Debug)]
pub(super) struct Load {
    tasks: Tasks,
    /// Dropping it stops the load.
    go: watch::Sender<()>,
}

impl Load {
    /// Begins to send to `targets`, the same to each; each request yields a sample.
    pub(super) fn start(targets: &[SocketAddr]) -> (Self, mpsc::Receiver<Sample>) {
        let (report, samples) = mpsc::channel(SAMPLES);
        let (go, going) = watch::channel(());
        let mut tasks = Tasks::default();
        let period = Duration::from_secs(1) * CONNECTIONS / RATE;
        let senders = targets.iter().copied().enumerate().cycle();
        for (index, sender) in (0..CONNECTIONS).zip(senders) {
            // Not all at the same moment: that would be bursts, not a steady load.
            let delay = period * index / CONNECTIONS;
            tasks.spawn("load", send(sender, period, delay, report.clone(), going.clone()));
        }
        (Self { tasks, go }, samples)
    }

    /// Sends nothing more and waits for the answers that are on their way.
    pub(super) async fn stop(self) {
        drop(self.go);
        self.tasks.finish(LIMIT).await;
    }
}

async fn send(
    (sender, target): (usize, SocketAddr),
    period: Duration,
    delay: Duration,
    report: mpsc::Sender<Sample>,
    mut going: watch::Receiver<()>,
) {
    let mut connection = Connection::new(target);
    let mut ticks = interval_at(clock::instant(clock::now()) + delay, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Nothing is ever sent through it: it changes when the sender is dropped.
            _ = going.changed() => return,
            _ = ticks.tick() => {}
        }
        let began = clock::now();
        let answer = connection.get("/", LIMIT).await;
        let latency = clock::now().since(began);
        let sample = Sample { sender, began, latency, outcome: judge(answer) };
        if report.send(sample).await.is_err() {
            return;
        }
    }
}

/// The instance that answered, or why the request failed.
fn judge(answer: Result<Answer, ClientError>) -> Result<String, String> {
    match answer {
        Ok(Answer { status: 200, instance: Some(name), .. }) => Ok(name),
        Ok(Answer { status: 200, .. }) => Err("the answer names no instance".to_owned()),
        Ok(Answer { status, body, .. }) => {
            Err(format!("status {status}: {}", String::from_utf8_lossy(&body).trim_end()))
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_200_from_an_instance_is_no_failure() {
        let answer = |status, instance: Option<&str>| {
            judge(Ok(Answer { status, instance: instance.map(str::to_owned), body: b"why\n".to_vec() }))
        };
        assert_eq!(answer(200, Some("api-1")), Ok("api-1".to_owned()));
        assert!(answer(200, None).is_err());
        assert_eq!(answer(503, Some("api-1")), Err("status 503: why".to_owned()));
        assert!(judge(Err(ClientError::Closed(3))).is_err());
    }
}
