//! How many requests the application can take at once, learned from how long it takes: Gradient2 of Netflix's
//! concurrency-limits. When answers take longer than they used to, the limit shrinks until they do not. Nobody is held
//! back to measure: the past is the measure. Who goes first when there are too many is in [`fits`].

use std::time::Duration;

use crate::types::Priority;

/// How much the short-term latency may exceed the long-term one before the limit shrinks.
const TOLERANCE: f64 = 1.5;
/// Share of a step that is taken.
const SMOOTHING: f64 = 0.2;
/// The least that a step keeps of the limit.
const LEAST_GRADIENT: f64 = 0.5;
/// Windows over which the long-term latency is averaged: ten minutes of one second each.
const LONG_WINDOWS: f64 = 600.0;
/// Windows until that average is more than a mean.
const WARM_UP: u32 = 10;

/// The limit of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConcurrencyParams {
    /// What is done about it.
    pub mode: ConcurrencyMode,
    /// It never shrinks below this.
    pub min: u32,
    /// It never grows beyond this.
    pub max: u32,
}

/// What is done about a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConcurrencyMode {
    /// Nothing is learned.
    Off,
    /// It is learned and counted, and everybody is let in.
    Observe,
    /// Requests beyond it are refused.
    Enforce,
}

/// What was seen in one window.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Mean time to the head of an answer.
    pub latency: Duration,
    /// Most requests in flight at the same time.
    pub in_flight: u32,
}

/// The learned limit.
#[derive(Clone, Copy, Debug)]
pub struct Gradient2 {
    limit: f64,
    long: f64,
    windows: u32,
}

impl ConcurrencyParams {
    /// Where learning begins: in the open, since a limit that is too high only learns more slowly, and one that is
    /// too low refuses what could be served.
    #[must_use]
    pub fn initial(&self) -> u32 {
        self.max.min(100).max(self.min)
    }
}

impl Gradient2 {
    /// A limit that has learned nothing yet.
    #[must_use]
    pub fn new(params: &ConcurrencyParams) -> Self {
        Self { limit: f64::from(params.initial()), long: 0.0, windows: 0 }
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> u32 {
        // Bounded by `max` of the params that it was last updated with.
        self.limit as u32
    }

    /// Learns from one window.
    pub fn update(&mut self, params: &ConcurrencyParams, window: Window) {
        let short = window.latency.as_secs_f64();
        if short <= 0.0 {
            return;
        }
        self.windows = self.windows.saturating_add(1);
        self.long = if self.windows <= WARM_UP {
            self.long + (short - self.long) / f64::from(self.windows)
        } else {
            self.long + (short - self.long) * 2.0 / (LONG_WINDOWS + 1.0)
        };
        // After a long bad time the past is no measure any more; it comes down faster than it went up.
        if self.long > 2.0 * short {
            self.long *= 0.95;
        }
        let (min, max) = (f64::from(params.min), f64::from(params.max.max(params.min)));
        // What is not used cannot be judged.
        if f64::from(window.in_flight) >= self.limit / 2.0 {
            let gradient = (TOLERANCE * self.long / short).clamp(LEAST_GRADIENT, 1.0);
            let queue = self.limit.sqrt();
            let target = gradient * self.limit + queue;
            self.limit = (1.0 - SMOOTHING) * self.limit + SMOOTHING * target;
        }
        self.limit = self.limit.clamp(min, max);
    }
}

/// Whether one more request of this class fits beside `in_flight` others: lower classes may use a part of the limit
/// only, so they are the first to be refused.
#[must_use]
pub fn fits(limit: u32, in_flight: u32, priority: Priority) -> bool {
    let share = u64::from(limit) * u64::from(priority.share_percent()) / 100;
    u64::from(in_flight) < share.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: ConcurrencyParams = ConcurrencyParams { mode: ConcurrencyMode::Enforce, min: 5, max: 1000 };

    /// An application that works on so many requests at once; the others wait in it.
    struct Application {
        places: f64,
        latency: f64,
    }

    impl Application {
        fn window(&self, in_flight: f64, rng: &mut fastrand::Rng) -> Window {
            let noise = 0.9 + 0.2 * rng.f64();
            let latency = self.latency * (in_flight / self.places).max(1.0) * noise;
            Window { latency: Duration::from_secs_f64(latency), in_flight: in_flight as u32 }
        }
    }

    #[test]
    fn an_application_that_is_overrun_is_kept_near_what_it_can_do_for_200_seeds() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let application =
                Application { places: f64::from(rng.u32(20..200)), latency: 0.001 + 0.1 * rng.f64() };
            let mut learned = Gradient2::new(&PARAMS);
            // A quiet time, in which it is learned how fast the application is.
            for _ in 0..120 {
                let quiet = application.places * (0.3 + 0.4 * rng.f64());
                learned.update(&PARAMS, application.window(quiet, &mut rng));
            }
            let mut worst: f64 = 0.0;
            for step in 0..120 {
                // Ten times as many want in as it can take; as many as the limit allows are.
                let in_flight = f64::from(learned.limit()).min(application.places * 10.0);
                let window = application.window(in_flight, &mut rng);
                learned.update(&PARAMS, window);
                if step >= 60 {
                    worst = worst.max(window.latency.as_secs_f64() / application.latency);
                }
            }
            let limit = f64::from(learned.limit());
            assert!(limit >= application.places * 0.8, "seed {seed}: {limit} of {}", application.places);
            assert!(worst <= 4.0, "seed {seed}: latency {worst} times the usual");
        }
    }

    #[test]
    fn the_limit_grows_while_answers_are_as_fast_as_ever_and_stays_within_its_bounds() {
        let mut learned = Gradient2::new(&PARAMS);
        let fast = |in_flight| Window { latency: Duration::from_millis(10), in_flight };
        for _ in 0..2000 {
            learned.update(&PARAMS, fast(learned.limit()));
        }
        assert_eq!(learned.limit(), PARAMS.max);
        for _ in 0..50 {
            learned.update(&PARAMS, Window { latency: Duration::from_secs(5), in_flight: learned.limit() });
        }
        assert!(learned.limit() < 200, "{}", learned.limit());
        let narrow = ConcurrencyParams { max: 8, ..PARAMS };
        learned.update(&narrow, fast(1));
        assert_eq!(learned.limit(), 8);
    }

    #[test]
    fn what_is_not_used_is_not_judged() {
        let mut learned = Gradient2::new(&PARAMS);
        for latency in [10, 10, 10, 500] {
            let window = Window { latency: Duration::from_millis(latency), in_flight: 1 };
            learned.update(&PARAMS, window);
        }
        assert_eq!(learned.limit(), PARAMS.initial());
    }

    #[test]
    fn lower_classes_are_refused_first_and_one_request_always_fits() {
        let refused_at =
            |priority| (0..200).find(|in_flight| !fits(100, *in_flight, priority)).unwrap_or_default();
        assert_eq!(refused_at(Priority::Sheddable), 75);
        assert_eq!(refused_at(Priority::Default), 90);
        assert_eq!(refused_at(Priority::Critical), 100);
        assert!(fits(1, 0, Priority::Sheddable));
    }
}
