//! Who may ask. The admin API has no password, so it must not be reachable through somebody's browser: not by a
//! name that an attacker points at loopback (DNS rebinding), not from a page of another origin, not by a form.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, Method, StatusCode, Version,
    header::{CONTENT_TYPE, HOST, ORIGIN},
    uri::Authority,
};

use super::{Problem, Scope};

/// Says that a program, and not a form on a page, sent the request: no form can set it.
const OWN_HEADER: HeaderName = HeaderName::from_static("x-outrigger");

/// Checks `Host` and `Origin`. `bound` is the address the listener listens on.
///
/// The metrics listener is asked by many names, tells nothing secret and changes nothing, so that its `Host` is
/// not compared to anything.
pub(super) fn check_caller<B>(
    request: &http::Request<B>,
    scope: Scope,
    bound: IpAddr,
) -> Result<(), Problem> {
    let host = host(request)?;
    let named = [host.as_ref(), request.uri().authority()];
    if scope == Scope::Full && !named.into_iter().flatten().all(|name| is_ours(name, bound)) {
        let detail = "the Host of the request is no name of this machine: use localhost or its address";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    let same_origin = |origin: &[u8]| {
        host.as_ref().is_some_and(|host| origin.strip_prefix(b"http://") == Some(host.as_str().as_bytes()))
    };
    if !request.headers().get_all(ORIGIN).iter().all(|origin| same_origin(origin.as_bytes())) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "pages of another origin may not use this API"));
    }
    Ok(())
}

/// Checks that a request that changes something was meant to.
pub(super) fn check_change(headers: &HeaderMap) -> Result<(), Problem> {
    let json = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    });
    let own = headers.get(OWN_HEADER).is_some_and(|value| value == "1");
    if json || own {
        return Ok(());
    }
    let detail = "a change needs `Content-Type: application/json` or `X-Outrigger: 1`";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

pub(super) fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

/// The one `Host`. HTTP/1.0 may leave it out, browsers never do.
fn host<B>(request: &http::Request<B>) -> Result<Option<Authority>, Problem> {
    let bad = |detail| Problem::new(StatusCode::BAD_REQUEST, detail);
    let mut all = request.headers().get_all(HOST).iter();
    match (all.next(), all.next()) {
        (Some(_), Some(_)) => Err(bad("the request has more than one Host")),
        (Some(value), None) => match Authority::try_from(value.as_bytes()) {
            Ok(authority) if !authority.as_str().contains('@') => Ok(Some(authority)),
            Ok(_) | Err(_) => Err(bad("the Host of the request cannot be read")),
        },
        (None, _) if request.version() == Version::HTTP_10 => Ok(None),
        (None, _) => Err(bad("the request has no Host")),
    }
}

/// Whether a name is one that no other machine can have, or the address itself. The port does not matter: it may
/// have been forwarded, and an attacker cannot choose the name that goes with it.
fn is_ours(name: &Authority, bound: IpAddr) -> bool {
    let host = name.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return address.to_canonical().is_loopback() || address == bound;
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request<()> {
        fields
            .iter()
            .fold(Request::get("/"), |request, (name, value)| request.header(*name, *value))
            .body(())
            .unwrap()
    }

    fn status(scope: Scope, request: &Request<()>) -> Option<u16> {
        let bound = "10.1.2.3".parse().unwrap();
        check_caller(request, scope, bound).err().map(|problem| problem.answer().status().as_u16())
    }

    #[test]
    fn only_names_of_this_machine_reach_the_full_api() {
        for host in [
            "localhost",
            "LOCALHOST.",
            "localhost:9",
            "a.localhost",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:80",
            "10.1.2.3:7",
        ] {
            assert_eq!(status(Scope::Full, &request(&[("host", host)])), None, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "notlocalhost", "10.1.2.4", "[::2]", "0.0.0.0"]
        {
            assert_eq!(status(Scope::Full, &request(&[("host", host)])), Some(403), "{host}");
            assert_eq!(status(Scope::MetricsOnly, &request(&[("host", host)])), None, "{host}");
        }
    }

    #[test]
    fn a_host_that_cannot_be_read_or_is_missing_is_a_bad_request() {
        for fields in [
            &[][..],
            &[("host", "a b")],
            &[("host", "u@localhost")],
            &[("host", "localhost"), ("host", "localhost")],
        ] {
            assert_eq!(status(Scope::Full, &request(fields)), Some(400), "{fields:?}");
        }
        let mut old = request(&[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(status(Scope::Full, &old), None);
    }

    #[test]
    fn a_target_with_a_foreign_name_is_refused_whatever_host_says() {
        let mut absolute = request(&[("host", "localhost")]);
        *absolute.uri_mut() = "http://evil.example/v1/config".parse().unwrap();
        assert_eq!(status(Scope::Full, &absolute), Some(403));
    }

    #[test]
    fn only_our_own_origin_may_ask() {
        let from = |origin| request(&[("host", "localhost:15000"), ("origin", origin)]);
        assert_eq!(status(Scope::Full, &from("http://localhost:15000")), None);
        for origin in ["null", "http://localhost:3000", "https://localhost:15000", "http://evil.example", ""]
        {
            for scope in [Scope::Full, Scope::MetricsOnly] {
                assert_eq!(status(scope, &from(origin)), Some(403), "{origin}");
            }
        }
    }

    #[test]
    fn a_change_must_not_look_like_a_form() {
        for (name, value, good) in [
            ("content-type", "application/json", true),
            ("content-type", "Application/JSON; charset=utf-8", true),
            ("x-outrigger", "1", true),
            ("x-outrigger", "0", false),
            ("content-type", "text/plain", false),
            ("content-type", "application/x-www-form-urlencoded", false),
            ("content-type", "text/plain; application/json", false),
            ("accept", "application/json", false),
        ] {
            assert_eq!(check_change(request(&[(name, value)]).headers()).is_ok(), good, "{name}: {value}");
        }
    }
}
