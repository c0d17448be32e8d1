//! Carries out orders of operators about who has the log, and tells who has it: for whoever asks the leader. What may be
//! ordered is decided in core/order.rs.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{
    Role, Standing, StoreError,
    core::{
        autopilot::Step,
        order::{Entry, Order, OrderError, Roll, steps},
    },
    embedded::EmbeddedStore,
    fence::Fence,
    founding::voter,
    peers::{Peer, Peers},
    protocol::{self, Answer, Asked, ORDER, Told},
    raft::{Node, Status},
    status::{millis, shown},
    voters,
};
use crate::peer::rpc::{Call, Refusal};

/// Twelve heartbeats: who has missed them all is not to be counted on.
const FRESH: Duration = Duration::from_millis(600);
/// For an order, with all its steps.
const LIMIT: Duration = Duration::from_secs(10);
/// Before a leader is asked for again, when there was none.
const AGAIN: Duration = Duration::from_millis(50);
/// How often a step is tried, and after which pause.
const TRIES: usize = 8;
const PAUSE: Duration = Duration::from_millis(250);
/// For another one to lead.
const HAND_OVER: Duration = Duration::from_secs(3);

/// What an order came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// What has happened, in words.
    pub steps: Vec<String>,
}

/// A node with a part in the store, or one that may have.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seated {
    /// Which node.
    pub id: String,
    /// Its name.
    pub node: String,
    /// Where its store is reached.
    pub address: String,
    /// Its zone, if it says.
    pub zone: Option<String>,
    /// `leader`, `voter`, `standby`, `server` (it may have the log, and has it not), `removed` or `client`.
    pub role: String,
    /// What the mesh thinks of it: `alive`, `suspect`, `gone`.
    pub state: String,
    /// Entries that it lacks, if it has the log.
    pub lag: Option<u64>,
    /// Milliseconds since the leader last heard it.
    pub heard_ms: Option<u64>,
}

impl EmbeddedStore {
    /// Who has a part in the store, and who may have, as its leader sees them.
    ///
    /// # Errors
    /// Nobody leads, or it does not answer.
    pub async fn members(&self) -> Result<Vec<Seated>, StoreError> {
        match self.steer(Asked::Members).await? {
            Ok(Told::Members(members)) => Ok(members),
            Ok(Told::Done(_)) => Err(StoreError::Failed("it answers what was not asked".to_owned())),
            Err(error) => Err(StoreError::Failed(error.to_string())),
        }
    }

    /// Has the leader carry out `order`. One that is not answered may be carried out; it can be given again.
    ///
    /// # Errors
    /// Nobody leads, or it does not answer; within, why the leader does not carry it out.
    pub async fn order(&self, order: Order) -> Result<Result<Done, OrderError>, StoreError> {
        match self.steer(Asked::Order(order)).await? {
            Ok(Told::Done(done)) => Ok(Ok(done)),
            Ok(Told::Members(_)) => Err(StoreError::Failed("it answers what was not asked".to_owned())),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn steer(&self, asked: Asked) -> Result<Result<Told, OrderError>, StoreError> {
        let steering = async {
            loop {
                let answer = match self.leads() {
                    Some(_) => self.answer_order(&asked).await,
                    None => self.ask_for_order(&asked, LIMIT).await,
                };
                match answer {
                    Answer::Elsewhere(leader) => self.heard_of(leader),
                    Answer::NoQuorum => self.heard_of(None),
                    other => return other.result(),
                }
                sleep(AGAIN).await;
            }
        };
        timeout(LIMIT, Box::pin(steering)).await.unwrap_or(Err(StoreError::NoQuorum))
    }

    /// Answers what another node asks of the leader.
    pub(super) async fn answer_call(&self, call: &Call) -> Result<Bytes, Refusal> {
        match protocol::read(&call.body) {
            Some(asked) => Ok(protocol::write(&self.answer_order(&asked).await)),
            None => Err(Refusal::new(StatusCode::BAD_REQUEST, "this version does not know what is asked")),
        }
    }

    /// What this node answers to it, if it leads.
    async fn answer_order(&self, asked: &Asked) -> Answer<Result<Told, OrderError>> {
        let parts = self.parts();
        let Some(node) = self.leads() else {
            return Answer::Elsewhere(parts.node.as_ref().and_then(Node::leader));
        };
        let bench = Bench { node, store: self, peers: &parts.peers, fence: &parts.fence };
        Answer::Done(match asked {
            Asked::Members => Ok(Told::Members(bench.members())),
            Asked::Order(order) => bench.carry_out(order).await.map(Told::Done),
        })
    }
}

/// Whether `call` would change who has the log: only those may ask for that who may write.
pub(super) fn is_change(call: &Call) -> bool {
    call.method.as_str() == ORDER && !matches!(protocol::read(&call.body), Some(Asked::Members))
}

/// What the leader looks at.
struct Bench<'a> {
    node: &'a Node,
    store: &'a EmbeddedStore,
    peers: &'a Peers,
    fence: &'a Fence,
}

impl Bench<'_> {
    /// Carries out `order`. One that is cancelled may be done in part: it can be given again.
    async fn carry_out(&self, order: &Order) -> Result<Done, OrderError> {
        let mut done = Vec::new();
        for step in steps(order, &self.roll())? {
            self.insist(step).await.map_err(OrderError::Failed)?;
            done.push(voters::told(step));
        }
        tracing::warn!(?order, ?done, "an operator has changed who has the log");
        Ok(Done { steps: done })
    }

    /// Who has a part in the store, and who may have.
    fn members(&self) -> Vec<Seated> {
        let status = self.node.status();
        let tombstones = voters::tombstones(self.node);
        let peers = self.peers.borrow();
        let seats = status.voters.iter().chain(&status.learners);
        let mut members: Vec<Seated> = seats
            .map(|(id, seat)| {
                let peer = peers.iter().find(|peer| peer.id == *id);
                let follower = status.followers.get(id).copied().unwrap_or_default();
                let is_voter = status.voters.iter().any(|(voter, _)| voter == id);
                let role = if *id == status.id {
                    "leader"
                } else if is_voter {
                    "voter"
                } else {
                    "standby"
                };
                Seated {
                    id: shown(*id),
                    node: seat.name.clone(),
                    address: peer.map_or(seat.address, |peer| peer.address).to_string(),
                    zone: (!seat.zone.is_empty()).then(|| seat.zone.clone()),
                    role: role.to_owned(),
                    state: state(peer.map(|peer| peer.standing)).to_owned(),
                    lag: Some(status.last_log.saturating_sub(follower.matching.unwrap_or(0))),
                    heard_ms: follower.heard.map(millis),
                }
            })
            .collect();
        let seated: BTreeSet<String> = members.iter().map(|member| member.id.clone()).collect();
        let others = peers.iter().map(|peer| Seated {
            id: shown(peer.id),
            node: peer.name.as_ref().to_owned(),
            address: peer.address.to_string(),
            zone: (!peer.zone.is_empty()).then(|| peer.zone.as_ref().to_owned()),
            role: role(peer, &tombstones).to_owned(),
            state: state(Some(peer.standing)).to_owned(),
            lag: None,
            heard_ms: None,
        });
        members.extend(others.filter(|other| !seated.contains(&other.id)));
        members
    }

    fn roll(&self) -> Roll {
        let status = self.node.status();
        let mut roll = Roll {
            leader: status.id,
            voters: status.voters.iter().map(|(id, _)| *id).collect(),
            learners: status.learners.iter().map(|(id, _)| *id).collect(),
            tombstones: voters::tombstones(self.node),
            is_changing: status.is_changing,
            ..Roll::default()
        };
        for (id, seat) in status.voters.iter().chain(&status.learners) {
            roll.nodes.insert(*id, Entry { name: seat.name.clone(), ..entry(&status, *id) });
        }
        for peer in self.peers.borrow().iter() {
            let entry = Entry {
                name: peer.name.as_ref().to_owned(),
                is_server: peer.is_server,
                is_fit: peer.founded.is_none_or(|store| self.fence.is_replicas(store)),
                is_alive: peer.standing == Standing::Alive,
                ..entry(&status, peer.id)
            };
            roll.nodes.insert(peer.id, entry);
        }
        roll
    }

    /// Whoever looks after the voters may be changing them at the same moment.
    async fn insist(&self, step: Step) -> Result<(), String> {
        let mut tries = 0;
        loop {
            let began = self.step(step).await;
            tries += 1;
            if began.is_ok() || tries >= TRIES || self.node.role() != Role::Leader {
                return began;
            }
            sleep(PAUSE).await;
        }
    }

    async fn step(&self, step: Step) -> Result<(), String> {
        let without = |gone: u64| -> Vec<u64> {
            let voters = self.node.status().voters;
            voters.iter().map(|(id, _)| *id).filter(|id| *id != gone).collect()
        };
        match step {
            Step::AddLearner(id) => {
                let known = self.peers.borrow().iter().find(|peer| peer.id == id).map(voter);
                let known = known.ok_or_else(|| "it has left the mesh".to_owned())?;
                self.node.add_learner(id, known).await
            }
            Step::Demote(id) => {
                // Buried first: whoever looks after the voters would have it vote again, or take it in again.
                voters::entomb(self.store, id).await?;
                self.node.set_voters(without(id)).await
            }
            Step::Bury(id) => {
                voters::entomb(self.store, id).await?;
                self.node.remove_learner(id).await
            }
            Step::RemoveLearner(id) => self.node.remove_learner(id).await,
            Step::Promote { add, remove } => {
                let voters = without(remove.unwrap_or(add));
                self.node.set_voters(voters.into_iter().chain([add]).collect()).await
            }
            Step::TransferLeadership(to) => {
                self.node.transfer(to).await?;
                let gone = async {
                    while self.node.role() == Role::Leader {
                        sleep(Duration::from_millis(10)).await;
                    }
                };
                timeout(HAND_OVER, gone).await.map_err(|_| format!("{} does not take the lead", shown(to)))
            }
        }
    }
}

fn entry(status: &Status, id: u64) -> Entry {
    let follower = status.followers.get(&id).copied().unwrap_or_default();
    Entry {
        is_heard: follower.heard.is_some_and(|heard| heard < FRESH),
        matching: follower.matching.unwrap_or(0),
        ..Entry::default()
    }
}

fn role(peer: &Peer, tombstones: &BTreeSet<u64>) -> &'static str {
    if tombstones.contains(&peer.id) {
        "removed"
    } else if peer.is_server {
        "server"
    } else {
        "client"
    }
}

fn state(standing: Option<Standing>) -> &'static str {
    match standing {
        Some(Standing::Alive) => "alive",
        Some(Standing::Suspect) => "suspect",
        Some(Standing::Gone) | None => "gone",
    }
}
