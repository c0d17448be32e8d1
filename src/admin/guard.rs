//! Who may ask, besides those who have the token. On loopback the admin API asks for none, so it must not be reachable
//! through somebody's browser: not by a name that an attacker points at loopback (DNS rebinding), not from a page of
//! another origin, not by a form.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, Method, StatusCode, Version,
    header::{CONTENT_TYPE, HOST, ORIGIN},
    uri::Authority,
};

use super::{Problem, Scope, server::Caller};

/// Says that a program, and not a form on a page, sent the request: no form can set it.
const OWN_HEADER: HeaderName = HeaderName::from_static("x-outrigger");

/// Checks `Host` and `Origin`. `hosts` are names that the listener has besides its address.
///
/// The metrics listener is asked by many names, tells nothing secret and changes nothing, and no browser reaches a Unix
/// socket, so that their `Host` is not compared to anything.
pub(super) fn check_caller<B>(
    request: &http::Request<B>,
    scope: Scope,
    caller: &Caller,
    hosts: &[String],
) -> Result<(), Problem> {
    let host = host(request)?;
    if scope == Scope::Full
        && let Caller::Tcp { local, .. } = caller
    {
        let mut named = [host.as_ref(), request.uri().authority()].into_iter().flatten();
        if !named.all(|name| is_ours(name, local.ip(), hosts)) {
            let detail = "the Host of the request is no name of this API: use localhost, its address, or a name that \
                          `admin.hosts` has";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
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

/// Whether a name is one that no other machine can have, the address that was connected to, or a configured one. The
/// port does not matter: it may have been forwarded, and an attacker cannot choose the name that goes with it.
fn is_ours(name: &Authority, local: IpAddr, hosts: &[String]) -> bool {
    let host = name.host();
    if let Ok(address) = bare_host(host).parse::<IpAddr>() {
        let (address, local) = (address.to_canonical(), local.to_canonical());
        let is_configured = || hosts.iter().any(|known| bare_host(known).parse() == Ok(address));
        return address.is_loopback() || address == local || is_configured();
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_configured = || hosts.iter().any(|known| known.strip_suffix('.').unwrap_or(known) == name);
    name == "localhost" || name.ends_with(".localhost") || is_configured()
}

/// An IPv6 address stands in brackets.
fn bare_host(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
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
        let caller =
            Caller::Tcp { peer: "10.9.9.9:5".parse().unwrap(), local: "10.1.2.3:7".parse().unwrap() };
        status_of(scope, request, &caller)
    }

    fn status_of(scope: Scope, request: &Request<()>, caller: &Caller) -> Option<u16> {
        let hosts = ["admin.test".to_owned(), "203.0.113.5".to_owned(), "[2001:db8::1]".to_owned()];
        check_caller(request, scope, caller, &hosts).err().map(|problem| problem.answer().status().as_u16())
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
            "[::ffff:10.1.2.3]:7",
            "Admin.Test:7",
            "admin.test.",
            "203.0.113.5",
            "[2001:db8::1]:7",
        ] {
            assert_eq!(status(Scope::Full, &request(&[("host", host)])), None, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "10.1.2.4",
            "[::2]",
            "0.0.0.0",
            "10.9.9.9",
            "x.admin.test",
        ] {
            assert_eq!(status(Scope::Full, &request(&[("host", host)])), Some(403), "{host}");
            assert_eq!(status(Scope::MetricsOnly, &request(&[("host", host)])), None, "{host}");
        }
    }

    #[test]
    fn on_a_unix_socket_any_name_is_good_and_a_foreign_origin_is_not() {
        let caller = Caller::Unix { uid: Some(0) };
        assert_eq!(status_of(Scope::Full, &request(&[("host", "any.name")]), &caller), None);
        let from = request(&[("host", "any.name"), ("origin", "http://evil.example")]);
        assert_eq!(status_of(Scope::Full, &from, &caller), Some(403));
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
