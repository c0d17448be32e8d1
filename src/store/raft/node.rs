//! One replica of the log: proposes, reads at a moment that is certain, and answers the messages of the others.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use openraft::{
    Config, Instant as _, Raft, ReadPolicy, ServerState, SnapshotPolicy,
    alias::SnapshotOf,
    async_runtime::WatchReceiver as _,
    errors::{ClientWriteError, LinearizableReadError, RaftError},
    raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    log::LogReader,
    machine::{self, StateMachine},
    network::{APPEND, Network, PRE_VOTE, Part, SNAPSHOT, TRANSFER, Taken, VOTE},
    salvage::Place,
    state::State,
    time::Told,
    types::{LogId, Proposal, SnapshotData, TypeConfig, Vote, Voter},
};
#[cfg(feature = "planted-bugs")]
use crate::store::planted;
use crate::{
    peer::rpc::{Call, Refusal},
    rt::clock,
    store::{
        Role, Timing,
        backend::StorageBackend,
        core::{command::Command, key::Revision, kv::Kv, outcome::Outcome},
        meters::Meters,
        protocol::{self, Answer},
        pulse::Freshness,
    },
};

/// Log entries after which a snapshot is made, and those that are kept behind it for replicas that lag.
const SNAPSHOT_AFTER: u64 = 5000;
const KEPT_BEHIND: u64 = 1000;
/// For a write, and for a read that asks the others. Longer than an election takes.
const LIMIT: Duration = Duration::from_secs(5);
/// Largest snapshot that is taken from another: the largest store, twice.
const MAX_SNAPSHOT: u64 = 512 * 1024 * 1024;

/// One replica of the log; clones are cheap.
#[derive(Clone)]
pub(in crate::store) struct Node {
    pub(super) raft: Raft<TypeConfig, StateMachine>,
    pub(super) state: Arc<State>,
    pub(super) freshness: Arc<Freshness>,
    meters: Arc<Meters>,
    pub(super) clocks: Arc<Mutex<Told>>,
    pub(super) log: LogReader,
    /// The snapshot that is coming in, and who sends it.
    incoming: Arc<Mutex<Option<Incoming>>>,
}

struct Incoming {
    from: u64,
    size: u64,
    bytes: Vec<u8>,
}

/// How a leader makes sure that it still leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Certainty {
    /// It asks the others (ReadIndex).
    Asked,
    /// It trusts its lease, and so that no clock runs much too fast.
    Leased,
}

/// How a replica is, for people and for those who steer it.
#[derive(Clone, Debug)]
pub(in crate::store) struct Status {
    pub(in crate::store) id: u64,
    pub(in crate::store) role: Role,
    pub(in crate::store) term: u64,
    pub(in crate::store) leader: Option<u64>,
    pub(in crate::store) last_log: u64,
    pub(in crate::store) committed: u64,
    pub(in crate::store) applied: u64,
    pub(in crate::store) snapshot: u64,
    /// The last entry that is no more in the log.
    pub(in crate::store) purged: u64,
    pub(in crate::store) voters: Vec<(u64, Voter)>,
    pub(in crate::store) learners: Vec<(u64, Voter)>,
    /// For a leader: how far each other one is behind, and how long ago it was heard.
    pub(in crate::store) followers: BTreeMap<u64, Follower>,
    /// Whether voters are being changed.
    pub(in crate::store) is_changing: bool,
    /// How long ago a quorum was heard, for a leader.
    pub(in crate::store) quorum_heard: Option<Duration>,
}

/// A follower as its leader sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Follower {
    pub(in crate::store) matching: Option<u64>,
    pub(in crate::store) heard: Option<Duration>,
}

impl Node {
    /// Opens the replica `id`; it does nothing before it is a voter or a learner.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(in crate::store) async fn open(
        id: u64,
        timing: Timing,
        network: Network,
        backend: &Arc<dyn StorageBackend>,
        meters: Arc<Meters>,
    ) -> io::Result<Self> {
        let backend = Arc::clone(backend);
        let opening = tokio::task::spawn_blocking(move || super::open(&backend));
        let (log, machine, state) = opening.await.map_err(io::Error::other)??;
        let reader = log.reader();
        let config = config(timing).validate().map_err(io::Error::other)?;
        let raft = Raft::new(id, Arc::new(config), network, log, machine).await.map_err(io::Error::other)?;
        Ok(Self {
            raft,
            state,
            log: reader,
            freshness: Arc::default(),
            meters,
            clocks: Arc::default(),
            incoming: Arc::default(),
        })
    }

    pub(in crate::store) fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    pub(in crate::store) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// What `read` makes of the state of this moment and its last entry, on a thread where it may take its time; `None`
    /// before the first entry.
    pub(in crate::store) async fn archived<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Kv, Place) -> T + Send + 'static,
    ) -> io::Result<Option<T>> {
        let held = self.state.copy();
        let Some(last) = held.meta.last_log_id else { return Ok(None) };
        machine::blocking(move || Ok(read(&held.kv, Place(last)))).await.map(Some)
    }

    /// Has `command` decided, by this leader, which says when. Cancel-safe in that the command may be decided all the same.
    pub(in crate::store) async fn propose(&self, command: Command) -> Answer<Outcome> {
        let command = Command { at_ms: self.log_time(), ..command };
        // In a box: these futures are large, and whoever waits for them is one as well.
        let write = Box::pin(self.raft.client_write(Proposal(vec![command])));
        let began = clock::now();
        let written = match tokio::time::timeout(LIMIT, write).await {
            Ok(written) => written,
            Err(_) => return Answer::TimedOut,
        };
        if written.is_ok() {
            self.meters.decided(clock::now().since(began));
        }
        match written {
            Ok(written) => match written.data.0.into_iter().next() {
                Some(outcome) => Answer::Done(outcome),
                None => Answer::Failed("the log answers nothing".to_owned()),
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(elsewhere))) => {
                Answer::Elsewhere(elsewhere.leader_id)
            }
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => Answer::TimedOut,
            Err(error) => Answer::Failed(error.to_string()),
        }
    }

    /// Waits until the state has got as far as `revision`.
    pub(in crate::store) async fn reached(&self, revision: Revision, limit: Duration) -> Answer<()> {
        let mut applied = self.state.watch();
        match tokio::time::timeout(limit, applied.wait_for(|applied| applied.revision >= revision)).await {
            Ok(Ok(_)) => Answer::Done(()),
            Ok(Err(_)) | Err(_) => Answer::NoQuorum,
        }
    }

    /// Waits until the state of this leader has all that was written before.
    pub(in crate::store) async fn certain(&self, by: Certainty) -> Answer<()> {
        #[cfg(feature = "planted-bugs")]
        if planted::has(planted::Bug::StaleRead) {
            return Answer::Done(());
        }
        let policy = match by {
            Certainty::Asked => ReadPolicy::ReadIndex,
            Certainty::Leased => ReadPolicy::LeaseRead,
        };
        let asking = async {
            let linearizer = self.raft.get_read_linearizer(policy).await?;
            linearizer.try_await_ready(&self.raft, Some(LIMIT)).await.map_err(RaftError::Fatal)
        };
        match tokio::time::timeout(LIMIT, Box::pin(asking)).await {
            Err(_) | Ok(Ok(Err(_))) => Answer::NoQuorum,
            Ok(Ok(Ok(_))) => Answer::Done(()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(elsewhere)))) => {
                Answer::Elsewhere(elsewhere.leader_id)
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => Answer::NoQuorum,
            Ok(Err(RaftError::Fatal(error))) => Answer::Failed(error.to_string()),
        }
    }
}

/// Changes of who votes. All of them are for the leader; each waits until the change is decided.
impl Node {
    /// Begins the log, with these voters. Only ever on one of them, once.
    ///
    /// # Errors
    /// What openraft says; nothing has changed.
    pub(in crate::store) async fn found(&self, voters: BTreeMap<u64, Voter>) -> Result<(), String> {
        match self.raft.initialize(voters).await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(in crate::store) async fn add_learner(&self, id: u64, node: Voter) -> Result<(), String> {
        told(self.raft.add_learner(id, node, false).await)
    }

    /// Makes these the voters; each must be one, or a learner. Those who vote no longer stay as learners.
    pub(in crate::store) async fn set_voters(&self, voters: Vec<u64>) -> Result<(), String> {
        let voters: std::collections::BTreeSet<u64> = voters.into_iter().collect();
        told(self.raft.change_membership(voters, true).await)
    }

    pub(in crate::store) async fn remove_learner(&self, id: u64) -> Result<(), String> {
        let gone = openraft::ChangeMembers::RemoveNodes([id].into());
        told(self.raft.change_membership(gone, false).await)
    }

    pub(in crate::store) async fn transfer(&self, to: u64) -> Result<(), String> {
        self.raft.trigger().transfer_leader(to).await.map_err(|error| error.to_string())
    }

    /// Ends it: what is durable stays.
    pub(in crate::store) async fn shut_down(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "the replica did not end well");
        }
    }

    /// How it is. A look at what is there: asks nobody.
    pub(in crate::store) fn status(&self) -> Status {
        let metrics = self.raft.metrics();
        let seen = metrics.borrow_watched();
        let membership = seen.membership_config.membership();
        let nodes: BTreeMap<u64, Voter> = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
        let voting: Vec<u64> = membership.voter_ids().collect();
        let named = |ids: &mut dyn Iterator<Item = u64>| -> Vec<(u64, Voter)> {
            ids.filter_map(|id| nodes.get(&id).map(|node| (id, node.clone()))).collect()
        };
        let index = |id: &Option<LogId>| id.as_ref().map_or(0, |id| id.index);
        let mut followers: BTreeMap<u64, Follower> = BTreeMap::new();
        for (id, at) in seen.replication.iter().flatten() {
            followers.entry(*id).or_default().matching = at.as_ref().map(|at| at.index);
        }
        for (id, heard) in seen.heartbeat.iter().flatten() {
            followers.entry(*id).or_default().heard = heard.as_ref().map(|heard| heard.elapsed());
        }
        Status {
            id: seen.id,
            role: role(seen.state, || nodes.contains_key(&seen.id)),
            term: seen.current_term,
            leader: seen.current_leader,
            last_log: seen.last_log_index.unwrap_or(0),
            committed: index(&seen.local_committed),
            applied: index(&seen.last_applied),
            snapshot: index(&seen.snapshot),
            purged: index(&seen.purged),
            voters: named(&mut voting.iter().copied()),
            learners: named(&mut nodes.keys().copied().filter(|id| !voting.contains(id))),
            followers,
            is_changing: seen.membership_config.log_id() != seen.committed_membership_config.log_id()
                || membership.get_joint_config().len() > 1,
            quorum_heard: seen.last_quorum_acked.map(|heard| heard.elapsed()),
        }
    }

    /// Whether it ever had a part in the log.
    pub(in crate::store) fn has_log(&self) -> bool {
        let status = self.status();
        (status.term, status.last_log) != (0, 0)
    }

    /// Whether `id` has a replica of this log.
    pub(in crate::store) fn has_replica(&self, id: u64) -> bool {
        let metrics = self.raft.metrics();
        metrics.borrow_watched().membership_config.membership().get_node(&id).is_some()
    }

    /// What it is to the store. Asked with each read and write: copies nothing.
    pub(in crate::store) fn role(&self) -> Role {
        let metrics = self.raft.metrics();
        let seen = metrics.borrow_watched();
        role(seen.state, || seen.membership_config.membership().get_node(&seen.id).is_some())
    }

    /// Who leads, as far as it knows.
    pub(in crate::store) fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().current_leader
    }

    /// Whether there is a fatal error, which only a restart mends.
    pub(in crate::store) fn failure(&self) -> Option<String> {
        self.raft.metrics().borrow_watched().running_state.as_ref().err().map(ToString::to_string)
    }
}

/// What other replicas send.
impl Node {
    /// Answers a message of Raft; `None` if it is none.
    pub(in crate::store) async fn answer(&self, call: &Call) -> Option<Result<Bytes, Refusal>> {
        Some(match call.method.as_str() {
            APPEND if !is_bounded(&call.body) => Err(nonsense()),
            APPEND => answer(call, |said: &Append| &said.vote, |said| self.raft.append_entries(said)).await,
            VOTE => answer(call, |said: &Ballot| &said.vote, |said| self.raft.vote(said)).await,
            PRE_VOTE => answer(call, |said: &Ballot| &said.vote, |said| self.raft.pre_vote(said)).await,
            TRANSFER => {
                answer(call, Handover::from_leader, |said| self.raft.handle_transfer_leader(said)).await
            }
            SNAPSHOT => match protocol::read::<Part>(&call.body) {
                Some(part) if is_own(&part.vote, call.from) => self.take(call.from, part).await,
                Some(_) => Err(another()),
                None => Err(nonsense()),
            },
            _ => return None,
        })
    }

    /// One part of a snapshot. They come one after the other; one that begins anew ends the one before.
    async fn take(&self, from: u64, part: Part) -> Result<Bytes, Refusal> {
        let more: Taken = None;
        let Some(whole) = self.gather(from, &part)? else { return Ok(protocol::write(&more)) };
        let snapshot = SnapshotOf::<TypeConfig, SnapshotData> { meta: part.meta, snapshot: whole };
        match self.raft.install_full_snapshot(part.vote, snapshot).await {
            Ok(response) => Ok(protocol::write(&Some(response))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    fn gather(&self, from: u64, part: &Part) -> Result<Option<Vec<u8>>, Refusal> {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        if part.offset == 0 {
            *incoming = Some(Incoming { from, size: part.size, bytes: Vec::new() });
        }
        let fits = |one: &Incoming| {
            let end = part.offset.checked_add(part.bytes.len() as u64);
            let is_next = (one.from, one.size, one.bytes.len() as u64) == (from, part.size, part.offset);
            is_next && end.is_some_and(|end| end <= part.size)
        };
        let Some(one) = incoming.as_mut().filter(|one| fits(one) && part.size <= MAX_SNAPSHOT) else {
            *incoming = None;
            return Err(failed("this is not the next part of a snapshot"));
        };
        one.bytes.extend_from_slice(&part.bytes);
        let is_whole = one.bytes.len() as u64 == one.size;
        Ok(if is_whole { incoming.take().map(|one| one.bytes) } else { None })
    }
}

fn role(state: ServerState, is_member: impl FnOnce() -> bool) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner if is_member() => Role::Standby,
        ServerState::Learner | ServerState::Shutdown => Role::Searching,
    }
}

type Append = AppendEntriesRequest<TypeConfig>;
pub(in crate::store) type Ballot = VoteRequest<TypeConfig>;
pub(in crate::store) type Handover = TransferLeaderRequest<TypeConfig>;

/// Entries that one message has at most: more than openraft sends, and few enough that a message which is all entries of
/// some bytes each does not become many times its size.
const MAX_ENTRIES: u64 = 4096;

/// Whether a message with entries has no more than [`MAX_ENTRIES`]: their number stands before them, and is looked at
/// before room is made for them.
fn is_bounded(body: &[u8]) -> bool {
    let head = postcard::take_from_bytes::<(Vote, Option<LogId>, u64)>(body);
    head.is_ok_and(|((_, _, entries), _)| entries <= MAX_ENTRIES)
}

/// A message with entries, as a node reads it.
pub(in crate::store) fn read_append(body: &[u8]) -> Option<Append> {
    if is_bounded(body) { protocol::read(body) } else { None }
}

/// Whether it is the vote of the node that sends it: nobody leads or stands for another.
fn is_own(vote: &Vote, from: u64) -> bool {
    vote.leader_id.node_id == from
}

async fn answer<Q, A, F, E>(
    call: &Call,
    vote: impl FnOnce(&Q) -> &Vote,
    ask: impl FnOnce(Q) -> F,
) -> Result<Bytes, Refusal>
where
    Q: DeserializeOwned,
    A: Serialize,
    F: Future<Output = Result<A, E>>,
    E: std::fmt::Display,
{
    let request = protocol::read(&call.body).ok_or_else(nonsense)?;
    if !is_own(vote(&request), call.from) {
        return Err(another());
    }
    match ask(request).await {
        Ok(response) => Ok(protocol::write(&response)),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn nonsense() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "this is no message of Raft that this version knows")
}

fn another() -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "it speaks for another node")
}

/// The replica cannot answer. Whoever asked tries again.
fn failed(why: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why)
}

fn told<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<(), String> {
    result.map(|_| ()).map_err(|error| error.to_string())
}

fn config(timing: Timing) -> Config {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (shortest, heartbeat) = (ms(timing.election_timeout), ms(timing.heartbeat));
    Config {
        cluster_name: "outrigger".to_owned(),
        heartbeat_interval: heartbeat,
        election_timeout_min: shortest,
        election_timeout_max: 2 * shortest,
        // Whoever cannot win does not disturb those who have a leader.
        enable_pre_vote: Some(true),
        // A leader that reaches no quorum falls silent now and then, so that those who could elect another do (openraft
        // #2080). The lease is the longest election timeout.
        quorum_loss_probe_interval: Some(4 * shortest + heartbeat),
        // Who led before a restart asks to lead again. Otherwise it would go on in its term without knowing what it had
        // acknowledged in it, and reads would be certain of an older state (openraft #1511).
        #[cfg(not(feature = "planted-bugs"))]
        enable_leader_restore: Some(false),
        #[cfg(feature = "planted-bugs")]
        enable_leader_restore: Some(planted::has(planted::Bug::LeaderRestore)),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_AFTER),
        max_in_snapshot_log_to_keep: KEPT_BEHIND,
        install_snapshot_timeout: 60_000,
        ..Config::default()
    }
}
