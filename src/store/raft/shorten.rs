//! Keeps the log of a replica from growing by its bytes.

use super::Node;

/// Bytes of the log after which a snapshot is made, and those that are kept behind it for replicas that lag. Entries are
/// counted as well, and may be as large as a transaction.
const SNAPSHOT_AFTER_BYTES: u64 = 32 * 1024 * 1024;
const KEPT_BEHIND_BYTES: u64 = 16 * 1024 * 1024;

/// How far a replica was asked to make its log shorter.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct Shortened {
    snapshot: u64,
    purged: u64,
}

impl Node {
    /// Has a snapshot made when the log after the last one is large, and what is too large before it removed. What openraft
    /// does by the number of entries, by their bytes; asks once for each, and does not wait.
    pub(in crate::store) async fn shorten(&self, asked: &mut Shortened) {
        let status = self.status();
        let since = status.snapshot.max(asked.snapshot);
        if status.applied > since && self.log.weight_after(since) >= SNAPSHOT_AFTER_BYTES {
            asked.snapshot = status.applied;
            // It fails when the replica has ended.
            let _ = self.raft.trigger().snapshot().await;
        }
        let surplus = self.log.surplus(status.snapshot, KEPT_BEHIND_BYTES);
        if let Some(through) = surplus.filter(|through| *through > asked.purged) {
            asked.purged = through;
            let _ = self.raft.trigger().purge_log(through).await;
        }
    }
}
