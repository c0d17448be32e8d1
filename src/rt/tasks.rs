//! Owner of the named tasks of one part of the control plane.

use std::{future::Future, time::Duration};

use tokio::task::JoinSet;

/// Tasks that are ended and joined together. Dropping it aborts what still runs.
#[derive(Debug, Default)]
pub struct Tasks(JoinSet<&'static str>);

impl Tasks {
    /// Runs `work` on the current runtime under `name`.
    pub fn spawn(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            work.await;
            name
        });
    }

    /// Waits for all tasks to end by themselves, at most `limit`, then aborts the rest. A task that panicked is
    /// reported and does not stop the others.
    pub async fn finish(mut self, limit: Duration) {
        let all = async {
            while let Some(ended) = self.0.join_next().await {
                match ended {
                    Ok(name) => tracing::debug!(task = name, "task ended"),
                    Err(error) if error.is_panic() => tracing::error!(%error, "task panicked"),
                    Err(_) => {}
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!(tasks = self.0.len(), "tasks did not end in time and are aborted");
        }
    }
}
