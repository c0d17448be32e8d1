//! The store that lives in the sidecars themselves. A node that has a replica of the log answers from that; every other
//! asks one that has. Whoever does not lead passes a write on to who does, once.

mod follow;
mod past;
mod steering;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::watch, time::timeout};

pub use self::follow::EmbeddedWatch;
use super::{
    Leasable, Level, Progress, Readable, Replicated, Role, Scan, StoreError, StoreStatus, Transactional,
    Writable,
    choice::ranked,
    core::{
        command::{Command, Request, RequestError, Stay, Transaction, author},
        key::{Key, LeaseId, OpId, Revision},
        kv::Kv,
        outcome::{CommandResult, OperationResult, Outcome, Page, Versioned},
    },
    fence::Fence,
    meters::Meters,
    peers::Peers,
    protocol::{self, Answer, COMMAND, Found, QUERY, Query, WireLevel},
    pulse::{Freshness, PULSE, Pulse},
    quorum::Quorum,
    raft::{Certainty, Node},
};
use crate::{
    peer::rpc::{Call, Caller, Failure, Lane, Refusal, Target},
    rt::clock,
    types::Mono,
};

/// For one write or certain read, with all that is asked again. Shorter than the patience of the admin API, which would
/// otherwise say that nobody knows where this one knows that nothing has happened.
const LIMIT: Duration = Duration::from_millis(3500);
/// Before a leader is asked for again, when there was none.
const AGAIN: Duration = Duration::from_millis(50);
/// For one question to one node, beside what it may wait itself.
const QUESTION: Duration = Duration::from_secs(2);
/// A server that gave no answer is asked after all others for so long.
const AVOIDED: Duration = Duration::from_secs(10);
/// Most changes that are told at once.
const CHANGES: usize = 1000;
/// How long a watch of another node's state waits for changes before it asks again.
const WAIT: Duration = Duration::from_secs(10);

/// The store of a mesh as this node reaches it, and on whose behalf; clones are cheap.
#[derive(Clone)]
pub struct EmbeddedStore(Arc<Inner>, Arc<str>);

struct Inner {
    parts: Parts,
    /// Who led when it was last asked; 0 if nobody.
    leader: AtomicU64,
    /// Servers that gave no answer, and when.
    silent: Mutex<HashMap<u64, Mono>>,
    /// When whoever was asked last was up to date, for a node without a replica.
    contact: Freshness,
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EmbeddedStore").field(&self.0.parts.own).finish()
    }
}

/// Who can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    /// Whoever leads.
    Leader,
    /// Any server.
    Any,
}

/// What a node reaches the store with.
pub(super) struct Parts {
    /// Who writes if nobody else is named.
    pub(super) author: Arc<str>,
    pub(super) own: u64,
    /// The mesh.
    pub(super) cluster: Arc<str>,
    /// The replica of this node, if it has one.
    pub(super) node: Option<Node>,
    pub(super) caller: Caller,
    pub(super) peers: Peers,
    /// The store that this node belongs to.
    pub(super) founded: watch::Receiver<Option<u64>>,
    /// In which epoch it asks.
    pub(super) fence: Fence,
    pub(super) meters: Arc<Meters>,
    /// The keyspaces that are kept otherwise.
    pub(super) quorum: Quorum,
}

impl EmbeddedStore {
    pub(super) fn new(parts: Parts) -> Self {
        let author = Arc::clone(&parts.author);
        let inner = Inner {
            parts,
            leader: AtomicU64::new(0),
            silent: Mutex::default(),
            contact: Freshness::default(),
        };
        Self(Arc::new(inner), author)
    }

    /// The same store, whose changes are told to be `who`'s, through this node.
    pub(super) fn on_behalf_of(&self, who: &str) -> Self {
        Self(Arc::clone(&self.0), author(&format!("{who} via {}", self.0.parts.author)))
    }

    /// Whose its changes are told to be.
    pub(super) fn author(&self) -> &str {
        &self.1
    }

    /// How it is, as this node sees it.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        let Parts { own, node, founded, fence, .. } = &self.0.parts;
        StoreStatus::of(*own, *founded.borrow(), node.as_ref(), fence.superseded())
    }

    /// The leaderless tier beside this one.
    #[must_use]
    pub fn quorum(&self) -> &Quorum {
        &self.0.parts.quorum
    }

    /// Has `request` decided, wherever the leader is.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(super) async fn execute(&self, op: OpId, request: Request) -> Result<Outcome, StoreError> {
        let operation = request.operation();
        let result = self.have_decided(op, request).await;
        self.0.parts.meters.asked(operation, &result);
        result
    }

    async fn have_decided(&self, op: OpId, request: Request) -> Result<Outcome, StoreError> {
        let command = Command { op, at_ms: wall_ms(), author: Arc::clone(&self.1), request };
        command.check()?;
        self.0.parts.quorum.refuse_request(&command.request)?;
        let deciding = Box::pin(self.decide(&command));
        // It may have been decided: only who asks again with the same operation learns that.
        timeout(LIMIT, deciding).await.unwrap_or(Err(StoreError::TimedOut))
    }

    async fn decide(&self, command: &Command) -> Result<Outcome, StoreError> {
        let began = clock::now();
        let mut may_have_happened = false;
        loop {
            let answer = match self.leads() {
                Some(node) => node.propose(command.clone()).await,
                None => self.ask(Whom::Leader, COMMAND, command.clone(), QUESTION + LIMIT).await,
            };
            match answer {
                Answer::Elsewhere(leader) => self.0.leader.store(leader.unwrap_or(0), Relaxed),
                Answer::NoQuorum => self.0.leader.store(0, Relaxed),
                Answer::TimedOut => {
                    may_have_happened = true;
                    self.0.leader.store(0, Relaxed);
                }
                Answer::Done(outcome) => return outcome.checked(),
                other => return other.result()?.checked(),
            }
            if clock::now().since(began) + AGAIN >= LIMIT {
                return Err(if may_have_happened { StoreError::TimedOut } else { StoreError::NoQuorum });
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The replica of this node, if it has one.
    pub(super) fn replica(&self) -> Option<&Node> {
        self.0.parts.node.as_ref()
    }

    /// Whoever was asked had all that was decided before `at`.
    pub(super) fn heard_at(&self, at: Mono) {
        self.0.contact.confirm(at);
    }

    /// Asks the leader, or for a node without a replica anybody, how far the log is decided.
    pub(super) async fn ask_for_pulse(&self) -> Answer<Pulse> {
        let whom = if self.replica().is_some() { Whom::Leader } else { Whom::Any };
        self.ask(whom, PULSE, wall_ms(), QUESTION).await
    }

    pub(super) fn leads(&self) -> Option<&Node> {
        self.0.parts.node.as_ref().filter(|node| node.role() == Role::Leader)
    }

    /// Who is to be asked, the best one first.
    fn servers(&self, whom: Whom) -> Vec<Target> {
        let Parts { node, fence, .. } = &self.0.parts;
        // A replica that was left behind knows only who led before.
        let replica = node.as_ref().filter(|_| fence.superseded().is_none());
        let first = match whom {
            Whom::Leader => {
                Some(replica.and_then(Node::leader).unwrap_or_else(|| self.0.leader.load(Relaxed)))
            }
            Whom::Any => None,
        };
        let (now, peers) = (clock::now(), self.0.parts.peers.borrow());
        let silent = self.0.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let is_silent = |id: u64| silent.get(&id).is_some_and(|since| now.since(*since) < AVOIDED);
        ranked(&peers, self.0.parts.own, first, is_silent, |store| fence.is_latest(store))
    }

    /// A server gave no answer: others are asked before it for a while.
    fn avoid(&self, server: u64) {
        let now = clock::now();
        let mut silent = self.0.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.retain(|_, since| now.since(*since) < AVOIDED);
        silent.insert(server, now);
        let _ = self.0.leader.compare_exchange(server, 0, Relaxed, Relaxed);
    }

    /// Asks one after the other until one answers. For the leader, if it is not known who leads, that is anybody, who may
    /// know.
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        whom: Whom,
        method: &'static str,
        what: Q,
        limit: Duration,
    ) -> Answer<A> {
        let body = self.0.parts.fence.of_asker(&what);
        let mut said = Answer::NoQuorum;
        for target in self.servers(whom) {
            match self.0.parts.caller.call(&target, Lane::Log, method, body.clone(), limit).await {
                Ok(answer) => match protocol::read(&answer) {
                    Some(Answer::Elsewhere(None)) => said = Answer::Elsewhere(None),
                    Some(answer) => return answer,
                    None => said = Answer::Failed("another node answers what was not asked".to_owned()),
                },
                Err(error) => {
                    if !matches!(error.failure, Failure::Refused { .. }) {
                        self.avoid(target.node);
                    }
                    if !error.failure.is_undone() {
                        // It may have got there.
                        return Answer::TimedOut;
                    }
                }
            }
        }
        said
    }

    async fn query(&self, query: Query, level: Level, wait: Duration) -> Result<Found, StoreError> {
        let operation = query.operation();
        let result = self.find(query, level, wait).await;
        self.0.parts.meters.asked(operation, &result);
        result
    }

    async fn find(&self, query: Query, level: Level, wait: Duration) -> Result<Found, StoreError> {
        self.0.parts.quorum.refuse_query(&query)?;
        let limit = LIMIT + wait;
        let asked = (query.clone(), WireLevel::from(level));
        let mut whom = match level {
            Level::Strong | Level::Lease => Whom::Leader,
            Level::AtLeast(_) | Level::Eventual | Level::Within(_) => Whom::Any,
        };
        let answering = async {
            loop {
                let answer = match &self.0.parts.node {
                    Some(node) if node.role() != Role::Searching => {
                        answer_query(node, &query, level.into()).await
                    }
                    _ => self.ask(whom, QUERY, &asked, QUESTION + wait).await,
                };
                let answer = match answer {
                    Answer::Elsewhere(Some(leader)) if leader != self.0.parts.own => {
                        self.0.leader.store(leader, Relaxed);
                        self.ask(Whom::Leader, QUERY, &asked, QUESTION + wait).await
                    }
                    answer => answer,
                };
                match answer {
                    // Reading twice harms nobody.
                    Answer::Elsewhere(_) | Answer::NoQuorum | Answer::TimedOut => {
                        // Whoever was asked may be behind all others.
                        whom = Whom::Leader;
                        tokio::time::sleep(AGAIN).await;
                    }
                    answer => return answer.result(),
                }
            }
        };
        timeout(limit, Box::pin(answering)).await.unwrap_or(Err(StoreError::NoQuorum))
    }
}

impl Outcome {
    /// What was refused is an error.
    fn checked(self) -> Result<Self, StoreError> {
        match self.result {
            CommandResult::NoLease(lease) => Err(StoreError::NoLease(lease)),
            CommandResult::Full => Err(StoreError::Full),
            CommandResult::TooMany => Err(RequestError::Removed.into()),
            CommandResult::Transacted { .. } | CommandResult::Leased { .. } | CommandResult::Ended { .. } => {
                Ok(self)
            }
        }
    }
}

/// Answers what another node asks of this one's replica; `None` if that is not for the store.
pub(super) async fn answer(node: &Node, call: &Call) -> Option<Result<Bytes, Refusal>> {
    let unread = || Err(Refusal::new(StatusCode::BAD_REQUEST, "this version does not know what is asked"));
    Some(match call.method.as_str() {
        COMMAND => match protocol::read::<Command>(&call.body) {
            Some(command) => {
                let answer = match command.check() {
                    Ok(()) => node.propose(command).await,
                    Err(error) => Answer::Refused(error.to_string()),
                };
                Ok(protocol::write(&answer))
            }
            None => unread(),
        },
        QUERY => match protocol::read::<(Query, WireLevel)>(&call.body) {
            // It has a state, and that is empty: another one knows more.
            Some(_) if node.role() == Role::Searching => {
                Ok(protocol::write(&Answer::<Found>::Elsewhere(None)))
            }
            Some((query, level)) => Ok(protocol::write(&answer_query(node, &query, level).await)),
            None => unread(),
        },
        _ => return None,
    })
}

async fn answer_query(node: &Node, query: &Query, level: WireLevel) -> Answer<Found> {
    let ready = match level {
        WireLevel::Strong => node.certain(Certainty::Asked).await,
        WireLevel::Lease => node.certain(Certainty::Leased).await,
        WireLevel::AtLeast(revision) => node.reached(revision, QUESTION).await,
        WireLevel::Eventual => Answer::Done(()),
        WireLevel::Within(most) => match node.age() {
            Some(age) if age <= Duration::from_millis(most) => Answer::Done(()),
            Some(_) | None => node.certain(Certainty::Asked).await,
        },
    };
    if let Err(not) = ready.done() {
        return not;
    }
    match query {
        Query::Get(key) => Answer::Done(Found::Got(node.state().read(|kv| kv.get(key).cloned()))),
        Query::Scan { prefix, after, limit } => {
            let scan = Scan { prefix: prefix.clone(), after: after.clone(), limit: *limit as usize };
            Answer::Done(Found::Page(node.state().read(|kv| kv.scan(&scan))))
        }
        Query::Changes { prefix, after, wait_ms } => {
            let wait = Duration::from_millis(u64::from(*wait_ms)).min(WAIT);
            changes(node, prefix, *after, wait).await
        }
        Query::Past { revision, prefix, after, limit } => {
            past::scan(node, *revision, prefix, after.as_ref(), *limit)
        }
        Query::RevisionAt { at_ms } => past::revision_at(node, *at_ms),
    }
}

/// Changes after `after`; waits for some.
async fn changes(node: &Node, prefix: &str, after: Revision, wait: Duration) -> Answer<Found> {
    let mut after = after;
    let _waiting = node.meters().waits();
    let mut applied = node.state().watch();
    let end = clock::instant(clock::now().after(wait));
    loop {
        applied.mark_unchanged();
        match node.state().read(|kv| kv.changes_after(after, prefix, CHANGES)) {
            Err(compacted) => return Answer::Compacted(compacted.oldest),
            Ok((changes, to)) if !changes.is_empty() => return Answer::Done(Found::Changes(changes, to)),
            Ok((_, to)) => after = to,
        }
        match tokio::time::timeout_at(end, applied.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Answer::Done(Found::Changes(Vec::new(), after)),
        }
    }
}

impl Readable for EmbeddedStore {
    async fn get(&self, key: &Key, level: Level) -> Result<Option<Versioned>, StoreError> {
        match self.query(Query::Get(key.clone()), level, Duration::ZERO).await? {
            Found::Got(got) => Ok(got),
            Found::Page(_) | Found::Changes(..) | Found::Revision(_) => Err(nonsense()),
        }
    }

    async fn scan(&self, scan: &Scan, level: Level) -> Result<Page, StoreError> {
        match self.query(scan.into(), level, Duration::ZERO).await? {
            Found::Page(page) => Ok(page),
            Found::Got(_) | Found::Changes(..) | Found::Revision(_) => Err(nonsense()),
        }
    }
}

impl Writable for EmbeddedStore {
    async fn put(&self, op: OpId, key: Key, value: Bytes, stay: Stay) -> Result<Revision, StoreError> {
        Ok(self.transact(op, Transaction::put(key, value, stay)).await?.revision)
    }

    async fn delete(&self, op: OpId, key: Key) -> Result<bool, StoreError> {
        match self.transact(op, Transaction::delete(key)).await?.result {
            CommandResult::Transacted { results, .. } => Ok(results
                .iter()
                .any(|result| matches!(result, OperationResult::Deleted(count) if *count > 0))),
            _ => Err(nonsense()),
        }
    }
}

impl Transactional for EmbeddedStore {
    async fn transact(&self, op: OpId, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.execute(op, Request::Transact(transaction)).await
    }
}

impl Leasable for EmbeddedStore {
    async fn grant(&self, op: OpId, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        match self.execute(op, Request::Grant { ttl_ms }).await?.result {
            CommandResult::Leased { lease, .. } => Ok(lease),
            _ => Err(nonsense()),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        // Not remembered: saying twice that one is there does no harm.
        let op = OpId { client: 0, sequence: 0 };
        match self.execute(op, Request::KeepAlive(lease)).await?.result {
            CommandResult::Leased { ttl_ms, .. } => Ok(Duration::from_millis(ttl_ms)),
            _ => Err(nonsense()),
        }
    }

    async fn revoke(&self, op: OpId, lease: LeaseId) -> Result<u64, StoreError> {
        match self.execute(op, Request::Revoke(lease)).await?.result {
            CommandResult::Ended { keys } => Ok(keys),
            _ => Err(nonsense()),
        }
    }
}

impl Replicated for EmbeddedStore {
    fn role(&self) -> Role {
        self.0.parts.node.as_ref().map_or(Role::Watcher, Node::role)
    }

    fn progress(&self) -> Progress {
        let revision = self.0.parts.node.as_ref().map_or(Revision(0), |node| node.state().read(Kv::revision));
        let heard = match &self.0.parts.node {
            Some(node) => node.age(),
            None => self.0.contact.age(clock::now()),
        };
        Progress { revision, heard }
    }
}

fn nonsense() -> StoreError {
    StoreError::Failed("it answers what was not asked".to_owned())
}

pub(super) fn wall_ms() -> u64 {
    let since = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
