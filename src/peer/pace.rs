//! How many requests of a kind are taken per second: a bucket that fills at a steady rate. Time is an argument.

use crate::types::Mono;

/// A bucket of permissions.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: f64,
    burst: f64,
    left: f64,
    last: Mono,
}

impl Pace {
    /// Full, with room for `burst`.
    pub(super) fn new(per_second: u32, burst: u32, now: Mono) -> Self {
        let burst = f64::from(burst);
        Self { per_second: f64::from(per_second), burst, left: burst, last: now }
    }

    /// Takes one; says whether there was one.
    pub(super) fn take(&mut self, now: Mono) -> bool {
        let since = now.since(self.last).as_secs_f64();
        self.last = now;
        self.left = (self.left + since * self.per_second).min(self.burst);
        let is_there = self.left >= 1.0;
        if is_there {
            self.left -= 1.0;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_the_rate() {
        let at = |seconds: u64| Mono::from_nanos(seconds * 1_000_000_000);
        let mut pace = Pace::new(2, 3, at(0));
        let taken = |pace: &mut Pace, now| (0..10).filter(|_| pace.take(now)).count();
        assert_eq!(taken(&mut pace, at(0)), 3);
        assert_eq!(taken(&mut pace, at(1)), 2);
        assert_eq!(taken(&mut pace, at(100)), 3, "what was not used is not kept for ever");
    }
}
