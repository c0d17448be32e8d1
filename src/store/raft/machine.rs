//! The state machine: applies what was committed, and makes and takes snapshots. The state is in memory; what is kept of
//! it is the newest snapshot, from which openraft goes on with the log.

use std::{io, sync::Arc};

use futures_util::{Stream, StreamExt};
use openraft::{
    OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
    type_config::alias::SnapshotOf,
};

use super::{
    snapshots::{Snapshots, Which},
    state::{Held, State},
    types::{LogId, SnapshotData, SnapshotMeta, StoredMembership, TypeConfig},
};
use crate::store::{backend::StorageBackend, core::kv::Kv};

/// Applies entries to [`State`].
#[derive(Debug)]
pub struct StateMachine {
    state: Arc<State>,
    snapshots: Arc<Snapshots>,
}

/// The state of one moment, on its way to be a snapshot.
#[derive(Debug)]
pub struct SnapshotBuilder {
    /// Taken by the first build; a second one is answered from what is kept.
    held: Option<Held>,
    snapshots: Arc<Snapshots>,
}

impl StateMachine {
    /// The state of the newest snapshot in `backend`, or an empty one.
    pub(super) fn open(backend: &Arc<dyn StorageBackend>) -> io::Result<Self> {
        let snapshots = Snapshots::new(backend);
        let held = match snapshots.load()? {
            Some((meta, bytes)) => Held { kv: read(&bytes)?, meta },
            None => Held::default(),
        };
        Ok(Self { state: Arc::new(State::new(held)), snapshots: Arc::new(snapshots) })
    }

    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let meta = self.state.meta();
        Ok((meta.last_log_id, meta.last_membership))
    }

    async fn apply<Entries>(&mut self, mut entries: Entries) -> Result<(), io::Error>
    where
        Entries: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let outcomes = self.state.apply_entry(entry);
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { held: Some(self.state.copy()), snapshots: Arc::clone(&self.snapshots) }
    }

    /// Replaces state and snapshot, in that order on disk and then in memory. A snapshot that is damaged, or could not be
    /// written, changes nothing.
    async fn install_snapshot(&mut self, meta: &SnapshotMeta, bytes: SnapshotData) -> Result<(), io::Error> {
        let (snapshots, meta) = (Arc::clone(&self.snapshots), meta.clone());
        let held = blocking(move || {
            let kv = read(&bytes)?;
            snapshots.store(&meta, &bytes, Which::Always)?;
            Ok(Held { kv, meta })
        });
        self.state.replace(held.await?);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        let snapshots = Arc::clone(&self.snapshots);
        let found = blocking(move || snapshots.load()).await?;
        Ok(found.map(|(meta, snapshot)| openraft::Snapshot { meta, snapshot }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        let (held, snapshots) = (self.held.take(), Arc::clone(&self.snapshots));
        let (meta, snapshot) = blocking(move || match held {
            Some(Held { kv, meta }) => {
                let bytes = kv.to_bytes();
                // What `to_bytes` cannot write it leaves out; that must not become the only copy.
                read(&bytes)?;
                snapshots.store(&meta, &bytes, Which::Newer)?;
                Ok((meta, bytes))
            }
            None => snapshots.load()?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)),
        })
        .await?;
        Ok(openraft::Snapshot { meta, snapshot })
    }
}

fn read(bytes: &[u8]) -> io::Result<Kv> {
    Kv::from_bytes(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Off the runtime's workers: a large snapshot takes as long as many heartbeats.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
