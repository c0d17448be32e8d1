//! How patient the membership is, by the speed of the network and the number of members.

use std::{num::NonZeroU8, time::Duration};

use crate::membership::Profile;

/// Times and counts of the protocol. Those that depend on the number of members are functions of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuning {
    /// One member is probed in each of these (SWIM: T').
    pub probe_period: Duration,
    /// A probe that is not answered for this long is tried through others.
    pub probe_timeout: Duration,
    /// Through how many (SWIM: k).
    pub indirect_probes: u8,
    /// News are sent to some members in each of these, as long as there are any.
    pub gossip_interval: Duration,
    /// To how many.
    pub gossip_fanout: u8,
    /// The shortest time to speak up, in probe periods, for up to ten members (Lifeguard: α).
    pub suspicion_factor: f64,
    /// By how much more it is for ten times as many.
    pub suspicion_growth: f64,
    /// The longest one, in shortest ones (Lifeguard: β).
    pub suspicion_stretch: u32,
    /// After how many more accusers it is the shortest (Lifeguard: K).
    pub confirmations: u8,
    /// How far one may distrust oneself (Lifeguard: S).
    pub max_health_score: u8,
    /// Some of the dead are asked to come back in each of these, for when a partition has ended.
    pub announce_down_interval: Duration,
    /// All that is known is compared with somebody's in each of these, for up to 32 members; beyond, more seldom.
    pub push_pull_interval: Duration,
    /// Whether Lifeguard's layer is on. It is off only where its effect is measured.
    pub lifeguard: bool,
}

/// A member that is dead or has left is remembered for this long.
pub const REAP_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Largest datagram of the protocol, before it is sealed: what remains of 1400 bytes.
pub const MAX_PACKET: usize = 1340;
/// Largest part of it that is SWIM's own, so that there is room for facts however many suspicions there are. By arithmetic;
/// what the share is worth was not measured.
pub const MAX_SWIM: usize = 1000;

impl Tuning {
    /// As `profile` says.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        let lan = Self {
            probe_period: Duration::from_millis(500),
            probe_timeout: Duration::from_millis(200),
            indirect_probes: 3,
            gossip_interval: Duration::from_millis(200),
            gossip_fanout: 3,
            // A probe fails after one period at the earliest: whoever stands still for two seconds has 200 ms to say so.
            suspicion_factor: 3.4,
            suspicion_growth: 2.5,
            suspicion_stretch: 6,
            confirmations: 3,
            max_health_score: 8,
            announce_down_interval: Duration::from_secs(5),
            push_pull_interval: Duration::from_secs(30),
            lifeguard: true,
        };
        match profile {
            Profile::Lan => lan,
            Profile::Local => Self {
                probe_period: Duration::from_millis(300),
                probe_timeout: Duration::from_millis(100),
                gossip_interval: Duration::from_millis(100),
                announce_down_interval: Duration::from_secs(3),
                push_pull_interval: Duration::from_secs(15),
                ..lan
            },
            Profile::Wan => Self {
                probe_period: Duration::from_secs(3),
                probe_timeout: Duration::from_millis(1700),
                gossip_interval: Duration::from_millis(500),
                gossip_fanout: 4,
                suspicion_factor: 4.0,
                suspicion_growth: 4.0,
                announce_down_interval: Duration::from_secs(15),
                push_pull_interval: Duration::from_secs(60),
                ..lan
            },
        }
    }

    /// How often a piece of news is sent on among `members`: 4·⌈log₁₀(N+1)⌉ as memberlist has it, but at least ten times,
    /// since in a small mesh the first few may all be lost.
    #[must_use]
    pub fn transmissions(&self, members: usize) -> NonZeroU8 {
        let times = 4.0 * ((members + 1) as f64).log10().ceil();
        NonZeroU8::new((times as u8).max(10)).unwrap_or(NonZeroU8::MAX)
    }

    /// The shortest time to speak up among `members`.
    #[must_use]
    pub fn min_suspicion(&self, members: usize) -> Duration {
        let decades = (members.max(1) as f64).log10().max(1.0) - 1.0;
        self.probe_period.mul_f64(self.suspicion_factor + self.suspicion_growth * decades)
    }

    /// How many more accusers it takes among `members` until that is all the time: no more than there can be.
    #[must_use]
    pub fn confirmations(&self, members: usize) -> u8 {
        let others = u8::try_from(members.saturating_sub(2)).unwrap_or(u8::MAX);
        self.confirmations.min(others)
    }

    /// Time between two comparisons with somebody among `members`: doubled with each doubling above 32.
    #[must_use]
    pub fn push_pull(&self, members: usize) -> Duration {
        let doublings = if members > 32 { (members as f64 / 32.0).log2().ceil() } else { 0.0 };
        self.push_pull_interval.mul_f64(1.0 + doublings)
    }

    /// How many of the dead are asked to come back at once.
    #[must_use]
    pub fn announce_down(&self, members: usize) -> Duration {
        if members > 100 { self.announce_down_interval * 3 } else { self.announce_down_interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_sent_more_often_in_a_larger_mesh() {
        let tuning = Tuning::of(Profile::Lan);
        let times = |members| tuning.transmissions(members).get();
        assert_eq!((times(1), times(10), times(100), times(1000)), (10, 10, 12, 16));
    }

    #[test]
    fn suspicion_lasts_longer_in_a_larger_mesh() {
        let tuning = Tuning::of(Profile::Lan);
        assert_eq!(tuning.min_suspicion(3), Duration::from_millis(1700));
        assert_eq!(tuning.min_suspicion(1000), Duration::from_millis(4200));
    }

    #[test]
    fn two_members_cannot_confirm_each_other_and_do_not_wait_for_it() {
        let tuning = Tuning::of(Profile::Lan);
        assert_eq!([2, 3, 4, 5, 9].map(|members| tuning.confirmations(members)), [0, 1, 2, 3, 3]);
    }
}
