//! Keeps the epochs of a store apart. What replicas and those who ask them say to each other begins with the store that it
//! is meant for, in its epoch; what is meant for another one is refused. So a voter that comes back with the log of an
//! earlier epoch has no part in any vote, and nobody takes its word for the state (docs/adr/0028). The leaderless tier has no
//! votes, and heeds all epochs of one store: see [`Fence::admit_kin`].

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::{Buf as _, Bytes};
use http::StatusCode;
use serde::Serialize;

use super::{
    core::bootstrap::StoreId,
    protocol::{COMMAND, ORDER, QUERY},
    pulse::PULSE,
};
use crate::peer::rpc::Refusal;

/// The store of this node; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Fence(Arc<Numbers>);

/// 0 stands for none.
#[derive(Debug)]
struct Numbers {
    /// What the replica of this node is of.
    replica: AtomicU64,
    /// What this node asks for: the same, or a later epoch.
    latest: AtomicU64,
}

/// Bytes of the number in front.
const MARK: usize = 8;

/// Who may say something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strangers {
    /// Those as well who do not know the store yet: they ask.
    Welcome,
    /// Only those of this epoch: they vote, and fill the log.
    Refused,
}

/// Who may call `method`; `None` if it is not of the strong tier.
pub(super) fn door(method: &str) -> Option<Strangers> {
    match method {
        COMMAND | QUERY | PULSE | ORDER => Some(Strangers::Welcome),
        method if method.starts_with("raft/") => Some(Strangers::Refused),
        _ => None,
    }
}

impl Fence {
    /// `replica` is what the replica of this node is of; `latest` what this node belongs to.
    pub(super) fn new(replica: Option<StoreId>, latest: Option<StoreId>) -> Self {
        let number = |store: Option<StoreId>| AtomicU64::new(store.map_or(0, |store| store.0));
        Self(Arc::new(Numbers { replica: number(replica), latest: number(latest.or(replica)) }))
    }

    /// The replica is of `store` from now on.
    pub(super) fn adopt(&self, store: StoreId) {
        self.0.latest.store(store.0, Relaxed);
        self.0.replica.store(store.0, Relaxed);
    }

    /// The store has gone on in a later epoch without the replica of this node.
    pub(super) fn supersede(&self, latest: StoreId) {
        self.0.latest.store(latest.0, Relaxed);
    }

    /// What the replica is of, and what the store is by now, if that is later.
    pub(super) fn superseded(&self) -> Option<(StoreId, StoreId)> {
        let (replica, latest) = (self.0.replica.load(Relaxed), self.0.latest.load(Relaxed));
        (replica != 0 && replica != latest).then_some((StoreId(replica), StoreId(latest)))
    }

    /// What the replica of this node is of.
    pub(super) fn replica(&self) -> Option<StoreId> {
        let replica = self.0.replica.load(Relaxed);
        (replica != 0).then_some(StoreId(replica))
    }

    /// Whether this is the store, in its epoch, that this node asks for.
    pub(super) fn is_latest(&self, store: u64) -> bool {
        self.0.latest.load(Relaxed) == store
    }

    /// Whether this is what the replica of this node is of.
    pub(super) fn is_replicas(&self, store: u64) -> bool {
        self.0.replica.load(Relaxed) == store
    }

    /// `what`, as the replica says it to others.
    pub(super) fn of_replica(&self, what: &impl Serialize) -> Bytes {
        marked(self.0.replica.load(Relaxed), what)
    }

    /// `what`, as one who asks says it.
    pub(super) fn of_asker(&self, what: &impl Serialize) -> Bytes {
        marked(self.0.latest.load(Relaxed), what)
    }

    /// What was said to the leaderless tier, if it is for this store, in whichever epoch: what was acknowledged there is on
    /// most servers that keep it, and stays true when the log goes on from another one (docs/adr/0029). Whoever has found
    /// no store yet has nothing of another.
    pub(super) fn admit_kin(&self, mut said: Bytes) -> Result<Bytes, Refusal> {
        if said.len() < MARK {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "it does not say which store it is for"));
        }
        let (own, meant) = (StoreId(self.0.latest.load(Relaxed)), StoreId(said.get_u64()));
        if own.0 == 0 || meant.0 == 0 || own.is_kin(meant) {
            return Ok(said);
        }
        let why = format!("it is for store {:016x}, and this is {:016x}", meant.0, own.0);
        Err(Refusal::new(StatusCode::CONFLICT, why))
    }

    /// What was said, if it is for this replica.
    pub(super) fn admit(&self, mut said: Bytes, strangers: Strangers) -> Result<Bytes, Refusal> {
        let refused = |status, why: String| Err(Refusal::new(status, why));
        if said.len() < MARK {
            return refused(StatusCode::BAD_REQUEST, "it does not say which store it is for".to_owned());
        }
        let meant = StoreId(said.get_u64());
        if let Some((_, latest)) = self.superseded() {
            let why =
                format!("this replica was left behind: the store is in epoch {} by now", latest.epoch());
            return refused(StatusCode::CONFLICT, why);
        }
        let own = StoreId(self.0.replica.load(Relaxed));
        match (own, meant) {
            (StoreId(0), _) => {
                refused(StatusCode::SERVICE_UNAVAILABLE, "this node has not found its store yet".to_owned())
            }
            (own, meant) if own == meant => Ok(said),
            (_, StoreId(0)) if strangers == Strangers::Welcome => Ok(said),
            (own, meant) if own.is_kin(meant) => {
                let (own, meant) = (own.epoch(), meant.epoch());
                refused(
                    StatusCode::CONFLICT,
                    format!("it is for epoch {meant} of the store, and this is epoch {own}"),
                )
            }
            (own, meant) => {
                let why = format!("it is for store {:016x}, and this is {:016x}", meant.0, own.0);
                refused(StatusCode::CONFLICT, why)
            }
        }
    }
}

/// What this process made can always be written.
fn marked(store: u64, what: &impl Serialize) -> Bytes {
    postcard::to_extend(what, store.to_be_bytes().to_vec()).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: StoreId = StoreId(7 << 16);
    const SECOND: StoreId = StoreId(7 << 16 | 1);

    fn at(store: StoreId) -> Fence {
        Fence::new(Some(store), None)
    }

    fn status(fence: &Fence, said: Bytes, strangers: Strangers) -> Option<u16> {
        fence.admit(said, strangers).err().map(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn only_who_is_of_the_same_epoch_is_heard() {
        let heard = at(SECOND).admit(at(SECOND).of_replica(&7_u8), Strangers::Refused).unwrap();
        assert_eq!(heard[..], [7]);
        for other in [at(FIRST), at(StoreId(9 << 16)), Fence::new(None, None)] {
            assert!(status(&at(SECOND), other.of_replica(&7_u8), Strangers::Refused).is_some());
            assert!(status(&other, at(SECOND).of_replica(&7_u8), Strangers::Refused).is_some());
        }
        assert_eq!(status(&at(SECOND), Bytes::from_static(b"short"), Strangers::Welcome), Some(400));
    }

    #[test]
    fn the_leaderless_tier_hears_all_epochs_of_one_store_and_no_other() {
        let left = at(FIRST);
        left.supersede(SECOND);
        let unfounded = Fence::new(None, None);
        for (one, other) in [(&at(FIRST), &at(SECOND)), (&left, &at(SECOND)), (&unfounded, &at(SECOND))] {
            assert_eq!(one.admit_kin(other.of_replica(&7_u8)).unwrap()[..], [7]);
            assert_eq!(other.admit_kin(one.of_replica(&7_u8)).unwrap()[..], [7]);
        }
        let refused = |said| at(SECOND).admit_kin(said).unwrap_err().status.as_u16();
        assert_eq!(refused(at(StoreId(9 << 16)).of_replica(&7_u8)), 409);
        assert_eq!(refused(Bytes::from_static(b"short")), 400);
    }

    #[test]
    fn who_knows_no_store_yet_may_ask_and_has_no_say() {
        let asker = Fence::new(None, None);
        assert_eq!(status(&at(FIRST), asker.of_asker(&7_u8), Strangers::Welcome), None);
        assert_eq!(status(&at(FIRST), asker.of_asker(&7_u8), Strangers::Refused), Some(409));
        // Nor does one who has found none answer for one.
        assert_eq!(status(&asker, asker.of_asker(&7_u8), Strangers::Welcome), Some(503));
    }

    #[test]
    fn a_replica_that_was_left_behind_answers_nobody_and_asks_as_the_others_do() {
        let left = at(FIRST);
        assert_eq!(left.superseded(), None);
        left.supersede(SECOND);
        assert_eq!(left.superseded(), Some((FIRST, SECOND)));
        for said in [at(FIRST).of_replica(&7_u8), at(SECOND).of_replica(&7_u8)] {
            assert_eq!(status(&left, said, Strangers::Welcome), Some(409));
        }
        assert_eq!(status(&at(SECOND), left.of_asker(&7_u8), Strangers::Welcome), None);
        assert_eq!(status(&at(SECOND), left.of_replica(&7_u8), Strangers::Welcome), Some(409));
        left.adopt(SECOND);
        assert_eq!(left.superseded(), None);
    }
}
