//! Which of the endpoints of a service a request may go to, and how its traffic is divided among them.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{ClusterParams, Endpoint};
use crate::{
    policy::{
        balance::Balancer,
        locality::{self, Division, GroupState, WHOLE},
    },
    types::{Circuit, Mono, Tags},
};

/// How many endpoints a pick can leave out.
const MAX_LEFT_OUT: usize = 16;

/// Index of a selection of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SelectionId(pub(super) usize);

impl SelectionId {
    /// All endpoints of the service.
    pub const ALL: Self = Self(0);
}

/// The endpoints of a service that have some tags in common.
#[derive(Debug)]
pub struct Selection {
    /// What they have in common.
    pub tags: Tags,
    /// Never empty; sorted by priority and zone.
    groups: Vec<Group>,
    members: usize,
}

/// Endpoints that are balanced among themselves: those of one priority, and of one zone where zones matter.
#[derive(Debug)]
pub struct Group {
    /// 0 is asked first.
    pub priority: u8,
    /// Where they are; `None` where that does not matter, or is not said.
    pub zone: Option<Box<str>>,
    /// Indices into the endpoints of the service, ascending; `None` if it has all of them.
    members: Option<Vec<usize>>,
    endpoints: Vec<Arc<Endpoint>>,
    balancer: Balancer,
    /// Of [`WHOLE`].
    share: AtomicU32,
}

impl Group {
    /// Its part of the traffic, from 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        f64::from(self.share.load(Relaxed)) / f64::from(WHOLE)
    }

    fn pick(&self, tried: &[usize], key: Option<u64>, now: Mono, rng: &mut fastrand::Rng) -> Option<usize> {
        let Some(members) = &self.members else {
            return self.balancer.pick(&self.endpoints, tried, key, now, rng);
        };
        let mut own = [usize::MAX; MAX_LEFT_OUT];
        let known = tried.iter().filter_map(|index| members.binary_search(index).ok());
        let count = own.iter_mut().zip(known).map(|(place, index)| *place = index).count();
        let picked = self.balancer.pick(&self.endpoints, &own[..count], key, now, rng)?;
        members.get(picked).copied()
    }
}

impl Selection {
    /// Those of `endpoints` that have all of `tags`. `seed` is that of [`Balancer::new`].
    #[must_use]
    pub fn new(params: &ClusterParams, tags: Tags, endpoints: &[Arc<Endpoint>], seed: u64) -> Self {
        let place = |endpoint: &Arc<Endpoint>| {
            let zone = endpoint.tags.zone().filter(|_| params.zones.divides());
            (endpoint.priority, zone.map(Box::<str>::from))
        };
        let mut chosen: Vec<usize> =
            (0..endpoints.len()).filter(|&index| endpoints[index].tags.contain(&tags)).collect();
        let members = chosen.len();
        chosen.sort_by_cached_key(|&index| (place(&endpoints[index]), index));
        let mut groups: Vec<Group> = chosen
            .chunk_by(|&one, &other| place(&endpoints[one]) == place(&endpoints[other]))
            .map(|indices| {
                let own: Vec<Arc<Endpoint>> =
                    indices.iter().map(|&index| Arc::clone(&endpoints[index])).collect();
                let (priority, zone) = place(&own[0]);
                let balancer = Balancer::new(&params.balance, &own, seed);
                let members = (own.len() < endpoints.len()).then(|| indices.to_vec());
                Group { priority, zone, members, endpoints: own, balancer, share: AtomicU32::new(0) }
            })
            .collect();
        if groups.is_empty() {
            groups.push(Group {
                priority: 0,
                zone: None,
                members: Some(Vec::new()),
                balancer: Balancer::new::<Arc<Endpoint>>(&params.balance, &[], seed),
                endpoints: Vec::new(),
                share: AtomicU32::new(0),
            });
        }
        Self { tags, groups, members }
    }

    /// How many endpoints there are to choose from.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// Its groups, by priority and zone.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Share of the traffic that goes to later priorities than the first, 0 to 1.
    #[must_use]
    pub fn failover(&self) -> f64 {
        let first = self.groups.first().map_or(0, |group| group.priority);
        self.groups.iter().filter(|group| group.priority > first).map(Group::share).sum()
    }

    /// Every endpoint in it.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.groups.iter().flat_map(|group| &group.endpoints)
    }

    /// Index, among all endpoints of the service, of the one for the next attempt: eligible and not among `tried`.
    ///
    /// The group is chosen by its share of the traffic: by chance, or by `key`, so that a key stays where it is as
    /// long as the shares do. If nobody in it can be chosen, the others are asked, first those that have a share.
    /// Takes no lock and does not allocate.
    pub(super) fn pick(
        &self,
        tried: &[usize],
        key: Option<u64>,
        now: Mono,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        if let [only] = self.groups.as_slice() {
            return only.pick(tried, key, now, rng);
        }
        let draw = match key {
            // The balancer of the group places by the same key: other bits decide here.
            Some(key) => scaled(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            None => rng.u32(0..WHOLE),
        };
        let first = self.drawn(draw);
        if let Some(picked) = self.groups[first].pick(tried, key, now, rng) {
            return Some(picked);
        }
        let others = |with_share: bool| {
            let has_share = move |group: &Group| (group.share.load(Relaxed) > 0) == with_share;
            let others = self.groups.iter().enumerate().filter(move |(index, _)| *index != first);
            others.map(|(_, group)| group).filter(move |group| has_share(group))
        };
        others(true).chain(others(false)).find_map(|group| group.pick(tried, key, now, rng))
    }

    /// Index of the group that the number `draw` below [`WHOLE`] falls to.
    fn drawn(&self, draw: u32) -> usize {
        let mut left = draw;
        let mut last = 0;
        for (index, group) in self.groups.iter().enumerate() {
            let share = group.share.load(Relaxed);
            if left < share {
                return index;
            }
            left -= share;
            if share > 0 {
                // What rounding lost goes to the last one that has a share.
                last = index;
            }
        }
        last
    }

    /// Divides the traffic anew, by what the endpoints are like at `now`; returns which priorities are in panic.
    pub(super) fn divide(&self, params: &ClusterParams, own_zone: Option<&str>, now: Mono) -> u16 {
        let count = |group: &Group, fits: &dyn Fn(&Endpoint) -> bool| {
            u32::try_from(group.endpoints.iter().filter(|endpoint| fits(endpoint)).count())
                .unwrap_or(u32::MAX)
        };
        let state = |group| GroupState {
            priority: Group::priority(group),
            zone: Group::zone(group),
            all: count(group, &|_| true),
            usable: count(group, &Endpoint::is_usable),
            // One that is due for a probe counts, or nobody would ever be sent to probe it.
            available: count(group, &|one| one.is_usable() && one.circuit(now) != Circuit::Open),
        };
        let states: Vec<GroupState<'_>> = self.groups.iter().map(state).collect();
        let Division { shares, panic } =
            locality::divide(&states, &params.zones, own_zone, params.panic_threshold_percent);
        self.groups.iter().zip(shares).for_each(|(group, share)| group.share.store(share, Relaxed));
        panic
    }
}

impl Group {
    fn priority(&self) -> u8 {
        self.priority
    }

    fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }
}

/// `key` as a number below [`WHOLE`].
const fn scaled(key: u64) -> u32 {
    (((key >> 32) * WHOLE as u64) >> 32) as u32
}
