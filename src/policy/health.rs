//! Turns the results of active health checks into healthy and unhealthy, with thresholds. One state per
//! endpoint, owned by whoever checks it; when and how to check is not decided here.

/// How often in a row a result must come to change the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes that make an unhealthy endpoint healthy. Zero counts as one.
    pub healthy: u32,
    /// Failures that make a healthy endpoint unhealthy. Zero counts as one.
    pub unhealthy: u32,
}

/// Outcome of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// The endpoint answered as expected.
    Passed,
    /// Anything else.
    Failed,
}

/// What is known of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No check has ended yet. Whether traffic may go there is the caller's decision.
    Unknown,
    /// Takes traffic.
    Healthy,
    /// Takes none, except in panic.
    Unhealthy,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Takes traffic from now on.
    BecameHealthy,
    /// Takes none from now on.
    BecameUnhealthy,
}

/// Health of one endpoint.
///
/// The first result ever decides at once, as in Envoy: a new endpoint neither waits for several successes
/// before it takes traffic nor takes traffic until several checks failed. From then on thresholds hold.
#[derive(Clone, Debug)]
pub struct HealthState {
    thresholds: Thresholds,
    health: Health,
    /// Results in a row that speak against the present state.
    against: u32,
}

impl HealthState {
    /// Nothing known yet.
    #[must_use]
    pub const fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, health: Health::Unknown, against: 0 }
    }

    /// What the results so far say.
    #[must_use]
    pub const fn health(&self) -> Health {
        self.health
    }

    /// New thresholds after a reload. State and count stay; the next result is judged by them.
    pub const fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// Takes one result, and says if it changed the state.
    pub fn observe(&mut self, result: CheckResult) -> Option<Transition> {
        let threshold = match (self.health, result) {
            (Health::Unknown, _) => 1,
            (Health::Healthy, CheckResult::Failed) => self.thresholds.unhealthy,
            (Health::Unhealthy, CheckResult::Passed) => self.thresholds.healthy,
            (Health::Healthy, CheckResult::Passed) | (Health::Unhealthy, CheckResult::Failed) => {
                self.against = 0;
                return None;
            }
        };
        self.against = self.against.saturating_add(1);
        if self.against < threshold {
            return None;
        }
        self.against = 0;
        let (health, transition) = match result {
            CheckResult::Passed => (Health::Healthy, Transition::BecameHealthy),
            CheckResult::Failed => (Health::Unhealthy, Transition::BecameUnhealthy),
        };
        self.health = health;
        Some(transition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `p` and `f`; gives `H`, `U` or `.` for each.
    fn run(healthy: u32, unhealthy: u32, results: &str) -> String {
        let mut state = HealthState::new(Thresholds { healthy, unhealthy });
        let feed = |result| match state.observe(result) {
            Some(Transition::BecameHealthy) => 'H',
            Some(Transition::BecameUnhealthy) => 'U',
            None => '.',
        };
        let results =
            results.chars().map(|c| if c == 'p' { CheckResult::Passed } else { CheckResult::Failed });
        results.map(feed).collect()
    }

    #[test]
    fn the_first_result_decides_at_once_and_then_thresholds_hold() {
        let cases = [
            (2, 3, "pfff", "H..U"),
            (2, 3, "fpp", "U.H"),
            (2, 3, "pffpff", "H....."),
            (2, 3, "fpfpp", "U...H"),
            (1, 1, "pfpf", "HUHU"),
            (0, 0, "pfpf", "HUHU"),
            (2, 3, "pfffpffpp", "H..U....H"),
        ];
        for (healthy, unhealthy, results, expected) in cases {
            assert_eq!(run(healthy, unhealthy, results), expected, "{healthy}/{unhealthy}: {results}");
        }
    }

    #[test]
    fn nothing_is_known_before_the_first_result() {
        let state = HealthState::new(Thresholds { healthy: 2, unhealthy: 3 });
        assert_eq!(state.health(), Health::Unknown);
    }

    #[test]
    fn new_thresholds_keep_what_is_known() {
        let mut state = HealthState::new(Thresholds { healthy: 2, unhealthy: 5 });
        state.observe(CheckResult::Passed);
        state.observe(CheckResult::Failed);
        state.set_thresholds(Thresholds { healthy: 2, unhealthy: 2 });
        assert_eq!(state.health(), Health::Healthy);
        assert_eq!(state.observe(CheckResult::Failed), Some(Transition::BecameUnhealthy));
    }
}
