//! When the demo does what. Pure: times count from the beginning of the load.

use std::time::Duration;

use super::Scenario;

/// Shortest show that is long enough to see an instance leave and return.
const SHORTEST: Duration = Duration::from_secs(5);

/// The plan of one show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    /// Without the failures there is nothing but the end.
    pub(super) scenario: Scenario,
    /// One instance dies.
    pub(super) kill: Duration,
    /// It is started again.
    pub(super) restore: Duration,
    /// Another answers with errors, and then it does not any more.
    pub(super) failing: (Duration, Duration),
    /// The third becomes slow, and then quick again.
    pub(super) slow: (Duration, Duration),
    /// The show ends; `None` waits for a signal.
    pub(super) end: Option<Duration>,
    /// Interval of the health checks. Shorter in a short show, so that the checks see the death before its end.
    pub(super) check_interval: Duration,
}

/// What is to be done at a time of the [`Schedule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Kill the instance.
    Kill,
    /// Start it again.
    Restore,
    /// Let another answer with errors.
    Fail,
    /// Let it recover.
    Recover,
    /// Let the third be slow.
    Slow,
    /// Let it be quick again.
    Quick,
    /// End the show.
    End,
}

impl Schedule {
    /// The plan for a show of `length`, at least [`SHORTEST`], or for one without an end.
    pub(super) fn new(scenario: Scenario, length: Option<Duration>) -> Self {
        match length.map(|length| length.max(SHORTEST)) {
            Some(length) => Self {
                scenario,
                kill: length * 15 / 100,
                restore: length * 35 / 100,
                failing: (length * 45 / 100, length * 60 / 100),
                slow: (length * 70 / 100, length * 85 / 100),
                end: Some(length),
                check_interval: (length / 40).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL),
            },
            None => Self {
                scenario,
                kill: Duration::from_secs(6),
                restore: Duration::from_secs(14),
                failing: (Duration::from_secs(20), Duration::from_secs(26)),
                slow: (Duration::from_secs(32), Duration::from_secs(38)),
                end: None,
                check_interval: LONGEST_INTERVAL,
            },
        }
    }

    /// The acts in order, each with its time.
    pub(super) fn acts(&self) -> Vec<(Duration, Act)> {
        let mut acts = vec![
            (self.kill, Act::Kill),
            (self.restore, Act::Restore),
            (self.failing.0, Act::Fail),
            (self.failing.1, Act::Recover),
            (self.slow.0, Act::Slow),
            (self.slow.1, Act::Quick),
        ];
        if self.scenario == Scenario::Store {
            acts.clear();
        }
        acts.extend(self.end.map(|end| (end, Act::End)));
        acts
    }
}

const SHORTEST_INTERVAL: Duration = Duration::from_millis(200);
const LONGEST_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dies_and_returns_one_fails_and_one_is_slow_one_after_the_other() {
        let schedule = Schedule::new(Scenario::Failures, Some(Duration::from_secs(20)));
        let seconds: Vec<_> = schedule.acts().iter().map(|(at, act)| (at.as_secs(), *act)).collect();
        let expected = [
            (3, Act::Kill),
            (7, Act::Restore),
            (9, Act::Fail),
            (12, Act::Recover),
            (14, Act::Slow),
            (17, Act::Quick),
            (20, Act::End),
        ];
        assert_eq!(seconds, expected);
        assert_eq!(schedule.check_interval, Duration::from_millis(500));
    }

    #[test]
    fn without_a_length_the_show_goes_on() {
        let acts = Schedule::new(Scenario::Failures, None).acts();
        let seconds: Vec<_> = acts.iter().map(|(at, act)| (at.as_secs(), *act)).collect();
        assert_eq!(seconds[..3], [(6, Act::Kill), (14, Act::Restore), (20, Act::Fail)]);
        assert!(acts.iter().all(|(_, act)| *act != Act::End));
    }

    #[test]
    fn nothing_fails_by_the_clock_where_the_store_is_shown() {
        let acts = |length| Schedule::new(Scenario::Store, length).acts();
        assert_eq!(acts(None), []);
        assert_eq!(acts(Some(Duration::from_secs(90))), [(Duration::from_secs(90), Act::End)]);
    }

    #[test]
    fn a_show_is_never_too_short_to_see_something() {
        let schedule = Schedule::new(Scenario::Failures, Some(Duration::from_secs(1)));
        assert_eq!(schedule.end, Some(SHORTEST));
        // Two failed checks take an endpoint out; both must fit between death and return.
        assert!(schedule.restore - schedule.kill > schedule.check_interval * 4);
    }
}
