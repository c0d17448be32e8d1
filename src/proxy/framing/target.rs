//! What may stand in a request target and in a Host field (RFC 9112 §3.2, RFC 3986 §3.2.2). Pure.
//!
//! Stricter than the RFC where a second reader could see something else (fragments, backslashes, `%00`), and
//! nowhere looser than `http::Uri`, so that what passes here is never refused later without an answer of ours.

use std::{net::Ipv6Addr, str};

use super::reject::{Reject, RejectReason};

/// Longest target, the most that `http::Uri` can hold.
pub const MAX_TARGET_BYTES: usize = u16::MAX as usize - 1;

/// Bytes that may stand in a path or query as they are; `%` is looked at separately.
const TARGET_BYTE: [bool; 256] = byte_table(b"!$&'()*+,-./:;=?@[]^_|~");

/// Bytes of a registered name. No `,`, which a list-splitting reader would take apart.
const NAME_BYTE: [bool; 256] = byte_table(b"-._~!$&'()*+;=");

const fn byte_table(punctuation: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut index = 0;
    while index < punctuation.len() {
        table[punctuation[index] as usize] = true;
        index += 1;
    }
    table
}

/// Checks the target of a request with `method`, which is neither CONNECT nor TRACE.
pub(super) fn check_target(method: &[u8], target: &[u8]) -> Result<(), Reject> {
    if target.len() > MAX_TARGET_BYTES {
        return Err(Reject::new(RejectReason::TargetTooLong));
    }
    let valid = match target {
        [b'/', ..] => valid_path_and_query(target),
        b"*" => method == b"OPTIONS",
        _ => valid_absolute_form(target),
    };
    if valid { Ok(()) } else { Err(Reject::new(RejectReason::Target)) }
}

/// Checks the target of CONNECT: an authority with its port, and nothing else.
pub(super) fn check_tunnel_target(target: &[u8]) -> Result<(), Reject> {
    let has_port = target.iter().rposition(|byte| *byte == b':').is_some_and(|colon| {
        let port = &target[colon + 1..];
        !port.is_empty() && port.iter().all(u8::is_ascii_digit)
    });
    if target.len() > MAX_TARGET_BYTES {
        return Err(Reject::new(RejectReason::TargetTooLong));
    }
    if has_port && valid_authority(target) { Ok(()) } else { Err(Reject::new(RejectReason::Target)) }
}

fn valid_absolute_form(target: &[u8]) -> bool {
    let Some(rest) = strip_scheme(target, b"http://").or_else(|| strip_scheme(target, b"https://")) else {
        return false;
    };
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    valid_authority(authority) && valid_path_and_query(path)
}

fn strip_scheme<'a>(target: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = target.split_at_checked(scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then_some(rest)
}

fn valid_path_and_query(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(stop) = rest.iter().position(|byte| !TARGET_BYTE[usize::from(*byte)]) {
        let [b'%', high, low, tail @ ..] = &rest[stop..] else {
            return false;
        };
        let hex = high.is_ascii_hexdigit() && low.is_ascii_hexdigit();
        if !hex || (*high == b'0' && *low == b'0') {
            return false;
        }
        rest = tail;
    }
    true
}

/// Whether `value` is `host` or `host:port`: a name, an IPv4 address or a bracketed IPv6 address; no userinfo,
/// no empty host, no empty port.
pub(crate) fn valid_authority(value: &[u8]) -> bool {
    if let [b'[', rest @ ..] = value {
        let Some(end) = memchr::memchr(b']', rest) else {
            return false;
        };
        let address = str::from_utf8(&rest[..end]).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
        return address.is_some() && valid_port_suffix(&rest[end + 1..]);
    }
    let end = value.iter().position(|byte| !NAME_BYTE[usize::from(*byte)]).unwrap_or(value.len());
    end > 0 && valid_port_suffix(&value[end..])
}

fn valid_port_suffix(suffix: &[u8]) -> bool {
    match suffix {
        [] => true,
        [b':', digits @ ..] => {
            digits.iter().all(u8::is_ascii_digit)
                && str::from_utf8(digits).is_ok_and(|text| text.parse::<u16>().is_ok())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_that_passes_is_one_the_uri_type_takes_as_it_is() {
        for byte in 0..=u8::MAX {
            for prefix in ["/a", "/a?b"] {
                let mut target = prefix.as_bytes().to_vec();
                target.push(byte);
                if check_target(b"GET", &target).is_ok() {
                    let uri = http::Uri::try_from(target.as_slice()).expect("a target that passed");
                    assert_eq!(uri.to_string().as_bytes(), target, "byte {byte:#x}");
                }
            }
        }
    }

    #[test]
    fn escapes_must_be_two_hex_digits_and_not_nul() {
        for good in ["/%41", "/a%2Fb?x=%fF", "/%25"] {
            assert!(check_target(b"GET", good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["/%", "/%4", "/%zz", "/%00", "/a%0", "/%+1"] {
            assert!(check_target(b"GET", bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_form_of_the_target_fits_the_method() {
        for good in ["/", "http://a/", "http://a", "HTTPS://a:80/x?y", "http://[::1]:8080/", "http://a?q"] {
            assert!(check_target(b"GET", good.as_bytes()).is_ok(), "{good}");
        }
        let bad =
            ["", "*", "a:80", "a", "?q", "ftp://a/", "http://", "http:///x", "http://u@a/", "//a\\b", "/#f"];
        for bad in bad {
            assert!(check_target(b"GET", bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(check_target(b"OPTIONS", b"*").is_ok());
    }

    #[test]
    fn an_authority_is_host_and_port_and_nothing_else() {
        for good in ["a", "a.b-c:80", "127.0.0.1:65535", "[::1]", "[::ffff:1.2.3.4]:1", "a_b"] {
            assert!(valid_authority(good.as_bytes()), "{good}");
            assert!(good.parse::<http::uri::Authority>().is_ok(), "{good}");
        }
        let bad = [
            "", ":80", "a:", "a:65536", "a:+1", "u@a", "a b", "a,b", "a/b", "[::1", "[a]", "[::1]x", "a%41",
            "a:1:2",
        ];
        for bad in bad {
            assert!(!valid_authority(bad.as_bytes()), "{bad}");
        }
    }
}
