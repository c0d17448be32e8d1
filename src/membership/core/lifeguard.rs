//! Lifeguard (Dadgar, Phillips, Currey, 2017): a member that gets no answers suspects itself first, and whoever is accused
//! by one alone has long to speak up.

use std::{collections::BTreeSet, time::Duration};

use super::view::MemberId;
use crate::types::Mono;

/// How far this node distrusts itself (the paper's local health multiplier): 0 not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalHealth {
    score: u8,
    max: u8,
}

impl LocalHealth {
    /// Nothing to complain of so far; the score stays below `max`.
    #[must_use]
    pub fn new(max: u8) -> Self {
        Self { score: 0, max }
    }

    /// The score.
    #[must_use]
    pub fn score(self) -> u8 {
        self.score
    }

    /// It went well.
    pub fn better(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// It went badly, `by` so much.
    pub fn worse(&mut self, by: u8) {
        self.score = self.score.saturating_add(by).min(self.max.saturating_sub(1));
    }

    /// A time of the prober, as long as the distrust makes it.
    #[must_use]
    pub fn stretched(self, time: Duration) -> Duration {
        time * (u32::from(self.score) + 1)
    }
}

/// The time that a member has to speak up: the longest as long as there is one accuser, the shortest with enough of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion {
    since: Mono,
    min: Duration,
    max: Duration,
    enough: u8,
    accusers: BTreeSet<MemberId>,
    /// Asked for far more often than it changes.
    deadline: Mono,
}

/// More accusers than this change nothing; they are not remembered.
const MAX_ACCUSERS: usize = 16;

impl Suspicion {
    /// Begins at `now` with the accusation by this node itself, and those by others from before. After `enough` more the
    /// time is `min`; until then it is up to `max`.
    #[must_use]
    pub fn new(now: Mono, min: Duration, max: Duration, enough: u8, accusers: BTreeSet<MemberId>) -> Self {
        let max = if enough == 0 { min } else { max };
        let mut suspicion = Self { since: now, min, max, enough, accusers, deadline: now };
        suspicion.count();
        suspicion
    }

    /// Another accuser; this node is not counted.
    pub fn confirm(&mut self, accuser: MemberId) {
        if self.accusers.len() < MAX_ACCUSERS {
            self.accusers.insert(accuser);
            self.count();
        }
    }

    /// Those that there are beside this node.
    #[must_use]
    pub fn accusers(&self) -> &BTreeSet<MemberId> {
        &self.accusers
    }

    /// This node did nothing for `lag`: the accused may have spoken up meanwhile without being heard.
    pub fn postpone(&mut self, lag: Duration) {
        self.since = self.since.after(lag);
        self.deadline = self.deadline.after(lag);
    }

    /// When the time is over: max − (max − min)·ln(C+1)/ln(K+1) after the beginning.
    #[must_use]
    pub fn deadline(&self) -> Mono {
        self.deadline
    }

    fn count(&mut self) {
        let confirmations = self.accusers.len() as f64;
        let share = if self.enough == 0 {
            1.0
        } else {
            ((confirmations + 1.0).ln() / (f64::from(self.enough) + 1.0).ln()).min(1.0)
        };
        let spared = self.max.saturating_sub(self.min).mul_f64(share);
        self.deadline = self.since.after(self.max.saturating_sub(spared));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(6);

    fn at(deadline: Mono) -> f64 {
        deadline.since(Mono::ZERO).as_secs_f64()
    }

    #[test]
    fn each_accuser_shortens_the_time_until_it_is_the_shortest() {
        let mut suspicion = Suspicion::new(Mono::ZERO, MIN, MAX, 3, BTreeSet::new());
        let mut times = vec![at(suspicion.deadline())];
        for accuser in [1, 2, 2, 3, 4] {
            suspicion.confirm(MemberId(accuser));
            times.push(at(suspicion.deadline()));
        }
        let expected = [6.0, 3.5, 2.037, 2.037, 1.0, 1.0];
        for (time, expected) in times.iter().zip(expected) {
            assert!((time - expected).abs() < 0.001, "{times:?}");
        }
    }

    #[test]
    fn without_anybody_who_could_confirm_the_time_is_the_shortest() {
        let suspicion = Suspicion::new(Mono::ZERO, MIN, MAX, 0, BTreeSet::new());
        assert_eq!(suspicion.deadline(), Mono::ZERO.after(MIN));
    }

    #[test]
    fn time_in_which_nothing_was_heard_does_not_count() {
        let mut suspicion = Suspicion::new(Mono::ZERO, MIN, MAX, 3, BTreeSet::new());
        suspicion.postpone(Duration::from_secs(5));
        assert_eq!(suspicion.deadline(), Mono::ZERO.after(Duration::from_secs(11)));
    }

    #[test]
    fn distrust_of_oneself_has_bounds_and_stretches_time() {
        let mut health = LocalHealth::new(8);
        health.better();
        assert_eq!(health.stretched(MIN), MIN);
        health.worse(20);
        assert_eq!((health.score(), health.stretched(MIN)), (7, MIN * 8));
        health.better();
        assert_eq!(health.score(), 6);
    }
}
