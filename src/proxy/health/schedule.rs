//! When an endpoint is checked next. Pure: time and chance are arguments.

use std::time::Duration;

use crate::types::Mono;

/// Share of the interval by which each wait is varied in both directions, so that the checks of many sidecars
/// do not fall into step.
const JITTER: f64 = 0.1;

/// Due times of the checks of one endpoint.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval: Duration,
    due: Mono,
}

impl Schedule {
    /// The first check of the endpoint at `place` (from 0) among `of` that begin now: each has an equal part of
    /// the first interval, and falls anywhere in its part.
    #[must_use]
    pub fn new(interval: Duration, place: usize, of: usize, now: Mono, rng: &mut fastrand::Rng) -> Self {
        let part = (place as f64 + rng.f64()) / (of.max(place + 1)) as f64;
        Self { interval, due: now.after(interval.mul_f64(part)) }
    }

    /// When the next check is to begin.
    #[must_use]
    pub const fn due(&self) -> Mono {
        self.due
    }

    /// Plans the next check after one that ended at `now`: one interval later, give or take 10 %. Measured from
    /// the end, so that checks of one endpoint never overlap, however long they take.
    pub fn checked(&mut self, now: Mono, rng: &mut fastrand::Rng) {
        let factor = 1.0 - JITTER + 2.0 * JITTER * rng.f64();
        self.due = now.after(self.interval.mul_f64(factor));
    }

    /// A new interval after a reload. The next check comes no later than one new interval from now.
    pub fn set_interval(&mut self, interval: Duration, now: Mono) {
        self.interval = interval;
        self.due = self.due.min(now.after(interval));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn at(seconds: f64) -> Mono {
        Mono::ZERO.after(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn first_checks_share_the_first_interval_evenly() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            for place in 0..5 {
                let due = Schedule::new(INTERVAL, place, 5, at(100.0), &mut rng).due();
                let from = 100.0 + 2.0 * place as f64;
                assert!((at(from)..at(from + 2.0)).contains(&due), "seed {seed}, place {place}: {due:?}");
            }
        }
    }

    #[test]
    fn each_wait_is_one_interval_give_or_take_a_tenth() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut schedule = Schedule::new(INTERVAL, 0, 1, Mono::ZERO, &mut rng);
        let waits = (0..1000).map(|_| {
            schedule.checked(at(50.0), &mut rng);
            schedule.due().since(at(50.0)).as_secs_f64()
        });
        let waits: Vec<f64> = waits.collect();
        assert!(waits.iter().all(|wait| (9.0..=11.0).contains(wait)));
        assert!(waits.iter().any(|wait| *wait < 9.2) && waits.iter().any(|wait| *wait > 10.8));
    }

    #[test]
    fn a_shorter_interval_takes_effect_at_once_and_a_longer_one_after_the_next_check() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut schedule = Schedule::new(INTERVAL, 0, 1, Mono::ZERO, &mut rng);
        schedule.checked(at(0.0), &mut rng);
        let planned = schedule.due();
        schedule.set_interval(INTERVAL * 10, at(1.0));
        assert_eq!(schedule.due(), planned);
        schedule.set_interval(Duration::from_secs(1), at(1.0));
        assert_eq!(schedule.due(), at(2.0));
    }
}
