//! Decides when so few endpoints are healthy that using all of them is the lesser evil.

/// Whether all endpoints of a service are to be used, because too few of them are healthy.
///
/// Envoy's rule for several priorities counts each healthy host 1.4 times and spreads the load by what each
/// level has left: `avail(P) = min(100, 1.4 × healthy_pct(P))`. While the sum reaches 100 there is no panic;
/// below it, each level whose own share of healthy hosts is under the threshold is in panic. With the single
/// priority that Outrigger has, the sum is that level's `avail`, and what remains is: panic if
/// `1.4 × healthy_pct < 100` **and** `healthy_pct < threshold`. So no threshold makes a service panic that
/// has at least 5/7 (71.4 %) of its endpoints.
///
/// A threshold of 0 switches panic off. A service without endpoints is not in panic: there is nothing to use.
#[must_use]
pub const fn in_panic(healthy: usize, total: usize, threshold_percent: u8) -> bool {
    // Wide enough for any count; no rounding anywhere.
    let (healthy, total) = (healthy as u128, total as u128);
    healthy * 140 < total * 100 && healthy * 100 < total * threshold_percent as u128
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_begins_below_the_threshold() {
        let cases = [
            (5, 10, 50, false),
            (4, 10, 50, true),
            (0, 10, 50, true),
            (0, 1, 50, true),
            (1, 1, 50, false),
            (1, 2, 50, false),
            (1, 3, 50, true),
            (0, 10, 0, false),
            (0, 0, 50, false),
            (0, 10, 100, true),
        ];
        for (healthy, total, threshold, expected) in cases {
            assert_eq!(in_panic(healthy, total, threshold), expected, "{healthy}/{total} at {threshold} %");
        }
    }

    #[test]
    fn five_sevenths_are_enough_for_any_threshold() {
        assert!(!in_panic(5, 7, 100));
        assert!(in_panic(71, 100, 100));
        assert!(!in_panic(72, 100, 100));
    }
}
