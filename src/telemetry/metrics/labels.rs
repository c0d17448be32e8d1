//! Label sets, the guard that bounds how many a family may have, and which of them are out of use.

use std::{sync::Arc, time::Duration};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::types::{Direction, Mono};

/// Stands in for a label value when its family is full.
pub(super) const OVERFLOW: &str = "__overflow__";

/// Series of a route or service that left the configuration are shown for this long, so that the last scrape
/// before a change is not the last one that is ever seen.
const SHOWN_AFTER_REMOVAL: Duration = Duration::from_secs(5 * 60);

/// A full family may still make this many label sets out of values that are fixed in the code, so that errors stay
/// visible by status when services no longer are.
const OVERFLOW_ROOM: usize = 256;

/// Labels whose values come from configuration; the values of all others are fixed in the code.
const OPEN: [&str; 4] = ["source", "service", "route", "issuer"];

/// A label set in the order in which it is written.
pub(super) type Labels = Vec<(&'static str, Arc<str>)>;

/// Label sets of one family.
#[derive(Debug, Default)]
pub(super) struct FamilyGuard {
    known: FxHashSet<Labels>,
    overflow: usize,
}

/// What became of a label set at the guard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// Use it as it is.
    AsAsked(Labels),
    /// The family is full: use this one instead.
    Folded(Labels),
}

impl FamilyGuard {
    /// Admits `labels`, or folds them: first the values that come from configuration, then all of them.
    pub(super) fn admit(&mut self, labels: Labels, cap: usize) -> Admitted {
        if self.known.contains(&labels) {
            return Admitted::AsAsked(labels);
        }
        if self.known.len() - self.overflow < cap {
            self.known.insert(labels.clone());
            return Admitted::AsAsked(labels);
        }
        let open_folded = fold(&labels, |name| OPEN.contains(&name));
        if self.known.contains(&open_folded) {
            return Admitted::Folded(open_folded);
        }
        if self.overflow < OVERFLOW_ROOM {
            self.overflow += 1;
            self.known.insert(open_folded.clone());
            return Admitted::Folded(open_folded);
        }
        Admitted::Folded(fold(&labels, |_| true))
    }
}

fn fold(labels: &Labels, which: impl Fn(&str) -> bool) -> Labels {
    labels
        .iter()
        .map(|(name, value)| (*name, if which(name) { Arc::from(OVERFLOW) } else { Arc::clone(value) }))
        .collect()
}

/// One route as metrics name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteLabels {
    /// Which listener.
    pub direction: Direction,
    /// Name of the service.
    pub service: Arc<str>,
    /// Name of the route.
    pub route: Arc<str>,
}

/// What the running configuration uses; everything else is on its way out.
#[derive(Clone, Debug, Default)]
pub struct LiveLabels {
    /// Every route for which [`super::HttpMetrics`] are held.
    pub routes: FxHashSet<RouteLabels>,
    /// Every service for which [`super::ClusterMetrics`] are held.
    pub services: FxHashSet<Arc<str>>,
}

/// Remembers when routes and services went out of use.
#[derive(Debug, Default)]
pub(super) struct Retention {
    routes: FxHashMap<RouteLabels, Option<Mono>>,
    services: FxHashMap<Arc<str>, Option<Mono>>,
}

impl Retention {
    pub(super) fn use_route(&mut self, route: RouteLabels) {
        self.routes.insert(route, None);
    }

    pub(super) fn use_service(&mut self, service: Arc<str>) {
        self.services.insert(service, None);
    }

    /// Marks what `live` does not name as removed at `now`, unless it already was.
    pub(super) fn retain(&mut self, live: &LiveLabels, now: Mono) {
        mark(&mut self.routes, &live.routes, now);
        mark(&mut self.services, &live.services, now);
    }

    /// What is not to be shown any more.
    pub(super) fn hidden(&self, now: Mono) -> Hidden {
        let gone = |removed: &Option<Mono>| removed.is_some_and(|at| now.since(at) >= SHOWN_AFTER_REMOVAL);
        let mut hidden = Hidden::default();
        for (route, removed) in &self.routes {
            if gone(removed) {
                hidden.routes.insert(route.clone());
            } else {
                hidden.shown_pairs.insert((route.direction, Arc::clone(&route.service)));
            }
        }
        hidden.services = self
            .services
            .iter()
            .filter(|(_, removed)| gone(removed))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        hidden
    }
}

fn mark<K: Eq + std::hash::Hash>(all: &mut FxHashMap<K, Option<Mono>>, live: &FxHashSet<K>, now: Mono) {
    for (key, removed) in all {
        if live.contains(key) {
            *removed = None;
        } else {
            removed.get_or_insert(now);
        }
    }
}

/// Series that a scrape does not show.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    routes: FxHashSet<RouteLabels>,
    /// Pairs with a route that is shown: their totals stay, whatever other routes they lost.
    shown_pairs: FxHashSet<(Direction, Arc<str>)>,
    services: FxHashSet<Arc<str>>,
}

impl Hidden {
    pub(super) fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.services.is_empty()
    }

    /// Whether a series with these labels is hidden. `label` gives the value of a label, if the series has it.
    pub(super) fn covers<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let Some(service) = label("service").filter(|service| *service != OVERFLOW) else { return false };
        // A family with routes but no direction exists for outbound traffic only.
        let direction = match label("direction") {
            Some("inbound") => Some(Direction::Inbound),
            Some(_) => Some(Direction::Outbound),
            None => label("route").map(|_| Direction::Outbound),
        };
        let (service, route) = (Arc::<str>::from(service), label("route").map(Arc::<str>::from));
        match (direction, route) {
            (Some(direction), Some(route)) => {
                self.routes.contains(&RouteLabels { direction, service, route })
            }
            (Some(direction), None) => {
                let lost = |route: &RouteLabels| route.direction == direction && route.service == service;
                !self.shown_pairs.contains(&(direction, Arc::clone(&service))) && self.routes.iter().any(lost)
            }
            (None, _) => self.services.contains(&service),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(service: &str, status: &str) -> Labels {
        vec![("service", Arc::from(service)), ("status", Arc::from(status))]
    }

    #[test]
    fn a_full_family_folds_configured_values_and_keeps_fixed_ones() {
        let mut guard = FamilyGuard::default();
        assert_eq!(guard.admit(labels("a", "200"), 1), Admitted::AsAsked(labels("a", "200")));
        assert_eq!(guard.admit(labels("b", "500"), 1), Admitted::Folded(labels(OVERFLOW, "500")));
        assert_eq!(guard.admit(labels("c", "500"), 1), Admitted::Folded(labels(OVERFLOW, "500")));
        assert_eq!(guard.admit(labels("a", "200"), 1), Admitted::AsAsked(labels("a", "200")));
    }

    #[test]
    fn the_overflow_itself_is_bounded() {
        let mut guard = FamilyGuard::default();
        for status in 0..10_000 {
            guard.admit(labels("a", &status.to_string()), 10);
        }
        assert_eq!(guard.known.len(), 10 + OVERFLOW_ROOM);
        assert_eq!(guard.admit(labels("a", "99999"), 10), Admitted::Folded(labels(OVERFLOW, OVERFLOW)));
    }
}
