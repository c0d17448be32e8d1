//! Raft's messages on their way to another voter. Heartbeats and votes, the log, and snapshots each have a connection of
//! their own, so that none waits for another. What is received is in node.rs.

use std::{future::Future, net::SocketAddr, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use openraft::{
    AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    alias::SnapshotOf,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RPCTypes, stream_append_sequential},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::timeout_at;

use super::types::{SnapshotData, SnapshotMeta, TypeConfig, Vote, Voter};
use crate::{
    peer::rpc::{Caller, Failure, Lane, Target},
    rt::clock,
    store::{
        fence::Fence,
        peers::{self, Peers},
        protocol,
    },
};

pub(super) const APPEND: &str = "raft/append";
pub(super) const VOTE: &str = "raft/vote";
pub(super) const PRE_VOTE: &str = "raft/pre_vote";
pub(super) const SNAPSHOT: &str = "raft/snapshot";
pub(super) const TRANSFER: &str = "raft/transfer";

/// Bytes of a snapshot that travel at once.
const CHUNK: usize = 1024 * 1024;
/// For one part of a snapshot.
const CHUNK_LIMIT: Duration = Duration::from_secs(10);

/// How long news of what is committed wait for entries to go with.
const COMMIT_PAUSE: Duration = Duration::from_millis(1);

type Append = AppendEntriesRequest<TypeConfig>;
/// What becomes of a stream of [`Append`].
type Appended<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

/// A part of a snapshot, in the order of the parts.
#[derive(Serialize, Deserialize)]
pub(in crate::store) struct Part {
    pub(in crate::store) vote: Vote,
    pub(in crate::store) meta: SnapshotMeta,
    /// Bytes of the whole.
    pub(in crate::store) size: u64,
    /// Bytes before this part.
    pub(in crate::store) offset: u64,
    pub(in crate::store) bytes: bytes::Bytes,
}

/// What became of a part: `None` if more are wanted.
pub(super) type Taken = Option<SnapshotResponse<TypeConfig>>;

/// Makes the links of this node.
#[derive(Clone)]
pub(in crate::store) struct Network {
    pub(in crate::store) caller: Caller,
    pub(in crate::store) peers: Peers,
    pub(in crate::store) own: u64,
    pub(in crate::store) fence: Fence,
}

/// The way to one other voter.
pub(in crate::store) struct Link {
    network: Network,
    target: u64,
    /// Where it was when it became a voter.
    known: SocketAddr,
    lane: Lane,
}

impl Network {
    fn link(&self, target: u64, node: &Voter, lane: Lane) -> Link {
        Link { network: self.clone(), target, known: node.address, lane }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Voter) -> Link {
        self.link(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Voter) -> Link {
        self.link(target, node, Lane::Beat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Voter) -> Link {
        self.link(target, node, Lane::Bulk)
    }
}

impl Link {
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        action: RPCTypes,
        (lane, method): (Lane, &'static str),
        question: &Q,
        limit: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        // It may have moved since: the membership knows first.
        let address = peers::address(&self.network.peers, self.target).unwrap_or(self.known);
        let target = Target { node: self.target, address };
        let body = self.network.fence.of_replica(question);
        match self.network.caller.call(&target, lane, method, body, limit).await {
            Ok(answer) => protocol::read(&answer).ok_or_else(|| {
                let nonsense = AnyError::error("it answers what was not asked");
                RPCError::Network(NetworkError::new(&nonsense))
            }),
            Err(error) => Err(match &error.failure {
                Failure::Unreachable(_) => RPCError::Unreachable(Unreachable::new(&error)),
                Failure::TimedOut(_) => {
                    let (id, target) = (self.network.own, self.target);
                    RPCError::Timeout(Timeout { action, id, target, timeout: limit })
                }
                Failure::Refused { .. } | Failure::Broken(_) | Failure::TooLong(_) => {
                    RPCError::Network(NetworkError::new(&error))
                }
            }),
        }
    }
}

/// The same, but for messages that only tell what is committed and that another one follows closely: that one says as much.
/// Both begin at the same place of the log, so who takes the later one would have taken the earlier.
fn joined(input: impl Stream<Item = Append> + Send + Unpin) -> impl Stream<Item = Append> + Send {
    stream::unfold((input.fuse(), None), async |(mut input, held)| {
        let mut one: Append = match held {
            Some(held) => held,
            None => input.next().await?,
        };
        let end = clock::instant(clock::now().after(COMMIT_PAUSE));
        while one.entries.is_empty() {
            match timeout_at(end, input.next()).await {
                Ok(Some(next)) if (next.vote, next.prev_log_id) == (one.vote, one.prev_log_id) => one = next,
                Ok(Some(next)) => return Some((one, (input, Some(next)))),
                Ok(None) | Err(_) => break,
            }
        }
        Some((one, (input, None)))
    })
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotData;

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Appended<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = Append> + OptionalSend + Unpin + 'static,
    {
        stream_append_sequential(self, Box::pin(joined(input)), option)
    }

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(RPCTypes::AppendEntries, (self.lane, APPEND), &request, option.soft_ttl()).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(RPCTypes::Vote, (Lane::Beat, VOTE), &request, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(RPCTypes::Vote, (Lane::Beat, PRE_VOTE), &request, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = async {
            let bytes = bytes::Bytes::from(snapshot.snapshot);
            let mut offset = 0;
            loop {
                let end = bytes.len().min(offset + CHUNK);
                let part = Part {
                    vote,
                    meta: snapshot.meta.clone(),
                    size: bytes.len() as u64,
                    offset: offset as u64,
                    bytes: bytes.slice(offset..end),
                };
                let asked = (Lane::Bulk, SNAPSHOT);
                let taken: Taken = self.ask(RPCTypes::InstallSnapshot, asked, &part, CHUNK_LIMIT).await?;
                match taken {
                    Some(response) => return Ok(response),
                    None if end == bytes.len() => {
                        let unfinished = AnyError::error("it wants more of a snapshot than there is");
                        return Err(StreamingError::Network(NetworkError::new(&unfinished)));
                    }
                    None => offset = end,
                }
            }
        };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(RPCTypes::TransferLeader, (Lane::Beat, TRANSFER), &request, option.soft_ttl()).await
    }
}
