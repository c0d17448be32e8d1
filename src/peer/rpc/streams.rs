//! Tasks of one HTTP/2 connection: what hyper wants to run beside it, with an owner that ends it.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::{task::JoinSet, time::timeout};

/// Owner of the tasks of one connection. Dropping it aborts them.
#[derive(Debug, Default)]
pub(super) struct StreamTasks(Arc<Mutex<JoinSet<()>>>);

/// Starts tasks as long as their owner is there; what is started later is dropped.
#[derive(Clone, Debug)]
pub(super) struct Start {
    // Tasks hold clones of this: were it the owner as well, it would never go.
    tasks: Weak<Mutex<JoinSet<()>>>,
    limit: Option<Duration>,
}

impl StreamTasks {
    /// For hyper. A task that takes longer than `limit` is dropped.
    pub(super) fn start(&self, limit: Option<Duration>) -> Start {
        Start { tasks: Arc::downgrade(&self.0), limit }
    }

    /// Drops all that still runs, and waits until that is done.
    pub(super) async fn end(self) {
        let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

impl<F> Executor<F> for Start
where
    F: Future + Send + 'static,
{
    fn execute(&self, future: F) {
        let Some(tasks) = self.tasks.upgrade() else { return };
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a call between nodes panicked");
            }
        }
        let limit = self.limit;
        tasks.spawn(async move {
            match limit {
                // What it waits for then is a peer that does not read, and is not told.
                Some(limit) => drop(timeout(limit, future).await),
                None => drop(future.await),
            }
        });
    }
}
