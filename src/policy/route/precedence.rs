//! The order of routes, made visible: what `outrigger check --routes` prints, and which routes can never match.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use super::{
    HeaderMatch, HostPattern, PathPattern, QueryMatch, RouteMatch, RouteTable, ValueMatch,
    host::normal_host,
    table::{NamedMatch, prefix_key},
};

/// One line of the list of routes in order of precedence. A route with several hosts has a line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrecedenceRow {
    /// Place in the list, from 1.
    pub rank: usize,
    /// Index of the route in the order of the file.
    pub route: usize,
    /// Its name.
    pub name: Arc<str>,
    /// `*`, `*.suffix` or a name.
    pub host: String,
    /// `any`, `exact /x`, `prefix /x` or `regex …`.
    pub path: String,
    /// The other conditions, joined with ` and `; empty if there are none.
    pub conditions: String,
}

/// A route under one of its host patterns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Index in the routes of the table.
    pub(super) route: usize,
    /// Index in the hosts of the route; `None` for a route of any host.
    pub(super) host: Option<usize>,
}

/// All routes under all their hosts, highest precedence first. Entries whose hosts exclude each other are kept
/// together by host, for whoever reads the list.
pub(super) fn order(routes: &[NamedMatch]) -> Vec<Entry> {
    let mut order: Vec<Entry> = Vec::with_capacity(routes.len());
    for (route, named) in routes.iter().enumerate() {
        if named.matcher.hosts.is_empty() {
            order.push(Entry { route, host: None });
        }
        order.extend((0..named.matcher.hosts.len()).map(|host| Entry { route, host: Some(host) }));
    }
    order.sort_by_cached_key(|entry| {
        let matcher = &routes[entry.route].matcher;
        (host_rank(entry.host.map(|host| &matcher.hosts[host])), rank_below_host(matcher), entry.route)
    });
    order
}

impl RouteTable {
    /// The routes in the order in which they are considered.
    #[must_use]
    pub fn precedence(&self) -> Vec<PrecedenceRow> {
        let rows = self.order.iter().enumerate().map(|(place, entry)| {
            let NamedMatch { name, matcher } = &self.routes[entry.route];
            PrecedenceRow {
                rank: place + 1,
                route: entry.route,
                name: name.clone(),
                host: describe_host(entry.host.map(|host| &matcher.hosts[host])),
                path: describe_path(&matcher.path),
                conditions: describe_conditions(matcher),
            }
        });
        rows.collect()
    }

    /// Routes that can never match, each with the one that takes all their requests: `(shadowed, by)`, sorted.
    ///
    /// Sure but not complete: it compares routes of the same path whose hosts and conditions are textually
    /// contained in the other's. It does not see through regexes, nor several routes that shadow together.
    #[must_use]
    pub fn shadowed(&self) -> Vec<(usize, usize)> {
        let mut by_path: BTreeMap<(u8, &str), Vec<usize>> = BTreeMap::new();
        for (index, route) in self.routes.iter().enumerate() {
            by_path.entry(path_identity(&route.matcher.path)).or_default().push(index);
        }
        let mut shadowed = Vec::new();
        for routes in by_path.values() {
            for &route in routes {
                let by = routes.iter().copied().find(|&by| by != route && self.takes_all_of(by, route));
                shadowed.extend(by.map(|by| (route, by)));
            }
        }
        shadowed.sort_unstable();
        shadowed
    }

    /// Whether route `by` comes before route `of`, has the same path, and holds wherever `of` holds.
    fn takes_all_of(&self, by: usize, of: usize) -> bool {
        let (wide, narrow) = (&self.routes[by].matcher, &self.routes[of].matcher);
        let before = (rank_below_host(wide), by) < (rank_below_host(narrow), of);
        let methods_cover = wide.methods.is_empty()
            || (!narrow.methods.is_empty() && narrow.methods.iter().all(|m| wide.methods.contains(m)));
        before
            && methods_cover
            && hosts_cover(&wide.hosts, &narrow.hosts)
            && wide.headers.iter().all(|condition| narrow.headers.iter().any(|c| same_header(c, condition)))
            && wide.query.iter().all(|condition| narrow.query.iter().any(|c| same_query(c, condition)))
    }
}

/// Sorts by class, then longest suffix, then name.
type HostRank = (u8, Reverse<usize>, String);
/// Sorts by class of path, longest prefix, its text, most headers, most query parameters, methods given.
type RankBelowHost = (u8, Reverse<usize>, String, Reverse<usize>, Reverse<usize>, bool);

fn host_rank(host: Option<&HostPattern>) -> HostRank {
    match host {
        Some(HostPattern::Exact(name)) => (0, Reverse(0), normal_host(name).into_owned()),
        Some(HostPattern::Suffix(suffix)) => {
            let suffix = normal_host(suffix).into_owned();
            (1, Reverse(suffix.len()), suffix)
        }
        None => (2, Reverse(0), String::new()),
    }
}

fn rank_below_host(matcher: &RouteMatch) -> RankBelowHost {
    let (class, length, text) = match &matcher.path {
        PathPattern::Exact(path) => (0, 0, path.clone()),
        // Several regexes may match one path, so their text must not rank them.
        PathPattern::Regex(_) => (1, 0, String::new()),
        PathPattern::Prefix(prefix) => (2, prefix_key(prefix).len(), prefix_key(prefix).to_owned()),
        PathPattern::Any => (3, 0, String::new()),
    };
    let (headers, query) = (matcher.headers.len(), matcher.query.len());
    (class, Reverse(length), text, Reverse(headers), Reverse(query), matcher.methods.is_empty())
}

fn path_identity(path: &PathPattern) -> (u8, &str) {
    match path {
        PathPattern::Exact(path) => (0, path),
        PathPattern::Regex(regex) => (1, regex.as_str()),
        PathPattern::Prefix(prefix) => (2, prefix_key(prefix)),
        PathPattern::Any => (3, ""),
    }
}

/// Whether each of `narrow` stands in `wide` as it is. A wider pattern does not cover: it ranks later.
fn hosts_cover(wide: &[HostPattern], narrow: &[HostPattern]) -> bool {
    match (wide, narrow) {
        ([], []) => true,
        ([], _) | (_, []) => false,
        _ => {
            narrow.iter().all(|host| wide.iter().any(|other| host_rank(Some(other)) == host_rank(Some(host))))
        }
    }
}

fn same_header(a: &HeaderMatch, b: &HeaderMatch) -> bool {
    a.name == b.name && same_value(&a.value, &b.value)
}

fn same_query(a: &QueryMatch, b: &QueryMatch) -> bool {
    a.name == b.name && same_value(&a.value, &b.value)
}

fn same_value(a: &ValueMatch, b: &ValueMatch) -> bool {
    match (a, b) {
        (ValueMatch::Exact(a), ValueMatch::Exact(b)) | (ValueMatch::Prefix(a), ValueMatch::Prefix(b)) => {
            a == b
        }
        (ValueMatch::Regex(a), ValueMatch::Regex(b)) => a.as_str() == b.as_str(),
        (ValueMatch::Present(a), ValueMatch::Present(b)) => a == b,
        _ => false,
    }
}

fn describe_host(host: Option<&HostPattern>) -> String {
    match host {
        None => "*".to_owned(),
        Some(HostPattern::Exact(name)) => name.clone(),
        Some(HostPattern::Suffix(suffix)) => format!("*{suffix}"),
    }
}

fn describe_path(path: &PathPattern) -> String {
    match path {
        PathPattern::Any => "any".to_owned(),
        PathPattern::Exact(path) => format!("exact {path}"),
        PathPattern::Prefix(prefix) => format!("prefix {prefix}"),
        PathPattern::Regex(regex) => format!("regex {regex}"),
    }
}

fn describe_conditions(matcher: &RouteMatch) -> String {
    let mut all = Vec::new();
    if !matcher.methods.is_empty() {
        let methods: Vec<&str> = matcher.methods.iter().map(http::Method::as_str).collect();
        all.push(format!("method {}", methods.join("|")));
    }
    all.extend(
        matcher.headers.iter().map(|c| format!("header {}", describe_value(c.name.as_str(), &c.value))),
    );
    all.extend(matcher.query.iter().map(|c| format!("query {}", describe_value(&c.name, &c.value))));
    all.join(" and ")
}

fn describe_value(name: &str, value: &ValueMatch) -> String {
    match value {
        ValueMatch::Exact(text) => format!("{name} = {text}"),
        ValueMatch::Prefix(text) => format!("{name} starts with {text}"),
        ValueMatch::Regex(regex) => format!("{name} ~ {regex}"),
        ValueMatch::Present(true) => format!("{name} is there"),
        ValueMatch::Present(false) => format!("{name} is not there"),
    }
}
