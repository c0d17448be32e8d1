//! The retry budget: retries are a share of the requests of the last seconds, so that a failing service gets a
//! little more traffic, never a multiple of it.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::types::Mono;

/// The window that requests and retries are counted over (Finagle's and linkerd2-proxy's).
const SLOTS: usize = 10;
const SLOT: Duration = Duration::from_secs(1);

/// How many retries are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetParams {
    /// Retries for every hundred requests of the last ten seconds, 0 to 1000.
    pub percent: u32,
    /// Retries per second that are allowed in any case: a service with little traffic may retry too.
    pub min_per_second: u32,
}

/// Counts the requests and the retries of one service in a window of ten seconds. Lock-free; shared by all
/// threads.
///
/// The allowance comes from the requests *begun* in the window, not from those in flight: retries that wait for
/// their back-off, and requests that fail at once, would otherwise not count, and the budget would let through a
/// multiple of its ratio (envoyproxy/envoy#30205). A retry is charged when it is scheduled, before the wait, and
/// is never given back.
#[derive(Debug, Default)]
pub struct RetryBudget {
    requests: Window,
    retries: Window,
}

impl RetryBudget {
    /// Counts a request, once, however often it is tried.
    pub fn deposit(&self, now: Mono) {
        self.requests.add(now);
    }

    /// Charges a retry; false, and nothing is charged, if the budget is spent.
    #[must_use]
    pub fn withdraw(&self, params: BudgetParams, now: Mono) -> bool {
        let allowance = self.allowance(params, now);
        // Charge first and look then: of two threads that see the last one, one must not get it.
        let slot = self.retries.add(now);
        if self.retries.sum(now) <= allowance {
            return true;
        }
        self.retries.take_back(slot);
        false
    }

    /// Share of the allowance that is left, 0 to 1.
    #[must_use]
    pub fn remaining_ratio(&self, params: BudgetParams, now: Mono) -> f64 {
        let allowance = self.allowance(params, now);
        if allowance == 0 {
            return 0.0;
        }
        allowance.saturating_sub(self.retries.sum(now)) as f64 / allowance as f64
    }

    /// In hundredths nothing is lost to rounding but the last, incomplete retry.
    fn allowance(&self, params: BudgetParams, now: Mono) -> u64 {
        let share = self.requests.sum(now) * u64::from(params.percent) / 100;
        share + u64::from(params.min_per_second) * SLOTS as u64
    }
}

/// A ring of counters of one second each. A slot holds the second it belongs to in its upper half, so that the
/// first writer of a new second also clears the old count.
#[derive(Debug, Default)]
struct Window([AtomicU64; SLOTS]);

impl Window {
    /// Adds one; returns the slot and its second.
    fn add(&self, now: Mono) -> (usize, u64) {
        let second = second(now);
        let index = (second % SLOTS as u64) as usize;
        let slot = &self.0[index];
        let seen = slot.load(Relaxed);
        if seen >> 32 == second {
            // 2^32 requests in a second do not happen.
            slot.fetch_add(1, Relaxed);
            return (index, second);
        }
        let counted = slot.fetch_update(Relaxed, Relaxed, |seen| {
            Some(if seen >> 32 >= second { seen + 1 } else { (second << 32) + 1 })
        });
        let _ = counted;
        (index, second)
    }

    fn take_back(&self, (index, second): (usize, u64)) {
        let _ = self.0[index].fetch_update(Relaxed, Relaxed, |seen| {
            (seen >> 32 == second && seen & u64::from(u32::MAX) > 0).then(|| seen - 1)
        });
    }

    fn sum(&self, now: Mono) -> u64 {
        let second = second(now);
        let oldest = second.saturating_sub(SLOTS as u64 - 1);
        let slots = self.0.iter().map(|slot| slot.load(Relaxed));
        slots
            .filter(|slot| (oldest..=second).contains(&(slot >> 32)))
            .map(|slot| slot & u64::from(u32::MAX))
            .sum()
    }
}

/// Seconds since the start of the process, from 1, so that an untouched slot belongs to none of them.
fn second(now: Mono) -> u64 {
    (now.since(Mono::ZERO).as_secs() / SLOT.as_secs() + 1) & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: BudgetParams = BudgetParams { percent: 20, min_per_second: 3 };

    fn at(millis: u64) -> Mono {
        Mono::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn without_requests_only_the_minimum_is_allowed() {
        let budget = RetryBudget::default();
        let allowed = (0..100).filter(|_| budget.withdraw(DEFAULT, at(0))).count();
        assert_eq!(allowed, 30);
        assert!(budget.remaining_ratio(DEFAULT, at(0)) == 0.0);
    }

    #[test]
    fn what_was_refused_is_not_charged() {
        let budget = RetryBudget::default();
        while budget.withdraw(DEFAULT, at(0)) {}
        for _ in 0..1000 {
            assert!(!budget.withdraw(DEFAULT, at(9_999)));
        }
        assert!(budget.withdraw(DEFAULT, at(10_000)), "ten seconds later the charges are forgotten");
    }

    #[test]
    fn thirty_percent_are_thirty_percent() {
        // An integer 1/ratio would make 33 of it.
        let params = BudgetParams { percent: 30, min_per_second: 0 };
        let budget = RetryBudget::default();
        (0..1000).for_each(|_| budget.deposit(at(0)));
        assert_eq!((0..1000).filter(|_| budget.withdraw(params, at(500))).count(), 300);
    }

    #[test]
    fn a_service_that_always_fails_gets_no_more_than_its_share_more() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let rate = rng.u64(50..1000);
            let percent = rng.u32(0..60);
            let params = BudgetParams { percent, min_per_second: rng.u32(0..5) };
            let budget = RetryBudget::default();
            let (mut requests, mut attempts) = (0_u64, 0_u64);
            for millis in 0..15_000_u64 {
                // Arrivals at random, so that slots fill unevenly; every attempt fails and wants four retries.
                if rng.u64(0..1000) < rate {
                    budget.deposit(at(millis));
                    requests += 1;
                    attempts += 1;
                    attempts += (0..4).filter(|_| budget.withdraw(params, at(millis))).count() as u64;
                }
            }
            let minimum = u64::from(params.min_per_second) * 25;
            let allowed = requests + requests * u64::from(percent) / 100 + minimum;
            assert!(attempts <= allowed, "seed {seed}: {attempts} attempts, {allowed} allowed");
            if percent > 5 {
                let least = requests + requests * u64::from(percent) / 100 / 2;
                assert!(attempts >= least, "seed {seed}: {attempts} attempts of at least {least}");
            }
        }
    }
}
