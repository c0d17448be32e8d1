//! How long to wait before the next attempt: full jitter, and what the endpoint asks for.

use std::time::Duration;

/// A wait that an endpoint asks for is shortened to this (Envoy's and linkerd2-proxy's cap).
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Exponential back-off with full jitter ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015), in
/// Envoy's form: before retry N a uniform wait below `min(max, (2^N − 1) × base)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Bound of the first wait.
    pub base: Duration,
    /// Bound of every wait.
    pub max: Duration,
}

impl Backoff {
    /// The wait before retry number `retry`, counted from 1.
    #[must_use]
    pub fn delay(&self, retry: u32, rng: &mut fastrand::Rng) -> Duration {
        let factor = 1_u32.checked_shl(retry).map_or(u32::MAX, |power| power - 1);
        let bound = self.base.saturating_mul(factor).min(self.max);
        bound.mul_f64(rng.f64())
    }
}

/// The wait that a `Retry-After` in seconds asks for (RFC 9110 §10.2.3), at most [`LONGEST_RETRY_AFTER`] and
/// stretched by up to a half, lest everybody comes back at once. The form with a date is ignored: it compares two
/// machines' clocks.
#[must_use]
pub fn retry_after(value: &[u8], rng: &mut fastrand::Rng) -> Option<Duration> {
    let seconds: u64 = number(value)?;
    let asked = Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER);
    Some(asked.mul_f64(1.0 + rng.f64() / 2.0))
}

/// What `grpc-retry-pushback-ms` asks for (gRFC A6): a wait, or `None` for "do not come again", which a negative
/// or malformed value means.
#[must_use]
pub fn pushback(value: &[u8]) -> Option<Duration> {
    number(value).map(|millis| Duration::from_millis(millis).min(LONGEST_RETRY_AFTER))
}

fn number(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    if value.is_empty() || value.len() > 10 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_below_the_bound_and_use_all_of_it() {
        let backoff = Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) };
        for (retry, bound) in [(1, 25), (2, 75), (3, 175), (4, 250), (5, 250), (40, 250)] {
            let mut rng = fastrand::Rng::with_seed(7);
            let waits: Vec<Duration> = (0..1000).map(|_| backoff.delay(retry, &mut rng)).collect();
            let bound = Duration::from_millis(bound);
            assert!(waits.iter().all(|wait| *wait < bound), "retry {retry}");
            assert!(waits.iter().any(|wait| *wait > bound.mul_f64(0.98)), "retry {retry}");
            assert!(waits.iter().any(|wait| *wait < bound.mul_f64(0.02)), "retry {retry}");
        }
    }

    #[test]
    fn a_retry_after_is_stretched_by_up_to_a_half_and_capped() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..100 {
            let wait = retry_after(b"2", &mut rng).unwrap();
            assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&wait), "{wait:?}");
            assert!(retry_after(b"86400", &mut rng).unwrap() <= LONGEST_RETRY_AFTER.mul_f64(1.5));
        }
        for wrong in [&b""[..], b"-1", b"1.5", b"soon", b"99999999999", b"Fri, 31 Dec 1999 23:59:59 GMT"] {
            assert_eq!(retry_after(wrong, &mut rng), None);
        }
    }

    #[test]
    fn a_negative_or_malformed_pushback_means_no() {
        assert_eq!(pushback(b"120"), Some(Duration::from_millis(120)));
        assert_eq!(pushback(b"0"), Some(Duration::ZERO));
        assert_eq!(pushback(b"-1"), None);
        assert_eq!(pushback(b"x"), None);
    }
}
