//! Decides the conditions of one route: methods, headers, query parameters. Host and path are looked up by
//! `table`, except that a path regex is decided here.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header};

use super::{HeaderMatch, PathPattern, QueryMatch, RequestView, RouteMatch, ValueMatch};

/// Whether everything but host and path holds.
pub(super) fn hold(matcher: &RouteMatch, request: &RequestView<'_>) -> bool {
    (matcher.methods.is_empty() || matcher.methods.contains(request.method))
        && matcher.headers.iter().all(|condition| header_holds(condition, request.headers))
        && matcher.query.iter().all(|condition| query_holds(condition, request.query))
}

/// Whether the path holds for a regex pattern; false for all other kinds, which `table` looks up.
pub(super) fn path_regex_holds(pattern: &PathPattern, path: &str) -> bool {
    matches!(pattern, PathPattern::Regex(regex) if regex.is_match(path))
}

/// Value of the first query parameter called `name`, as it stands in the request; empty if it has no `=`.
pub(in crate::policy) fn query_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// Whether the condition holds for a field, all values of it taken together.
pub(in crate::policy) fn header_holds(condition: &HeaderMatch, headers: &HeaderMap) -> bool {
    match joined(headers, &condition.name) {
        Some(value) => value_holds(&condition.value, &value),
        None => matches!(condition.value, ValueMatch::Present(false)),
    }
}

fn query_holds(condition: &QueryMatch, query: Option<&str>) -> bool {
    match query.and_then(|query| query_value(query, &condition.name)) {
        Some(value) => value_holds(&condition.value, value.as_bytes()),
        None => matches!(condition.value, ValueMatch::Present(false)),
    }
}

/// Whether the condition holds for one value that is there.
pub(in crate::policy) fn value_holds(condition: &ValueMatch, value: &[u8]) -> bool {
    match condition {
        ValueMatch::Exact(expected) => value == expected.as_bytes(),
        ValueMatch::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
        // A value that is not UTF-8 matches no regex: they are written for text.
        ValueMatch::Regex(regex) => std::str::from_utf8(value).is_ok_and(|text| regex.is_match(text)),
        ValueMatch::Present(wanted) => *wanted,
    }
}

/// All values of a field as one. Only a field that came several times allocates.
fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let mut whole = Cow::Borrowed(first);
    // HTTP/2 clients split Cookie into crumbs, which belong together by `; ` (RFC 9113 §8.2.3).
    let separator: &[u8] = if name == header::COOKIE { b"; " } else { b", " };
    for value in values {
        let whole = whole.to_mut();
        whole.extend_from_slice(separator);
        whole.extend_from_slice(value.as_bytes());
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};
    use regex::Regex;

    use super::*;

    fn header(name: &'static str, value: ValueMatch) -> RouteMatch {
        let name = HeaderName::from_static(name);
        RouteMatch { headers: vec![HeaderMatch { name, value }], ..RouteMatch::default() }
    }

    fn query(name: &str, value: ValueMatch) -> RouteMatch {
        RouteMatch { query: vec![QueryMatch { name: name.into(), value }], ..RouteMatch::default() }
    }

    fn holds(matcher: &RouteMatch, headers: &[(&'static str, &[u8])], query: Option<&str>) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let request = RequestView { host: "", path: "/", query, method: &Method::GET, headers: &map };
        hold(matcher, &request)
    }

    fn regex(text: &str) -> ValueMatch {
        ValueMatch::Regex(Regex::new(text).unwrap())
    }

    #[test]
    fn header_conditions_see_the_whole_field() {
        let canary = header("x-env", ValueMatch::Exact("canary".into()));
        assert!(holds(&canary, &[("x-env", b"canary")], None));
        assert!(!holds(&canary, &[("x-env", b"canary2")], None));
        assert!(!holds(&canary, &[("x-env", b"canary"), ("x-env", b"prod")], None));
        assert!(!holds(&canary, &[], None));
        let both = header("x-env", ValueMatch::Exact("a, b".into()));
        assert!(holds(&both, &[("x-env", b"a"), ("x-env", b"b")], None));
        let crumbs = header("cookie", ValueMatch::Exact("a=1; b=2".into()));
        assert!(holds(&crumbs, &[("cookie", b"a=1"), ("cookie", b"b=2")], None));
    }

    #[test]
    fn presence_prefix_and_regex_of_headers() {
        assert!(holds(&header("a", ValueMatch::Present(false)), &[], None));
        assert!(!holds(&header("a", ValueMatch::Present(false)), &[("a", b"")], None));
        assert!(holds(&header("a", ValueMatch::Present(true)), &[("a", b"")], None));
        assert!(!holds(&header("a", ValueMatch::Present(true)), &[], None));
        assert!(holds(&header("a", ValueMatch::Prefix("be".into())), &[("a", b"beta")], None));
        assert!(holds(&header("a", regex("^v[0-9]$")), &[("a", b"v1")], None));
        assert!(!holds(&header("a", regex("^v.*$")), &[("a", b"v\xff")], None));
    }

    #[test]
    fn query_conditions_take_the_first_parameter_of_the_name_undecoded() {
        let two = query("v", ValueMatch::Exact("2".into()));
        assert!(holds(&two, &[], Some("x=1&v=2&v=3")));
        assert!(!holds(&two, &[], Some("v=3&v=2")));
        assert!(!holds(&two, &[], Some("v=%32")));
        assert!(!holds(&two, &[], None));
        assert!(holds(&query("flag", ValueMatch::Exact(String::new())), &[], Some("flag&x")));
        assert!(holds(&query("v", ValueMatch::Present(false)), &[], Some("vv=1")));
    }

    #[test]
    fn any_one_of_the_methods_is_enough() {
        let matcher = RouteMatch { methods: vec![Method::GET, Method::PUT], ..RouteMatch::default() };
        let headers = HeaderMap::new();
        for (method, expected) in [(Method::GET, true), (Method::PUT, true), (Method::HEAD, false)] {
            let request =
                RequestView { host: "", path: "/", query: None, method: &method, headers: &headers };
            assert_eq!(hold(&matcher, &request), expected, "{method}");
        }
    }
}
