//! Consistent hashing: keys stay with their endpoint while others come and go. Wraps the `hashring` crate, which
//! has neither weights, nor virtual nodes, nor a way to walk on from an endpoint that is down.

use std::hash::{BuildHasher, Hash, Hasher};

use hashring::HashRing;
use xxhash_rust::xxh64::{Xxh64, xxh64};

use super::{Candidate, Choice, hash::SEED, least_request, weight};

/// Points of an endpoint of weight 1, as ketama has it: shares are within about 10 % of the weights.
const POINTS_PER_WEIGHT: u64 = 160;

/// Most points of a ring (1.5 MiB), give or take one per endpoint.
const MAX_POINTS: u64 = 65_536;

/// Places of one key that are looked at before the load decides: with half of the endpoints down, one key in
/// 256 loses its affinity.
const MAX_PROBES: u32 = 8;

/// The ring of one set of endpoints. All processes that see the same endpoints build the same ring.
pub(super) struct Ring(HashRing<VirtualNode, MeshHasher>);

impl Ring {
    pub(super) fn new<C: Candidate>(candidates: &[C]) -> Self {
        let weights: Vec<u64> = candidates.iter().map(weight).collect();
        let shift = halvings(weights.iter().sum());
        let identity = |endpoint: &usize| xxh64(candidates[*endpoint].hash_identity().as_bytes(), SEED);
        // Equal points keep the order of insertion, which must not depend on the order of the endpoints.
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by_cached_key(identity);
        let mut nodes = Vec::new();
        for endpoint in order {
            let identity = identity(&endpoint);
            let points = ((weights[endpoint] * POINTS_PER_WEIGHT) >> shift).max(1);
            let endpoint = u32::try_from(endpoint).unwrap_or(u32::MAX);
            nodes.extend((0..points).map(|replica| VirtualNode { identity, replica, endpoint }));
        }
        let mut ring = HashRing::with_hasher(MeshHasher);
        // `add` sorts the whole ring each time.
        ring.batch_add(nodes);
        Self(ring)
    }

    /// The endpoint of `key`, or of its next places on the ring while that is closed. Once all probes failed,
    /// the less loaded of two.
    pub(super) fn pick<C: Candidate>(
        &self,
        choice: &Choice<'_, C>,
        key: u64,
        full: impl Fn(usize) -> bool,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        // A second hash per probe, since the ring cannot be walked: its own way to the next candidates copies
        // all points on each call.
        let probed = (0..MAX_PROBES).filter_map(|attempt| self.0.get(&Probe { key, attempt }));
        let found = probed
            .map(|node| node.endpoint as usize)
            .find(|&endpoint| choice.open(endpoint) && !full(endpoint));
        found.or_else(|| least_request::pick(choice, false, rng))
    }

    #[cfg(test)]
    fn points(&self) -> usize {
        self.0.len()
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("points", &self.0.len()).finish()
    }
}

/// How often the points must be halved to fit. Powers of two, so that one more endpoint seldom changes the
/// points of the others: a factor that moves with the sum of weights would move keys with every change.
fn halvings(total_weight: u64) -> u32 {
    let points = total_weight.saturating_mul(POINTS_PER_WEIGHT);
    (0..u64::BITS).find(|&shift| points >> shift <= MAX_POINTS).unwrap_or(0)
}

/// One point of an endpoint. Replica numbers begin at 0, so that a smaller weight keeps the first ones.
struct VirtualNode {
    /// Hash of what the endpoint is placed by.
    identity: u64,
    replica: u64,
    /// Index in the candidates; no part of the placement.
    endpoint: u32,
}

// Written out, since all processes must place alike: the hashes of the standard library's types depend on its
// version and on the byte order of the machine.
impl Hash for VirtualNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.identity.to_be_bytes());
        state.write(&self.replica.to_be_bytes());
    }
}

/// Where a key is looked up at its nth attempt.
struct Probe {
    key: u64,
    attempt: u32,
}

impl Hash for Probe {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.key.to_be_bytes());
        state.write(&self.attempt.to_be_bytes());
    }
}

/// Builds the hasher that all sidecars of a mesh share.
struct MeshHasher;

impl BuildHasher for MeshHasher {
    type Hasher = Xxh64;

    fn build_hasher(&self) -> Xxh64 {
        Xxh64::new(SEED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::balance::tests::{Endpoint, endpoints};

    fn owner(ring: &Ring, candidates: &[Endpoint], key: u64) -> usize {
        let choice = Choice { candidates, tried: &[], now: crate::types::Mono::ZERO };
        ring.pick(&choice, key, |_| false, &mut fastrand::Rng::with_seed(0)).unwrap()
    }

    #[test]
    fn placement_is_the_same_in_every_process_and_version() {
        let candidates = endpoints(&[1, 1, 1]);
        let ring = Ring::new(&candidates);
        let owners: Vec<usize> = (0..12).map(|key| owner(&ring, &candidates, key)).collect();
        // Worked out once. A change moves every key of every mesh that upgrades node by node.
        assert_eq!(owners, [1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 0, 2]);
    }

    #[test]
    fn the_order_of_the_endpoints_does_not_matter() {
        let candidates = endpoints(&[1, 2, 3, 4]);
        let reversed: Vec<Endpoint> = candidates.iter().rev().cloned().collect();
        let (ring, other) = (Ring::new(&candidates), Ring::new(&reversed));
        for key in 0..1000 {
            assert_eq!(owner(&ring, &candidates, key), 3 - owner(&other, &reversed, key));
        }
    }

    #[test]
    fn removing_one_of_n_endpoints_moves_its_keys_and_no_others() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let count = rng.usize(3..12);
            let before = endpoints(&vec![1; count]);
            let gone = rng.usize(0..count);
            let mut after = before.clone();
            after.remove(gone);
            let (ring, smaller) = (Ring::new(&before), Ring::new(&after));
            let keys = 2000;
            let mut moved = 0;
            for key in 0..keys {
                let old = owner(&ring, &before, key);
                let new = owner(&smaller, &after, key);
                if old == gone {
                    moved += 1;
                } else {
                    assert_eq!(before[old].name, after[new].name, "seed {seed}: key {key} moved for nothing");
                }
            }
            let fair = keys as f64 / count as f64;
            assert!(f64::from(moved) < fair * 1.5, "seed {seed}: {moved} keys of {count} endpoints moved");
        }
    }

    #[test]
    fn shares_follow_weights() {
        let candidates = endpoints(&[1, 2, 5]);
        let ring = Ring::new(&candidates);
        let mut shares = [0_u32; 3];
        for key in 0..8000 {
            shares[owner(&ring, &candidates, key)] += 1;
        }
        for (share, expected) in shares.into_iter().zip([1000.0, 2000.0, 5000.0]) {
            let off = (f64::from(share) - expected).abs() / expected;
            assert!(off < 0.25, "{shares:?}");
        }
    }

    #[test]
    fn the_number_of_points_is_bounded() {
        assert_eq!(Ring::new(&endpoints(&[1, 3])).points(), 4 * 160);
        assert_eq!(halvings(409), 0);
        assert_eq!(halvings(410), 1);
        assert!(Ring::new(&endpoints(&[1000; 50])).points() <= 65_536);
        assert!(Ring::new(&endpoints(&[1; 2000])).points() <= 65_536);
    }

    #[test]
    fn a_closed_endpoint_lends_its_keys_out_and_gets_them_back() {
        let mut candidates = endpoints(&[1; 5]);
        let ring = Ring::new(&candidates);
        let before: Vec<usize> = (0..500).map(|key| owner(&ring, &candidates, key)).collect();
        candidates[2].eligible = false;
        for (key, &old) in before.iter().enumerate() {
            let now = owner(&ring, &candidates, key as u64);
            assert!(if old == 2 { now != 2 } else { now == old }, "key {key}");
        }
        candidates[2].eligible = true;
        let after: Vec<usize> = (0..500).map(|key| owner(&ring, &candidates, key)).collect();
        assert_eq!(before, after);
    }
}
