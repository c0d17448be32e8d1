//! The file as bytes: reading it within bounds, and noticing that it changed. The loop that polls is the app's.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh64::xxh64;

/// The largest file that is taken for a configuration.
pub(super) const MAX_BYTES: usize = 4 * 1024 * 1024;

/// A configuration file.
#[derive(Clone, Debug)]
pub struct FileSource {
    path: PathBuf,
}

impl FileSource {
    /// The file at `path`, which need not exist yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file, but not more than one byte beyond the 4 MiB that [`load`](super::load) accepts. Blocks.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn read(&self) -> io::Result<Text> {
        Text::read(self.path.display().to_string(), File::open(&self.path)?)
    }
}

/// The content of a configuration file, as it is.
#[derive(Clone, Debug)]
pub struct Text {
    name: String,
    bytes: Vec<u8>,
}

impl Text {
    /// Reads from `reader`, but not more than one byte beyond the 4 MiB that [`load`](super::load) accepts.
    /// `name` is what findings call it.
    ///
    /// # Errors
    /// Whatever the reader says.
    pub fn read(name: impl Into<String>, reader: impl Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        reader.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Ok(Self { name: name.into(), bytes })
    }

    /// What findings call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The content.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the content is told apart by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { length: self.bytes.len(), hash: xxh64(&self.bytes, 0) }
    }
}

/// Tells contents apart. Not for protection against forgery: whoever can write the file needs none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    length: usize,
    hash: u64,
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.hash)
    }
}

/// Reports a change of the file once it has come to rest: a half-written file has another fingerprint at the
/// next look.
#[derive(Clone, Debug)]
pub struct Debounce {
    reported: Fingerprint,
    last: Fingerprint,
}

impl Debounce {
    /// Starts with what is in force.
    #[must_use]
    pub const fn new(in_force: Fingerprint) -> Self {
        Self { reported: in_force, last: in_force }
    }

    /// Takes what one look at the file saw. True when two looks in a row saw the same content and it differs
    /// from the one reported last, whatever became of that one: a rejected content is not reported again.
    pub fn observe(&mut self, seen: Fingerprint) -> bool {
        let settled = seen == self.last;
        self.last = seen;
        if settled && seen != self.reported {
            self.reported = seen;
            return true;
        }
        false
    }

    /// Notes that `seen` was taken up by other means (a signal, the admin API).
    pub fn acknowledge(&mut self, seen: Fingerprint) {
        *self = Self::new(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(content: &str) -> Fingerprint {
        Text::read("test", content.as_bytes()).unwrap().fingerprint()
    }

    #[test]
    fn a_change_is_reported_once_and_only_when_it_has_come_to_rest() {
        let mut debounce = Debounce::new(print("old"));
        let looks = ["old", "ne", "new", "new", "new", "old", "old"];
        let reported: Vec<bool> = looks.iter().map(|look| debounce.observe(print(look))).collect();
        assert_eq!(reported, [false, false, false, true, false, false, true]);
    }

    #[test]
    fn a_change_that_is_taken_back_at_once_is_not_reported() {
        let mut debounce = Debounce::new(print("old"));
        assert!(!["new", "old", "old"].iter().any(|look| debounce.observe(print(look))));
    }

    #[test]
    fn at_most_one_byte_more_than_allowed_is_read() {
        let text = Text::read("endless", io::repeat(b'#')).unwrap();
        assert_eq!(text.bytes().len(), MAX_BYTES + 1);
    }
}
