//! Request targets: what may be in one, and the one form of those that could be written in several. Done once,
//! before routing, and the result is what goes upstream: decision and request see the same bytes.

use bytes::Bytes;

use super::params::{EscapedSlashes, Normalisation};

/// Checks the characters of a path and query, for protocols that the framing guard does not read (HTTP/2).
///
/// # Errors
/// The reason, for metrics.
pub fn check(target: &str) -> Result<(), &'static str> {
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

/// Resolves `.` and `..` segments (RFC 3986 §5.2.4), also where their dots are percent-encoded, and does what `how`
/// says of slashes; `None` if nothing changes, which is the usual case and costs one scan. Doing it again changes
/// nothing.
///
/// # Errors
/// If a `..` would leave the root, or hides behind a path parameter (`..;x`, `..%3bx`) or an escaped slash (`%2f..`), which some
/// servers resolve and others do not; if slashes are escaped and must not be.
pub fn normalise(target: &str, how: &Normalisation) -> Result<Option<Bytes>, &'static str> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let unescaped = match escaped_slash(path) {
        None => None,
        Some(first) => match how.escaped_slashes {
            EscapedSlashes::Reject => return Err("target"),
            EscapedSlashes::Unescape => Some(unescape(path, first)),
            EscapedSlashes::Keep => {
                // Servers that take them for slashes would see these segments.
                if unescape(path, first).split('/').any(|segment| !matches!(dots(segment), Dots::No)) {
                    return Err("target");
                }
                None
            }
        },
    };
    let changed = unescaped.is_some();
    let path = unescaped.as_deref().unwrap_or(path);
    let merges = how.merge_slashes && path.contains("//");
    let normal = if merges || path.split('/').any(may_be_dots) { resolve(path, merges)? } else { None };
    let normal = match (normal, changed) {
        (Some(normal), _) => normal,
        (None, true) => path.to_owned(),
        (None, false) => return Ok(None),
    };
    Ok(Some(Bytes::from(match query {
        Some(query) => format!("{normal}?{query}"),
        None => normal,
    })))
}

/// The path without `.` and `..`, and, if it `merges`, without empty segments but the last; `None` if that is the path
/// itself.
fn resolve(path: &str, merges: bool) -> Result<Option<String>, &'static str> {
    let mut kept: Vec<&str> = Vec::new();
    let mut changed = false;
    let mut open_ended = false;
    for segment in path.split('/').skip(1) {
        open_ended = false;
        match dots(segment) {
            Dots::No if merges && segment.is_empty() => {
                changed = true;
                open_ended = true;
            }
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
    let mut normal = String::with_capacity(path.len());
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if open_ended || normal.is_empty() {
        normal.push('/');
    }
    Ok(Some(normal))
}

/// Where the first `%2f` or `%5c` is.
fn escaped_slash(path: &str) -> Option<usize> {
    memchr::memchr_iter(b'%', path.as_bytes()).find(|&at| is_escaped_slash(&path.as_bytes()[at..]))
}

fn is_escaped_slash(at: &[u8]) -> bool {
    matches!(at, [b'%', b'2', b'f' | b'F', ..] | [b'%', b'5', b'c' | b'C', ..])
}

/// `path` with `/` for every escaped slash from `first` on.
fn unescape(path: &str, first: usize) -> String {
    let (mut clear, mut rest) = (path[..first].to_owned(), &path[first..]);
    while let Some(at) = escaped_slash(rest) {
        clear.push_str(&rest[..at]);
        clear.push('/');
        rest = &rest[at + 3..];
    }
    clear.push_str(rest);
    clear
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
    match (count, rest.as_bytes()) {
        (1, []) => Dots::Current,
        (2, []) => Dots::Parent,
        (1 | 2, [b';', ..] | [b'%', b'3', b'b' | b'B', ..]) => Dots::Hidden,
        _ => Dots::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(target: &str) -> Result<Option<String>, &'static str> {
        normal_by(target, EscapedSlashes::Keep, false)
    }

    fn normal_by(
        target: &str,
        escaped_slashes: EscapedSlashes,
        merge_slashes: bool,
    ) -> Result<Option<String>, &'static str> {
        let how = Normalisation { escaped_slashes, merge_slashes, ..Normalisation::default() };
        let normal = normalise(target, &how)?.map(|target| String::from_utf8(target.to_vec()).unwrap());
        if let Some(normal) = &normal {
            assert_eq!(normalise(normal, &how), Ok(None), "{target} -> {normal}: once is enough");
        }
        Ok(normal)
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
        for target in
            ["/", "/a//b", "/.hidden", "/a/...", "/a/..b", "/a%2fb/%5c", "/x?a=/../b%2f..", "/%2e%2e%2e"]
        {
            assert_eq!(normal(target), Ok(None), "{target}");
        }
    }

    #[test]
    fn paths_that_leave_the_root_or_hide_their_dots_are_refused() {
        for target in
            ["/..", "/a/../..", "/%2e%2e/a", "/user/..;foo=bar/admin", "/user/..%3Bx/admin", "/a/.;x"]
        {
            assert_eq!(normal(target), Err("target"), "{target}");
        }
    }

    #[test]
    fn escaped_slashes_are_kept_cleared_or_refused_but_never_hide_a_parent() {
        use EscapedSlashes::{Keep, Reject, Unescape};
        for (target, keep, clear) in [
            ("/a%2Fb", Ok(None), Ok(Some("/a/b"))),
            ("/a%5cb?c%2f", Ok(None), Ok(Some("/a/b?c%2f"))),
            ("/a/%2f..", Err("target"), Ok(Some("/a/"))),
            ("/a/b%2f..%5C..%2fc", Err("target"), Ok(Some("/c"))),
            ("/..%2fa", Err("target"), Err("target")),
            ("/a%2f%2e%2e%2fb", Err("target"), Ok(Some("/b"))),
            ("/a%2f..;x/b", Err("target"), Err("target")),
            // Only who decodes twice sees dots or slashes in these; they pass byte for byte.
            ("/a/%252e%252e/b", Ok(None), Ok(None)),
            ("/a%252f..", Ok(None), Ok(None)),
        ] {
            assert_eq!(
                normal_by(target, Keep, false),
                keep.map(|path: Option<&str>| path.map(str::to_owned))
            );
            assert_eq!(
                normal_by(target, Unescape, false),
                clear.map(|path: Option<&str>| path.map(str::to_owned))
            );
            let plain = escaped_slash(target.split('?').next().unwrap()).is_none();
            assert_eq!(
                normal_by(target, Reject, false),
                if plain { Ok(None) } else { Err("target") },
                "{target}"
            );
        }
    }

    #[test]
    fn slashes_in_a_row_are_one_where_that_is_wanted() {
        let merged = |target| normal_by(target, EscapedSlashes::Unescape, true);
        for (target, wanted) in [
            ("//", "/"),
            ("/a//b///c", "/a/b/c"),
            ("/a//?x=//", "/a/?x=//"),
            ("//../a", ""),
            ("/a%2f/b", "/a/b"),
        ] {
            let wanted = if wanted.is_empty() { Err("target") } else { Ok(Some(wanted.to_owned())) };
            assert_eq!(merged(target), wanted, "{target}");
        }
        assert_eq!(merged("/a/b/"), Ok(None));
    }

    #[test]
    fn characters_that_servers_read_differently_are_refused() {
        for target in ["x", "", "/a b", "/a#b", "/a\\b", "/%zz", "/%", "/%0", "/%00", "/\u{e9}", "/a\u{1}"] {
            assert_eq!(check(target), Err("target"), "{target:?}");
        }
        assert_eq!(check("/a/b%20c?x=%2F&y"), Ok(()));
    }
}
