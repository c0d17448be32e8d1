//! Picks one endpoint of a service for one attempt. Generic over what an endpoint is: the policies see its
//! weight, its load and whether it may be used, through [`Candidate`]. One file per policy.

mod bounded;
mod hash;
mod jump_hash;
mod least_request;
mod maglev;
mod peak_ewma;
mod random;
mod ring;
mod round_robin;
mod thinning;
mod two_choices;
mod weighted;

pub use hash::hash_key;
pub(in crate::policy) use hash::{cookie, hash_bytes};

use std::{ops::Deref, sync::Arc};

use http::HeaderName;

use self::{
    bounded::Bound, maglev::Table, random::Weights, ring::Ring, round_robin::Cursor, thinning::thinned,
    weighted::Schedule,
};
use crate::types::Mono;

/// Which policy, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BalanceParams {
    /// Each in turn; weights are ignored.
    RoundRobin,
    /// Smooth weighted round robin.
    WeightedRoundRobin,
    /// Each with a probability in proportion to its weight.
    Random,
    /// The less loaded (requests in flight ÷ weight) of two that were chosen at random.
    LeastRequest {
        /// Of all instead of two: exact, and a herd where many sidecars choose at the same time.
        full_scan: bool,
    },
    /// Of two that were chosen at random, the one where one more request costs less: latency × requests there.
    PeakEwma,
    /// Consistent hashing with 160 points for each unit of weight.
    RingHash(Hashing),
    /// Consistent hashing with a table of 65537 slots.
    Maglev(Hashing),
    /// Consistent hashing for a list that only grows at its end; weights are ignored.
    JumpHash(Hashing),
}

/// Parameters of the policies that hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashing {
    /// What of the request is hashed.
    pub hash_on: HashOn,
    /// No endpoint takes more than this percentage of the average load, at least 100; further keys go where their
    /// hash leads next ("Consistent Hashing with Bounded Loads", Mirrokni et al., 2016). `None` sets no bound.
    pub max_load_percent: Option<u32>,
}

impl BalanceParams {
    /// The parameters of hashing, if the policy hashes.
    #[must_use]
    pub const fn hashing(&self) -> Option<&Hashing> {
        match self {
            Self::RingHash(hashing) | Self::Maglev(hashing) | Self::JumpHash(hashing) => Some(hashing),
            Self::RoundRobin
            | Self::WeightedRoundRobin
            | Self::Random
            | Self::LeastRequest { .. }
            | Self::PeakEwma => None,
        }
    }
}

/// What of a request is hashed. A request that lacks it gets a random endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// Value of a header field.
    Header(HeaderName),
    /// Value of a cookie.
    Cookie(String),
    /// The path without the query.
    Path,
    /// Value of a query parameter.
    Query(String),
    /// IP address of the peer, without its port.
    SourceAddress,
}

/// What the policies see of an endpoint.
pub trait Candidate {
    /// May be chosen at `now`: healthy, or panic routing is on.
    fn eligible(&self, now: Mono) -> bool;
    /// 1 to 1000.
    fn weight(&self) -> u32;
    /// Requests that this process has in flight to it.
    fn in_flight(&self) -> u32;
    /// What one more request would cost at `now`, in seconds: its latency times the requests there, that one
    /// included.
    fn cost(&self, now: Mono) -> f32;
    /// What it is placed by on a hash ring: stable across processes and reloads (its address).
    fn hash_identity(&self) -> &str;
    /// Share of its usual traffic that it is to get at `now`, above 0 and at most 1: less than 1 while it warms up.
    /// Policies that compare costs divide by it; those that take turns pass it over accordingly.
    fn ramp(&self, _now: Mono) -> f32 {
        1.0
    }
}

impl<C: Candidate + ?Sized> Candidate for Arc<C> {
    fn eligible(&self, now: Mono) -> bool {
        self.deref().eligible(now)
    }

    fn weight(&self) -> u32 {
        self.deref().weight()
    }

    fn in_flight(&self) -> u32 {
        self.deref().in_flight()
    }

    fn cost(&self, now: Mono) -> f32 {
        self.deref().cost(now)
    }

    fn hash_identity(&self) -> &str {
        self.deref().hash_identity()
    }

    fn ramp(&self, now: Mono) -> f32 {
        self.deref().ramp(now)
    }
}

/// A policy, built for one set of endpoints and shared by all threads.
///
/// Whatever is costly (the ring, the schedule) is made once by [`Balancer::new`]; a new set of endpoints, or a
/// new weight, needs a new balancer. Endpoints that are down stay in it and are passed over by each pick, so
/// that they come back to the place they had.
#[derive(Debug)]
pub struct Balancer(Policy);

#[derive(Debug)]
enum Policy {
    RoundRobin(Cursor),
    WeightedRoundRobin(Schedule),
    Random(Weights),
    LeastRequest { full_scan: bool },
    PeakEwma,
    Hashing { places: Places, max_load_percent: Option<u32>, keyless: Weights },
}

/// Where the keys are.
#[derive(Debug)]
enum Places {
    Ring(Ring),
    Maglev(Table),
    Jump,
}

impl Balancer {
    /// Builds the policy for `candidates`. `seed` decides where round robins begin: different in each process,
    /// so that sidecars that start together do not march through the endpoints in step.
    #[must_use]
    pub fn new<C: Candidate>(params: &BalanceParams, candidates: &[C], seed: u64) -> Self {
        Self(match params {
            BalanceParams::RoundRobin => Policy::RoundRobin(Cursor::new(seed, candidates.len())),
            BalanceParams::WeightedRoundRobin => Policy::WeightedRoundRobin(Schedule::new(candidates, seed)),
            BalanceParams::Random => Policy::Random(Weights::new(candidates)),
            BalanceParams::LeastRequest { full_scan } => Policy::LeastRequest { full_scan: *full_scan },
            BalanceParams::PeakEwma => Policy::PeakEwma,
            BalanceParams::RingHash(hashing)
            | BalanceParams::Maglev(hashing)
            | BalanceParams::JumpHash(hashing) => Policy::Hashing {
                places: match params {
                    BalanceParams::RingHash(_) => Places::Ring(Ring::new(candidates)),
                    BalanceParams::Maglev(_) => Places::Maglev(Table::new(candidates)),
                    _ => Places::Jump,
                },
                max_load_percent: hashing.max_load_percent,
                keyless: Weights::new(candidates),
            },
        })
    }

    /// Index of the endpoint for the next attempt: eligible and not among `tried`. `None` only if there is no
    /// such endpoint.
    ///
    /// `candidates` are those that the balancer was built for, in the same order. `key` comes from
    /// [`hash_key`]; only the ring reads it. Takes no lock and does not allocate.
    pub fn pick<C: Candidate>(
        &self,
        candidates: &[C],
        tried: &[usize],
        key: Option<u64>,
        now: Mono,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let choice = Choice { candidates, tried, now };
        match &self.0 {
            Policy::RoundRobin(cursor) => thinned(&choice, rng, |_| round_robin::pick(cursor, &choice)),
            Policy::WeightedRoundRobin(schedule) => thinned(&choice, rng, |rng| schedule.pick(&choice, rng)),
            Policy::Random(weights) => thinned(&choice, rng, |rng| weights.pick(&choice, rng)),
            Policy::LeastRequest { full_scan } => least_request::pick(&choice, *full_scan, rng),
            Policy::PeakEwma => peak_ewma::pick(&choice, rng),
            Policy::Hashing { places, max_load_percent, keyless } => {
                let Some(key) = key else { return keyless.pick(&choice, rng) };
                let bound = max_load_percent.map(|percent| Bound::new(&choice, percent));
                let full = |index| bound.as_ref().is_some_and(|bound| bound.is_full(&choice, index));
                match places {
                    Places::Ring(ring) => ring.pick(&choice, key, full, rng),
                    Places::Maglev(table) => table.pick(&choice, key, full, rng),
                    Places::Jump => jump_hash::pick(&choice, key, full, rng),
                }
            }
        }
    }
}

/// What one pick chooses among.
struct Choice<'a, C> {
    candidates: &'a [C],
    tried: &'a [usize],
    now: Mono,
}

impl<C: Candidate> Choice<'_, C> {
    fn len(&self) -> usize {
        self.candidates.len()
    }

    /// Whether `index` may be picked.
    fn open(&self, index: usize) -> bool {
        self.candidates.get(index).is_some_and(|candidate| candidate.eligible(self.now))
            && !self.tried.contains(&index)
    }

    /// Weight, at least 1, so that no endpoint is lost to a zero.
    fn weight(&self, index: usize) -> u64 {
        self.candidates.get(index).map_or(1, weight)
    }

    /// Every index that may be picked. Eligibility can change between two calls.
    fn all_open(&self) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(|&index| self.open(index))
    }
}

fn weight(candidate: &impl Candidate) -> u64 {
    u64::from(candidate.weight().max(1))
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
