//! Divides the traffic of a service among its priorities, and that of a priority among its zones, by how many
//! endpoints each has left.

use super::panic_threshold::{self, Level};

/// How the traffic of one priority is divided among the zones of its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ZoneParams {
    /// Zones do not matter.
    #[default]
    None,
    /// Envoy's zone aware routing: as much stays in the own zone as leaves each endpoint with an equal load, on the
    /// assumption that the callers are spread over the zones of the service in equal parts. All of it stays if the own
    /// zone has at least its part of the endpoints.
    Aware {
        /// With fewer endpoints zones do not matter: one more or less would be too much of the whole.
        min_endpoints: u32,
    },
    /// All stays in the own zone while 5/7 of its endpoints are left; below that, what they cannot take leaves it.
    Local,
    /// By weight, lowered when fewer than 5/7 of the endpoints of a zone are left. A zone that is not named has 1.
    Weighted(Vec<(Box<str>, u32)>),
}

impl ZoneParams {
    /// Whether the endpoints of each zone are kept apart.
    #[must_use]
    pub const fn divides(&self) -> bool {
        !matches!(self, Self::None)
    }
}

/// The endpoints of one priority and zone, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState<'a> {
    /// 0 is asked first.
    pub priority: u8,
    /// Where they are; `None` for those that do not say.
    pub zone: Option<&'a str>,
    /// All of them.
    pub all: u32,
    /// Those that neither checks nor the outlier detection speak against.
    pub usable: u32,
    /// Those of them whose circuit is not open.
    pub available: u32,
}

/// What [`divide`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    /// For each group, its part of [`WHOLE`].
    pub shares: Vec<u32>,
    /// The priorities in panic, one bit each.
    pub panic: u16,
}

/// All the traffic of a service; shares are parts of it.
pub const WHOLE: u32 = 10_000;
/// The last priority.
pub const MAX_PRIORITY: u8 = 15;

/// Divides the traffic among `groups`, which are sorted by priority.
///
/// A priority gets as much as its healthy endpoints can take ([`panic_threshold::available`]), beginning with the
/// lowest number; what is left goes to the next one. If all together cannot take everything, it is divided in
/// proportion. An endpoint whose circuit is open takes nothing here, although it does not count towards panic: what it
/// fails to take must go somewhere.
#[must_use]
pub fn divide(
    groups: &[GroupState<'_>],
    zones: &ZoneParams,
    own_zone: Option<&str>,
    threshold_percent: u8,
) -> Division {
    let levels: Vec<&[GroupState<'_>]> =
        groups.chunk_by(|one, other| one.priority == other.priority).collect();
    let count = |level: &&[GroupState<'_>], healthy: fn(&GroupState<'_>) -> u32| Level {
        all: level.iter().map(|group| group.all).sum(),
        healthy: level.iter().map(healthy).sum(),
    };
    let by_checks: Vec<Level> = levels.iter().map(|level| count(level, |group| group.usable)).collect();
    let in_panic: Vec<bool> = panic_threshold::in_panic(&by_checks, threshold_percent).collect();
    let now: Vec<Level> = levels.iter().map(|level| count(level, |group| group.available)).collect();
    let loads = loads(&now, &in_panic);

    let mut shares = Vec::with_capacity(groups.len());
    let mut panic = 0;
    for ((level, load), in_panic) in levels.iter().zip(loads).zip(in_panic) {
        let capacity = |group: &GroupState<'_>| if in_panic { group.all } else { group.available };
        shares.extend(within(level, zones, own_zone, capacity).into_iter().map(|part| share(load * part)));
        if let Some(first) = level.first().filter(|_| in_panic) {
            panic |= 1 << first.priority.min(MAX_PRIORITY);
        }
    }
    Division { shares, panic }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a whole, rounded")]
fn share(part: f64) -> u32 {
    (part * f64::from(WHOLE)).round() as u32
}

/// For each priority, its part of the traffic.
fn loads(levels: &[Level], in_panic: &[bool]) -> Vec<f64> {
    let available: Vec<f64> = levels.iter().copied().map(panic_threshold::available).collect();
    let total: f64 = available.iter().sum();
    if total >= 100.0 {
        let mut left = 100.0;
        let load = |available: &f64| {
            let load = available.min(left);
            left -= load;
            load / 100.0
        };
        return available.iter().map(load).collect();
    }
    if total > 0.0 {
        return available.iter().map(|available| available / total).collect();
    }
    // Nothing is left anywhere: those in panic share by size; if none may panic, the first is asked in vain.
    let sizes =
        levels.iter().zip(in_panic).map(|(level, panic)| if *panic { f64::from(level.all) } else { 0.0 });
    let sizes: Vec<f64> = sizes.collect();
    normalised(&sizes).unwrap_or_else(|| {
        levels.iter().enumerate().map(|(index, _)| f64::from(u8::from(index == 0))).collect()
    })
}

/// For each zone of a priority, its part of what that priority gets.
fn within(
    level: &[GroupState<'_>],
    zones: &ZoneParams,
    own_zone: Option<&str>,
    capacity: impl Fn(&GroupState<'_>) -> u32,
) -> Vec<f64> {
    let capacities: Vec<f64> = level.iter().map(|group| f64::from(capacity(group))).collect();
    let Some(even) = normalised(&capacities) else {
        // Nobody can be chosen, whatever is said here.
        return level.iter().map(|_| 1.0 / level.len() as f64).collect();
    };
    let own = own_zone.and_then(|own| level.iter().position(|group| group.zone == Some(own)));
    let parts = match zones {
        ZoneParams::None => None,
        ZoneParams::Aware { min_endpoints } => {
            let all: u32 = level.iter().map(|group| group.all).sum();
            own.filter(|_| all >= *min_endpoints).map(|own| aware(&even, own))
        }
        ZoneParams::Local => own.map(|own| local(level, &capacities, own, &capacity)),
        ZoneParams::Weighted(weights) => {
            let weight = |group: &GroupState<'_>| {
                let named = weights.iter().find(|(zone, _)| Some(&**zone) == group.zone);
                let left = panic_threshold::available(Level { all: group.all, healthy: capacity(group) });
                f64::from(named.map_or(1, |(_, weight)| *weight)) * left
            };
            normalised(&level.iter().map(weight).collect::<Vec<_>>())
        }
    };
    parts.unwrap_or(even)
}

/// `even` is each zone's part of the endpoints. Each zone is thought to have an equal part of the callers.
fn aware(even: &[f64], own: usize) -> Vec<f64> {
    let callers = 1.0 / even.len() as f64;
    if even[own] >= callers {
        return (0..even.len()).map(|zone| f64::from(u8::from(zone == own))).collect();
    }
    let stays = even[own] / callers;
    // What other zones have beyond the needs of their own callers.
    let spare = |(zone, part): (usize, &f64)| if zone == own { 0.0 } else { (part - callers).max(0.0) };
    let spare: Vec<f64> = even.iter().enumerate().map(spare).collect();
    let total: f64 = spare.iter().sum();
    let part = |(zone, spare): (usize, &f64)| if zone == own { stays } else { (1.0 - stays) * spare / total };
    spare.iter().enumerate().map(part).collect()
}

fn local(
    level: &[GroupState<'_>],
    capacities: &[f64],
    own: usize,
    capacity: impl Fn(&GroupState<'_>) -> u32,
) -> Vec<f64> {
    let others: f64 = capacities.iter().sum::<f64>() - capacities[own];
    if others <= 0.0 {
        return (0..level.len()).map(|zone| f64::from(u8::from(zone == own))).collect();
    }
    let stays =
        panic_threshold::available(Level { all: level[own].all, healthy: capacity(&level[own]) }) / 100.0;
    let part =
        |(zone, capacity): (usize, &f64)| if zone == own { stays } else { (1.0 - stays) * capacity / others };
    capacities.iter().enumerate().map(part).collect()
}

fn normalised(parts: &[f64]) -> Option<Vec<f64>> {
    let total: f64 = parts.iter().sum();
    (total > 0.0).then(|| parts.iter().map(|part| part / total).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(priority: u8, zone: &'static str, all: u32, left: u32) -> GroupState<'static> {
        let zone = Some(zone).filter(|zone| !zone.is_empty());
        GroupState { priority, zone, all, usable: left, available: left }
    }

    fn priorities(levels: &[(u32, u32)]) -> Division {
        let groups: Vec<GroupState<'_>> =
            (0..).zip(levels).map(|(priority, &(left, all))| group(priority, "", all, left)).collect();
        divide(&groups, &ZoneParams::None, None, 50)
    }

    fn zones(params: &ZoneParams, own: &str, groups: &[(&'static str, u32, u32)]) -> Vec<u32> {
        let groups: Vec<GroupState<'_>> =
            groups.iter().map(|&(zone, left, all)| group(0, zone, all, left)).collect();
        divide(&groups, params, Some(own), 50).shares
    }

    #[test]
    fn the_next_priority_takes_what_the_one_before_it_cannot() {
        // Envoy's documentation of priority levels has these figures.
        for (levels, shares) in [
            (&[(100, 100), (100, 100)][..], &[10_000, 0][..]),
            (&[(72, 100), (100, 100)], &[10_000, 0]),
            (&[(71, 100), (71, 100)], &[9940, 60]),
            (&[(50, 100), (50, 100)], &[7000, 3000]),
            (&[(25, 100), (100, 100)], &[3500, 6500]),
            (&[(0, 100), (100, 100)], &[0, 10_000]),
            (&[(25, 100), (25, 100)], &[5000, 5000]),
            (&[(20, 100), (20, 100), (10, 100)], &[4000, 4000, 2000]),
        ] {
            assert_eq!(priorities(levels).shares, shares, "{levels:?}");
        }
    }

    #[test]
    fn priorities_in_panic_keep_their_part() {
        let division = priorities(&[(25, 100), (25, 100)]);
        assert_eq!(division, Division { shares: vec![5000, 5000], panic: 0b11 });
        assert_eq!(priorities(&[(0, 3), (0, 1)]), Division { shares: vec![7500, 2500], panic: 0b11 });
        assert_eq!(priorities(&[(0, 4), (4, 4)]).panic, 0);
    }

    #[test]
    fn open_circuits_send_traffic_on_without_panic() {
        let mut groups = [group(0, "", 4, 4), group(1, "", 4, 4)];
        groups[0].available = 0;
        let division = divide(&groups, &ZoneParams::None, None, 50);
        assert_eq!(division, Division { shares: vec![0, 10_000], panic: 0 });
        // Without anybody else they are left to their probes.
        let division = divide(&groups[..1], &ZoneParams::None, None, 50);
        assert_eq!(division, Division { shares: vec![10_000], panic: 0 });
    }

    #[test]
    fn traffic_stays_in_a_zone_with_its_part_of_the_endpoints() {
        let aware = ZoneParams::Aware { min_endpoints: 6 };
        assert_eq!(zones(&aware, "a", &[("a", 3, 3), ("b", 3, 3)]), [10_000, 0]);
        assert_eq!(zones(&aware, "a", &[("a", 4, 4), ("b", 2, 2)]), [10_000, 0]);
        // Two of eight endpoints for half of the callers: half of those go where there is room.
        assert_eq!(zones(&aware, "a", &[("a", 2, 2), ("b", 6, 6)]), [5000, 5000]);
        // c has exactly what its own callers need.
        assert_eq!(zones(&aware, "a", &[("a", 1, 1), ("b", 5, 5), ("c", 3, 3)]), [3333, 6667, 0]);
    }

    #[test]
    fn zones_do_not_matter_to_a_stranger_or_a_small_service() {
        let aware = ZoneParams::Aware { min_endpoints: 6 };
        assert_eq!(zones(&aware, "x", &[("a", 3, 3), ("b", 3, 3)]), [5000, 5000]);
        assert_eq!(zones(&aware, "a", &[("a", 2, 2), ("b", 2, 2)]), [5000, 5000]);
        assert_eq!(zones(&ZoneParams::Local, "x", &[("a", 1, 1), ("b", 3, 3)]), [2500, 7500]);
    }

    #[test]
    fn the_local_zone_keeps_what_it_can_take() {
        let local = ZoneParams::Local;
        assert_eq!(zones(&local, "a", &[("a", 5, 7), ("b", 2, 2)]), [10_000, 0]);
        assert_eq!(zones(&local, "a", &[("a", 1, 2), ("b", 2, 2), ("c", 1, 1)]), [7000, 2000, 1000]);
        assert_eq!(zones(&local, "a", &[("a", 0, 2), ("b", 2, 2)]), [0, 10_000]);
        assert_eq!(zones(&local, "a", &[("a", 1, 2), ("b", 0, 2)]), [10_000, 0]);
    }

    #[test]
    fn weights_of_zones_shrink_with_their_endpoints() {
        let weighted = ZoneParams::Weighted(vec![("a".into(), 3), ("b".into(), 1)]);
        assert_eq!(zones(&weighted, "", &[("a", 2, 2), ("b", 8, 8)]), [7500, 2500]);
        assert_eq!(zones(&weighted, "", &[("a", 0, 2), ("b", 8, 8)]), [0, 10_000]);
        assert_eq!(zones(&weighted, "", &[("a", 1, 2), ("b", 2, 2), ("c", 2, 2)]), [5122, 2439, 2439]);
    }

    #[test]
    fn whatever_the_counts_everything_is_divided() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let names = ["a", "b", "c"];
            let mut groups = Vec::new();
            for priority in 0..rng.u8(1..4) {
                for zone in &names[..rng.usize(1..4)] {
                    let all = rng.u32(1..20);
                    let usable = rng.u32(0..=all);
                    let available = rng.u32(0..=usable);
                    groups.push(GroupState { priority, zone: Some(zone), all, usable, available });
                }
            }
            let weights = names.map(|zone| (zone.into(), rng.u32(0..5))).to_vec();
            for params in [
                ZoneParams::None,
                ZoneParams::Aware { min_endpoints: 6 },
                ZoneParams::Local,
                ZoneParams::Weighted(weights),
            ] {
                let division = divide(&groups, &params, Some("a"), 50);
                let sum: u32 = division.shares.iter().sum();
                assert!(sum.abs_diff(WHOLE) <= 10, "seed {seed}: {params:?} {division:?}");
                let total: u32 = groups.iter().map(|group| group.available).sum();
                for (group, share) in groups.iter().zip(&division.shares) {
                    let in_panic = division.panic & (1 << group.priority) != 0;
                    let idle = group.available == 0 && !in_panic && total > 0;
                    assert!(!idle || *share == 0, "seed {seed}: {params:?} {group:?} {division:?}");
                }
            }
        }
    }
}
