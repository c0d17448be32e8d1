//! The lease of the notes on what was written: they go some time after it is worth nothing to know any more that a write was
//! done. Many notes share one.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{
    EtcdStore,
    layout::number,
    link::{Failure, Purpose},
};
use crate::{rt::clock, types::Mono};

/// How long a note stays at least: as long as a replica of the embedded store remembers a write.
const REMEMBERED: Duration = Duration::from_secs(15 * 60);
/// How long one lease is used for new notes.
const USED: Duration = Duration::from_secs(15 * 60);

/// The lease of the notes that are written now, and when it was asked for.
#[derive(Debug, Default)]
pub(super) struct NoteLease(Mutex<Option<(i64, Mono)>>);

impl NoteLease {
    fn current(&self) -> Option<i64> {
        let held = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.filter(|(_, since)| clock::now().since(*since) < USED).map(|(id, _)| id)
    }

    /// etcd does not know it any more.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl EtcdStore {
    /// The lease for a note that is written now. Two that ask at once may get two.
    pub(super) async fn note_lease(&self) -> Result<i64, Failure> {
        if let Some(id) = self.0.notes.current() {
            return Ok(id);
        }
        let since = clock::now();
        let seconds = number((REMEMBERED + USED).as_secs());
        let granted = self
            .0
            .link
            .call(Purpose::Write, |client| async move { client.lease_client().grant(seconds, None).await });
        let id = granted.await?.id();
        *self.0.notes.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((id, since));
        Ok(id)
    }
}
