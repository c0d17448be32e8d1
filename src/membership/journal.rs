//! Writes down and counts what happens to members.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    MemberId, MemberState, MembershipView,
    core::{
        envelope::Refused,
        machine::{Event, Machine},
    },
};
use crate::telemetry::metrics::{GossipDrop, GossipMetrics, MemberCounts};

/// The journal of one member.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) metrics: GossipMetrics,
    own: MemberId,
    /// Names that are taken twice, as far as that was told.
    doubled: BTreeSet<Arc<str>>,
}

impl Journal {
    pub(super) fn new(metrics: GossipMetrics, own: MemberId) -> Self {
        Self { metrics, own, doubled: BTreeSet::new() }
    }

    /// Something has happened; `machine` knows the names.
    pub(super) fn note(&mut self, event: &Event, machine: &Machine, now: SystemTime) {
        match event {
            Event::Member { id, state, by, accusers } => self.member(*id, *state, *by, accusers, machine),
            Event::Fact { id, said_at } => {
                let said = SystemTime::UNIX_EPOCH + Duration::from_micros(*said_at);
                if let Ok(took) = now.duration_since(said) {
                    self.metrics.converged(took);
                }
                self.names(*id, machine);
            }
            Event::Answered(took) => self.metrics.probed(*took),
            Event::Unanswered(id) => {
                tracing::debug!(node = %name(*id, machine), "a member did not answer, neither to this node nor to others");
            }
            Event::SpokeUp { incarnation } => {
                self.metrics.refuted();
                tracing::info!(incarnation, "this node was suspected, and has said that it is there");
            }
            Event::Returned { generation } => {
                tracing::warn!(
                    generation,
                    "this node was given up by others, and begins anew: was it stopped, or cut off?"
                );
            }
            Event::Lagged(lag) => {
                tracing::warn!(
                    ?lag,
                    "this node did not get to do anything for a while: it judges nobody by that time"
                );
            }
            Event::Impostor(address) => {
                self.metrics.conflicted();
                tracing::error!(
                    %address,
                    "somebody else says to be this node: a data directory (mesh.data_dir) was copied; remove it there"
                );
            }
            Event::Misquoted => {
                self.metrics.conflicted();
                tracing::error!(
                    "somebody spoke in the name of this node: its data directory (mesh.data_dir) was copied, or the gossip \
                     key is in wrong hands; this node has begun another life, which is believed instead"
                );
            }
            Event::Isolated(true) => {
                self.metrics.set_isolated(true);
                tracing::error!(
                    "most members were lost at once: more likely this node is cut off; it keeps their endpoints as a last \
                     resort"
                );
            }
            Event::Isolated(false) => {
                self.metrics.set_isolated(false);
                tracing::info!("enough members are back; this node is not cut off any more");
            }
        }
    }

    fn member(
        &self,
        id: MemberId,
        state: MemberState,
        by: MemberId,
        accusers: &[MemberId],
        machine: &Machine,
    ) {
        let (node, by_node) = (name(id, machine), name(by, machine));
        let service = machine.facts(id).map(|facts| Arc::clone(&facts.service));
        let service = service.as_deref().unwrap_or("-");
        let accused_by = || {
            let names: Vec<String> = accusers.iter().map(|accuser| name(*accuser, machine)).collect();
            (!names.is_empty()).then(|| tracing::field::display(names.join(", ")))
        };
        match state {
            MemberState::Alive => tracing::info!(%node, service, by = %by_node, "member alive"),
            MemberState::Suspect => {
                self.metrics.suspected(1);
                tracing::info!(%node, service, by = %by_node, accusers = accused_by(), "member suspected: it did not answer");
            }
            MemberState::Dead if by == self.own => {
                tracing::warn!(%node, service, accusers = accused_by(), "member dead: it did not speak up in time");
            }
            MemberState::Dead => {
                tracing::warn!(%node, service, by = %by_node, accusers = accused_by(), "member dead: so another says");
            }
            MemberState::Left => tracing::info!(%node, service, "member left: it said goodbye"),
        }
    }

    /// Two living members with one name are worth an error, once.
    fn names(&mut self, id: MemberId, machine: &Machine) {
        let Some(facts) = machine.facts(id) else { return };
        let Some((other, address)) = machine.named(&facts.node, id) else { return };
        if other != id
            && machine.state(id) == Some(MemberState::Alive)
            && self.doubled.len() < 64
            && self.doubled.insert(Arc::clone(&facts.node))
        {
            self.metrics.conflicted();
            tracing::error!(node = %facts.node, %address, %other, "two members have this name: give one of them another (mesh.node)");
        }
    }

    /// What is seen now.
    pub(super) fn seen(&self, view: &MembershipView) {
        self.metrics.set_members(MemberCounts {
            alive: view.count(MemberState::Alive),
            suspect: view.count(MemberState::Suspect),
            dead: view.count(MemberState::Dead),
            left: view.count(MemberState::Left),
        });
        self.metrics.set_health_score(view.health_score);
    }

    /// A packet was dropped.
    pub(super) fn dropped(&self, refused: Refused) {
        self.metrics.dropped(match refused {
            Refused::Size => GossipDrop::Size,
            Refused::Version => GossipDrop::Version,
            Refused::Key => GossipDrop::Key,
            Refused::Seal => GossipDrop::Seal,
            Refused::Replay => GossipDrop::Replay,
        });
    }
}

/// The name of a member, or its id as long as that is not known.
pub(super) fn name(id: MemberId, machine: &Machine) -> String {
    if machine.own().id == id {
        return machine.own().facts.node.as_ref().to_owned();
    }
    machine.facts(id).map_or_else(|| id.to_string(), |facts| facts.node.as_ref().to_owned())
}
