//! Which members of the mesh are endpoints of which services. Pure; who watches the members, and when, is in
//! `directory::discovery`.

use std::{cmp::Reverse, sync::Arc};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    membership::{Facts, Health, Member, MemberId, MemberState, MembershipView, Routable},
    snapshot::{ClusterParams, EndpointParams, EndpointSource, Standing, UpstreamTlsParams},
    types::EndpointAddress,
};

/// The instances of one service that members of the mesh stand beside.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instances {
    /// Sorted by address, each address once.
    pub endpoints: Vec<EndpointParams>,
    /// What is said of each of `endpoints`, in the same order.
    pub standings: Vec<Standing>,
}

impl Instances {
    /// What is said of the endpoint at `address`; nothing, if it is none of these.
    #[must_use]
    pub fn standing(&self, address: &EndpointAddress) -> Standing {
        self.place(address).and_then(|index| self.standings.get(index)).copied().unwrap_or_default()
    }

    fn place(&self, address: &EndpointAddress) -> Option<usize> {
        self.endpoints.binary_search_by(|endpoint| endpoint.address.cmp(address)).ok()
    }
}

/// A member that would be an endpoint of a service, if it spoke mutual TLS as the service does, or did not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mismatch {
    /// The service.
    pub service: Arc<str>,
    /// Who.
    pub member: MemberId,
    /// Its name.
    pub node: Arc<str>,
    /// Whether it speaks mutual TLS.
    pub is_secured: bool,
}

/// What the members of a mesh are for services.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gathered {
    /// The instances of each service that is discovered in the mesh; a service without any is in it, too.
    pub instances: FxHashMap<Arc<str>, Instances>,
    /// Who is left out for not speaking what the service speaks.
    pub mismatches: Vec<Mismatch>,
}

/// Makes endpoints of those in `view` who stand beside an instance of one of `clusters`, this node included: it calls
/// itself as it calls others.
///
/// Members that are not to be routed to are left out, and so are those that are leaving. Those that are the last resort
/// count only where a service has nobody else.
#[must_use]
pub fn gather(clusters: &[ClusterParams], view: &MembershipView) -> Gathered {
    let mut candidates: FxHashMap<&str, Vec<Candidate<'_>>> = clusters
        .iter()
        .filter(|cluster| cluster.source == EndpointSource::Mesh)
        .map(|cluster| (&*cluster.name, Vec::new()))
        .collect();
    for candidate in view.members.iter().filter_map(|member| Candidate::new(member)) {
        if let Some(of_service) = candidates.get_mut(&*candidate.facts.service) {
            of_service.push(candidate);
        }
    }
    let mut gathered = Gathered::default();
    for cluster in clusters {
        let Some(mut found) = candidates.remove(&*cluster.name) else { continue };
        let wants_secured = cluster.tls == UpstreamTlsParams::Mesh;
        found.retain(|candidate| {
            let fits = candidate.facts.secured == wants_secured;
            if !fits {
                gathered.mismatches.push(candidate.mismatch());
            }
            fits
        });
        if found.iter().any(|candidate| candidate.rank != Rank::LastResort) {
            found.retain(|candidate| candidate.rank != Rank::LastResort);
        }
        // Of several lives at one address the best; of equals the one that began last.
        found.sort_by_key(|candidate| {
            let Candidate { address, rank, member, .. } = candidate;
            (address.clone(), *rank, Reverse(member.generation), member.id)
        });
        found.dedup_by(|later, first| later.address == first.address);
        let instances = Instances {
            endpoints: found.iter().map(Candidate::endpoint).collect(),
            standings: found.iter().map(Candidate::standing).collect(),
        };
        gathered.instances.insert(Arc::clone(&cluster.name), instances);
    }
    gathered
}

/// Where instances of services died, by service.
pub(in crate::directory) type Fallen = FxHashMap<Arc<str>, FxHashSet<EndpointAddress>>;

/// Where in `view` instances of services died and none takes requests since: who does so next is back from a failure,
/// and not new. `instances` are those of `view`; `before` is what this said of an earlier one, since the living have to
/// prove who they are before they take requests again.
///
/// The dead are members for a day, so nothing needs to be kept that the view does not hold, and no more than it holds.
/// An address is what comes back: without a directory the same instance is another member after each start.
pub(in crate::directory) fn fallen(
    view: &MembershipView,
    instances: &FxHashMap<Arc<str>, Instances>,
    before: &Fallen,
) -> Fallen {
    // Of several lives at one address the one counts of which there is the latest news.
    let mut latest: FxHashMap<_, (&Member, &Facts)> = FxHashMap::default();
    for member in &view.members {
        let member: &Member = member;
        let Some(facts) = member.facts.as_deref() else { continue };
        let Some(address) = facts.endpoint else { continue };
        let life = latest.entry((&facts.service, address)).or_insert((member, facts));
        if life.0.since < member.since {
            *life = (member, facts);
        }
    }
    let mut fallen = Fallen::default();
    for ((service, address), (member, facts)) in latest {
        let Some(known) = instances.get(service) else { continue };
        let address = EndpointAddress::Tcp(address);
        let has_fallen = match member.state {
            // Who was about to go did not fail, even if it was ended before it could say goodbye.
            MemberState::Dead => !facts.is_draining,
            MemberState::Left => false,
            MemberState::Alive | MemberState::Suspect => {
                before.get(service).is_some_and(|before| before.contains(&address))
            }
        };
        // The last resort takes requests even if it is dead.
        if has_fallen && known.place(&address).is_none() {
            fallen.entry(Arc::clone(service)).or_default().insert(address);
        }
    }
    fallen
}

/// How gladly requests are sent to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Usual,
    Thinned,
    LastResort,
}

/// A member that takes requests.
struct Candidate<'a> {
    member: &'a Member,
    facts: &'a Facts,
    address: EndpointAddress,
    rank: Rank,
}

impl<'a> Candidate<'a> {
    fn new(member: &'a Member) -> Option<Self> {
        let rank = match member.routable {
            Routable::Yes => Rank::Usual,
            Routable::Thinned => Rank::Thinned,
            Routable::LastResort => Rank::LastResort,
            Routable::No => return None,
        };
        let facts = member.facts.as_deref().filter(|facts| !facts.is_draining)?;
        let address = EndpointAddress::Tcp(facts.endpoint?);
        Some(Self { member, facts, address, rank })
    }

    fn endpoint(&self) -> EndpointParams {
        EndpointParams {
            address: self.address.clone(),
            weight: u32::from(self.facts.weight).clamp(1, MAX_WEIGHT),
            priority: 0,
            tags: self.facts.tags.clone(),
        }
    }

    fn standing(&self) -> Standing {
        Standing {
            is_unhealthy: self.facts.health == Health::Unhealthy,
            is_suspected: self.rank == Rank::Thinned,
        }
    }

    fn mismatch(&self) -> Mismatch {
        Mismatch {
            service: Arc::clone(&self.facts.service),
            member: self.member.id,
            node: Arc::clone(&self.facts.node),
            is_secured: self.facts.secured,
        }
    }
}

/// What a member may say at most, as in a file.
const MAX_WEIGHT: u32 = 1000;

#[cfg(test)]
pub(in crate::directory) mod tests;
