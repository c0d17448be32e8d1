//! What an endpoint is called beside its address: version, zone, whatever routes ask for.

use std::sync::Arc;

/// Names with values, each name once. Clones share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Arc<[(Box<str>, Box<str>)]>);

/// The tag that says where an endpoint runs: a zone of a cloud, a room, a rack.
pub const ZONE: &str = "zone";

impl Tags {
    /// Sorts them by name. Of several with one name the last stays.
    #[must_use]
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let by_name: std::collections::BTreeMap<String, String> = pairs.into_iter().collect();
        Self(by_name.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each name with its value, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// Where this is, as the tag [`ZONE`] says.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.get(ZONE)
    }

    /// Whether all of `wanted` are among these; so it is for none.
    #[must_use]
    pub fn contain(&self, wanted: &Self) -> bool {
        wanted.iter().all(|(name, value)| self.get(name) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        Tags::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn everything_wanted_must_be_there() {
        let own = tags(&[("zone", "a"), ("version", "v2")]);
        for (wanted, contained) in [
            (tags(&[]), true),
            (tags(&[("version", "v2")]), true),
            (tags(&[("version", "v2"), ("zone", "a")]), true),
            (tags(&[("version", "v1")]), false),
            (tags(&[("version", "v2"), ("tier", "x")]), false),
        ] {
            assert_eq!(own.contain(&wanted), contained, "{wanted:?}");
        }
        assert_eq!(own.zone(), Some("a"));
    }
}
