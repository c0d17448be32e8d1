//! What a path means to a server that is free with paths: it decodes percent-escapes, ignores path parameters
//! (`;v=1`), takes slashes in a row, and backslashes, for one slash. Other servers take the path as it stands, and a
//! sidecar cannot know which kind it stands beside, so a rule is held against all readings. Names of fields have two
//! kinds of readers as well.

use std::{borrow::Cow, cell::OnceCell};

/// Whether two names of fields, in lower case, are one to a reader who takes `_` for `-`, as CGI and its heirs do.
#[must_use]
pub fn reads_as(one: &str, other: &str) -> bool {
    let dash = |byte: u8| if byte == b'_' { b'-' } else { byte };
    one.len() == other.len() && one.bytes().map(dash).eq(other.bytes().map(dash))
}

/// A path in all its readings.
pub(super) struct Readings<'a> {
    sent: &'a str,
    /// Parameters cut after decoding, and before it.
    free: OnceCell<[Cow<'a, str>; 2]>,
}

impl<'a> Readings<'a> {
    pub(super) fn new(sent: &'a str) -> Self {
        Self { sent, free: OnceCell::new() }
    }

    /// Byte for byte.
    pub(super) fn sent(&self) -> &'a str {
        self.sent
    }

    /// The free readings: of a server that decodes before it cuts parameters, and of one that cuts them first, for whom
    /// what stands escaped behind a `;` is part of the parameter. The same text if there is nothing to be free about,
    /// which costs a look at each byte.
    pub(super) fn free(&self) -> impl Iterator<Item = &str> {
        self.both().iter().map(|reading| &**reading)
    }

    /// Whether there is but one reading.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.both()[0], Cow::Borrowed(_))
    }

    fn both(&self) -> &[Cow<'a, str>; 2] {
        self.free.get_or_init(|| [freely(self.sent), cut_first(self.sent)])
    }
}

/// The free reading of a path; borrowed if it is the path itself.
pub(super) fn freely(path: &str) -> Cow<'_, str> {
    let bytes = path.as_bytes();
    let is_special = |at: usize, byte: u8| {
        matches!(byte, b'%' | b';' | b'\\') || (byte == b'/' && bytes.get(at + 1) == Some(&b'/'))
    };
    if !bytes.iter().enumerate().any(|(at, byte)| is_special(at, *byte)) {
        return Cow::Borrowed(path);
    }
    Cow::Owned(resolved(&decoded(path)))
}

/// The free reading of a server that cuts parameters before it decodes; borrowed where that makes no difference to the
/// path itself.
fn cut_first(path: &str) -> Cow<'_, str> {
    match freely(path) {
        Cow::Owned(_) if path.contains(';') => {
            let cut = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
            Cow::Owned(resolved(&decoded(&cut.collect::<Vec<_>>().join("/"))))
        }
        other => other,
    }
}

/// Escapes of visible ASCII characters are decoded, once; those of others are written in upper case.
fn decoded(path: &str) -> String {
    let mut clear = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        clear.push_str(&rest[..at]);
        let digits =
            rest.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (taken, read) = match escaped.filter(|_| rest.as_bytes()[at] == b'%') {
            Some(byte) if byte.is_ascii_graphic() => (3, char::from(byte)),
            Some(_) => {
                clear.push_str(&rest[at..at + 3].to_ascii_uppercase());
                rest = &rest[at + 3..];
                continue;
            }
            None => (1, char::from(rest.as_bytes()[at])),
        };
        clear.push(if read == '\\' { '/' } else { read });
        rest = &rest[at + taken..];
    }
    clear.push_str(rest);
    clear
}

/// Without path parameters, empty segments, and what decoding brought to light of `.` and `..`.
fn resolved(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut open_ended = false;
    for segment in path.split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        open_ended = matches!(name, "" | "." | "..");
        match name {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    let mut whole = String::with_capacity(path.len() + 1);
    for name in &kept {
        whole.push('/');
        whole.push_str(name);
    }
    if open_ended || kept.is_empty() {
        whole.push('/');
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_server_decodes_drops_parameters_and_merges_slashes() {
        for (sent, free) in [
            ("/%61dmin", "/admin"),
            ("//admin", "/admin"),
            ("/admin;x=1/b;y", "/admin/b"),
            ("/admin%3Bx=1", "/admin"),
            ("/a%2fb%5Cc", "/a/b/c"),
            ("/public/..%3bx/admin", "/admin"),
            ("/%2e%2E;/x", "/x"),
            ("/admin//", "/admin/"),
            (";", "/"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/%2561dmin", "/%61dmin"),
            ("/%00", "/%00"),
            ("/%zz%+1", "/%zz%+1"),
            ("/é%c3", "/é%C3"),
        ] {
            assert_eq!(freely(sent), free, "{sent}");
            assert!(matches!(freely(sent), Cow::Owned(_)), "{sent}");
        }
    }

    #[test]
    fn what_is_escaped_behind_a_parameter_belongs_to_it_for_some_and_not_for_others() {
        let readings = Readings::new("/;%2fadmin/admin");
        assert_eq!(readings.free().collect::<Vec<_>>(), ["/admin/admin", "/admin"]);
        let readings = Readings::new("/x;%2f../admin");
        assert_eq!(readings.free().collect::<Vec<_>>(), ["/admin", "/x/admin"]);
    }

    #[test]
    fn a_plain_path_has_one_reading() {
        for path in ["/", "/a/b.c", "/ADMIN", "*", "", "/a/"] {
            assert!(Readings::new(path).is_plain(), "{path}");
            assert!(Readings::new(path).free().all(|reading| reading == path));
        }
    }
}
