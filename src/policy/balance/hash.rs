//! What of a request decides its place on the ring.

use std::net::IpAddr;

use http::{HeaderMap, header::COOKIE};
use xxhash_rust::xxh64::{Xxh64, xxh64};

use super::HashOn;
use crate::policy::route::{RequestView, query_value};

/// Seed of every hash that places something: a constant, so that all sidecars of a mesh place alike.
pub(super) const SEED: u64 = 0x6f75_7472_6967_6765;

/// Hash of what the balancer places the request by; `None` if the request does not have it, which gives it a
/// random endpoint.
#[must_use]
pub fn hash_key(hash_on: &HashOn, request: &RequestView<'_>, source: IpAddr) -> Option<u64> {
    match hash_on {
        HashOn::Header(name) => {
            let mut values = request.headers.get_all(name).iter().peekable();
            values.peek()?;
            let mut hasher = Xxh64::new(SEED);
            for (index, value) in values.enumerate() {
                if index > 0 {
                    hasher.update(b", ");
                }
                hasher.update(value.as_bytes());
            }
            Some(hasher.digest())
        }
        HashOn::Cookie(name) => cookie(request.headers, name.as_bytes()).map(hash_bytes),
        HashOn::Path => Some(hash_bytes(request.path.as_bytes())),
        HashOn::Query(name) => query_value(request.query?, name).map(|value| hash_bytes(value.as_bytes())),
        // An IPv4 client has the same place whether or not the listener is dual-stack.
        HashOn::SourceAddress => Some(match source.to_canonical() {
            IpAddr::V4(address) => hash_bytes(&address.octets()),
            IpAddr::V6(address) => hash_bytes(&address.octets()),
        }),
    }
}

/// The hash that places things.
pub(in crate::policy) fn hash_bytes(bytes: &[u8]) -> u64 {
    xxh64(bytes, SEED)
}

/// Value of the first cookie called `name`, without the quotes it may stand in (RFC 6265 §4.1.1).
pub(in crate::policy) fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let fields = headers.get_all(COOKIE).iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|&byte| byte == b';'));
    pairs.find_map(|pair| {
        let pair = pair.trim_ascii();
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (&pair[..equals], &pair[equals + 1..]);
        (key == name).then(|| unquoted(value))
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        whole => whole,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn key(hash_on: &HashOn, fields: &[(&'static str, &'static str)], query: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let request = RequestView { host: "h", path: "/p", query, method: &Method::GET, headers: &headers };
        hash_key(hash_on, &request, SOURCE)
    }

    #[test]
    fn a_cookie_is_found_in_any_field_and_crumb() {
        let session = HashOn::Cookie("sid".into());
        let expected = Some(hash_bytes(b"42"));
        for fields in [
            &[("cookie", "sid=42")][..],
            &[("cookie", "a=1; sid=42; b=2")],
            &[("cookie", "a=1;sid=42")],
            &[("cookie", "a=1"), ("cookie", "sid=\"42\"")],
            &[("cookie", "sid=42; sid=43")],
        ] {
            assert_eq!(key(&session, fields, None), expected, "{fields:?}");
        }
        for fields in [&[][..], &[("cookie", "xsid=42")], &[("cookie", "sid")], &[("x", "sid=42")]] {
            assert_eq!(key(&session, fields, None), None, "{fields:?}");
        }
    }

    #[test]
    fn a_header_is_hashed_with_all_its_values() {
        let user = HashOn::Header(HeaderName::from_static("x-user"));
        assert_eq!(key(&user, &[("x-user", "a")], None), Some(hash_bytes(b"a")));
        assert_eq!(key(&user, &[("x-user", "a"), ("x-user", "b")], None), Some(hash_bytes(b"a, b")));
        assert_eq!(key(&user, &[], None), None);
    }

    #[test]
    fn path_and_query_are_hashed_as_they_stand() {
        assert_eq!(key(&HashOn::Path, &[], Some("id=1")), Some(hash_bytes(b"/p")));
        let id = HashOn::Query("id".into());
        assert_eq!(key(&id, &[], Some("x=2&id=1")), Some(hash_bytes(b"1")));
        assert_eq!(key(&id, &[], Some("x=2")), None);
        assert_eq!(key(&id, &[], None), None);
    }

    #[test]
    fn a_source_has_one_key_however_it_is_written() {
        let headers = HeaderMap::new();
        let request =
            RequestView { host: "", path: "/", query: None, method: &Method::GET, headers: &headers };
        let of = |source: &str| hash_key(&HashOn::SourceAddress, &request, source.parse().unwrap());
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_ne!(of("::1"), of("::2"));
    }
}
