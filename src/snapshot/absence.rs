//! Notices that an endpoint is back: that it gets its usual traffic again after a failure for which it had none, or
//! hardly any. What follows from that is in `snapshot::endpoint`: it warms up. Ejections and circuits are not looked at
//! here; whoever ends them says so.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::types::Mono;

/// What kept an endpoint from its traffic. One writer at a time: the control runtime.
#[derive(Debug, Default)]
pub(super) struct Absence {
    /// Whether it ever got its usual traffic; until then it is new, and cannot be back.
    was_used: AtomicBool,
    /// Whether it is kept out at present.
    is_missed: AtomicBool,
    /// Since when it is suspected; 0 if it is not.
    suspected_since: AtomicU64,
}

/// What is thought of an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thought {
    /// Whether all active checks find it well.
    pub(super) is_healthy: bool,
    /// Whether its sidecar owes some member of the mesh an answer, or has died too often lately.
    pub(super) is_suspected: bool,
    /// Whether endpoints like it are used whatever their checks say.
    pub(super) in_panic: bool,
}

impl Absence {
    /// Whether it never got its usual traffic, as far as [`ends`](Self::ends) was told.
    pub(super) fn is_new(&self) -> bool {
        !self.was_used.load(Relaxed)
    }

    /// It was away as a whole, with all that was known of it: it is back, and not new, once it is well.
    pub(super) fn begin(&self) {
        self.is_missed.store(true, Relaxed);
    }

    /// Whether it is back with what is thought of it at `now`; true once for each return. `recovery` is how long it
    /// would take to warm up.
    pub(super) fn ends(&self, thought: Thought, recovery: Duration, now: Mono) -> bool {
        let mut is_back = self.doubt_ended(thought.is_suspected, now).is_some_and(|time| time >= recovery);
        if thought.is_healthy || thought.in_panic {
            self.was_used.store(true, Relaxed);
            if self.is_missed.load(Relaxed) {
                self.is_missed.store(false, Relaxed);
                is_back = true;
            }
        } else if self.was_used.load(Relaxed) {
            self.is_missed.store(true, Relaxed);
        }
        // In panic the sick get their full share: a tenth of it for the one that is well would be the wrong way round.
        is_back && !thought.in_panic
    }

    /// How long it was suspected, if it is not any more.
    ///
    /// Only a suspicion that lasted is a failure to be back from. Most are false and refuted within a second or two,
    /// and meanwhile the endpoint had a tenth of its share: connections and caches are still warm. If each was followed
    /// by a warm-up, that would take more traffic from it than the suspicion did. So it has to last at least as long
    /// as the warm-up: a member that was damped for flapping, or a suspicion in a large or slow mesh.
    fn doubt_ended(&self, is_suspected: bool, now: Mono) -> Option<Duration> {
        let since = self.suspected_since.load(Relaxed);
        if is_suspected {
            if since == 0 {
                self.suspected_since.store(now.as_nanos().max(1), Relaxed);
            }
            return None;
        }
        if since == 0 {
            return None;
        }
        self.suspected_since.store(0, Relaxed);
        Some(now.since(Mono::from_nanos(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Thought = Thought { is_healthy: true, is_suspected: false, in_panic: false };
    const SICK: Thought = Thought { is_healthy: false, ..WELL };
    const SUSPECTED: Thought = Thought { is_suspected: true, ..WELL };
    const RECOVERY: Duration = Duration::from_secs(10);

    /// What each of `thoughts`, a second apart, says.
    fn ends(absence: &Absence, thoughts: &[Thought]) -> Vec<bool> {
        let at = |second: usize| Mono::ZERO.after(Duration::from_secs(second as u64));
        thoughts.iter().enumerate().map(|(second, one)| absence.ends(*one, RECOVERY, at(second))).collect()
    }

    #[test]
    fn who_was_well_and_is_well_again_is_back_once_each_time() {
        let absence = Absence::default();
        let said = ends(&absence, &[WELL, WELL, SICK, SICK, WELL, WELL, SICK, WELL]);
        assert_eq!(said, [false, false, false, false, true, false, false, true]);
    }

    #[test]
    fn who_is_well_for_the_first_time_is_new_and_not_back() {
        let absence = Absence::default();
        assert_eq!(ends(&absence, &[SICK, SICK]), [false; 2]);
        assert!(absence.is_new());
        assert_eq!(ends(&absence, &[WELL]), [false]);
        assert!(!absence.is_new());
    }

    #[test]
    fn who_was_away_as_a_whole_is_back_when_it_is_well() {
        let absence = Absence::default();
        absence.begin();
        assert_eq!(ends(&absence, &[SICK, SICK, WELL, WELL]), [false, false, true, false]);
    }

    #[test]
    fn who_gets_traffic_in_panic_was_not_away_and_is_not_spared() {
        let absence = Absence::default();
        let in_panic = |thought| Thought { in_panic: true, ..thought };
        assert_eq!(ends(&absence, &[WELL, in_panic(SICK), WELL]), [false; 3]);
        absence.begin();
        assert_eq!(ends(&absence, &[in_panic(WELL), WELL]), [false; 2]);
        // Panic ends, and it is not among those that are well.
        assert_eq!(ends(&absence, &[in_panic(SICK), SICK, WELL]), [false, false, true]);
    }

    #[test]
    fn a_suspicion_has_to_last_as_long_as_a_warm_up_to_be_followed_by_one() {
        let absence = Absence::default();
        let for_seconds = |seconds| [vec![WELL], vec![SUSPECTED; seconds], vec![WELL, WELL]].concat();
        assert_eq!(ends(&absence, &for_seconds(1)), [false; 4]);
        assert_eq!(ends(&absence, &for_seconds(9)), [false; 12]);
        let said = ends(&absence, &for_seconds(10));
        assert_eq!(said.iter().filter(|is_back| **is_back).count(), 1);
        assert!(said[11], "{said:?}");
    }
}
