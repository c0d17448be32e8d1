//! Precedence by tables, and the compiled table against the definition: sort all, take the first that holds.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use regex::Regex;

use super::*;
use crate::policy::route::{
    Action, DirectResponse, HeaderEdits, HeaderMatch, PrecedenceRow, QueryMatch, ValueMatch,
};
use crate::policy::traffic::TrafficParams;

fn route(matcher: RouteMatch) -> RouteParams {
    RouteParams {
        name: Arc::from("r"),
        matcher,
        action: Action::Direct(DirectResponse { status: StatusCode::OK, body: Bytes::new() }),
        timeout: None,
        retry: crate::policy::retry::RetryParams::none(),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        traffic: TrafficParams::default(),
    }
}

fn exact_host(name: &str) -> HostPattern {
    HostPattern::Exact(name.into())
}

fn suffix(name: &str) -> HostPattern {
    HostPattern::Suffix(name.into())
}

fn on(hosts: &[HostPattern], path: PathPattern) -> RouteMatch {
    RouteMatch { hosts: hosts.to_vec(), path, ..RouteMatch::default() }
}

fn exact(path: &str) -> PathPattern {
    PathPattern::Exact(path.into())
}

fn prefix(path: &str) -> PathPattern {
    PathPattern::Prefix(path.into())
}

fn regex(text: &str) -> PathPattern {
    PathPattern::Regex(Regex::new(text).unwrap())
}

fn has(name: &'static str) -> HeaderMatch {
    HeaderMatch { name: HeaderName::from_static(name), value: ValueMatch::Present(true) }
}

fn asks(name: &str) -> QueryMatch {
    QueryMatch { name: name.into(), value: ValueMatch::Present(true) }
}

fn compile(matchers: &[RouteMatch]) -> RouteTable {
    RouteTable::compile(&matchers.iter().cloned().map(route).collect::<Vec<_>>())
}

fn find(table: &RouteTable, host: &str, path: &str) -> Option<usize> {
    let headers = HeaderMap::new();
    table.find(&RequestView { host, path, query: None, method: &Method::GET, headers: &headers })
}

#[test]
fn the_most_specific_host_wins_whatever_the_order_of_the_file() {
    let table = compile(&[
        on(&[], PathPattern::Any),
        on(&[suffix(".example.com")], PathPattern::Any),
        on(&[suffix(".eu.example.com")], PathPattern::Any),
        on(&[exact_host("a.eu.example.com")], PathPattern::Any),
    ]);
    assert_eq!(find(&table, "a.eu.example.com", "/"), Some(3));
    assert_eq!(find(&table, "A.EU.Example.com.", "/"), Some(3));
    assert_eq!(find(&table, "b.eu.example.com", "/"), Some(2));
    assert_eq!(find(&table, "x.b.eu.example.com", "/"), Some(2));
    assert_eq!(find(&table, "eu.example.com", "/"), Some(1));
    assert_eq!(find(&table, "example.com", "/"), Some(0));
    assert_eq!(find(&table, ".example.com", "/"), Some(0));
    assert_eq!(find(&table, "xexample.com", "/"), Some(0));
    assert_eq!(find(&table, "", "/"), Some(0));
}

#[test]
fn the_most_specific_path_of_a_host_wins() {
    let table = compile(&[
        on(&[], PathPattern::Any),
        on(&[], prefix("/")),
        on(&[], prefix("/api")),
        on(&[], prefix("/api/v1/")),
        on(&[], regex("^/api/v[0-9]+/x$")),
        on(&[], exact("/api/v1/x")),
    ]);
    let cases = [
        ("/api/v1/x", 5),
        ("/api/v2/x", 4),
        ("/api/v1/y", 3),
        ("/api/v1", 3),
        ("/api/v1/", 3),
        ("/api/v11", 2),
        ("/api", 2),
        ("/apix", 1),
        ("/", 1),
        ("//", 1),
        ("*", 0),
        ("", 0),
    ];
    for (path, expected) in cases {
        assert_eq!(find(&table, "h", path), Some(expected), "{path}");
    }
}

#[test]
fn a_request_that_no_route_of_its_host_takes_goes_on_to_wider_hosts() {
    let table = compile(&[
        on(&[exact_host("a.example")], prefix("/only")),
        on(&[suffix(".example")], prefix("/wide")),
        on(&[], exact("/any")),
    ]);
    assert_eq!(find(&table, "a.example", "/only/x"), Some(0));
    assert_eq!(find(&table, "a.example", "/wide"), Some(1));
    assert_eq!(find(&table, "a.example", "/any"), Some(2));
    assert_eq!(find(&table, "a.example", "/none"), None);
}

#[test]
fn more_conditions_win_headers_before_query_before_method_before_place() {
    let path = prefix("/x");
    let table = compile(&[
        on(&[], path.clone()),
        on(&[], path.clone()),
        RouteMatch { methods: vec![Method::GET], ..on(&[], path.clone()) },
        RouteMatch { query: vec![asks("q")], ..on(&[], path.clone()) },
        RouteMatch { headers: vec![has("a")], ..on(&[], path.clone()) },
        RouteMatch { headers: vec![has("a"), has("b")], ..on(&[], path) },
    ]);
    let look = |fields: &[&'static str], query: Option<&str>, method: &Method| {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.insert(*field, HeaderValue::from_static("1"));
        }
        table.find(&RequestView { host: "h", path: "/x", query, method, headers: &headers })
    };
    assert_eq!(look(&["a", "b"], Some("q=1"), &Method::GET), Some(5));
    assert_eq!(look(&["a"], Some("q=1"), &Method::GET), Some(4));
    assert_eq!(look(&[], Some("q=1"), &Method::GET), Some(3));
    assert_eq!(look(&[], None, &Method::GET), Some(2));
    assert_eq!(look(&[], None, &Method::POST), Some(0));
}

#[test]
fn a_condition_that_fails_passes_the_request_to_the_next_path() {
    let table = compile(&[
        RouteMatch { methods: vec![Method::POST], ..on(&[], exact("/x")) },
        RouteMatch { headers: vec![has("a")], ..on(&[], prefix("/x")) },
        on(&[], prefix("/")),
    ]);
    assert_eq!(find(&table, "h", "/x"), Some(2));
}

#[test]
fn precedence_lists_each_route_under_each_of_its_hosts() {
    let table = compile(&[
        on(&[], prefix("/")),
        RouteMatch {
            methods: vec![Method::GET, Method::HEAD],
            headers: vec![has("a")],
            query: vec![asks("q")],
            ..on(&[suffix(".b.example"), exact_host("a.example")], exact("/x"))
        },
    ]);
    let rows = table.precedence();
    let lines: Vec<_> = rows.iter().map(|row| (row.rank, row.route, row.host.as_str())).collect();
    assert_eq!(lines, [(1, 1, "a.example"), (2, 1, "*.b.example"), (3, 0, "*")]);
    assert_eq!(rows[0].path, "exact /x");
    assert_eq!(rows[0].conditions, "method GET|HEAD and header a is there and query q is there");
    assert_eq!(rows[2].conditions, "");
}

#[test]
fn a_route_is_shadowed_by_an_earlier_one_that_takes_all_its_requests() {
    let get = |path| RouteMatch { methods: vec![Method::GET], ..on(&[], path) };
    let table = compile(&[
        on(&[exact_host("a"), exact_host("b")], prefix("/x")),
        on(&[exact_host("b")], prefix("/x/")),
        on(&[exact_host("b"), exact_host("c")], prefix("/x")),
        RouteMatch { methods: vec![Method::GET, Method::PUT], ..on(&[], exact("/m")) },
        get(exact("/m")),
        on(&[], exact("/m")),
        RouteMatch { headers: vec![has("h")], ..on(&[], exact("/m")) },
        on(&[], regex("^/r$")),
        on(&[], regex("^/r$")),
    ]);
    assert_eq!(table.shadowed(), [(1, 0), (4, 3), (8, 7)]);
}

/// The definition of [`RouteTable::find`]: the first of `precedence` that holds, tried one by one.
fn find_by_definition(
    routes: &[RouteParams],
    rows: &[PrecedenceRow],
    request: &RequestView<'_>,
) -> Option<usize> {
    let host = request.host.to_ascii_lowercase();
    let holds = |host_shown: &str, matcher: &RouteMatch| {
        let host_holds = match host_shown.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == host_shown,
        };
        let path_holds = match &matcher.path {
            PathPattern::Any => true,
            PathPattern::Exact(path) => request.path == path,
            PathPattern::Regex(regex) => regex.is_match(request.path),
            PathPattern::Prefix(prefix) => {
                let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
                (request.path == prefix && !prefix.is_empty())
                    || request.path.starts_with(&format!("{prefix}/"))
            }
        };
        host_holds && path_holds && conditions::hold(matcher, request)
    };
    rows.iter().find(|row| holds(&row.host, &routes[row.route].matcher)).map(|row| row.route)
}

fn random_path(rng: &mut fastrand::Rng) -> String {
    let elements = rng.usize(0..4);
    let mut path: String =
        (0..elements).map(|_| ["/a", "/b", "/ab", "/"][rng.usize(0..4)]).collect::<Vec<_>>().concat();
    if path.is_empty() {
        path.push('/');
    }
    path
}

fn random_host(rng: &mut fastrand::Rng) -> String {
    let labels: Vec<&str> = (0..rng.usize(1..4)).map(|_| ["a", "b", "ab"][rng.usize(0..3)]).collect();
    labels.join(".")
}

fn random_match(rng: &mut fastrand::Rng) -> RouteMatch {
    let hosts = (0..rng.usize(0..3)).map(|_| {
        let name = random_host(rng);
        if rng.bool() { HostPattern::Exact(name) } else { HostPattern::Suffix(format!(".{name}")) }
    });
    let hosts = hosts.collect();
    let path = match rng.u8(0..4) {
        0 => PathPattern::Any,
        1 => PathPattern::Exact(random_path(rng)),
        2 => PathPattern::Prefix(random_path(rng)),
        _ => regex(["^/a.*$", "^/.*b$", "^/[ab]+/?$"][rng.usize(0..3)]),
    };
    let mut matcher = RouteMatch { hosts, path, ..RouteMatch::default() };
    if rng.bool() {
        matcher.methods.push([Method::GET, Method::POST][rng.usize(0..2)].clone());
    }
    if rng.u8(0..4) == 0 {
        matcher.headers.push(has(["x", "y"][rng.usize(0..2)]));
    }
    if rng.u8(0..4) == 0 {
        matcher.query.push(asks(["x", "y"][rng.usize(0..2)]));
    }
    matcher
}

#[test]
fn the_table_finds_what_its_definition_finds() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let matchers: Vec<_> = (0..rng.usize(1..40)).map(|_| random_match(&mut rng)).collect();
        let routes: Vec<_> = matchers.into_iter().map(route).collect();
        let table = RouteTable::compile(&routes);
        let (shadowed, rows) = (table.shadowed(), table.precedence());
        for _ in 0..100 {
            let (host, path) = (random_host(&mut rng), random_path(&mut rng));
            let mut headers = HeaderMap::new();
            if rng.bool() {
                headers.insert(["x", "y"][rng.usize(0..2)], HeaderValue::from_static("1"));
            }
            let request = RequestView {
                host: &host,
                path: &path,
                query: [None, Some("x=1"), Some("x&y")][rng.usize(0..3)],
                method: &[Method::GET, Method::POST][rng.usize(0..2)],
                headers: &headers,
            };
            let expected = find_by_definition(&routes, &rows, &request);
            assert_eq!(table.find(&request), expected, "seed {seed}: {request:?}");
            assert!(!shadowed.iter().any(|(route, _)| Some(*route) == expected), "seed {seed}: {request:?}");
        }
    }
}
