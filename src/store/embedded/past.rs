//! Looking back: keys as they were, what has changed since, and which revision was there when. From this node's replica, or
//! from another's.

use std::time::Duration;

use super::{EmbeddedStore, nonsense};
use crate::store::{
    Historical, Level, Scan, StoreError,
    core::{
        key::{Key, Revision},
        kv::Compacted,
        outcome::{Change, Page},
    },
    protocol::{Answer, Found, Query},
    raft::Node,
};

/// A page of the keys as they were at `revision`.
pub(super) fn scan(
    node: &Node,
    revision: Revision,
    prefix: &str,
    after: Option<&Key>,
    limit: u32,
) -> Answer<Found> {
    let scan = Scan { prefix: prefix.to_owned(), after: after.cloned(), limit: limit as usize };
    let page = node.state().read(|kv| kv.at(revision).map(|past| past.scan(&scan)));
    answer(page.map(Found::Page))
}

/// The last revision by a time of the log.
pub(super) fn revision_at(node: &Node, at_ms: u64) -> Answer<Found> {
    answer(node.state().read(|kv| kv.revision_at(at_ms)).map(Found::Revision))
}

fn answer(found: Result<Found, Compacted>) -> Answer<Found> {
    match found {
        Ok(found) => Answer::Done(found),
        Err(compacted) => Answer::Compacted(compacted.oldest),
    }
}

impl Historical for EmbeddedStore {
    async fn scan_at(&self, revision: Revision, scan: &Scan) -> Result<Page, StoreError> {
        let query = Query::Past {
            revision,
            prefix: scan.prefix.clone(),
            after: scan.after.clone(),
            limit: u32::try_from(scan.limit).unwrap_or(u32::MAX),
        };
        match self.query(query, Level::AtLeast(revision), Duration::ZERO).await? {
            Found::Page(page) => Ok(page),
            Found::Got(_) | Found::Changes(..) | Found::Revision(_) => Err(nonsense()),
        }
    }

    async fn changes(&self, prefix: &str, after: Revision) -> Result<(Vec<Change>, Revision), StoreError> {
        let query = Query::Changes { prefix: prefix.to_owned(), after, wait_ms: 0 };
        match self.query(query, Level::AtLeast(after), Duration::ZERO).await? {
            Found::Changes(changes, to) => Ok((changes, to)),
            Found::Got(_) | Found::Page(_) | Found::Revision(_) => Err(nonsense()),
        }
    }

    async fn revision_at(&self, at_ms: u64) -> Result<Revision, StoreError> {
        // Certain: what was acknowledged by then must count.
        match self.query(Query::RevisionAt { at_ms }, Level::Strong, Duration::ZERO).await? {
            Found::Revision(revision) => Ok(revision),
            Found::Got(_) | Found::Page(_) | Found::Changes(..) => Err(nonsense()),
        }
    }
}
