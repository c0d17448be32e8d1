//! This tier as callers see it. A server does what it is asked itself, together with those who keep the key; every other
//! node has a server do it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    core::{
        clock::Stamp,
        machine::Machine,
        message::{Packet, Standing},
        record::Record,
        rules::{Answer, Counts, Failure, Level, Want},
    },
    keyspaces::{Keyspace, KeyspaceLevel, Keyspaces},
    token::Token,
};
use crate::{
    peer::rpc::{self, Call, Caller, Lane, Refusal, RpcError, Target},
    store::{
        StoreError,
        core::{
            command::{MAX_VALUE, Operation, Request, RequestError},
            key::{Key, OpId},
        },
        fence::Fence,
        peers::{self, Peers},
        protocol::{self, Query},
    },
};

/// Servers among each other: answered with nothing.
pub(crate) const PACKET: &str = "store/quorum";
/// A node that is no server asks one: `(Want, Level)`, answered with [`Answer`].
pub(crate) const ASK: &str = "store/quorum_ask";
/// What the way there and back may take beside the time of the keyspace.
const WAY: Duration = Duration::from_secs(1);

/// What the driver is to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Another server says something.
    Received(u64, Packet),
    /// Somebody asks something.
    Asked(Want, Level, oneshot::Sender<Result<Answer, StoreError>>),
}

/// How much a call asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// See [`KeyspaceLevel::Quorum`].
    Quorum,
    /// See [`KeyspaceLevel::Session`].
    Session(Token),
    /// See [`KeyspaceLevel::Eventual`].
    Eventual,
}

impl Consistency {
    fn level(&self, key: Option<&Key>) -> Level {
        match (self, key) {
            (Self::Quorum, _) | (Self::Session(_), None) => Level::Quorum,
            (Self::Session(token), Some(key)) => Level::Session(token.0.floor(key)),
            (Self::Eventual, _) => Level::Eventual,
        }
    }
}

impl From<KeyspaceLevel> for Consistency {
    fn from(level: KeyspaceLevel) -> Self {
        match level {
            KeyspaceLevel::Quorum => Self::Quorum,
            KeyspaceLevel::Session => Self::Session(Token::default()),
            KeyspaceLevel::Eventual => Self::Eventual,
        }
    }
}

/// What a key has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its value.
    pub value: Bytes,
    /// When it was written.
    pub stamp: Stamp,
}

/// What became of a call, and the session that goes on after it, if it was of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached<T> {
    /// What it brought.
    pub found: T,
    /// The session as it is now.
    pub session: Option<Token>,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// When it was written.
    pub stamp: Stamp,
    /// Whether there was a value before; an eventual write does not look.
    pub existed: Option<bool>,
}

/// Some keys, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The keys, and what they have.
    pub entries: Vec<(Key, Held)>,
    /// The next page begins after this one.
    pub next: Option<Key>,
}

/// How this tier is, as a server sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuorumStatus {
    /// What has happened since the start.
    pub counts: Counts,
    /// Records, removals included.
    pub records: usize,
    /// Removals that are still remembered.
    pub tombstones: usize,
    /// Hints.
    pub hints: usize,
    /// The servers among which keys are spread.
    pub members: Vec<u64>,
    /// Whether it was away too long and does not know yet what it missed.
    pub is_returning: bool,
}

impl QuorumStatus {
    pub(super) fn of(machine: &Machine) -> Self {
        let (records, tombstones, hints) = machine.sizes();
        let (ring, standing) = machine.ring();
        Self {
            counts: machine.counts(),
            records,
            tombstones,
            hints,
            members: ring.members().to_vec(),
            is_returning: standing == Standing::Returning,
        }
    }
}

/// The leaderless tier of a mesh, as this node reaches it; clones are cheap.
#[derive(Clone)]
pub struct Quorum(Arc<Inner>);

struct Inner {
    own: u64,
    spaces: Keyspaces,
    caller: Caller,
    peers: Peers,
    fence: Fence,
    /// The server of this node, if it is one.
    server: Option<(mpsc::Sender<Job>, watch::Receiver<QuorumStatus>)>,
}

impl Quorum {
    pub(in crate::store) fn new(
        own: u64,
        spaces: Keyspaces,
        caller: Caller,
        peers: Peers,
        fence: Fence,
        server: Option<(mpsc::Sender<Job>, watch::Receiver<QuorumStatus>)>,
    ) -> Self {
        Self(Arc::new(Inner { own, spaces, caller, peers, fence, server }))
    }

    /// The keyspace of `key` (or of all keys that begin so), if this tier keeps it.
    #[must_use]
    pub fn keyspace<'a>(&self, key: &'a str) -> Option<(&'a str, Keyspace)> {
        self.0.spaces.of(key)
    }

    /// How it is, as it was last told and whenever it is told again; only a server knows.
    #[must_use]
    pub fn status(&self) -> Option<watch::Receiver<QuorumStatus>> {
        self.0.server.as_ref().map(|(_, status)| status.clone())
    }

    /// What `key` has. Without `consistency` that of its keyspace counts. Cancel-safe.
    ///
    /// # Errors
    /// If it cannot be read so.
    pub async fn get(
        &self,
        key: &Key,
        consistency: Option<Consistency>,
    ) -> Result<Reached<Option<Held>>, StoreError> {
        let (space, consistency) = self.of(key.as_str(), consistency)?;
        let level = consistency.level(Some(key));
        match self.ask(Want::Get(key.clone()), level, space.spec.read_timeout).await? {
            Answer::Got(record) => {
                let session = seen(consistency, key, record.as_ref().map(|record| record.stamp));
                Ok(Reached { found: record.and_then(held), session })
            }
            other => Err(unfit(&other)),
        }
    }

    /// Sets `key`, or removes it. One that is cancelled may happen all the same; repeated with the same `op` it is done
    /// once.
    ///
    /// # Errors
    /// If it cannot be written so.
    pub async fn put(
        &self,
        op: OpId,
        key: &Key,
        value: Option<Bytes>,
        consistency: Option<Consistency>,
    ) -> Result<Reached<Written>, StoreError> {
        let (space, consistency) = self.of(key.as_str(), consistency)?;
        let level = consistency.level(Some(key));
        let want = Want::Put(key.clone(), op, value);
        check(&want)?;
        match self.ask(want, level, space.spec.write_timeout).await? {
            Answer::Written(stamp, existed) => {
                let existed = (level != Level::Eventual).then_some(existed);
                let session = seen(consistency, key, Some(stamp));
                Ok(Reached { found: Written { stamp, existed }, session })
            }
            other => Err(unfit(&other)),
        }
    }

    /// The keys that begin with `prefix`, which has the whole name of a keyspace and a slash. A session is none here: it is
    /// read by quorum. Cancel-safe.
    ///
    /// # Errors
    /// If they cannot be read so.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<Key>,
        limit: usize,
        consistency: Option<Consistency>,
    ) -> Result<Listed, StoreError> {
        let (space, consistency) = self.of(prefix, consistency)?;
        let want = Want::List { prefix: prefix.to_owned(), after, limit };
        match self.ask(want, consistency.level(None), space.spec.read_timeout).await? {
            Answer::Listed(entries, next) => {
                let entries = entries.into_iter().filter_map(|(key, record)| Some((key, held(record)?)));
                Ok(Listed { entries: entries.collect(), next })
            }
            other => Err(unfit(&other)),
        }
    }

    /// What the strong tier is not to be asked: it would find nothing, or keep what nobody reads.
    pub(in crate::store) fn refuse_request(&self, request: &Request) -> Result<(), StoreError> {
        let Request::Transact(transaction) = request else { return Ok(()) };
        let compared = transaction.compare.iter().map(|compare| compare.key.as_str());
        let done = transaction.then.iter().chain(&transaction.otherwise).map(|operation| match operation {
            Operation::Get(key) | Operation::Put { key, .. } | Operation::Delete(key) => key.as_str(),
            Operation::DeletePrefix(prefix) => prefix,
        });
        self.refuse(compared.chain(done), "a write with `--cas`, a time to live, a lease or in a transaction")
    }

    /// See [`Quorum::refuse_request`].
    pub(in crate::store) fn refuse_query(&self, query: &Query) -> Result<(), StoreError> {
        match query {
            Query::Get(key) => self.refuse([key.as_str()], "a read by `strong`, `lease`, age or revision"),
            Query::Scan { prefix, .. } | Query::Past { prefix, .. } => {
                self.refuse([prefix.as_str()], "a read by `strong`, `lease`, age or revision")
            }
            Query::Changes { prefix, .. } => self.refuse([prefix.as_str()], "a watch"),
            Query::RevisionAt { .. } => Ok(()),
        }
    }

    fn refuse<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
        what: &'static str,
    ) -> Result<(), StoreError> {
        match keys.into_iter().find_map(|key| self.keyspace(key)) {
            Some((keyspace, _)) => Err(StoreError::Keyspace { keyspace: keyspace.to_owned(), what }),
            None => Ok(()),
        }
    }

    fn of(&self, key: &str, consistency: Option<Consistency>) -> Result<(Keyspace, Consistency), StoreError> {
        let (_, space) = self.keyspace(key).ok_or(StoreError::Level(
            "`quorum` or `session` (the keyspace of the key is not named in `store.keyspaces`)",
        ))?;
        Ok((space, consistency.unwrap_or_else(|| space.level.into())))
    }

    async fn ask(&self, want: Want, level: Level, limit: Duration) -> Result<Answer, StoreError> {
        let answer = match &self.0.server {
            Some((jobs, _)) => here(jobs, want, level, limit).await?,
            None => self.ask_servers(&want, level, limit).await?,
        };
        match answer {
            Answer::Failed(failure) => Err(failure.into()),
            answer => Ok(answer),
        }
    }

    /// Has a server do it. Another one is asked only if the first has certainly done nothing, or if nothing is changed.
    async fn ask_servers(&self, want: &Want, level: Level, limit: Duration) -> Result<Answer, StoreError> {
        let body = self.0.fence.of_asker(&(want, level));
        let mut last = StoreError::Quorum(Failure::NoQuorum);
        for target in self.servers() {
            match self.0.caller.call(&target, Lane::Log, ASK, body.clone(), limit + WAY).await {
                Ok(answer) => match protocol::read::<Answer>(&answer) {
                    Some(Answer::Failed(failure)) if failure.is_undone() => last = failure.into(),
                    Some(answer) => return Ok(answer),
                    None => last = StoreError::Failed("another node answers what was not asked".to_owned()),
                },
                Err(RpcError { failure: rpc::Failure::Refused { status, text }, .. })
                    if status == StatusCode::FORBIDDEN && matches!(want, Want::Put(..)) =>
                {
                    // Servers have one list of who may write.
                    return Err(StoreError::Denied(text));
                }
                Err(error) if error.failure.is_undone() => last = StoreError::Failed(error.to_string()),
                Err(_) if matches!(want, Want::Put(..)) => return Err(Failure::TimedOut.into()),
                Err(_) => last = Failure::NoQuorum.into(),
            }
        }
        Err(last)
    }

    /// Three servers to ask, those first that answer.
    fn servers(&self) -> Vec<Target> {
        let peers = self.0.peers.borrow();
        let mut servers: Vec<_> = peers
            .iter()
            .filter(|peer| peer.is_server && peer.id != self.0.own && peer.standing != peers::Standing::Gone)
            .collect();
        // Not all nodes ask the same one.
        servers.sort_by_key(|peer| {
            (peer.standing == peers::Standing::Suspect, peer.is_draining, peer.id ^ self.0.own)
        });
        servers.iter().take(3).map(|peer| Target { node: peer.id, address: peer.address }).collect()
    }
}

impl std::fmt::Debug for Quorum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Quorum").field(&self.0.own).finish()
    }
}

impl Failure {
    /// Whether nothing has changed, and another server may do better.
    fn is_undone(self) -> bool {
        match self {
            Self::NoQuorum | Self::Returning | Self::Busy | Self::Behind => true,
            Self::TimedOut | Self::Clock | Self::Full => false,
        }
    }
}

/// Has the server of this node do it.
async fn here(
    jobs: &mpsc::Sender<Job>,
    want: Want,
    level: Level,
    limit: Duration,
) -> Result<Answer, StoreError> {
    let (reply, answer) = oneshot::channel();
    match jobs.try_send(Job::Asked(want, level, reply)) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(_)) => return Ok(Answer::Failed(Failure::Busy)),
        Err(mpsc::error::TrySendError::Closed(_)) => return Err(StoreError::Leaving),
    }
    match timeout(limit + WAY, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(StoreError::Leaving),
        Err(_) => Ok(Answer::Failed(Failure::TimedOut)),
    }
}

/// What another server says is for the driver. Without room it is lost, as on the way.
pub(crate) fn receive(jobs: Option<&mpsc::Sender<Job>>, call: &Call) -> Result<Bytes, Refusal> {
    let jobs =
        jobs.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "this node is no server of the store"))?;
    let packet = protocol::read(&call.body)
        .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "this version does not know what is said"))?;
    match jobs.try_send(Job::Received(call.from, packet)) {
        Ok(()) => Ok(Bytes::new()),
        Err(_) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too much waits before it")),
    }
}

/// What a node that is no server asks.
pub(crate) fn question(call: &Call) -> Result<(Want, Level), Refusal> {
    protocol::read(&call.body)
        .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "this version does not know what is asked"))
}

/// Answers it.
pub(crate) async fn answer(quorum: &Quorum, want: Want, level: Level) -> Result<Bytes, Refusal> {
    let refuse = |status, why: &str| Refusal::new(status, why);
    let (jobs, _) = quorum
        .0
        .server
        .as_ref()
        .ok_or_else(|| refuse(StatusCode::NOT_FOUND, "this node is no server of the store"))?;
    check(&want).map_err(|error| refuse(StatusCode::BAD_REQUEST, &error.to_string()))?;
    let (key, is_write) = match &want {
        Want::Get(key) => (key.as_str(), false),
        Want::Put(key, ..) => (key.as_str(), true),
        Want::List { prefix, .. } => (prefix.as_str(), false),
    };
    let Some((_, space)) = quorum.keyspace(key) else {
        let why = "the keyspace is not in `store.keyspaces` of this node, as it has to be on all";
        return Err(refuse(StatusCode::NOT_FOUND, why));
    };
    let limit = if is_write { space.spec.write_timeout } else { space.spec.read_timeout };
    match here(jobs, want, level, limit).await {
        Ok(answer) => Ok(protocol::write(&answer)),
        Err(error) => Err(refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())),
    }
}

fn check(want: &Want) -> Result<(), RequestError> {
    match want {
        Want::Put(key, _, Some(value)) if value.len() > MAX_VALUE => {
            Err(RequestError::Value { key: key.clone(), length: value.len() })
        }
        Want::Put(..) | Want::Get(_) | Want::List { .. } => Ok(()),
    }
}

fn held(record: Record) -> Option<Held> {
    record.value.map(|value| Held { value, stamp: record.stamp })
}

/// The session after `stamp` of `key` was seen.
fn seen(consistency: Consistency, key: &Key, stamp: Option<Stamp>) -> Option<Token> {
    let Consistency::Session(mut token) = consistency else { return None };
    stamp.into_iter().for_each(|stamp| token.0.saw(key, stamp));
    Some(token)
}

fn unfit(answer: &Answer) -> StoreError {
    StoreError::Failed(format!("a question became something else: {answer:?}"))
}
