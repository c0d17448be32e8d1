//! Simulated traffic: what a policy makes of endpoints that are slow, failing, or many to one key.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::{BalanceParams, Balancer, Candidate, HashOn, Hashing};
use crate::{
    policy::{
        classify::{Outcome, Sample},
        ewma::PeakEwma,
    },
    types::Mono,
};

/// An endpoint that takes as long as it is told for every request, and may fail all of them.
struct Endpoint {
    name: String,
    in_flight: u32,
    millis: u64,
    failing: bool,
    latency: PeakEwma,
}

impl Candidate for Endpoint {
    fn eligible(&self, _now: Mono) -> bool {
        true
    }

    fn weight(&self) -> u32 {
        1
    }

    fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn cost(&self, now: Mono) -> f32 {
        self.latency.cost(self.in_flight, now)
    }

    fn hash_identity(&self) -> &str {
        &self.name
    }
}

struct World {
    endpoints: Vec<Endpoint>,
    balancer: Balancer,
    rng: fastrand::Rng,
    /// Microseconds.
    now: u64,
    /// When a request ends, at which endpoint, and when it began.
    under_way: BinaryHeap<Reverse<(u64, usize, u64)>>,
}

impl World {
    fn new(params: &BalanceParams, count: usize, millis: u64, seed: u64) -> Self {
        let endpoint = |index: usize| Endpoint {
            name: format!("10.0.0.{index}:80"),
            in_flight: 0,
            millis,
            failing: false,
            latency: PeakEwma::default(),
        };
        let endpoints: Vec<Endpoint> = (0..count).map(endpoint).collect();
        Self {
            balancer: Balancer::new(params, &endpoints, seed),
            endpoints,
            rng: fastrand::Rng::with_seed(seed),
            now: 1_000_000,
            under_way: BinaryHeap::new(),
        }
    }

    fn mono(micros: u64) -> Mono {
        Mono::from_nanos(micros * 1_000)
    }

    /// Requests arrive at this rate, at random times; gives how many each endpoint got.
    fn run(&mut self, seconds: u64, per_second: u64, key: Option<u64>) -> Vec<usize> {
        let mut got = vec![0; self.endpoints.len()];
        let end = self.now + seconds * 1_000_000;
        while self.now < end {
            self.now += self.rng.u64(0..=2_000_000 / per_second);
            while let Some(Reverse((at, index, began))) = self.under_way.peek().copied() {
                if at > self.now {
                    break;
                }
                self.under_way.pop();
                self.finish(at, index, began);
            }
            let (now, key) = (Self::mono(self.now), key.or(Some(self.rng.u64(..))));
            let index = self.balancer.pick(&self.endpoints, &[], key, now, &mut self.rng).unwrap();
            let endpoint = &mut self.endpoints[index];
            endpoint.in_flight += 1;
            // A failure is fast: that is what makes it a trap.
            let takes = if endpoint.failing { 100 } else { endpoint.millis * 1000 };
            self.under_way.push(Reverse((self.now + takes, index, self.now)));
            got[index] += 1;
        }
        got
    }

    fn finish(&mut self, at: u64, index: usize, began: u64) {
        let endpoint = &mut self.endpoints[index];
        endpoint.in_flight -= 1;
        let outcome = if endpoint.failing { Outcome::GatewayError } else { Outcome::Success };
        let latency = Duration::from_micros(at - began);
        endpoint.latency.observe(&Sample { outcome, latency, retry_after: None }, Self::mono(at));
    }
}

fn share(got: &[usize], index: usize) -> f64 {
    got[index] as f64 / got.iter().sum::<usize>() as f64
}

#[test]
fn peak_ewma_shares_equals_evenly() {
    for seed in 0..200 {
        let mut world = World::new(&BalanceParams::PeakEwma, 5, 10, seed);
        let got = world.run(10, 200, None);
        for index in 0..5 {
            assert!((0.08..0.32).contains(&share(&got, index)), "seed {seed}: {got:?}");
        }
    }
}

#[test]
fn peak_ewma_does_not_starve_who_is_a_little_slower() {
    for seed in 0..200 {
        let mut world = World::new(&BalanceParams::PeakEwma, 3, 10, seed);
        world.endpoints[0].millis = 12;
        // So little traffic that nobody ever waits.
        let got = world.run(60, 10, None);
        assert!(share(&got, 0) > 0.15, "seed {seed}: {got:?}");
    }
}

#[test]
fn peak_ewma_leaves_a_slow_endpoint_and_comes_back_to_it() {
    for seed in 0..200 {
        let mut world = World::new(&BalanceParams::PeakEwma, 4, 5, seed);
        world.run(3, 200, None);
        world.endpoints[1].millis = 200;
        world.run(2, 200, None);
        let slow = world.run(8, 200, None);
        assert!(share(&slow, 1) < 0.03, "seed {seed}: {slow:?}");
        world.endpoints[1].millis = 5;
        world.run(60, 50, None);
        let recovered = world.run(10, 200, None);
        assert!(share(&recovered, 1) > 0.1, "seed {seed}: {recovered:?}");
    }
}

#[test]
fn peak_ewma_is_not_drawn_to_an_endpoint_that_fails_fast() {
    for seed in 0..200 {
        let mut world = World::new(&BalanceParams::PeakEwma, 4, 20, seed);
        world.run(2, 200, None);
        world.endpoints[2].failing = true;
        let failing = world.run(10, 200, None);
        assert!(share(&failing, 2) < 0.05, "seed {seed}: {failing:?}");
        world.endpoints[2].failing = false;
        world.run(10, 100, None);
        let recovered = world.run(10, 200, None);
        assert!(share(&recovered, 2) > 0.1, "seed {seed}: {recovered:?}");
    }
}

#[test]
fn least_request_gives_a_slow_endpoint_less() {
    for full_scan in [false, true] {
        for seed in 0..200 {
            let mut world = World::new(&BalanceParams::LeastRequest { full_scan }, 4, 5, seed);
            world.endpoints[1].millis = 200;
            let got = world.run(10, 400, None);
            assert!(share(&got, 1) < 0.12, "seed {seed}: {got:?}");
        }
    }
}

#[test]
fn with_a_bound_not_even_one_hot_key_overloads_its_endpoint() {
    let hashing = Hashing { hash_on: HashOn::Path, max_load_percent: Some(125) };
    for params in [
        BalanceParams::RingHash(hashing.clone()),
        BalanceParams::Maglev(hashing.clone()),
        BalanceParams::JumpHash(hashing),
    ] {
        for seed in 0..200 {
            let mut world = World::new(&params, 5, 100, seed);
            for _ in 0..20 {
                world.run(1, 300, Some(seed));
                let load: u32 = world.endpoints.iter().map(|endpoint| endpoint.in_flight).sum();
                // One more than the bound: it was computed with the request that is there now.
                let bound = (1.25 * f64::from(load + 1) / 5.0).ceil() as u32 + 1;
                // Requests that end between two picks lower the average below what was allowed at the time.
                let slack = 3;
                let most = world.endpoints.iter().map(|endpoint| endpoint.in_flight).max().unwrap();
                assert!(most <= bound + slack, "seed {seed}: {most} of {load}, bound {bound}");
            }
        }
    }
}
