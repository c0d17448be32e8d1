//! The thread that writes the log. It ends when its queue is closed and empty; whoever closes it joins the thread.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
};

use super::{
    super::codec,
    Shared,
    queue::{Group, Queue},
};
use crate::store::backend::Durability;
#[cfg(feature = "planted-bugs")]
use crate::store::planted;

pub(super) fn start(shared: Arc<Shared>, queue: Arc<Queue>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("store-log".into()).spawn(move || run(&shared, &queue))
}

fn run(shared: &Shared, queue: &Queue) {
    while let Some(mut group) = queue.next() {
        let batch = group.take_batch();
        #[cfg(feature = "planted-bugs")]
        if planted::has(planted::Bug::EarlyAck) {
            tell(shared, queue, std::mem::take(&mut group), &Ok(()));
            thread::sleep(planted::HELD);
        }
        // A panic of the engine must be an error: whoever waits for a write that will never be would wait for ever.
        let written = catch_unwind(AssertUnwindSafe(|| shared.backend.apply(batch, Durability::Durable)))
            .unwrap_or_else(|_| Err(io::Error::other("writing the log panicked")));
        if let Err(error) = &written {
            tracing::error!(%error, "the store cannot write its log");
        }
        tell(shared, queue, group, &written);
    }
}

/// Tells whom it concerns, in order, and only now: what is acknowledged is on disk.
fn tell(shared: &Shared, queue: &Queue, group: Group, written: &io::Result<()>) {
    match written {
        Ok(()) => {
            if let Some(last) = group.operations.last() {
                shared.view().written(last.sequence);
            }
            for operation in group.operations {
                operation.then.done(Ok(()));
            }
        }
        Err(error) => {
            for operation in group.operations {
                operation.then.done(Err(codec::again(error)));
            }
            queue.fail(error);
        }
    }
}
