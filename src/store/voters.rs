//! Looks after the voters as long as this node leads: shows core/autopilot.rs how things are, and carries out its steps one
//! at a time. What is removed for ever is written into the store itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{
    Role, Scan, Store,
    core::{
        autopilot::{Change, Liveness, Node as Seen, Patience, Situation, Step, Target, decide},
        command::{Request, Stay, Transaction},
        key::Key,
    },
    embedded::EmbeddedStore,
    fence::Fence,
    founding::voter,
    peers::{Peer, Peers, Standing},
    raft::{Node, Status},
    status::shown,
};
use crate::{rt::clock, types::Mono};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);
/// Keys that keep which nodes were removed for ever.
const TOMBSTONES: &str = "outrigger/tombstones/";
/// How long a leader that goes waits until another leads.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Looks after the voters.
pub(super) struct Voters {
    pub(super) node: Node,
    pub(super) store: EmbeddedStore,
    pub(super) peers: Peers,
    pub(super) own: u64,
    pub(super) fence: Fence,
    pub(super) target: Target,
    pub(super) patience: Patience,
    /// Since when this node leads; `None` if it does not.
    pub(super) led_since: Option<Mono>,
    /// Since when each node is alive, and has the log if it gets it.
    pub(super) stable: BTreeMap<u64, Mono>,
    /// When learners were added that have not been heard yet.
    pub(super) added: BTreeMap<u64, Mono>,
}

/// How many entries a replica may lack and count as caught up: as many as core/autopilot.rs allows.
const CAUGHT_UP: u64 = 250;

impl Voters {
    /// Never returns.
    pub(super) async fn look_after(mut self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = clock::now();
            let status = self.node.status();
            if status.role != Role::Leader {
                self.led_since = None;
                self.stable.clear();
                continue;
            }
            let situation = self.situation(&status, now);
            if let Some(step) = decide(&situation, now) {
                self.carry_out(step, now).await;
            }
        }
    }

    fn situation(&mut self, status: &Status, now: Mono) -> Situation {
        let led_since = *self.led_since.get_or_insert(now);
        let peers = Arc::clone(&self.peers.borrow());
        let replicas: BTreeSet<u64> =
            status.voters.iter().chain(&status.learners).map(|(id, _)| *id).collect();
        let mut nodes = BTreeMap::new();
        for peer in peers.iter() {
            nodes.insert(peer.id, self.seen(peer, replicas.contains(&peer.id), status, now));
        }
        self.stable.retain(|id, _| nodes.contains_key(id));
        Situation {
            leader: self.own,
            led_since,
            voters: status.voters.iter().map(|(id, _)| *id).collect(),
            learners: status.learners.iter().map(|(id, _)| *id).collect(),
            nodes,
            tombstones: tombstones(&self.node),
            change: if status.is_changing { Change::InFlight } else { Change::None },
            target: self.target,
            patience: self.patience,
        }
    }

    fn seen(&mut self, peer: &Peer, is_replica: bool, status: &Status, now: Mono) -> Seen {
        let follower = status.followers.get(&peer.id).copied().unwrap_or_default();
        let lag = status.last_log.saturating_sub(follower.matching.unwrap_or(0));
        let is_own = peer.id == self.own;
        let is_stable = peer.standing == Standing::Alive && (!is_replica || is_own || lag <= CAUGHT_UP);
        if is_stable {
            self.stable.entry(peer.id).or_insert(now);
        } else {
            self.stable.remove(&peer.id);
        }
        let heard = follower.heard.map(|ago| Mono::ZERO.after(now.since(Mono::ZERO).saturating_sub(ago)));
        Seen {
            liveness: match peer.standing {
                Standing::Alive => Liveness::Alive,
                Standing::Suspect => Liveness::Suspect,
                Standing::Gone => Liveness::Dead,
            },
            last_ack: heard.or_else(|| self.added.get(&peer.id).copied()),
            lag: if is_own { 0 } else { lag },
            stable_since: self.stable.get(&peer.id).copied(),
            zone: (!peer.zone.is_empty()).then(|| Arc::clone(&peer.zone)),
            // One who has the log of another epoch can make no use of this one.
            eligible: peer.is_server && peer.founded.is_none_or(|store| self.fence.is_replicas(store)),
            draining: peer.is_draining,
        }
    }

    async fn carry_out(&mut self, step: Step, now: Mono) {
        let voters: Vec<u64> = self.node.status().voters.iter().map(|(id, _)| *id).collect();
        let without = |gone: Option<u64>| voters.iter().copied().filter(move |id| Some(*id) != gone);
        let done = match step {
            Step::AddLearner(id) => {
                let known = self.peers.borrow().iter().find(|peer| peer.id == id).map(voter);
                self.added.insert(id, now);
                match known {
                    Some(known) => self.node.add_learner(id, known).await,
                    None => return,
                }
            }
            Step::Promote { add, remove } => {
                self.node.set_voters(without(remove).chain([add]).collect()).await
            }
            Step::Demote(id) => self.node.set_voters(without(Some(id)).collect()).await,
            Step::RemoveLearner(id) => self.node.remove_learner(id).await,
            Step::Bury(id) => match self.node.remove_learner(id).await {
                Ok(()) => entomb(&self.store, id).await,
                Err(error) => Err(error),
            },
            Step::TransferLeadership(to) => self.node.transfer(to).await,
        };
        match done {
            Ok(()) => tracing::info!(step = %told(step), "the voters of the store have changed"),
            Err(error) => {
                tracing::warn!(step = %told(step), error, "the voters of the store stay as they are");
            }
        }
    }
}

/// Those who were removed for ever.
pub(super) fn tombstones(node: &Node) -> BTreeSet<u64> {
    let scan = Scan { prefix: TOMBSTONES.to_owned(), after: None, limit: 1000 };
    let page = node.state().read(|kv| kv.scan(&scan));
    let ids = page.entries.iter().filter_map(|(key, _)| key.as_str().strip_prefix(TOMBSTONES));
    ids.filter_map(|id| u64::from_str_radix(id, 16).ok()).collect()
}

/// Writes down that a node was removed for ever. To say it twice does no harm.
pub(super) async fn entomb(store: &EmbeddedStore, id: u64) -> Result<(), String> {
    let key = Key::new(&format!("{TOMBSTONES}{}", shown(id))).map_err(|error| error.to_string())?;
    let buried = Transaction::put(key, bytes::Bytes::new(), Stay::Forever);
    let op = Store::next_op().map_err(|error| error.to_string())?;
    store.execute(op, Request::Transact(buried)).await.map(|_| ()).map_err(|error| error.to_string())
}

pub(super) fn told(step: Step) -> String {
    match step {
        Step::AddLearner(id) => format!("{} stands by", shown(id)),
        Step::Promote { add, remove: Some(remove) } => {
            format!("{} votes in place of {}", shown(add), shown(remove))
        }
        Step::Promote { add, remove: None } => format!("{} votes", shown(add)),
        Step::Demote(id) => format!("{} votes no longer", shown(id)),
        Step::RemoveLearner(id) => format!("{} stands by no longer", shown(id)),
        Step::Bury(id) => format!("{} is gone for ever", shown(id)),
        Step::TransferLeadership(to) => format!("{} shall lead", shown(to)),
    }
}

/// Has another lead, if this node does: so nobody waits for an election when it is gone.
pub(super) async fn step_down(node: &Node) {
    let status = node.status();
    let others = status.voters.iter().filter(|(id, _)| *id != status.id);
    let best = others.max_by_key(|(id, _)| status.followers.get(id).and_then(|one| one.matching));
    let (Role::Leader, Some((to, _))) = (status.role, best) else { return };
    if let Err(error) = node.transfer(*to).await {
        tracing::debug!(error, "nobody takes the lead");
        return;
    }
    let gone = async {
        while node.role() == Role::Leader {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(HAND_OVER, gone).await;
}
