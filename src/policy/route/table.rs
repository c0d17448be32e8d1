//! The compiled route table: hash maps for hosts and paths, so that a look-up costs the same among ten routes
//! and ten thousand. The order it obeys is that of `precedence`.

use http::{HeaderMap, Method};
use rustc_hash::FxHashMap;

use super::{HostPattern, PathPattern, RouteMatch, RouteParams, conditions, host::normal_host, precedence};

/// What the routes are asked about, borrowed from the request.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Host without its port, in any case; see [`super::host_without_port`].
    pub host: &'a str,
    /// Path without the query.
    pub path: &'a str,
    /// What stands behind the `?`.
    pub query: Option<&'a str>,
    /// Method.
    pub method: &'a Method,
    /// Head fields.
    pub headers: &'a HeaderMap,
}

/// Routes, compiled for look-up.
///
/// Of all routes whose conditions hold, the one with the highest precedence is found. Precedence compares, in
/// this order (the Gateway API's rules, with the host in front and the file's order at the end):
///
/// 1. host: exact before the longest suffix before any;
/// 2. path: exact before regex before the longest prefix before any;
/// 3. more header conditions;
/// 4. more query conditions;
/// 5. methods given before none given;
/// 6. earlier in the file.
///
/// A request that no route of its exact host takes goes on to the routes for suffixes and for any host.
#[derive(Debug)]
pub struct RouteTable {
    pub(super) routes: Vec<NamedMatch>,
    pub(super) order: Vec<precedence::Entry>,
    exact: FxHashMap<Box<str>, HostRoutes>,
    suffix: FxHashMap<Box<str>, HostRoutes>,
    /// Distinct lengths of the keys of `suffix`, longest first.
    suffix_lengths: Vec<usize>,
    any: HostRoutes,
}

/// What the table keeps of one route.
#[derive(Debug)]
pub(super) struct NamedMatch {
    pub(super) name: std::sync::Arc<str>,
    pub(super) matcher: RouteMatch,
}

/// Routes of one host pattern. The lists hold indices of routes in order of precedence.
#[derive(Debug, Default)]
struct HostRoutes {
    exact: FxHashMap<Box<str>, Vec<usize>>,
    regex: Vec<usize>,
    prefix: FxHashMap<Box<str>, Vec<usize>>,
    /// Distinct lengths of the keys of `prefix`, longest first. They bound the probes of a look-up by the
    /// configuration, however many slashes a client sends.
    prefix_lengths: Vec<usize>,
    any: Vec<usize>,
}

impl RouteTable {
    /// Compiles `routes`. Whether they make sense was decided when they were read; nothing can fail here.
    #[must_use]
    pub fn compile(routes: &[RouteParams]) -> Self {
        let routes: Vec<NamedMatch> = routes
            .iter()
            .map(|route| NamedMatch { name: route.name.clone(), matcher: route.matcher.clone() })
            .collect();
        let mut table = Self {
            order: precedence::order(&routes),
            routes,
            exact: FxHashMap::default(),
            suffix: FxHashMap::default(),
            suffix_lengths: Vec::new(),
            any: HostRoutes::default(),
        };
        // Inserting in order of precedence leaves every list in that order.
        for entry in &table.order {
            let matcher = &table.routes[entry.route].matcher;
            let of_host = match entry.host.map(|host| &matcher.hosts[host]) {
                Some(HostPattern::Exact(host)) => {
                    table.exact.entry(normal_host(host).into_owned().into_boxed_str()).or_default()
                }
                Some(HostPattern::Suffix(suffix)) => {
                    table.suffix.entry(normal_host(suffix).into_owned().into_boxed_str()).or_default()
                }
                None => &mut table.any,
            };
            of_host.insert(&matcher.path, entry.route);
        }
        table.suffix_lengths = lengths(&table.suffix);
        let of_hosts = table.exact.values_mut().chain(table.suffix.values_mut());
        for host in of_hosts.chain([&mut table.any]) {
            host.prefix_lengths = lengths(&host.prefix);
        }
        table
    }

    /// Index of the route for `request` in the slice that was compiled. Allocates only for a host in mixed
    /// case and for a condition on a field that came several times.
    #[must_use]
    pub fn find(&self, request: &RequestView<'_>) -> Option<usize> {
        let host = normal_host(request.host);
        if let Some(routes) = self.exact.get(&*host)
            && let Some(route) = self.find_of_host(routes, request)
        {
            return Some(route);
        }
        for &length in &self.suffix_lengths {
            // Longer than the suffix, so that at least one label stands before its dot.
            if host.len() > length
                && host.as_bytes()[host.len() - length] == b'.'
                && let Some(routes) = self.suffix.get(&host[host.len() - length..])
                && let Some(route) = self.find_of_host(routes, request)
            {
                return Some(route);
            }
        }
        self.find_of_host(&self.any, request)
    }

    fn find_of_host(&self, routes: &HostRoutes, request: &RequestView<'_>) -> Option<usize> {
        let path = request.path;
        if let Some(exact) = routes.exact.get(path)
            && let Some(route) = self.first_holding(exact, request)
        {
            return Some(route);
        }
        for &route in &routes.regex {
            let matcher = &self.routes[route].matcher;
            // Conditions are cheaper than a regex.
            if conditions::hold(matcher, request) && conditions::path_regex_holds(&matcher.path, path) {
                return Some(route);
            }
        }
        for &length in &routes.prefix_lengths {
            if ends_an_element(path, length)
                && let Some(prefixed) = routes.prefix.get(&path[..length])
                && let Some(route) = self.first_holding(prefixed, request)
            {
                return Some(route);
            }
        }
        self.first_holding(&routes.any, request)
    }

    fn first_holding(&self, routes: &[usize], request: &RequestView<'_>) -> Option<usize> {
        routes.iter().copied().find(|&route| conditions::hold(&self.routes[route].matcher, request))
    }
}

impl HostRoutes {
    fn insert(&mut self, path: &PathPattern, route: usize) {
        match path {
            PathPattern::Exact(path) => self.exact.entry(path.as_str().into()).or_default().push(route),
            PathPattern::Regex(_) => self.regex.push(route),
            PathPattern::Prefix(prefix) => {
                self.prefix.entry(prefix_key(prefix).into()).or_default().push(route);
            }
            PathPattern::Any => self.any.push(route),
        }
    }
}

/// The prefix without its trailing slash: `/` becomes the empty prefix of every path.
pub(in crate::policy) fn prefix_key(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// Whether `path` has an end of a path element at `length`: its own end (but an empty path begins with no
/// prefix), or a slash.
pub(in crate::policy) fn ends_an_element(path: &str, length: usize) -> bool {
    match path.as_bytes().get(length) {
        Some(byte) => *byte == b'/',
        None => length > 0 && path.len() == length,
    }
}

fn lengths(keys: &FxHashMap<Box<str>, impl Sized>) -> Vec<usize> {
    let mut lengths: Vec<usize> = keys.keys().map(|key| key.len()).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.dedup();
    lengths
}

#[cfg(test)]
mod tests;
