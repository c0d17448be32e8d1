//! The pure part of what a route does with a request: its rewritten target, the place a redirect points to,
//! edits of a head, the share of each service. Knows nothing of bodies and connections.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, uri::PathAndQuery};

use super::{
    HeaderEdits, PathPattern, PathRewrite, Redirect, Rewrite, Target,
    host::host_without_port,
    table::{ends_an_element, prefix_key},
};

/// Why a rewritten target or a location cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The new path, or what the client sent behind the replaced prefix, is no path.
    #[error("the rewritten target is not a valid path")]
    Path(#[source] http::uri::InvalidUri),
    /// Neither the redirect nor the request names a host.
    #[error("the redirect keeps the host, but the request has none")]
    NoHost,
    /// Not a valid header value.
    #[error("the location is not a valid header value")]
    Location(#[source] http::header::InvalidHeaderValue),
}

/// Where a request was sent to, as far as redirects keep it.
#[derive(Clone, Copy, Debug)]
pub struct RequestOrigin<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `Host` or `:authority`, with its port.
    pub authority: &'a str,
    /// Path and query as sent.
    pub path_and_query: &'a str,
}

/// The path and query to send upstream; `None` leaves them as they are. `matched` is the pattern that the
/// route matched by, of which a prefix rewrite replaces the prefix, element by element: `/api` → `/v1` turns
/// `/api/x?q` into `/v1/x?q`. A prefix rewrite of a route without a prefix replaces the whole path.
///
/// # Errors
///
/// [`TargetError::Path`] if the outcome is no path.
pub fn rewrite_target(
    rewrite: &Rewrite,
    matched: &PathPattern,
    path_and_query: &str,
) -> Result<Option<PathAndQuery>, TargetError> {
    let Some(path) = &rewrite.path else { return Ok(None) };
    let target = Bytes::from(rewritten(path, matched, path_and_query));
    PathAndQuery::from_maybe_shared(target).map(Some).map_err(TargetError::Path)
}

/// The value of `Location`, always absolute: a path that begins with `//` must never become a host.
/// A default port (80 for http, 443 for https) is left out.
///
/// # Errors
///
/// [`TargetError::NoHost`] if neither side names one, [`TargetError::Location`] if it cannot be written.
pub fn redirect_location(
    redirect: &Redirect,
    matched: &PathPattern,
    request: &RequestOrigin<'_>,
) -> Result<HeaderValue, TargetError> {
    let scheme = redirect.scheme.unwrap_or(request.scheme);
    let request_host = host_without_port(request.authority);
    let host = redirect.host.as_deref().unwrap_or(request_host);
    if host.is_empty() {
        return Err(TargetError::NoHost);
    }
    let kept = || request.authority[request_host.len()..].strip_prefix(':')?.parse().ok();
    let port = redirect.port.or_else(|| if scheme == request.scheme { kept() } else { None });
    let port = match (scheme, port) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    let target = match &redirect.path {
        Some(path) => rewritten(path, matched, request.path_and_query),
        None => request.path_and_query.to_owned(),
    };
    HeaderValue::try_from(format!("{scheme}://{host}{port}{target}")).map_err(TargetError::Location)
}

/// Sum of the weights: what the roll of [`pick_target`] must be below.
#[must_use]
pub fn total_weight(targets: &[Target]) -> u32 {
    targets.iter().map(|target| target.weight).fold(0, u32::saturating_add)
}

/// Index of the target that `roll` falls to; `roll` is uniform below [`total_weight`]. A target of weight zero
/// is never picked, except where there is no other: validation does not let such a route through.
#[must_use]
pub fn pick_target(targets: &[Target], roll: u32) -> usize {
    let mut left = roll;
    for (index, target) in targets.iter().enumerate() {
        if left < target.weight {
            return index;
        }
        left -= target.weight;
    }
    targets.iter().rposition(|target| target.weight > 0).unwrap_or(0)
}

impl HeaderEdits {
    /// Edits `headers`: first removes, then sets, then adds. Fields past the 32 768 that a map can hold, far
    /// beyond any limit on heads, are left out.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            let _ = headers.try_insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            let _ = headers.try_append(name.clone(), value.clone());
        }
    }
}

/// Path rewritten, query kept.
fn rewritten(rewrite: &PathRewrite, matched: &PathPattern, path_and_query: &str) -> String {
    let query_at = path_and_query.find('?').unwrap_or(path_and_query.len());
    let (path, query) = path_and_query.split_at(query_at);
    let (replacement, rest) = match (rewrite, matched) {
        (PathRewrite::Prefix(new), PathPattern::Prefix(old)) => match behind_prefix(path, old) {
            Some(rest) => (prefix_key(new), rest),
            // Not what the route matched: leave it alone rather than guess.
            None => (path, ""),
        },
        (PathRewrite::Full(new) | PathRewrite::Prefix(new), _) => (new.as_str(), ""),
    };
    let root = if replacement.is_empty() && rest.is_empty() { "/" } else { "" };
    [replacement, rest, root, query].concat()
}

/// What follows the prefix in the path: nothing, or text that begins with a slash.
fn behind_prefix<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let prefix = prefix_key(prefix);
    path.strip_prefix(prefix).filter(|_| ends_an_element(path, prefix.len()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{HeaderName, StatusCode};

    use super::*;
    use crate::types::Tags;

    fn prefix(text: &str) -> PathPattern {
        PathPattern::Prefix(text.to_owned())
    }

    fn rewrite(path: PathRewrite, matched: &PathPattern, target: &str) -> String {
        let rewrite = Rewrite { path: Some(path), host: None };
        rewrite_target(&rewrite, matched, target).unwrap().unwrap().to_string()
    }

    #[test]
    fn a_prefix_rewrite_replaces_elements_and_keeps_rest_and_query() {
        let cases = [
            ("/api", "/v1", "/api/x?q=1", "/v1/x?q=1"),
            ("/api", "/v1", "/api", "/v1"),
            ("/api", "/v1", "/api/", "/v1/"),
            ("/api/", "/v1/", "/api/x", "/v1/x"),
            ("/api", "/", "/api/x", "/x"),
            ("/api", "/", "/api", "/"),
            ("/api", "/", "/api?q", "/?q"),
            ("/", "/v1", "/x", "/v1/x"),
            ("/", "/v1", "/", "/v1/"),
            ("/api", "/v1", "/apix", "/apix"),
            ("/api", "/v1", "/api/a?b=/api", "/v1/a?b=/api"),
        ];
        for (old, new, target, expected) in cases {
            let outcome = rewrite(PathRewrite::Prefix(new.into()), &prefix(old), target);
            assert_eq!(outcome, expected, "{old} -> {new} on {target}");
        }
    }

    #[test]
    fn a_full_rewrite_keeps_only_the_query() {
        assert_eq!(rewrite(PathRewrite::Full("/new".into()), &prefix("/api"), "/api/x?q"), "/new?q");
        assert_eq!(rewrite(PathRewrite::Prefix("/new".into()), &PathPattern::Any, "/a/b"), "/new");
    }

    #[test]
    fn without_a_path_rewrite_the_target_stays() {
        assert!(rewrite_target(&Rewrite::default(), &PathPattern::Any, "/x").unwrap().is_none());
    }

    #[test]
    fn a_rewrite_to_no_path_is_an_error() {
        let rewrite = Rewrite { path: Some(PathRewrite::Full("/a b".into())), host: None };
        assert!(matches!(rewrite_target(&rewrite, &PathPattern::Any, "/"), Err(TargetError::Path(_))));
    }

    fn redirect() -> Redirect {
        Redirect { status: StatusCode::FOUND, scheme: None, host: None, port: None, path: None }
    }

    fn location(redirect: &Redirect, scheme: &str, authority: &str, target: &str) -> String {
        let origin = RequestOrigin { scheme, authority, path_and_query: target };
        let value = redirect_location(redirect, &prefix("/a"), &origin).unwrap();
        value.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let to_https = Redirect { scheme: Some("https"), ..redirect() };
        let to_host = Redirect { host: Some("b.example".into()), ..redirect() };
        let to_port = Redirect { port: Some(8443), scheme: Some("https"), ..redirect() };
        let to_default = Redirect { port: Some(80), ..redirect() };
        let to_path = Redirect { path: Some(PathRewrite::Prefix("/b".into())), ..redirect() };
        let cases = [
            (&to_https, "a.example:8080", "/a?q", "https://a.example/a?q"),
            (&to_host, "a.example:8080", "/a", "http://b.example:8080/a"),
            (&to_host, "a.example", "//evil", "http://b.example//evil"),
            (&to_port, "[::1]:80", "/a", "https://[::1]:8443/a"),
            (&to_default, "a.example:8080", "/a", "http://a.example/a"),
            (&to_path, "a.example:80", "/a/x?q", "http://a.example/b/x?q"),
        ];
        for (redirect, authority, target, expected) in cases {
            assert_eq!(location(redirect, "http", authority, target), expected);
        }
    }

    #[test]
    fn a_redirect_without_any_host_is_an_error() {
        let origin = RequestOrigin { scheme: "http", authority: "", path_and_query: "/" };
        let outcome = redirect_location(&redirect(), &PathPattern::Any, &origin);
        assert!(matches!(outcome, Err(TargetError::NoHost)));
    }

    #[test]
    fn edits_remove_then_set_then_add() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let edits = HeaderEdits {
            remove: vec![name("a"), name("d")],
            set: vec![(name("b"), value("new"))],
            add: vec![(name("a"), value("again")), (name("b"), value("more"))],
        };
        let mut headers = HeaderMap::new();
        for (field, text) in [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("c", "kept")] {
            headers.append(field, value(text));
        }
        edits.apply(&mut headers);
        let all = |field: &str| headers.get_all(field).iter().cloned().collect::<Vec<_>>();
        assert_eq!(all("a"), ["again"]);
        assert_eq!(all("b"), ["new", "more"]);
        assert_eq!(all("c"), ["kept"]);
    }

    #[test]
    fn every_roll_falls_to_a_target_in_proportion_to_its_weight() {
        let targets: Vec<Target> = [0, 3, 0, 1]
            .map(|weight| Target { service: Arc::from("s"), subset: Tags::default(), weight })
            .into();
        assert_eq!(total_weight(&targets), 4);
        let picks: Vec<usize> = (0..4).map(|roll| pick_target(&targets, roll)).collect();
        assert_eq!(picks, [1, 1, 1, 3]);
        assert_eq!(pick_target(&targets, u32::MAX), 3);
    }
}
