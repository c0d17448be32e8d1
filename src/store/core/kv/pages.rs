//! Cuts pages out of keys in order.

use std::ops::Bound;

use super::{
    super::{
        key::{Key, Revision},
        outcome::{Page, Versioned},
    },
    size,
};
use crate::store::Scan;

/// Most entries of a page, and what a limit of 0 means.
pub(super) const MAX_PAGE: usize = 1000;
/// A page ends with the entry that brings its keys and values to so many bytes.
pub(super) const MAX_PAGE_BYTES: usize = 1024 * 1024;

/// All keys from `text` on.
pub(super) fn starting(text: &str) -> (Bound<&str>, Bound<&str>) {
    (Bound::Included(text), Bound::Unbounded)
}

/// Where the keys of `scan` begin: it may continue before its prefix, after it, or among its keys.
pub(super) fn from(scan: &Scan) -> (Bound<&str>, Bound<&str>) {
    match scan.after.as_ref().map(Key::as_str) {
        Some(after) if after >= scan.prefix.as_str() => (Bound::Excluded(after), Bound::Unbounded),
        Some(_) | None => starting(&scan.prefix),
    }
}

/// The first page of `entries`, which begin [`from`] where `scan` does.
pub(super) fn page<'a>(
    entries: impl Iterator<Item = (&'a Key, &'a Versioned)>,
    scan: &Scan,
    revision: Revision,
) -> Page {
    let limit = if scan.limit == 0 { MAX_PAGE } else { scan.limit.min(MAX_PAGE) };
    let mut page = Page { revision, entries: Vec::new(), next: None };
    let mut bytes = 0;
    for (key, has) in entries.take_while(|(key, _)| key.as_str().starts_with(&scan.prefix)) {
        if page.entries.len() >= limit || bytes >= MAX_PAGE_BYTES {
            page.next = page.entries.last().map(|(key, _)| key.clone());
            break;
        }
        bytes += size(key, has);
        page.entries.push((key.clone(), has.clone()));
    }
    page
}
