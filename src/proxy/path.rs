//! Request targets: what may be in one, and the one form of those that could be written in several. Done once,
//! before routing, and the result is what goes upstream: decision and request see the same bytes.

use bytes::Bytes;

/// Checks the characters of a path and query, for protocols that the framing guard does not read (HTTP/2).
///
/// # Errors
/// The reason, for metrics.
pub(crate) fn check(target: &str) -> Result<(), &'static str> {
    let bytes = target.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err("target");
    }
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            0..=b' ' | 0x7f.. | b'#' | b'\\' => return Err("target"),
            b'%' => match (bytes.get(at + 1), bytes.get(at + 2)) {
                (Some(b'0'), Some(b'0')) => return Err("target"),
                (Some(high), Some(low)) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {}
                _ => return Err("target"),
            },
            _ => {}
        }
    }
    Ok(())
}

/// Resolves `.` and `..` segments (RFC 3986 §5.2.4), also where their dots are percent-encoded; `None` if there
/// is none, which is the usual case and costs one scan.
///
/// # Errors
/// If a `..` would leave the root, or hides behind a path parameter (`..;x`), which some servers resolve and
/// others do not.
pub(crate) fn normalise(target: &str) -> Result<Option<Bytes>, &'static str> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if !path.split('/').any(may_be_dots) {
        return Ok(None);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut changed = false;
    let mut open_ended = false;
    for segment in path.split('/').skip(1) {
        open_ended = false;
        match dots(segment) {
            Dots::No => kept.push(segment),
            Dots::Current => {
                changed = true;
                open_ended = true;
            }
            Dots::Parent => {
                changed = true;
                open_ended = true;
                if kept.pop().is_none() {
                    return Err("target");
                }
            }
            Dots::Hidden => return Err("target"),
        }
    }
    if !changed {
        return Ok(None);
    }
    let mut normal = String::with_capacity(target.len());
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if open_ended || normal.is_empty() {
        normal.push('/');
    }
    if let Some(query) = query {
        normal.push('?');
        normal.push_str(query);
    }
    Ok(Some(Bytes::from(normal)))
}

enum Dots {
    No,
    Current,
    Parent,
    Hidden,
}

fn may_be_dots(segment: &str) -> bool {
    segment.starts_with('.')
        || (segment.starts_with("%2") && matches!(segment.as_bytes().get(2), Some(b'e' | b'E')))
}

fn dots(segment: &str) -> Dots {
    let mut rest = segment;
    let mut count = 0;
    loop {
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("%2e").or_else(|| rest.strip_prefix("%2E")) {
            rest = after;
        } else {
            break;
        }
        count += 1;
    }
    match (count, rest.as_bytes().first()) {
        (1, None) => Dots::Current,
        (2, None) => Dots::Parent,
        (1 | 2, Some(b';')) => Dots::Hidden,
        _ => Dots::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(target: &str) -> Result<Option<String>, &'static str> {
        normalise(target).map(|target| target.map(|target| String::from_utf8(target.to_vec()).unwrap()))
    }

    #[test]
    fn dot_segments_are_resolved_however_they_are_written() {
        for (given, wanted) in [
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b?q=..", "/b?q=.."),
            ("/a/.%2e/b/.", "/b/"),
            ("/a/..", "/"),
            ("/a/b/../..", "/"),
        ] {
            assert_eq!(normal(given), Ok(Some(wanted.to_owned())), "{given}");
        }
    }

    #[test]
    fn paths_without_dot_segments_are_left_as_they_are() {
        for target in ["/", "/a//b", "/.hidden", "/a/...", "/a/..b", "/a/%2f..", "/x?a=/../b", "/%2e%2e%2e"] {
            assert_eq!(normal(target), Ok(None), "{target}");
        }
    }

    #[test]
    fn paths_that_leave_the_root_or_hide_their_dots_are_refused() {
        for target in ["/..", "/a/../..", "/%2e%2e/a", "/user/..;foo=bar/admin", "/a/.;x"] {
            assert_eq!(normal(target), Err("target"), "{target}");
        }
    }

    #[test]
    fn characters_that_servers_read_differently_are_refused() {
        for target in ["x", "", "/a b", "/a#b", "/a\\b", "/%zz", "/%", "/%0", "/%00", "/\u{e9}", "/a\u{1}"] {
            assert_eq!(check(target), Err("target"), "{target:?}");
        }
        assert_eq!(check("/a/b%20c?x=%2F&y"), Ok(()));
    }
}
