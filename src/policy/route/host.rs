//! Hosts as requests carry them: the port taken off, and the spelling that patterns are compared with.

use std::borrow::Cow;

/// The host of an authority (`Host`, `:authority`) without its port. An IPv6 literal keeps its brackets,
/// and so do patterns for it: `[::1]:80` becomes `[::1]`.
///
/// Text that is no `host:port` is given back whole; whether an authority is valid is decided elsewhere.
#[must_use]
pub fn host_without_port(authority: &str) -> &str {
    if authority.starts_with('[') {
        return match authority.find(']') {
            Some(end) => &authority[..=end],
            None => authority,
        };
    }
    match authority.split_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Lower case, without the dot that ends an absolute name. Allocates only for a host in mixed case.
pub(super) fn normal_host(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_taken_off_and_nothing_else() {
        let cases = [
            ("example.com", "example.com"),
            ("example.com:8080", "example.com"),
            ("example.com:", "example.com"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("[::1", "[::1"),
            ("::1", "::1"),
            ("example.com:http", "example.com:http"),
            ("", ""),
        ];
        for (authority, host) in cases {
            assert_eq!(host_without_port(authority), host, "{authority}");
        }
    }

    #[test]
    fn only_a_host_in_mixed_case_is_copied() {
        assert!(matches!(normal_host("example.com."), Cow::Borrowed("example.com")));
        assert_eq!(normal_host("Example.COM"), "example.com");
    }
}
