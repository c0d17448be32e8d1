//! When a sidecar asks the authority for something. Time and chance are arguments.

use std::time::{Duration, SystemTime};

use super::MeshPhase;
use crate::identity::{Facts, ca::SKEW};

/// Part of its life after which a certificate is renewed; the rest is for an authority that is away.
const RENEWAL: f64 = 0.7;
/// Part of its life over which the renewals of a mesh that was started at once are spread.
const JITTER: f64 = 0.1;
/// Shortest and longest ceiling of the wait before another try.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often a sidecar looks what is trusted.
const LOOK: Duration = Duration::from_secs(60);
/// The same while the root changes.
const ROTATING_LOOK: Duration = Duration::from_secs(10);
const SHORTEST_LOOK: Duration = Duration::from_secs(1);
/// A look is at most this part of a certificate's life: a mesh with short lives wants to hear soon.
const LOOKS_PER_LIFE: u32 = 20;

/// From when on a certificate counts, and how long it lives from then. What the built-in authority signs is valid from
/// some minutes before, for clocks that are late; that is no part of its life.
#[must_use]
pub fn life(facts: &Facts) -> (SystemTime, Duration) {
    let whole = facts.not_after.duration_since(facts.not_before).unwrap_or_default();
    match whole.checked_sub(SKEW) {
        Some(life) if !life.is_zero() => (facts.not_before + SKEW, life),
        _ => (facts.not_before, whole),
    }
}

/// When a certificate is to be renewed. `draw` is from 0 to 1.
#[must_use]
pub fn renew_at(facts: &Facts, draw: f64) -> SystemTime {
    let (from, life) = life(facts);
    from + life.mul_f64(RENEWAL + JITTER * draw.clamp(0.0, 1.0))
}

/// Whether it is time to renew a certificate: it is old enough, or it is of a time that has not come, since a clock was
/// ahead when it was signed. Nobody would believe it before.
#[must_use]
pub fn is_due(not_before: SystemTime, renew_at: SystemTime, now: SystemTime) -> bool {
    now >= renew_at || now < not_before
}

/// How long to wait after the `failures`th failure in a row, counted from 1. `draw` is from 0 to 1: any part of the
/// ceiling, so that sidecars which lost the authority together do not come back together.
#[must_use]
pub fn backoff(failures: u32, draw: f64) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_WAIT.saturating_mul(doubled).min(LONGEST_WAIT).mul_f64(draw.clamp(0.0, 1.0))
}

/// How long after a look at what is trusted the next one comes.
#[must_use]
pub fn look_interval(phase: MeshPhase, facts: &Facts) -> Duration {
    let longest = match phase {
        MeshPhase::Steady => LOOK,
        MeshPhase::Trust | MeshPhase::Reissue => ROTATING_LOOK,
    };
    longest.min(life(facts).1 / LOOKS_PER_LIFE).max(SHORTEST_LOOK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(life: Duration) -> Facts {
        let not_before = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Facts {
            id: "spiffe://mesh.local/service/web".parse().unwrap(),
            serial: String::new(),
            not_before,
            not_after: not_before + life,
        }
    }

    #[test]
    fn a_certificate_is_renewed_when_seven_to_eight_tenths_of_its_life_are_over() {
        let day = facts(SKEW + Duration::from_secs(100_000));
        let signed = day.not_before + SKEW;
        assert_eq!(renew_at(&day, 0.0), signed + Duration::from_secs(70_000));
        assert_eq!(renew_at(&day, 1.0), signed + Duration::from_secs(80_000));
        let foreign = facts(Duration::from_secs(100));
        assert_eq!(renew_at(&foreign, 0.0), foreign.not_before + Duration::from_secs(70));
    }

    #[test]
    fn a_certificate_is_due_when_it_is_old_and_when_it_is_of_a_time_that_has_not_come() {
        let Facts { not_before, not_after, .. } = facts(Duration::from_secs(100));
        let renew_at = not_before + Duration::from_secs(70);
        assert!(!is_due(not_before, renew_at, not_before));
        assert!(!is_due(not_before, renew_at, not_before + Duration::from_secs(69)));
        assert!(is_due(not_before, renew_at, renew_at));
        assert!(is_due(not_before, renew_at, not_after));
        assert!(is_due(not_before, renew_at, not_before - Duration::from_secs(1)));
    }

    #[test]
    fn waits_double_from_a_second_to_a_minute_and_may_be_any_part_of_that() {
        let ceilings: Vec<u64> =
            [1, 2, 3, 6, 7, 100].map(|failures| backoff(failures, 1.0).as_secs()).to_vec();
        assert_eq!(ceilings, [1, 2, 4, 32, 60, 60]);
        assert_eq!(backoff(5, 0.0), Duration::ZERO);
        assert_eq!(backoff(5, 0.5), Duration::from_secs(8));
    }

    #[test]
    fn looks_come_every_minute_sooner_while_the_root_changes_and_for_short_lives() {
        let day = facts(SKEW + Duration::from_secs(86_400));
        assert_eq!(look_interval(MeshPhase::Steady, &day), Duration::from_secs(60));
        assert_eq!(look_interval(MeshPhase::Trust, &day), Duration::from_secs(10));
        let minute = facts(SKEW + Duration::from_secs(60));
        assert_eq!(look_interval(MeshPhase::Steady, &minute), Duration::from_secs(3));
        assert_eq!(look_interval(MeshPhase::Reissue, &facts(SKEW)), Duration::from_secs(10));
    }
}
