//! What time a leader writes into the log: that of its own clock, unless most of the voters say that it is far ahead. Time
//! in the log never goes back, so one wrong clock would end every lease, for good. Pure.

use std::{collections::BTreeMap, time::Duration};

use crate::types::Mono;

/// How far a leader may be ahead of most others. Less is what clocks differ by anyway.
pub const MARGIN: Duration = Duration::from_secs(10);
/// A clock that was not heard for so long has no say.
const HEARD: Duration = Duration::from_secs(60);
/// Clocks, that of the leader included, of which one is wrong rather than another.
const ENOUGH: usize = 3;
/// Nodes whose clocks are kept: more than ever vote.
const MOST: usize = 64;

/// The clocks of the others, as they were heard.
#[derive(Clone, Debug, Default)]
pub struct Clocks(BTreeMap<u64, (u64, Mono)>);

/// A time for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// In milliseconds since 1970.
    pub at_ms: u64,
    /// How far the own clock is ahead of most others, if that is too much.
    pub ahead: Option<Duration>,
}

impl Clocks {
    /// The clock of `node` said `wall_ms` just before `now`.
    pub fn hear(&mut self, node: u64, wall_ms: u64, now: Mono) {
        if self.0.len() >= MOST {
            self.0.retain(|_, (_, heard)| now.since(*heard) <= HEARD);
        }
        if self.0.len() < MOST || self.0.contains_key(&node) {
            self.0.insert(node, (wall_ms, now));
        }
    }

    /// The time for an entry, by a leader whose clock says `own_ms`, with these voters.
    #[must_use]
    pub fn stamp(&self, own: u64, own_ms: u64, voters: &[u64], now: Mono) -> Stamp {
        let others = self.0.iter().filter(|(node, (_, heard))| {
            **node != own && voters.contains(node) && now.since(*heard) <= HEARD
        });
        // They went on since then: this does not depend on what the own clock did meanwhile.
        let mut clocks: Vec<u64> =
            others.map(|(_, (wall_ms, heard))| wall_ms.saturating_add(millis(now.since(*heard)))).collect();
        clocks.push(own_ms);
        clocks.sort_unstable();
        let middle = clocks[(clocks.len() - 1) / 2];
        let most = middle.saturating_add(millis(MARGIN));
        if clocks.len() < ENOUGH || own_ms <= most {
            return Stamp { at_ms: own_ms, ahead: None };
        }
        Stamp { at_ms: most, ahead: Some(Duration::from_millis(own_ms - middle)) }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTERS: [u64; 3] = [1, 2, 3];
    const HOUR: u64 = 3_600_000;

    fn at(seconds: u64) -> Mono {
        Mono::ZERO.after(Duration::from_secs(seconds))
    }

    fn heard(clocks: &[(u64, u64)]) -> Clocks {
        let mut all = Clocks::default();
        clocks.iter().for_each(|(node, wall_ms)| all.hear(*node, *wall_ms, at(100)));
        all
    }

    #[test]
    fn a_leader_whose_clock_is_far_ahead_of_most_is_held_to_theirs() {
        let clocks = heard(&[(2, HOUR), (3, HOUR + 50)]);
        let stamp = clocks.stamp(1, 2 * HOUR, &VOTERS, at(100));
        assert_eq!(stamp.at_ms, HOUR + 50 + 10_000);
        assert_eq!(stamp.ahead, Some(Duration::from_millis(HOUR - 50)));
        // Their clocks go on, whatever the own one does.
        assert_eq!(clocks.stamp(1, 2 * HOUR, &VOTERS, at(105)).at_ms, HOUR + 50 + 15_000);
    }

    #[test]
    fn a_clock_that_is_nearly_right_or_behind_is_taken_as_it_is() {
        let clocks = heard(&[(2, HOUR), (3, HOUR)]);
        for own_ms in [0, HOUR - 20_000, HOUR, HOUR + 10_000] {
            let expected = Stamp { at_ms: own_ms, ahead: None };
            assert_eq!(clocks.stamp(1, own_ms, &VOTERS, at(100)), expected, "{own_ms}");
        }
    }

    #[test]
    fn one_wrong_clock_among_the_others_changes_nothing() {
        let clocks = heard(&[(2, 5), (3, HOUR)]);
        assert_eq!(clocks.stamp(1, HOUR, &VOTERS, at(100)).ahead, None);
    }

    #[test]
    fn of_two_clocks_nobody_knows_which_is_wrong() {
        for clocks in [heard(&[(2, HOUR)]), heard(&[(2, HOUR), (9, HOUR)]), Clocks::default()] {
            assert_eq!(clocks.stamp(1, 2 * HOUR, &VOTERS, at(100)).ahead, None);
        }
        // One that was not heard for long may be of a machine that has stopped.
        let clocks = heard(&[(2, HOUR), (3, HOUR)]);
        assert_eq!(clocks.stamp(1, 2 * HOUR, &VOTERS, at(161)).ahead, None);
    }
}
