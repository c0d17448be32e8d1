//! How the store is, as this node sees it: for people, tools and metrics.

use std::{net::SocketAddr, time::Duration};

use serde::Serialize;

use super::{
    Role,
    core::{bootstrap::StoreId, key::Revision},
    meters::OlderKeys,
    raft::{Node, Status, Voter},
};

/// How the store is, as this node sees it.
#[derive(Clone, Debug, Serialize)]
pub struct StoreStatus {
    /// This node.
    pub id: String,
    /// What it is to the store.
    pub role: Role,
    /// The store that it belongs to, once it has found one.
    pub store: Option<String>,
    /// How often that store was gone on with from one disk (`outrigger raft recover`).
    pub epoch: Option<u64>,
    /// Who leads, if anybody does.
    pub leader: Option<String>,
    /// The term of the log.
    pub term: u64,
    /// The last entry of its log, the last that is decided, and the last that is in its state.
    pub last_log: u64,
    /// See `last_log`.
    pub committed: u64,
    /// See `last_log`.
    pub applied: u64,
    /// The last entry that its snapshot has; 0 without one.
    pub snapshot: u64,
    /// The revision of its state.
    pub revision: Revision,
    /// Keys in its state, and their bytes with their values.
    pub keys: usize,
    /// See `keys`.
    pub bytes: usize,
    /// Milliseconds since a quorum was last heard, by a leader.
    pub quorum_heard_ms: Option<u64>,
    /// How old its state may be, in milliseconds: it has all that was decided before. `None` if that is not known.
    pub age_ms: Option<u64>,
    /// Whether records on its disk may need an older encryption key; `None` if it has none.
    pub needs_older_keys: Option<bool>,
    /// Whether voters are being changed.
    pub is_changing: bool,
    /// Those who vote.
    pub voters: Vec<Replica>,
    /// Those who have the log and stand by.
    pub standbys: Vec<Replica>,
    /// What has stopped its replica for good; a restart may mend it.
    pub failure: Option<String>,
}

/// A replica of the log.
#[derive(Clone, Debug, Serialize)]
pub struct Replica {
    /// Which node.
    pub id: String,
    /// Its name.
    pub node: String,
    /// Where it was when it was taken in.
    pub address: SocketAddr,
    /// Its zone, if it says.
    pub zone: Option<String>,
    /// Entries that it lacks, as the leader knows.
    pub lag: Option<u64>,
    /// Milliseconds since the leader last heard it.
    pub heard_ms: Option<u64>,
}

/// A node's number as people see it, like that of a member.
pub(super) fn shown(id: u64) -> String {
    format!("{id:016x}")
}

impl StoreStatus {
    /// `superseded` is what the replica of this node is of, and what the store is by now, if that is later.
    pub(super) fn of(
        id: u64,
        store: Option<u64>,
        node: Option<&Node>,
        superseded: Option<(StoreId, StoreId)>,
    ) -> Self {
        let mut told = Self {
            id: shown(id),
            role: if node.is_some() { Role::Searching } else { Role::Watcher },
            store: store.map(shown),
            epoch: store.map(|store| StoreId(store).epoch()),
            leader: None,
            term: 0,
            last_log: 0,
            committed: 0,
            applied: 0,
            snapshot: 0,
            revision: Revision(0),
            keys: 0,
            bytes: 0,
            quorum_heard_ms: None,
            age_ms: None,
            needs_older_keys: None,
            is_changing: false,
            voters: Vec::new(),
            standbys: Vec::new(),
            failure: None,
        };
        if let Some(node) = node {
            told.take(node);
        }
        if let Some((own, latest)) = superseded {
            told.failure = Some(format!(
                "the store has gone on in epoch {} without the log of this server, which is of epoch {}: restart it, and it puts \
                 its log aside and joins as a new one",
                latest.epoch(),
                own.epoch()
            ));
        }
        told
    }

    fn take(&mut self, node: &Node) {
        let status = node.status();
        self.role = status.role;
        self.leader = status.leader.map(shown);
        self.term = status.term;
        self.last_log = status.last_log;
        self.committed = status.committed;
        self.applied = status.applied;
        self.snapshot = status.snapshot;
        self.quorum_heard_ms = status.quorum_heard.map(millis);
        self.age_ms = node.age().map(millis);
        self.needs_older_keys = node.meters().older_keys().map(|keys| keys == OlderKeys::Needed);
        self.is_changing = status.is_changing;
        self.voters = status.voters.iter().map(|one| replica(&status, one)).collect();
        self.standbys = status.learners.iter().map(|one| replica(&status, one)).collect();
        self.failure = node.failure();
        (self.revision, self.keys, self.bytes) =
            node.state().read(|kv| (kv.revision(), kv.len(), kv.bytes()));
    }
}

fn replica(status: &Status, (id, voter): &(u64, Voter)) -> Replica {
    let follower = status.followers.get(id).copied().unwrap_or_default();
    let zone = (!voter.zone.is_empty()).then(|| voter.zone.clone());
    let is_leader = status.role == Role::Leader;
    Replica {
        id: shown(*id),
        node: voter.name.clone(),
        address: voter.address,
        zone,
        lag: is_leader.then(|| status.last_log.saturating_sub(follower.matching.unwrap_or(0))),
        heard_ms: follower.heard.map(millis),
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
