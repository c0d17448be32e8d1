//! Decides when so few endpoints are healthy that using all of them is the lesser evil.

/// Endpoints of one priority, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// All of them.
    pub all: u32,
    /// Those that nothing speaks against.
    pub healthy: u32,
}

/// Percent of its traffic that a level can take, if each healthy endpoint may take 1.4 times its usual share
/// (Envoy's overprovisioning factor): 100 down to 5/7 of them, 0 for a level without endpoints.
#[must_use]
pub fn available(level: Level) -> f64 {
    if level.all == 0 {
        return 0.0;
    }
    (140.0 * f64::from(level.healthy) / f64::from(level.all)).min(100.0)
}

/// For each priority, whether all of its endpoints are to be used, because too few of them are healthy.
///
/// Envoy's rule: while the levels together can take all the traffic (the sum of [`available`] reaches 100), none is in
/// panic; below that, each whose own share of healthy endpoints is under the threshold is. So no threshold makes a
/// service with one priority panic that has at least 5/7 (71.4 %) of its endpoints, and none makes one panic whose next
/// priority is well.
///
/// A threshold of 0 switches panic off. A level without endpoints is not in panic: there is nothing to use.
pub fn in_panic(levels: &[Level], threshold_percent: u8) -> impl Iterator<Item = bool> {
    let enough = levels.iter().copied().map(available).sum::<f64>() >= 100.0;
    levels.iter().map(move |level| {
        // Wide enough for any count; no rounding anywhere.
        let few = u64::from(level.healthy) * 100 < u64::from(level.all) * u64::from(threshold_percent);
        !enough && few
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(healthy: u32, all: u32, threshold: u8) -> bool {
        in_panic(&[Level { all, healthy }], threshold).any(|panic| panic)
    }

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
        for (healthy, all, threshold, expected) in cases {
            assert_eq!(alone(healthy, all, threshold), expected, "{healthy}/{all} at {threshold} %");
        }
    }

    #[test]
    fn five_sevenths_are_enough_for_any_threshold() {
        assert!(!alone(5, 7, 100));
        assert!(alone(71, 100, 100));
        assert!(!alone(72, 100, 100));
    }

    #[test]
    fn a_level_does_not_panic_while_another_can_take_its_traffic() {
        let panic = |levels: &[(u32, u32)]| {
            let levels: Vec<Level> = levels.iter().map(|&(healthy, all)| Level { all, healthy }).collect();
            in_panic(&levels, 50).collect::<Vec<_>>()
        };
        assert_eq!(panic(&[(0, 4), (3, 4)]), [false, false]);
        assert_eq!(panic(&[(1, 4), (1, 4)]), [true, true], "35 and 35 percent are not enough");
        assert_eq!(panic(&[(2, 4), (1, 8)]), [false, true]);
    }
}
