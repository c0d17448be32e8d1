//! What holds for every policy, and the shares that each of them gives.

use super::*;

#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) name: String,
    pub(super) eligible: bool,
    pub(super) weight: u32,
    pub(super) in_flight: u32,
    pub(super) latency: f32,
}

impl Candidate for Endpoint {
    fn eligible(&self, _now: Mono) -> bool {
        self.eligible
    }

    fn weight(&self) -> u32 {
        self.weight
    }

    fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn cost(&self, _now: Mono) -> f32 {
        self.latency * (self.in_flight as f32 + 1.0)
    }

    fn hash_identity(&self) -> &str {
        &self.name
    }
}

/// Idle endpoints of these weights, placed by addresses.
pub(super) fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
    let endpoint = |(index, &weight): (usize, &u32)| Endpoint {
        name: format!("10.0.0.{index}:80"),
        eligible: true,
        weight,
        in_flight: 0,
        latency: 0.01,
    };
    weights.iter().enumerate().map(endpoint).collect()
}

pub(super) fn by_path() -> Hashing {
    Hashing { hash_on: HashOn::Path, max_load_percent: None }
}

fn all_policies() -> [BalanceParams; 9] {
    [
        BalanceParams::RoundRobin,
        BalanceParams::WeightedRoundRobin,
        BalanceParams::Random,
        BalanceParams::LeastRequest { full_scan: false },
        BalanceParams::LeastRequest { full_scan: true },
        BalanceParams::PeakEwma,
        BalanceParams::RingHash(by_path()),
        BalanceParams::Maglev(by_path()),
        BalanceParams::JumpHash(by_path()),
    ]
}

fn picks(params: &BalanceParams, candidates: &[Endpoint], seed: u64, count: usize) -> Vec<usize> {
    let balancer = Balancer::new(params, candidates, seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| balancer.pick(candidates, &[], None, Mono::ZERO, &mut rng).unwrap()).collect()
}

fn shares(picks: &[usize], endpoints: usize) -> Vec<usize> {
    (0..endpoints).map(|endpoint| picks.iter().filter(|&&pick| pick == endpoint).count()).collect()
}

/// Asserts shares within 4.5 standard deviations of a fair draw.
fn assert_shares(shares: &[usize], weights: &[u32], context: &str) {
    let count: usize = shares.iter().sum();
    let total: u32 = weights.iter().sum();
    for (share, weight) in shares.iter().zip(weights) {
        let p = f64::from(*weight) / f64::from(total);
        let (expected, deviation) = (count as f64 * p, (count as f64 * p * (1.0 - p)).sqrt());
        let off = (*share as f64 - expected).abs();
        assert!(off <= 4.5 * deviation + 1.0, "{context}: {shares:?} for weights {weights:?}");
    }
}

#[test]
fn a_pick_is_eligible_and_untried_and_missing_only_if_there_is_none() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let weights: Vec<u32> = (0..rng.usize(0..12)).map(|_| rng.u32(1..4)).collect();
        let mut candidates = endpoints(&weights);
        let balancers = all_policies().map(|params| Balancer::new(&params, &candidates, seed));
        for _ in 0..20 {
            for candidate in &mut candidates {
                candidate.eligible = rng.u8(0..4) == 0;
                candidate.in_flight = rng.u32(0..5);
            }
            let tried: Vec<usize> = (0..candidates.len()).filter(|_| rng.u8(0..4) == 0).collect();
            let open = |index: &usize| candidates[*index].eligible && !tried.contains(index);
            let any_open = (0..candidates.len()).any(|index| open(&index));
            for balancer in &balancers {
                let key = rng.bool().then(|| rng.u64(..));
                let pick = balancer.pick(&candidates, &tried, key, Mono::ZERO, &mut rng);
                assert_eq!(pick.is_some(), any_open, "seed {seed}: {balancer:?}");
                assert!(pick.as_ref().is_none_or(open), "seed {seed}: {balancer:?} picked {pick:?}");
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_picks() {
    let candidates = endpoints(&[1, 2, 3, 4]);
    for params in all_policies() {
        assert_eq!(picks(&params, &candidates, 7, 100), picks(&params, &candidates, 7, 100));
    }
}

#[test]
fn round_robin_goes_around_and_ignores_weights() {
    let turns = picks(&BalanceParams::RoundRobin, &endpoints(&[1, 9, 5]), 1, 9);
    for round in turns.windows(4) {
        assert_eq!(round[0], round[3]);
        assert_eq!((round[0] + 1) % 3, round[1]);
    }
}

#[test]
fn round_robins_of_different_seeds_begin_at_different_places() {
    let candidates = endpoints(&[1; 10]);
    let first = |seed| picks(&BalanceParams::RoundRobin, &candidates, seed, 1)[0];
    let starts = shares(&(0..1000).map(first).collect::<Vec<_>>(), 10);
    assert_shares(&starts, &[1; 10], "starts");
}

#[test]
fn the_turn_of_a_closed_endpoint_is_shared_by_all_others() {
    let mut candidates = endpoints(&[1; 5]);
    candidates[1].eligible = false;
    candidates[2].eligible = false;
    let turns = picks(&BalanceParams::RoundRobin, &candidates, 3, 300);
    assert_eq!(shares(&turns, 5), [100, 0, 0, 100, 100]);

    let mut candidates = endpoints(&[4, 3, 2, 1]);
    candidates[0].eligible = false;
    let turns = picks(&BalanceParams::WeightedRoundRobin, &candidates, 3, 600);
    assert_eq!(shares(&turns, 4), [0, 300, 200, 100]);
}

#[test]
fn weighted_round_robin_serves_exactly_by_weight_each_round() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let weights: Vec<u32> = (0..rng.usize(1..8)).map(|_| rng.u32(1..50)).collect();
        let round: u32 = weights.iter().sum();
        let turns = picks(&BalanceParams::WeightedRoundRobin, &endpoints(&weights), seed, 2 * round as usize);
        let expected: Vec<usize> = weights.iter().map(|weight| 2 * *weight as usize).collect();
        assert_eq!(shares(&turns, weights.len()), expected, "seed {seed}");
    }
}

#[test]
fn a_heavy_endpoint_that_is_down_does_not_distort_the_others() {
    let mut candidates = endpoints(&[1000, 2, 1]);
    candidates[0].eligible = false;
    let turns = picks(&BalanceParams::WeightedRoundRobin, &candidates, 1, 3000);
    let shares = shares(&turns, 3);
    assert_eq!(shares[0], 0);
    assert_shares(&shares[1..], &[2, 1], "weighted round robin");
}

#[test]
fn random_and_keyless_ring_picks_follow_weights() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let weights: Vec<u32> = (0..rng.usize(1..8)).map(|_| rng.u32(1..5)).collect();
        for params in [BalanceParams::Random, BalanceParams::RingHash(by_path())] {
            let drawn = picks(&params, &endpoints(&weights), seed, 2000);
            assert_shares(&shares(&drawn, weights.len()), &weights, &format!("seed {seed}"));
        }
    }
}

#[test]
fn random_keeps_proportions_when_most_endpoints_are_down() {
    let mut candidates = endpoints(&[50; 40]);
    for candidate in &mut candidates[2..] {
        candidate.eligible = false;
    }
    candidates[0].weight = 150;
    let shares = shares(&picks(&BalanceParams::Random, &candidates, 5, 4000), 2);
    assert_shares(&shares, &[150, 50], "random");
}

#[test]
fn least_request_prefers_the_idle() {
    for seed in 0..200 {
        let mut candidates = endpoints(&[1; 10]);
        for candidate in &mut candidates[1..] {
            candidate.in_flight = 10;
        }
        let shares =
            shares(&picks(&BalanceParams::LeastRequest { full_scan: false }, &candidates, seed, 1000), 10);
        // It is in the sample of two with probability 1/5, and then always wins.
        assert!((140..=260).contains(&shares[0]), "seed {seed}: {shares:?}");
        assert!(shares[1..].iter().all(|share| *share < shares[0]), "seed {seed}: {shares:?}");
    }
}

#[test]
fn least_request_never_takes_the_busiest_of_all() {
    let mut candidates = endpoints(&[1; 5]);
    candidates[4].in_flight = 1;
    assert_eq!(
        shares(&picks(&BalanceParams::LeastRequest { full_scan: false }, &candidates, 1, 1000), 5)[4],
        0
    );
}

#[test]
fn least_request_weighs_load_by_weight() {
    let mut candidates = endpoints(&[1, 4]);
    candidates[0].in_flight = 1;
    candidates[1].in_flight = 6;
    // 2/1 against 7/4.
    assert_eq!(
        shares(&picks(&BalanceParams::LeastRequest { full_scan: false }, &candidates, 1, 100), 2),
        [0, 100]
    );
    candidates[1].in_flight = 8;
    // 2/1 against 9/4.
    assert_eq!(
        shares(&picks(&BalanceParams::LeastRequest { full_scan: false }, &candidates, 1, 100), 2),
        [100, 0]
    );
}

#[test]
fn least_request_is_fair_among_the_idle_even_when_it_has_to_scan() {
    let mut candidates = endpoints(&[1; 40]);
    for candidate in &mut candidates[4..] {
        candidate.eligible = false;
    }
    let shares = shares(&picks(&BalanceParams::LeastRequest { full_scan: false }, &candidates, 9, 8000), 4);
    assert_shares(&shares, &[1; 4], "least request");
}

#[test]
fn the_second_attempt_of_a_key_is_as_stable_as_the_first() {
    let candidates = endpoints(&[1; 8]);
    let balancer = Balancer::new(&BalanceParams::RingHash(by_path()), &candidates, 0);
    for key in 0..200 {
        let pick = |tried: &[usize], seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            balancer.pick(&candidates, tried, Some(key), Mono::ZERO, &mut rng).unwrap()
        };
        let first = pick(&[], 1);
        assert_eq!(first, pick(&[], 2));
        assert_ne!(first, pick(&[first], 1));
        assert_eq!(pick(&[first], 1), pick(&[first], 2));
    }
}

#[test]
fn threads_share_one_round() {
    let candidates = endpoints(&[3, 1]);
    for params in [BalanceParams::RoundRobin, BalanceParams::WeightedRoundRobin] {
        let balancer = Balancer::new(&params, &candidates, 0);
        let work = || {
            let mut rng = fastrand::Rng::with_seed(0);
            (0..1000).map(|_| balancer.pick(&candidates, &[], None, Mono::ZERO, &mut rng).unwrap()).collect()
        };
        let turns: Vec<Vec<usize>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let expected = if params == BalanceParams::RoundRobin { [2000, 2000] } else { [3000, 1000] };
        assert_eq!(shares(&turns.concat(), 2), expected);
    }
}
