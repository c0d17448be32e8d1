//! What all sidecars share: routes, rules about callers, policies of services and rate limits that are written once into the
//! store and served by everybody, over the file as the base. Here is what the parts share; `follow` reads the store, `kept` is the copy on disk, `view` is
//! what people are told. How records go over a file is `config`'s, and who puts it to work is the reloader.

mod follow;
mod kept;
#[cfg(test)]
mod tests;
mod told;
mod view;

use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;

use self::follow::Follower;
pub(crate) use self::{
    told::{intentions, mark, policies, quarantined, rate_limits},
    view::SharedView,
};
use super::reload::ReloadHandle;
use crate::{
    config::{Bundle, Record},
    rt::{Drain, Tasks},
    store::{Store, core::key::Revision},
    telemetry::metrics::{Registry, SharedMetrics},
};

/// A record with the revision of its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) record: Record,
    pub(crate) revision: Revision,
}

/// All records as they were at one revision of the store, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SharedRecords {
    pub(crate) revision: Revision,
    pub(crate) items: Vec<Stored>,
}

impl SharedRecords {
    /// Without their revisions, in the same order.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.items.iter().map(|stored| stored.record.clone()).collect()
    }

    /// The last that a sidecar with this configuration was known to share, if it takes part in a store and remembers
    /// anything. Blocks.
    pub(crate) fn last_good(bundle: &Bundle) -> Self {
        kept::place(bundle).and_then(|place| kept::read(&place)).unwrap_or_default()
    }
}

/// Follows `store` and hands what it has to the reloader, until the process leaves. `first` is in force already.
pub(super) fn start(
    store: Store,
    reload: ReloadHandle,
    bundle: &Bundle,
    first: Arc<SharedRecords>,
    registry: &Arc<Registry>,
    drain: &Drain,
    tasks: &mut Tasks,
) {
    let place: Option<PathBuf> = kept::place(bundle);
    let (keep, newest) = watch::channel(None);
    if let Some(place) = place {
        tasks.spawn("keeping what is shared", kept::run(place, newest, drain.watch()));
    } else {
        tracing::warn!(
            "without mesh.data_dir the routes, rules, policies and limits of the store are not remembered: after a start \
             without a quorum, those of the file are served alone"
        );
    }
    let age = follow::age(store.clone(), SharedMetrics::resolve(registry), drain.watch());
    tasks.spawn("age of what is shared", age);
    tasks.spawn("what is shared", Follower::new(store, reload, first, keep).run(drain.watch()));
}
