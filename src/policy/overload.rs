//! What the process stops doing when it runs out of something, and when it takes it up again. Measuring is the
//! control plane's, acting the data plane's.

use std::time::Duration;

/// Something the process may run out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Resident memory, against the limit of the process.
    Memory,
    /// Open descriptors, against what the process may have open.
    Descriptors,
    /// How late the slowest worker is, against the longest that is tolerable.
    Lag,
}

impl Resource {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Descriptors, Self::Lag];

    /// What helps when it runs out. Refusing requests frees no descriptor of a client, and closing connections
    /// makes more work for a worker that is late.
    const fn helped_by(self, action: Action) -> bool {
        match (self, action) {
            (Self::Memory, _)
            | (Self::Descriptors, Action::StopKeepAlive | Action::StopAccepting)
            | (Self::Lag, Action::ShedLowPriority | Action::RefuseRequests) => true,
            (Self::Descriptors, Action::ShedLowPriority | Action::RefuseRequests)
            | (Self::Lag, Action::StopKeepAlive | Action::StopAccepting) => false,
        }
    }
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connections close after their present requests.
    StopKeepAlive,
    /// Requests of the lowest class are refused.
    ShedLowPriority,
    /// All requests are refused.
    RefuseRequests,
    /// No connection is accepted; they wait in the kernel.
    StopAccepting,
}

impl Action {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 4] =
        [Self::StopKeepAlive, Self::ShedLowPriority, Self::RefuseRequests, Self::StopAccepting];
}

/// A set of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions(u8);

impl Actions {
    /// Whether `action` is one of them.
    #[must_use]
    pub const fn has(self, action: Action) -> bool {
        self.0 & (1 << action as u8) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As a number, for an atomic.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set that [`Actions::bits`] gave.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

/// When to do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverloadParams {
    /// Off: nothing is measured, nothing is done.
    pub enabled: bool,
    /// Memory of the process in bytes; `None` is the limit of its cgroup, if that has one.
    pub max_memory: Option<u32>,
    /// A worker that is later than this is not fit to serve.
    pub max_lag: Duration,
    /// Percent of a resource at which each action begins, by [`Action`].
    pub thresholds: [u8; Action::ALL.len()],
}

/// Percent that a resource has to recover below a threshold before the action ends, so that it does not flap.
const HYSTERESIS: f64 = 3.0;

/// The actions in force.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overload {
    active: Actions,
}

impl Overload {
    /// Decides by what is used of each [`Resource`] (1 is all of it; `None` is not known).
    pub fn update(&mut self, params: &OverloadParams, used: &[Option<f64>; Resource::ALL.len()]) -> Actions {
        let mut active = 0;
        for action in Action::ALL.into_iter().filter(|_| params.enabled) {
            let threshold = f64::from(params.thresholds[action as usize]);
            let threshold = if self.active.has(action) { threshold - HYSTERESIS } else { threshold };
            let helps = |resource: &Resource| resource.helped_by(action);
            let reached =
                |resource: Resource| used[resource as usize].is_some_and(|used| used * 100.0 >= threshold);
            if Resource::ALL.into_iter().filter(helps).any(reached) {
                active |= 1 << action as u8;
            }
        }
        self.active = Actions(active);
        self.active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: OverloadParams = OverloadParams {
        enabled: true,
        max_memory: None,
        max_lag: Duration::from_secs(1),
        thresholds: [95, 95, 98, 99],
    };

    fn active(overload: &mut Overload, used: [f64; 3]) -> Vec<Action> {
        let actions = overload.update(&PARAMS, &used.map(Some));
        Action::ALL.into_iter().filter(|action| actions.has(*action)).collect()
    }

    #[test]
    fn each_resource_calls_for_what_helps_it() {
        use Action::{RefuseRequests, ShedLowPriority, StopAccepting, StopKeepAlive};
        let all = vec![StopKeepAlive, ShedLowPriority, RefuseRequests, StopAccepting];
        for (used, expected) in [
            ([0.94, 0.94, 0.94], vec![]),
            ([0.96, 0.0, 0.0], vec![StopKeepAlive, ShedLowPriority]),
            ([1.0, 0.0, 0.0], all),
            ([0.0, 1.0, 0.0], vec![StopKeepAlive, StopAccepting]),
            ([0.0, 0.0, 5.0], vec![ShedLowPriority, RefuseRequests]),
        ] {
            assert_eq!(active(&mut Overload::default(), used), expected, "{used:?}");
        }
    }

    #[test]
    fn an_action_ends_only_well_below_the_point_where_it_began() {
        let mut overload = Overload::default();
        for (used, refusing) in [(0.97, false), (0.98, true), (0.96, true), (0.949, false), (0.97, false)] {
            assert_eq!(active(&mut overload, [used, 0.0, 0.0]).contains(&Action::RefuseRequests), refusing);
        }
    }

    #[test]
    fn what_is_not_known_calls_for_nothing_and_off_is_off() {
        assert!(Overload::default().update(&PARAMS, &[None; 3]).is_empty());
        let off = OverloadParams { enabled: false, ..PARAMS };
        assert!(Overload::default().update(&off, &[Some(9.0); 3]).is_empty());
    }
}
