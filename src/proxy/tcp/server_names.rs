//! Finds the route of a server name. Its cost grows with the labels of the name, not with the routes.

use rustc_hash::FxHashMap;

use super::params::ServerNameRoute;
use crate::policy::route::HostPattern;

/// Routes by name. The first route that claims a pattern keeps it.
#[derive(Debug, Default)]
pub(super) struct ServerNames {
    exact: FxHashMap<String, usize>,
    /// With the dot in front, as in `.db.example`.
    suffix: FxHashMap<String, usize>,
}

impl ServerNames {
    pub(super) fn new(routes: &[ServerNameRoute]) -> Self {
        let mut names = Self::default();
        for (index, route) in routes.iter().enumerate() {
            for pattern in &route.names {
                match pattern {
                    HostPattern::Exact(name) => names.exact.entry(name.clone()).or_insert(index),
                    HostPattern::Suffix(suffix) => names.suffix.entry(suffix.clone()).or_insert(index),
                };
            }
        }
        names
    }

    /// Index of the route for `name`, which is in lower case: the exact name first, then the longest suffix.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let exact = self.exact.get(name).copied();
        exact.or_else(|| {
            // From the left, the first suffix that is known is the longest.
            let mut dots = name.match_indices('.').filter(|(at, _)| *at > 0);
            dots.find_map(|(at, _)| self.suffix.get(&name[at..]).copied())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_name_wins_then_the_longest_suffix_then_the_first_route() {
        let exact = |name: &str| HostPattern::Exact(name.to_owned());
        let suffix = |name: &str| HostPattern::Suffix(name.to_owned());
        let route = |names: Vec<HostPattern>| ServerNameRoute { names, service: "s".into() };
        let names = ServerNames::new(&[
            route(vec![suffix(".example")]),
            route(vec![suffix(".db.example"), exact("db.example")]),
            route(vec![exact("a.db.example"), suffix(".example")]),
        ]);
        for (name, expected) in [
            ("a.db.example", Some(2)),
            ("b.db.example", Some(1)),
            ("c.b.db.example", Some(1)),
            ("db.example", Some(1)),
            ("xdb.example", Some(0)),
            ("example", None),
            ("other", None),
            ("", None),
        ] {
            assert_eq!(names.find(name), expected, "{name}");
        }
    }
}
