//! Slow start: an endpoint that is new, or back, gets its share of the traffic little by little, so that cold caches
//! and half-made connections are not asked for everything at once.

use std::time::Duration;

/// What an endpoint gets at least, or it would never warm up.
const LEAST: f32 = 0.1;

/// Share of its usual traffic for an endpoint that began to warm up `since` ago, if that takes `whole`: in
/// proportion to the time (Envoy's aggression 1), from a tenth up to 1.
#[must_use]
pub fn share(since: Duration, whole: Duration) -> f32 {
    if since >= whole {
        return 1.0;
    }
    (since.as_secs_f32() / whole.as_secs_f32()).clamp(LEAST, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_in_proportion_to_the_time_from_a_tenth_to_all() {
        let cases = [
            (0, 10, 0.1),
            (500, 10, 0.1),
            (5_000, 10, 0.5),
            (10_000, 10, 1.0),
            (99_000, 10, 1.0),
            (0, 0, 1.0),
        ];
        for (millis, seconds, expected) in cases {
            let share = share(Duration::from_millis(millis), Duration::from_secs(seconds));
            assert!((share - expected).abs() < 1e-6, "{share} after {millis} ms of {seconds} s");
        }
    }
}
