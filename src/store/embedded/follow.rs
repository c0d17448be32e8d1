//! Follows the changes of the keys, from this node's replica or from another's.

use std::time::Duration;

use super::{EmbeddedStore, WAIT, nonsense};
use crate::store::{
    Level, StoreError, Watch, Watchable,
    core::{key::Revision, outcome::Change},
    protocol::{Found, Query},
};

impl Watchable for EmbeddedStore {
    type Watch = EmbeddedWatch;

    fn watch(&self, prefix: &str, after: Revision) -> EmbeddedWatch {
        EmbeddedWatch { store: self.clone(), prefix: prefix.to_owned(), after, is_fresh: false }
    }
}

/// Changes, from this node's replica or from another's.
#[derive(Debug)]
pub struct EmbeddedWatch {
    store: EmbeddedStore,
    prefix: String,
    after: Revision,
    /// What it knows is of the last answer, which was not given up.
    is_fresh: bool,
}

impl Watch for EmbeddedWatch {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        // First without waiting: whoever gives up on this one knows then how far the state is.
        let mut wait = if std::mem::take(&mut self.is_fresh) { WAIT } else { Duration::ZERO };
        loop {
            let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
            let query = Query::Changes { prefix: self.prefix.clone(), after: self.after, wait_ms };
            // Whoever answers has got at least as far as who answered before.
            let Found::Changes(changes, to) =
                self.store.query(query, Level::AtLeast(self.after), wait).await?
            else {
                return Err(nonsense());
            };
            self.after = self.after.max(to);
            if !changes.is_empty() {
                self.is_fresh = true;
                return Ok(changes);
            }
            wait = WAIT;
        }
    }

    fn seen(&self) -> Revision {
        self.after
    }
}
